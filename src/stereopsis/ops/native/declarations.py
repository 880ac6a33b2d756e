"""What every C kernel takes: sizes, tensors with their data types and shapes, and how its rows are counted.

A declaration is text, so that it reads like the comment above the kernel:

- ``numbers``: names of the integers in their order; each is at least 1. ``name?`` may be 0, ``name~`` also negative.
- ``rows``: rows of one item of the batch; the quotient of all rows and this one is ``items``.
- ``tensors``: a line each: a name, a data type and the shape, whose sizes are expressions of the numbers. ``>name`` is
  written to, ``name?`` may be None, ``name&`` is given later by ``Call.put``, ``*name`` stands for ``items`` tensors.
  After ``@`` follow the steps from one item, row and pixel to the next of a map that is not dense.
- ``requires``: conditions on the numbers beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "int32": torch.int32, "bool": torch.bool, "any": None,
}  # fmt: skip

Expression = Callable[[Mapping[str, int]], Any]


@dataclass(frozen=True)
class Argument:
    """One tensor of a kernel.

    Attributes:
        name: as in the kernel's comment.
        dtype: the data type; None for float32 or bfloat16, whichever the number ``half`` names.
        shape: from the numbers to the sizes.
        steps: from the numbers to the steps of a map (item, row, pixel); None for dense memory.
        written, optional, late, repeated: the marks ``>``, ``?``, ``&`` and ``*``.
    """

    name: str
    dtype: torch.dtype | None
    shape: Expression
    steps: Expression | None
    written: bool
    optional: bool
    late: bool
    repeated: bool


@dataclass(frozen=True)
class Declaration:
    """What a kernel takes; see the module's text."""

    numbers: tuple[tuple[str, int], ...]  # name and least value
    rows: Expression
    arguments: tuple[Argument, ...]
    requires: tuple[tuple[str, Expression], ...]


LEAST = {"": 1, "?": 0, "~": -(2**30)}
MOST = 2**30  # of a number; kernels add a few of them up in 32 bits

_AVERAGE = "channels samples height width radius residual? zeros_outside?"
_VOLUME = """
    left    float32  items channels height width
    right   float32  items channels height width
"""
_AVERAGED = """
    values   float32  items channels height width
    weights  float32  items samples height width
    shifts   float32  items 2*samples height width
    mask?    float32  items 1 height width
"""
_TILES = """
    left       float32  items height width channels
    right      float32  items height width channels
    disparity  float32  items 1 height width
"""

