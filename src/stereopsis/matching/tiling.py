"""Views of any size in bounded memory: a matcher that is shown one tile after the other.

A pixel's match lies up to ``max_disparity`` columns to its left, and what a network says of it depends on what is
around it. So the matcher sees more than the tile, and what it says of the margins is not used, or only where it fades
into the next tile::

    columns      ├── max_disparity ──┼─ CONTEXT ─┼──── tile ────┼─ CONTEXT ─┤     what the matcher sees
                                           ├─────────┼──────────────┼─────────┤   and what is kept, BLEND on either side
    rows                             ├─ CONTEXT ─┼──── tile ────┼─ CONTEXT ─┤

Where the kept parts of two tiles overlap, weights run from one to the other. Maps that agree within :data:`AGREEMENT`
are averaged by them; of maps that do not, each pixel has the one that is surer around it, by confidence times weight.

Full-width strips need no margin for the disparity, and tiles are those where the fewest pixels are seen twice. What is
seen begins and ends on the grid of HITNet's tiles, so that a tile differs from the whole by its context alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.types import Disparity

LARGEST = 4_000_000  # pixels of a view that is matched at once, where the matcher does not say otherwise
CONTEXT = 160  # pixels seen around a tile: what is further off moves HITNet's map by about 0.1 px (docs/performance.md)
BLEND = 80  # pixels of them that are kept
GRID = 64  # pixels that HITNet's sides are padded to, on the right and below
AGREEMENT = 1.0  # pixels of disparity
WINDOW = 33  # pixels over which confidence is averaged where tiles do not agree
UNSURE = 0.1  # added to it, so that no tile is taken at once where its neighbour knows little


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels.

    Attributes:
        seen: first pixel that the matcher is shown, and the one after the last.
        kept: of what it answers.
    """

    seen: tuple[int, int]
    kept: tuple[int, int]

    @property
    def inner(self) -> slice:
        """The kept part of what is seen."""
        return slice(self.kept[0] - self.seen[0], self.kept[1] - self.seen[0])


