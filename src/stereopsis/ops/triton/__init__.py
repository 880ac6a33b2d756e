"""Triton kernels for CUDA; importing this package does not import Triton.

They are compiled when they are first called. Where Triton is missing, or ``STEREOPSIS_KERNELS=torch`` is set, the torch
references do the same work.
"""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor

from stereopsis.ops.portable import portable

DEVICE = "cuda"  # "cpu" for the tests under Triton's interpreter
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CAPABILITY = (7, 0)  # of the oldest GPU that Triton compiles for


@functools.cache
def _compiles_for(device: torch.device) -> bool:
    if os.environ.get("STEREOPSIS_KERNELS") == "torch":
        return False
    try:
        from triton import language
    except ImportError:
        return False
    recent = hasattr(language, "gather")
    return recent and (device.type != "cuda" or torch.cuda.get_device_capability(device) >= CAPABILITY)


def usable(*tensors: Tensor) -> bool:
    """True where the kernels take these tensors: 16 or 32 bits on a GPU, and not while what is done is traced."""
    return (
        all(t.device.type == DEVICE and t.dtype in DTYPES for t in tensors)
        and not torch.compiler.is_compiling()
        and not portable()
        and _compiles_for(tensors[0].device)
    )