# name: (numbers, rows of an item, tensors, requires...)
TEXTS: dict[str, tuple[str, ...]] = {
    "absolute_volume": (
        "channels height width candidates", "height",
        _VOLUME + ">costs float32 items candidates height width",
    ),
    "absolute_volume_backward": (
        "channels height width candidates", "height",
        _VOLUME + """
            grad         float32  items candidates height width
            >grad_left   float32  items channels height width
            >grad_right  float32  items channels height width
        """,
    ),
    "residual_volume": (
        "channels height width radius?", "height",
        _VOLUME + """
            disparity  float32  items 1 height width
            >costs     float32  items 2*radius+1 height width
        """,
    ),
    "residual_volume_backward": (
        "channels height width radius?", "height",
        _VOLUME + """
            disparity        float32  items 1 height width
            grad             float32  items 2*radius+1 height width
            >grad_left       float32  items channels height width
            >grad_right      float32  items channels height width
            >grad_disparity  float32  items 1 height width
        """,
    ),
    "soft_argmin": (
        "candidates height width", "height",
        """
            costs          float32  items candidates height width
            >distribution  float32  items candidates height width
            >mean          float32  items 1 height width
        """,
    ),
    "mass_near_mean": (
        "candidates height width", "height",
        """
            distribution  float32  items candidates height width
            >near         float32  items 1 height width
        """,
    ),
    "enlarge": (
        "height width rows columns align_corners?", "rows",
        """
            x      float32  items height width
            base?  float32  items rows columns
            >out   float32  items rows columns
        """,
    ),
    "finished_map": (
        "height width rows columns top? left? out_height out_width", "out_height",
        """
            disparity   float32  items 1 rows columns
            confidence  float32  items 1 height width
            >out        float32  items 1 out_height out_width
            >valid      bool     items 1 out_height out_width
            >sure       float32  items 1 out_height out_width
        """,
        "top+out_height<=rows", "left+out_width<=columns",
    ),
    "kernel_average": (
        _AVERAGE, "height",
        _AVERAGED + """
            >out      float32  items channels height width
            >support  float32  items 1 height width
        """,
    ),
    "kernel_average_backward": (
        _AVERAGE, "height",
        _AVERAGED + """
            grad           float32  items channels height width
            >grad_values?  float32  items channels height width
            >grad_weights  float32  items samples height width
            >grad_shifts   float32  items 2*samples height width
        """,
    ),
    "guided_average": (
        _AVERAGE + " block rows columns each half?", "rows",
        """
            values    float32  items channels height width
            mask?     float32  items 1 height width
            >out      float32  items channels height width
            >support  float32  items 1 height width
            maps      any      items rows columns 3*samples*block*block
            guide?    any      items//each rows columns 3*samples*block*block
            grid      float32  1 2*samples 1 1
            squeeze   float32
        """,
        "items%each==0", "height<=rows*block", "width<=columns*block",
    ),
    "patch_match": (
        "channels height width size blocks candidates stride direction~", "height//size",
        """
            target   float32  items channels height width
            side     float32  items channels height width
            >columns int32    items height//size blocks
            >scores  float32  items height//size blocks stride
            >energy  float32  items height//size width
        """,
        "height%size==0", "blocks*size<=width", "width-size+1>=64", "candidates<=width-size+1",
        "stride>=candidates+64",
    ),
    "propagate": (
        "channels height width normalize?", "channels",
        """
            x      float32  items channels height width
            gates  float32  items 3 channels height width
            >out   float32  items channels height width
        """,
    ),
    "propagate_backward": (
        "channels height width", "channels",
        """
            x            float32  items channels height width
            gates        float32  items 3 channels height width
            out          float32  items channels height width
            >grad        float32  items channels height width
            >grad_gates  float32  items 3 channels height width
        """,
    ),
    "thin_conv": (
        "c1 c2? slices height width outputs steps stride pool? relu? rows columns", "rows",
        """
            first      float32  items c1 slices height width
            second?    float32  items c2 slices height width
            weight?    float32  c1+c2
            shift?     float32  c1+c2
            mean?      float32  c1+c2
            variance?  float32  c1+c2
            epsilon?   float32
            kernel     float32  outputs c1+c2 steps 3 3
            bias?      float32  outputs
            >out       float32  items outputs slices rows columns
        """,
        "stride<=2", "steps in (1, 3)", "rows==-(-(height//2 if pool else height)//stride)",
        "columns==-(-(width//2 if pool else width)//stride)",
    ),
    "canvas_conv": (
        "channels height width rows columns top? left? repeat? batch outputs", "batch*rows",
        """
            scale    float32  3
            shift    float32  3
            kernel   float32  outputs 3 3 3
            bias     float32  outputs
            >out     float32  items*batch outputs rows columns
            *image   float32  batch channels height width
        """,
        "channels in (1, 3)", "top+height<=rows", "left+width<=columns",
    ),
    "canvas_reduced": (
        "channels height width rows columns top? left? repeat? factor", "rows//factor",
        """
            scale  float32  3
            shift  float32  3
            image  float32  items channels height width
            >out   float32  items 3 rows//factor columns//factor
        """,
        "channels in (1, 3)", "top+height<=rows", "left+width<=columns", "factor%2==0",
    ),
    "tile_match": (
        "height tiles width channels candidates?", "height",
        """
            left      float32  items height tiles channels
            right     float32  items height width channels
            exclude?  float32  items 1 height tiles
            band      float32
            >best     float32  items 1 height tiles
        """,
    ),
    "tile_warp_cost": (
        "height width channels", "height",
        _TILES + ">costs float32 items height//4 width//4 64", "height%4==0", "width%4==0",
    ),
    "tile_warp_cost_backward": (
        "height width channels", "height",
        _TILES + """
            grad             float32  items height//4 width//4 64
            >grad_left       float32  items height width channels
            >grad_right      float32  items height width channels
            >grad_disparity  float32  items 1 height width
        """,
        "height%4==0", "width%4==0",
    ),
    "image_to_map": (
        "channels rows columns height width image row grey?", "height",
        """
            image&  float32   items channels rows columns
            >out    bfloat16  items height width 4 @ image row 4
        """,
        "channels in (1, 3)", "rows<=height", "columns<=width",
    ),
    "finished_hypotheses": (
        "height width rows columns highest?", "rows",
        """
            d             float32  items height width 1
            w             float32  items height//4 width//4 1
            >out&         float32  items 1 rows columns
            >valid&       bool     items 1 rows columns
            >confidence&  float32  items 1 rows columns
        """,
        "rows<=height", "columns<=width", "height%4==0", "width%4==0",
    ),
    "tile_match_hypotheses": (
        "height tiles width channels candidates? image row", "height",
        """
            left         float32   items height tiles channels
            right        float32   items height width channels
            >hypotheses  float32   items height tiles 16
            >costs       bfloat16  items height tiles 1 @ image row 1
        """,
    ),
    "tile_warp_cost_bf16": (
        "height width channels pitch image row out_image out_row", "height//4",
        """
            left        bfloat16  items height width channels @ image row pitch
            right       bfloat16  items height width pitch @ image row pitch
            hypotheses  float32   items height//4 width//4 16
            >out        bfloat16  items height//4 width//4 64 @ out_image out_row 64
        """,
        "height%4==0", "width%4==0",
    ),
    "hypotheses_to_map": (
        "height width image row pixel", "height",
        """
            hypotheses  float32   items height width 16
            >out        bfloat16  items height width 16 @ image row pixel
        """,
    ),
    "split_hypotheses": (
        "height width image row pixel", "height",
        """
            hypotheses  float32   items height//2 width//2 16
            steps       float32   2
            >out?       float32   items height width 16
            >d?         float32   items height width 1
            >map        bfloat16  items height width 16 @ image row pixel
        """,
        "height%2==0", "width%2==0",
    ),
    "choose_hypotheses": (
        "tiles channels highest? height", "height",
        """
            first    float32  items height tiles 16
            second?  float32  items height tiles 16
            updates  float32  items height tiles channels
            >out     float32  items height tiles 16
            >w       float32  items height tiles 1
        """,
        "channels>=17",
    ),
}  # fmt: skip


