"""Which number format is computed in, on which processor."""

import pytest
import torch

from models import precision
from models.precision import pick_dtype

NEW = {"avx512_bf16": True, "avx512_vnni": True}


@pytest.mark.parametrize(
    ("has", "asked", "integers", "found"),
    [
        (NEW, "auto", False, torch.bfloat16),
        (NEW, "auto", True, torch.int8),
        (NEW, "float32", True, torch.float32),
        (NEW, "bfloat16", True, torch.bfloat16),
        ({"amx_bf16": True}, "auto", True, torch.bfloat16),
        ({"avx512_vnni": True}, "auto", True, torch.int8),
        ({"avx512_vnni": True}, "auto", False, torch.float32),
        ({"avx2": True}, "auto", True, torch.float32),
        ({"avx2": True}, "bfloat16", False, torch.bfloat16),
    ],
)
def test_a_cpu_computes_in_what_it_is_made_for(monkeypatch, has, asked, integers, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert pick_dtype(asked, "cpu", integers=integers) == found


@pytest.mark.parametrize(("has", "found"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_never_computes_in_integers(monkeypatch, has, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: NEW)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert pick_dtype("auto", "cuda", integers=True) == found


def test_what_is_unknown_is_refused():
    assert set(precision.FORMATS) == {"auto", "float32", "bfloat16"}
    with pytest.raises(KeyError):
        pick_dtype("float64", "cpu")
