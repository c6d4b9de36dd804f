"""In which number format the models compute, and how their input reaches their device.

bfloat16 where the device is made for it, float32 where it is not. Weights and what passes between layers are in that
format; sums, softmax and statistics over time are float32. The compact face network also comes in 8-bit integers.
"""

import numpy as np
import numpy.typing as npt
import torch

FORMATS = ("auto", "float32", "bfloat16")


def has_bfloat16(device: str) -> bool:
    """Whether a device, cpu or cuda, multiplies bfloat16 faster than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def has_int8(device: str) -> bool:
    """Whether a device multiplies 8-bit integers faster than bfloat16, without overflow on the way."""
    has = torch.cpu.get_capabilities()
    return device == "cpu" and bool(has.get("avx512_vnni") or has.get("avx_vnni"))


def pick_dtype(asked: str, device: str, *, integers: bool = False) -> torch.dtype:
    """One of `FORMATS` to the format to compute in. bfloat16 works everywhere, but slowly where it is not built in.

    Args:
        integers: whether the model comes in 8-bit integers too.
    """
    if asked == "auto" and integers and has_int8(device):
        return torch.int8
    if asked == "auto":
        asked = "bfloat16" if has_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked]


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device: to a GPU from pinned memory, so that the copy is waited for only by the GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
