"""Pictures decoded by a GPU are the processor's; where there is none, that is said, and nothing is decoded."""

import pytest
import torch

from db.errors import DeviceUnavailable
from scheduler.doctor import MAX_DISAGREEMENT, disagreement


def test_the_processor_agrees_with_itself():
    assert disagreement("cpu") == 0.0


def test_a_gpu_agrees_with_the_processor_or_is_not_there():
    if torch.cuda.is_available():
        assert disagreement("nvdec") <= MAX_DISAGREEMENT
    else:
        with pytest.raises(DeviceUnavailable, match="no NVIDIA decoder can be used here"):
            disagreement("nvdec")
