"""Pairs in order: folders and videos, matched frame by frame with what the frame before has taught."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from stereopsis.io.frames import Frame, Frames, open_frames
from stereopsis.matching.temporal import TemporalFilter
from stereopsis.pipeline import match as matching
from stereopsis.types import Disparity
from stereopsis.zoo.registry import load

__all__ = [
    "ColorRange",
    "Frame",
    "Frames",
    "MatchedFrame",
    "SequenceMatcher",
    "match_sequence",
    "open_frames",
]


@dataclass(frozen=True)
class MatchedFrame:
    """What one pair of a sequence gave.

    Attributes:
        disparity: maps ``(1, 1, H, W)`` on the CPU, filled and filtered as asked for.
        seconds: that matching took, without reading and filtering.
        stage: that answered, 1 for the first, of a model with a budget; else None.
    """

    disparity: Disparity
    seconds: float
    stage: int | None


class SequenceMatcher:
    """Matches the pairs of a sequence one by one, in order.

    Args:
        model: a loaded model, or the name of one.
        max_disparity, check, fill: as in :func:`stereopsis.match`.
        budget: seconds a frame, of an AnyNet. The first pair of each size is also matched a few times without limit, so
            that the model knows what its stages cost.
        warm_start: start an AnyNet's residual stages from the frame before, as it was before filtering.
        smooth: strength of the :class:`~stereopsis.matching.temporal.TemporalFilter`, 0 for none.
        tile: as in :func:`stereopsis.match`.

    Raises:
        ValueError: a strength outside [0, 1), or a warm start or budget for a model without stages.
    """

    def __init__(
        self,
        model: str | nn.Module = "hitnet.scenes",
        *,
        max_disparity: int | None = None,
        check: float | None = None,
        budget: float | None = None,
        fill: bool = False,
        warm_start: bool = False,
        smooth: float = 0.0,
        tile: int | None = None,
    ) -> None:
        self.model = load(model) if isinstance(model, str) else model
        if (budget is not None or warm_start) and not matching.has_stages(self.model):
            name = type(self.model).__name__
            raise ValueError(f"{name} has no stages, so it takes neither a budget nor a warm start; use an AnyNet.")
        self.max_disparity, self.check, self.budget = max_disparity, check, budget
        self.fill, self.warm_start, self.tile = fill, warm_start, tile
        self._filter = TemporalFilter(smooth)
        self._previous: Disparity | None = None
        self._known_costs: set[tuple[int, ...]] = set()

    def reset(self) -> None:
        """Forget the frame before, as at a cut; a frame of another size does it too."""
        self._previous = None
        self._filter.reset()

    def resume(self, left: matching.View, disparity: Disparity) -> None:
        """Go on after a frame that was matched in an earlier run.

        The filter goes on as if there had been no break. A warm start does so where frames were not filtered, and else
        starts from the map as it was written.

        Args:
            left: the left view of that frame.
            disparity: its map, as :meth:`__call__` gave it.
        """
        self._previous = disparity if self.warm_start else None
        self._filter.reset()
        self._filter(disparity, matching.as_images(left, "left"))

    def __call__(self, left: matching.View, right: matching.View) -> MatchedFrame:
        """The next frame; views and errors as in :func:`stereopsis.match`."""
        start = time.perf_counter()
        views = matching.as_pair(left, right)
        converting = time.perf_counter() - start
        size = tuple(views[0].shape)
        if self._previous is not None and self._previous.disparity.shape[-2:] != size[-2:]:
            self.reset()
        if self.budget is not None and size not in self._known_costs:
            self._learn_costs(*views)
            self._known_costs.add(size)
        # Learning the costs is not part of the frame's time, converting its views is.
        start = time.perf_counter() - converting
        found = self._match(
            *views, check=self.check, fill=self.fill, budget=self.budget, previous=self._previous, begin=start
        )
        found = found.to("cpu")  # the copy waits for a GPU
        seconds = time.perf_counter() - start
        stage = None if self.budget is None else found.stage
        if self.warm_start:
            self._previous = found
        return MatchedFrame(self._filter(found, views[0]), seconds, stage)

    def _match(self, left: Tensor, right: Tensor, **options: Any) -> Disparity:
        return matching.match_images(
            self.model, left, right, max_disparity=self.max_disparity, tile=self.tile, **options
        )

    def _learn_costs(self, left: Tensor, right: Tensor) -> None:
        """Two runs each, of which the first is slow, for frames without and with a map to start from."""
        for _ in range(2):
            found = self._match(left, right, budget=math.inf)
        if self.warm_start:
            for _ in range(2):
                self._match(left, right, budget=math.inf, previous=found)


def match_sequence(
    frames: Iterable[tuple[matching.View, matching.View]], model: str | nn.Module = "hitnet.scenes", **options: Any
) -> Iterator[Disparity]:
    """The maps of pairs in order, each computed when it is asked for.

    Args:
        frames: pairs ``(left, right)`` of views as in :func:`stereopsis.match`, for example
            :func:`stereopsis.io.open_pair`.
        model: a loaded model, or the name of one.
        options: of :class:`SequenceMatcher`.

    Returns:
        Maps ``(1, 1, H, W)`` on the CPU; disparity in pixels.

    Raises:
        ValueError: options that do not fit, at the call; and while iterating, what the frames and
            :func:`stereopsis.match` raise.
    """
    matcher = SequenceMatcher(model, **options)
    return (matcher(left, right).disparity for left, right in frames)


class ColorRange:
    """One colour scale for a whole sequence, so that a colour means the same disparity in every picture.

    Args:
        ends: lowest and highest disparity, in pixels. If not given, they are the 2nd and 98th percentile of the first
            map that has a valid pixel, with a margin of a tenth of their distance (at least 1 px) at either end; and
            taken anew where the size of the maps changes.
    """

    def __init__(self, ends: tuple[float, float] | None = None) -> None:
        self._given = ends
        self._found: tuple[float, float] | None = None
        self._size: tuple[int, ...] = ()

    def __call__(self, disparity: Disparity) -> tuple[float, float] | None:
        """The ends for this map, None while no map had a valid pixel."""
        if self._given is not None:
            return self._given
        if self._size != tuple(disparity.disparity.shape):
            self._size, self._found = tuple(disparity.disparity.shape), None
        if self._found is None and disparity.valid.any():
            low, high = np.percentile(disparity.disparity[disparity.valid].cpu().numpy(), (2, 98))
            margin = max(0.1 * (high - low), 1.0)
            self._found = max(float(low - margin), 0.0), float(high + margin)
        return self._found
