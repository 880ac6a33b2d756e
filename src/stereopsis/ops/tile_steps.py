"""HITNet's tile operators as steps of a program, in bfloat16; each tells the operators in torch that it is the same as.

Hypotheses are float32 maps of 16 channels: d, dx, dy and the descriptor.
"""

from __future__ import annotations

import torch

from stereopsis.ops.native import Argument, Call
from stereopsis.ops.program import Map, Program

TILE = 4
HYPOTHESIS = 16
IMAGE_CHANNELS = 4  # of the map of an image with one to three


def read(program: Program, shape: tuple[int, int, int, int], out: Map, *, grey: bool) -> Call:
    """``2 x - 1`` of images (b, c, h, w) of 1 or 3 channels; they are the first argument, to be put in at each call.

    Args:
        out: of at least their size; the images lie at its upper left.
        grey: fills it up, instead of the images' outermost pixels.
    """
    b, channels, rows, columns = shape
    layout = [channels, rows, columns, out.height, out.width, out.image, out.row, grey]
    return program.add("image_to_map", [None, out], layout, b * out.height)


def finish(program: Program, d: Map, w: Map, size: tuple[int, int], *, highest: bool) -> Call:
    """Disparity, valid and confidence of the first rows and columns, of this size.

    They are the last three arguments, to be put in at each call. ``highest`` says which w is good.
    """
    arguments = [d, w, None, None, None]
    layout = [d.height, d.width, *size, highest]
    return program.add("finished_hypotheses", arguments, layout, d.batch * size[0])


def match(program: Program, left: Map, right: Map, max_disparity: int, out: Map) -> Map:
    """:func:`~stereopsis.ops.tile_match.tile_match` as flat planes into the hypotheses ``out``; returns their
    :func:`~stereopsis.ops.tile_match.matching_cost`."""
    costs = program.map(left.batch, left.height, left.width, 1)
    numbers = [left.height, left.width, right.width, left.channels, max_disparity, costs.image, costs.row]
    program.add("tile_match_hypotheses", [left, right, out, costs], numbers, left.batch * left.height)
    return costs


def warp_cost(program: Program, left: Map, right: Map, hypotheses: Map) -> Map:
    """:func:`~stereopsis.ops.tile_warp.tile_warp_cost` of :func:`~stereopsis.ops.tile_plane.expand_plane`."""
    out = program.map(left.batch, hypotheses.height, hypotheses.width, 4 * TILE * TILE)
    layout = [left.height, left.width, left.channels, left.pitch, left.image, left.row, out.image, out.row]
    program.add("tile_warp_cost_bf16", [left, right, hypotheses, out], layout, left.batch * hypotheses.height)
    return out


def narrow(program: Program, hypotheses: Map, out: Map) -> None:
    """Hypotheses in bfloat16."""
    layout = [out.height, out.width, out.image, out.row, out.pitch]
    program.add("hypotheses_to_map", [hypotheses, out], layout, out.batch * out.height)


def split(
    program: Program,
    hypotheses: Map,
    *,
    step: float,
    scale: float,
    out: Map,
    exact: Map | None = None,
    d: Map | None = None,
) -> None:
    """:func:`~stereopsis.ops.tile_plane.split_tiles` in bfloat16, and where wanted exactly, whole or d alone."""
    layout = [out.height, out.width, out.image, out.row, out.pitch]
    steps = torch.tensor([step, scale], dtype=torch.float32, device="cpu")
    arguments: list[Argument] = [hypotheses, steps, exact, d, out]
    program.add("split_hypotheses", arguments, layout, out.batch * out.height)


def choose(program: Program, hypotheses: list[Map], updates: Map, *, highest: bool) -> tuple[Map, Map]:
    """Adds updates to one or two hypotheses and keeps the one of better w; returns it and its w.

    Args:
        updates: 16 for each hypothesis, then a w for each.
        highest: which w is better.
    """
    b, height, width = updates.batch, updates.height, updates.width
    out = program.map(b, height, width, HYPOTHESIS, exact=True)
    w = program.map(b, height, width, 1, exact=True)
    first, second = hypotheses if len(hypotheses) == 2 else (hypotheses[0], None)
    arguments = [first, second, updates, out, w]
    program.add("choose_hypotheses", arguments, [width, updates.pitch, highest, height], b * height)
    return out, w
