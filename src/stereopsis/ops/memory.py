"""Memory of the process: blocks that the C library keeps, and errors that mean there is too little."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt's names for them in glibc's malloc.h


def keep_large_blocks() -> bool:
    """Keeps large freed blocks in the process, instead of giving them back and faulting them in again at the next map.

    Networks on the CPU whose activations are megabytes run faster, for a somewhat larger resident size. It holds for
    the whole process, so the commands call it and the library never does.

    Returns:
        False where the C library is not glibc and nothing was changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error means that the processor or the GPU has too little memory for the work."""
    words = ("out of memory", "not enough memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))