def spans(length: int, parts: int, before: int = 0) -> list[Span]:
    """Divides an axis into tiles of which the matcher sees the same number of cells of the grid.

    Args:
        length: pixels of the axis.
        parts: number of tiles.
        before: pixels seen in front of a tile, besides the context.
    """
    cells = -(-length // GRID)
    edges = [part * length // parts for part in range(parts + 1)]
    blend = min(BLEND, length // parts // 2)

    def cell(pixel: int) -> int:
        return min(max(pixel // GRID, 0), cells)

    begins = [cell(start - CONTEXT - before) if start else 0 for start in edges[:-1]]
    ends = [cell(stop + CONTEXT + GRID - 1) if stop < length else cells for stop in edges[1:]]
    # networks that prepare themselves for a size do so once
    number = max(end - begin for begin, end in zip(begins, ends, strict=True))
    found = []
    for begin, (start, stop) in zip(begins, pairwise(edges), strict=True):
        first = GRID * min(begin, cells - number)
        seen = first, min(first + GRID * number, length)
        kept = max(start - blend * (start > 0), 0), min(stop + blend, length)
        found.append(Span(seen, kept))
    return found


def cheapest(height: int, width: int, reach: int, largest: int) -> tuple[int, int]:
    """Rows and columns of tiles of which no more than ``largest`` pixels are seen at once, and the fewest in sum."""

    def sides(length: int, before: int) -> list[int]:
        counts = range(1, max(length // (2 * BLEND), 1) + 1)
        divided = (spans(length, parts, before) for parts in counts)
        return [max(span.seen[1] - span.seen[0] for span in tiles) for tiles in divided]

    highs, wides = sides(height, 0), sides(width, reach)
    best, least = (len(highs), len(wides)), math.inf
    for rows, high in enumerate(highs, start=1):
        for columns, wide in enumerate(wides, start=1):
            cost = rows * columns * high * wide
            if high * wide <= largest and cost < least:
                best, least = (rows, columns), cost
    return best


class TiledMatcher(nn.Module):
    """A matcher for views of any size; small ones go through it untouched.

    Args:
        matcher: of the family "matching", or whatever is called like one.
        tile: side of the tiles in pixels, without what is seen around them; 0 for views in one piece. If not given,
            larger views than the matcher's ``largest_view`` in pixels, or 4 megapixels where it has none, are cut so
            that no more than these are seen at once.

    Raises:
        ValueError: a tile below 64 pixels that is not 0.
    """

    def __init__(self, matcher: nn.Module, tile: int | None = None) -> None:
        super().__init__()
        if tile is not None and tile != 0 and tile < GRID:
            raise ValueError(f"tile is {tile} px; it must be 0, for views in one piece, or at least {GRID}.")
        self.matcher, self.tile = matcher, tile

    @torch.no_grad()
    def forward(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        max_disparity: int | None = None,
        previous: Disparity | None = None,
    ) -> Disparity:
        """Disparity of the left view; arguments and errors as of the matcher. There is no gradient."""
        options: dict[str, Any] = {} if max_disparity is None else {"max_disparity": max_disparity}
        height, width = left.shape[-2:]
        reach = max_disparity or search_range(self.matcher) or width
        rows, columns = self._parts(height, width, reach)
        if left.shape != right.shape or rows == columns == 1:
            start = {} if previous is None else {"previous": previous}
            return self.matcher(left, right, **options, **start)
        whole = _blank(left, height, width)
        down, across = spans(height, rows), spans(width, columns, reach)
        bottom = 0
        for row in down:
            strip = _blank(left, row.kept[1] - row.kept[0], width)
            end = 0
            for column in across:
                window = (..., slice(*row.seen), slice(*column.seen))
                start = {} if previous is None else {"previous": _part(previous, window)}
                found = self.matcher(left[window], right[window], **options, **start)
                _paste(strip, _part(found, (..., row.inner, column.inner)), column.kept, end, -1)
                end = column.kept[1]
            _paste(whole, strip, row.kept, bottom, -2)
            bottom = row.kept[1]
        return whole

    def _parts(self, height: int, width: int, reach: int) -> tuple[int, int]:
        if self.tile:
            return -(-height // self.tile), -(-width // self.tile)
        # a graph that was exported for one size takes no other
        fixed = getattr(self.matcher, "size", None) is not None
        largest = getattr(self.matcher, "largest_view", LARGEST)
        if self.tile == 0 or fixed or height * width <= largest:
            return 1, 1
        return cheapest(height, width, reach, largest)


def search_range(matcher: nn.Module) -> int | None:
    """Largest disparity in pixels that a matcher searches by itself; None where it does not say."""
    config = getattr(matcher, "config", None)
    own = getattr(matcher, "max_disparity", None) or getattr(config, "max_disparity", None)
    return None if own is None else int(own)


def _blank(view: Tensor, height: int, width: int) -> Disparity:
    values = view.new_zeros(view.shape[0], 1, height, width, dtype=torch.float32)
    return Disparity(values, torch.zeros_like(values, dtype=torch.bool), torch.zeros_like(values))


def _part(maps: Disparity, window: tuple[Any, ...]) -> Disparity:
    return Disparity(maps.disparity[window], maps.valid[window], maps.confidence[window])


def _along(dim: int, start: int, stop: int) -> tuple[Any, ...]:
    return (..., slice(start, stop), *[slice(None)] * (-1 - dim))


def _paste(canvas: Disparity, piece: Disparity, kept: tuple[int, int], done: int, dim: int) -> None:
    """Writes a piece into its place along an axis, whose pixels before ``done`` hold the pieces before it."""
    overlap = max(done - kept[0], 0)
    if overlap:
        window = _along(dim, 0, overlap)
        faded = _faded(_part(canvas, _along(dim, kept[0], done)), _part(piece, window), dim)
        _write(canvas, _along(dim, kept[0], done), faded)
    _write(canvas, _along(dim, kept[0] + overlap, kept[1]), _part(piece, _along(dim, overlap, kept[1] - kept[0])))


def _write(canvas: Disparity, window: tuple[Any, ...], piece: Disparity) -> None:
    canvas.disparity[window] = piece.disparity
    canvas.valid[window] = piece.valid
    canvas.confidence[window] = piece.confidence


def _faded(old: Disparity, new: Disparity, dim: int) -> Disparity:
    """One of two maps of the same pixels, the first at the start of an axis and the second at its end."""
    number = old.disparity.shape[dim]
    weight = (torch.arange(number, device=old.disparity.device, dtype=torch.float32) + 0.5) / number
    weight = weight.view(-1, *[1] * (-1 - dim))
    agree = old.valid & new.valid & ((old.disparity - new.disparity).abs() <= AGREEMENT)
    first = _trust(old, 1 - weight)
    newer = torch.where(old.valid == new.valid, _trust(new, weight) > first, new.valid)
    return Disparity(
        torch.where(
            agree,
            old.disparity + weight * (new.disparity - old.disparity),
            torch.where(newer, new.disparity, old.disparity),
        ),
        torch.where(newer, new.valid, old.valid),
        torch.where(
            agree,
            old.confidence + weight * (new.confidence - old.confidence),
            torch.where(newer, new.confidence, old.confidence),
        ),
    )


def _trust(maps: Disparity, weight: Tensor) -> Tensor:
    """Confidence times weight, averaged around each pixel, so that neighbours are of one tile."""
    trust = UNSURE + torch.where(maps.valid, maps.confidence, 0.0)
    for kernel, padding in (((WINDOW, 1), (WINDOW // 2, 0)), ((1, WINDOW), (0, WINDOW // 2))):
        trust = F.avg_pool2d(trust, kernel, 1, padding, count_include_pad=False)
    return trust * weight
