"""Convolutions in bfloat16 with everything around them: sources that are never joined, a summand, a leaky ReLU.

On CPUs with AMX, or with AVX-512's dot products of bfloat16, as steps of a :class:`~stereopsis.ops.program.Program`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.program import Map, Program

PIECE = 32  # inputs that a kernel takes at once
BLOCK = 16  # outputs
PIECES = 128
KERNELS = (None, "bf16_conv_avx512", "bf16_conv_amx")  # by what the library says of the CPU


@functools.cache
def _kernel(library: ctypes.CDLL | None) -> str | None:
    return KERNELS[0 if library is None else library.bf16_convolutions()]


def kernel() -> str | None:
    """The kernel for this CPU; None where it has no arithmetic of bfloat16 or no kernels were built."""
    return _kernel(native.library())


class _Plane(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("image", "row", "pixel"))]


class _Convolution(ctypes.Structure):
    """As in native/bf16_conv.c."""

    _fields_ = [
        ("source", _Plane * 2),
        ("add", _Plane),
        ("out", _Plane),
        *((name, ctypes.c_void_p) for name in ("weights", "bias", "pieces", "pairs")),
        *((name, ctypes.c_int64) for name in ("split", "count", "height", "width", "outputs")),
        *((name, ctypes.c_int64) for name in ("add_exact", "out_exact")),
        ("slope", ctypes.c_float),
    ]


def _plane(x: Map, stride: tuple[int, int] = (1, 1)) -> _Plane:
    size = x.memory.element_size()
    return _Plane(x.address, size * x.image, size * x.row * stride[0], size * x.pitch * stride[1])


def conv(
    program: Program,
    sources: Sequence[Map],
    weight: Float[Tensor, "o c kh kw"],
    bias: Float[Tensor, " o"] | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    size: tuple[int, int] | None = None,
    add: Map | None = None,
    slope: float = 1.0,
    out: Map | None = None,
) -> Map:
    """Adds ``leaky_relu(conv2d(cat(sources), weight, bias) + add, slope)`` to a program.

    Args:
        sources: one or two maps of bfloat16; where they have more channels than the weight is for, the last count
            nothing.
        padding: above and on the left; what is right and below follows from the size.
        size: height and width of the result; those of ``out``, or of the first source over the stride, if not given.
        add: bfloat16 or float32; may be ``out`` itself.
        slope: 1 for no activation.
        out: where to write; a new map of bfloat16 if not given.

    Raises:
        ValueError: more than two sources, a kernel that looks further than the margin, one with too many inputs, or a
            map that is too small or of another data type.
    """
    first = sources[0]
    height, width = size or (
        (out.height, out.width) if out is not None else (first.height // stride[0], first.width // stride[1])
    )
    outputs, channels, *kernel_size = weight.shape
    if len(sources) > 2:
        raise ValueError(f"there are {len(sources)} sources; a convolution takes one or two.")
    if out is None:
        out = program.map(first.batch, height, width, outputs)
    _check_sizes(sources, out, add, (height, width), stride, outputs)
    weights, pieces, pairs, split = _packed(sources, weight.detach().float(), padding, dilation)
    beyond = ((k - 1) * dilation - p - s + 1 for k, p, s in zip(kernel_size, padding, stride, strict=True))
    far = max(*padding, *beyond)
    if far > program.margin or len(pieces) > PIECES:
        raise ValueError(
            f"a kernel of {kernel_size[0]} x {kernel_size[1]} and {channels} inputs looks {far} pixels over the border "
            f"in {len(pieces)} pieces; the margin is {program.margin} and {PIECES} pieces are possible."
        )
    shift = native.zeros(-(-outputs // BLOCK) * BLOCK)
    if bias is not None:
        shift[:outputs] = bias.detach()
    planes = [_plane(x, stride) for x in sources]
    work = _Convolution(
        source=(_Plane * 2)(planes[0], planes[-1]),
        add=_Plane() if add is None else _plane(add),
        out=_plane(out),
        weights=weights.data_ptr(), bias=shift.data_ptr(), pieces=pieces.data_ptr(), pairs=pairs.data_ptr(),
        split=split, count=len(pieces), height=height, width=width, outputs=outputs,
        add_exact=add is not None and add.exact, out_exact=out.exact, slope=slope,
    )  # fmt: skip
    name = kernel()
    assert name is not None
    program.add(name, [work, weights, shift, pieces, pairs], [], first.batch * height)
    return out


def _check_sizes(
    sources: Sequence[Map], out: Map, add: Map | None, size: tuple[int, int], stride: tuple[int, int], outputs: int
) -> None:
    """The kernels read and write no more than the maps hold."""
    reach = tuple((side - 1) * step + 1 for side, step in zip(size, stride, strict=True))
    needed = [("a source", x, reach, 1) for x in sources] + [("the result", out, size, outputs)]
    needed += [] if add is None else [("the summand", add, size, outputs)]
    for name, x, (height, width), channels in needed:
        found = (x.batch, x.height, x.width, x.channels)
        if x.batch != out.batch or x.height < height or x.width < width or x.channels < channels:
            raise ValueError(f"{name} is {found}; it must be at least {(out.batch, height, width, channels)}.")
    if any(x.memory.dtype != torch.bfloat16 for x in sources):
        raise ValueError("a source is a map of float32; give maps of bfloat16.")


def _runs(x: Map, weight: Tensor, padding: tuple[int, int], dilation: int) -> Iterator[tuple[int, Tensor]]:
    """What lies side by side under the kernel: bytes to it, and its weights (inputs, outputs)."""
    _, _, rows, columns = weight.shape
    taps = F.pad(weight.permute(2, 3, 1, 0), (0, 0, 0, x.pitch - weight.shape[1] if x.pitch == x.channels else 0))
    size = x.memory.element_size()
    for y in range(rows):
        row = (y * dilation - padding[0]) * x.row
        if dilation == 1 and taps.shape[2] == x.pitch:
            yield size * (row - padding[1] * x.pitch), taps[y].flatten(0, 1)
        else:
            for column in range(columns):
                yield size * (row + (column * dilation - padding[1]) * x.pitch), taps[y, column]


def _packed(
    sources: Sequence[Map], weight: Tensor, padding: tuple[int, int], dilation: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weights as the kernels read them, bytes to each piece, its pairs of inputs, and pieces of the first source."""
    blocks = -(-weight.shape[0] // BLOCK)
    counts = [x.channels for x in sources[:-1]]
    parts = weight.split([*counts, weight.shape[1] - sum(counts)], dim=1)
    packed, pieces, pairs, split = [], [], [], 0
    for number, (x, part) in enumerate(zip(sources, parts, strict=True)):
        for place, run in _runs(x, part, padding, dilation):
            filled = F.pad(run, (0, blocks * BLOCK - run.shape[1], 0, -len(run) % PIECE))
            for start in range(0, len(run), PIECE):
                piece = filled[start : start + PIECE].view(PIECE // 2, 2, blocks, BLOCK)
                packed.append(piece.permute(2, 0, 3, 1).to(torch.bfloat16))
                pieces.append(place + start * x.memory.element_size())
                pairs.append(-(-min(len(run) - start, PIECE) // 2))
        if number == 0:
            split = len(pieces)
    places, numbers = (torch.tensor(v, dtype=torch.int64, device="cpu") for v in (pieces, pairs))
    return torch.stack(packed).contiguous(), places, numbers, split