@cache
def declaration(kernel: str) -> Declaration:
    """What a kernel takes.

    Raises:
        ValueError: a kernel without a declaration.
    """
    if kernel not in TEXTS:
        raise ValueError(f"the kernel {kernel} has no declaration; add what it takes to TEXTS in {__name__}.")
    numbers, rows, tensors, *requires = TEXTS[kernel]
    names = tuple((name.rstrip("?~"), LEAST[name[len(name.rstrip("?~")) :]]) for name in numbers.split())
    lines = [line.split(maxsplit=2) for line in tensors.splitlines() if line.strip()]
    return Declaration(
        names,
        _expression(rows),
        tuple(_argument(*line) for line in lines),
        tuple((text, _expression(text)) for text in requires),
    )


def _argument(name: str, dtype: str, shape: str = "") -> Argument:
    sizes, _, steps = shape.partition("@")
    return Argument(
        name.strip(">?&*"),
        DTYPES[dtype],
        _expression(_sizes(sizes)),
        _expression(_sizes(steps)) if steps else None,
        written=">" in name,
        optional="?" in name,
        late="&" in name,
        repeated="*" in name,
    )


def _sizes(text: str) -> str:
    return f"({', '.join(text.split())},)" if text.split() else "()"


def _expression(text: str) -> Expression:
    code = compile(text.strip(), "<declaration>", "eval")
    return lambda numbers: eval(code, {"__builtins__": {}}, numbers)
