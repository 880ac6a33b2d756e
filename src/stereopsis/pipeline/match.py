"""From files or arrays to results: the one place where the three families meet."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from stereopsis.geometry import hidden_from_right, left_right_check
from stereopsis.geometry.holes import fill_from_background
from stereopsis.io import read_image
from stereopsis.io.bits import full_range
from stereopsis.io.images import image_array
from stereopsis.matching.anynet import AnyNet
from stereopsis.matching.tiling import TiledMatcher, search_range
from stereopsis.ops.images import check_views, search_width
from stereopsis.types import Disparity
from stereopsis.zoo.registry import load

View = str | Path | np.ndarray | Tensor | Image.Image

STEP = 16  # pixels by which a network's refinement may exceed the range of its search
SHORTEST = 1e-9  # s, what is left of a budget that converting the views has used up
_FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}


def match(
    left: View,
    right: View,
    *,
    model: str | nn.Module = "hitnet.scenes",
    weights: str | Path | None = None,
    max_disparity: int | None = None,
    check: float | None = None,
    fill: bool = False,
    budget: float | None = None,
    previous: Disparity | None = None,
    tile: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Disparity:
    """Disparity of a rectified pair.

    Args:
        left, right: image files, images of Pillow, arrays ``(H, W)`` or ``(H, W, 1 or 3)``, or tensors ``(C, H, W)`` or
            ``(B, C, H, W)``; RGB or one channel, uint8, uint16 or float in [0, 1]. Views that use 8 to 15 of 16 bits
            are stretched, with a warning.
        model: a name of :func:`~stereopsis.zoo.list_models`, or a loaded model. Load it once for many pairs.
        weights: a safetensors file for a model given by name; official tags need one.
        max_disparity: largest disparity searched in pixels, the model's own if not given.
        check: match the right view too (twice the time), and count as not valid where the two maps disagree by more
            than this many pixels: occlusions, mostly.
        fill: fill holes with the lower one of their neighbours in the row. With ``check`` what the right view does not
            see is a hole (:func:`match_both`).
        budget: seconds for the whole call, only for an AnyNet; ``stage`` of the result is the last stage that was run.
            With ``check`` each of the two matchings gets half of it.
        previous: the map of the frame before, which an AnyNet may start its residual stages from; the right view, where
            it is matched too, starts without.
        tile: side in pixels of the tiles that are matched one after the other, 0 for views in one piece; if not given,
            views above 4 megapixels are cut (:class:`~stereopsis.matching.tiling.TiledMatcher`), but not with a budget.
        device, dtype: of a model given by name, as for :func:`load`; a loaded one is used as it is.

    Returns:
        Maps ``(B, 1, H, W)`` on the model's device; disparity in pixels.

    Raises:
        ValueError: the views differ in size, are no images or hold NaN; a budget that is not above 0; a budget or a
            previous map for a model without stages; a budget for tiles; a tile below 64; or as
            :func:`~stereopsis.zoo.load`.
        FileNotFoundError: an image or the weights do not exist.
    """
    begin = time.perf_counter()
    views = as_pair(left, right)
    network = load(model, weights=weights, device=device, dtype=dtype) if isinstance(model, str) else model
    return match_images(
        network,
        *(view.to(device) for view in views) if isinstance(model, str) else views,
        max_disparity=max_disparity,
        check=check,
        fill=fill,
        budget=budget,
        previous=previous,
        tile=tile,
        begin=begin,
    )


def match_images(
    network: nn.Module,
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    *,
    max_disparity: int | None = None,
    check: float | None = None,
    fill: bool = False,
    budget: float | None = None,
    previous: Disparity | None = None,
    tile: int | None = None,
    begin: float | None = None,
) -> Disparity:
    """:func:`match` for a loaded model and for views that :func:`as_pair` has converted and checked.

    Args:
        network: a matcher.
        left, right: as :func:`as_pair` returns them; they are moved to the device of the model.
        max_disparity, check, fill, budget, previous, tile: as in :func:`match`.
        begin: when the budget began, in seconds of ``time.perf_counter``; now if not given.

    Raises:
        ValueError: as :func:`match`, except for what the views hold.
    """
    check_views(left, right)
    if (budget is not None or previous is not None) and not has_stages(network):
        raise ValueError(
            f"{type(network).__name__} has no stages, so it takes neither a budget nor a previous map; use an AnyNet."
        )
    if budget is not None and not budget > 0:
        raise ValueError(f"budget is {budget} s; it must be above 0, for example 0.020 for 20 ms.")
    if budget is not None and tile:
        raise ValueError(f"tile is {tile} px, but a budget is for views in one piece; leave one of them out.")
    asked = max_disparity
    if asked is None and has_stages(network):  # whose own candidates beyond the view would count for the mean
        asked = search_range(network)
    searched = search_width(asked, left.shape[-1])
    options: dict[str, Any] = {} if searched is None else {"max_disparity": searched}
    if budget is None:
        cut = tile is None and isinstance(network, TiledMatcher)
        network = network if cut else TiledMatcher(network, tile)
    else:
        spent = 0.0 if begin is None else time.perf_counter() - begin
        left_over = max(budget - spent, SHORTEST)
        options["budget"] = left_over if check is None else left_over / 2
    parameter = next(network.parameters(), None)
    where = left.device if parameter is None else parameter.device
    start = None if previous is None else previous.to(where)
    placed = left.to(where), right.to(where)
    with torch.no_grad():
        if check is not None:
            found = match_both(network, *placed, check, fill=fill, previous=start, **options)
            return _possible(found, max_disparity)
        found = _possible(network(*placed, **options, **_previous(start)), max_disparity)
    return fill_from_background(found) if fill else found


def _possible(found: Disparity, max_disparity: int | None) -> Disparity:
    """Marks as not valid what is no disparity of these views: at least their width, or far above what was searched."""
    width = found.disparity.shape[-1]
    most = width - 1 if max_disparity is None else min(width - 1, max_disparity + STEP)
    possible = found.disparity <= most
    if bool(possible.all()):
        return found
    return replace(
        found,
        disparity=torch.where(possible, found.disparity, 0.0),
        valid=found.valid & possible,
        confidence=torch.where(possible, found.confidence, 0.0),
    )


def _previous(previous: Disparity | None) -> dict[str, Disparity]:
    """As an option, which only some matchers take."""
    return {} if previous is None else {"previous": previous}


def match_both(
    matcher: nn.Module,
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    threshold: float,
    *,
    fill: bool = False,
    previous: Disparity | None = None,
    **options: Any,
) -> Disparity:
    """The left view's map after a left-right check.

    Args:
        matcher: ``matcher(left, right, **options) -> Disparity``; it is called twice.
        left, right: as the matcher takes them.
        threshold: pixels that the two maps may differ by.
        fill: what the right view does not see takes the lower one of its neighbours in the row
            (:func:`~stereopsis.geometry.fill_from_background`), because it lies behind; where the right view's map is
            the farther one, either may be wrong, and the left one is kept. Without, neither is valid.
        previous: passed on with the left view alone.
        options: passed on with both.

    Raises:
        ValueError: a threshold below 0.
    """
    # In a mirror the right view is a left one. It goes first, so that the last stage is that of the left view.
    mirrored = matcher(right.flip(-1), left.flip(-1), **options)
    found = matcher(left, right, **options, **_previous(previous))
    seen_from_right = Disparity(mirrored.disparity.flip(-1), mirrored.valid.flip(-1), mirrored.confidence.flip(-1))
    if fill:
        seen = found.valid & ~hidden_from_right(found, seen_from_right, threshold)
        return fill_from_background(replace(found, valid=seen))
    valid = left_right_check(found, seen_from_right, threshold)
    return replace(found, disparity=torch.where(valid, found.disparity, 0.0), valid=valid)


def has_stages(model: nn.Module) -> bool:
    """Whether a model takes a budget and the map of the frame before: AnyNet alone."""
    return isinstance(model, AnyNet)


def _native(array: np.ndarray, name: str) -> np.ndarray:
    """An array of a data type that torch has."""
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} holds {array.dtype}; give uint8, uint16, or float in [0, 1].")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    # torch warns of memory that cannot be written to
    return array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)


def as_pair(left: View, right: View) -> tuple[Tensor, Tensor]:
    """Two views as float32 ``(B, C, H, W)`` in [0, 1], of their full range; errors as of :func:`match`."""
    views = as_images(left, "left"), as_images(right, "right")
    check_views(*views)
    return full_range(*views)


def as_images(view: View, name: str = "image") -> Tensor:
    """Any view as float32 ``(B, C, H, W)`` in [0, 1]; arguments and errors as in :func:`match`."""
    if isinstance(view, str | Path):
        return read_image(view)[None]
    if isinstance(view, Image.Image):
        view = image_array(view, name)
    if isinstance(view, np.ndarray):
        view = _native(view, name)
        tensor = torch.from_numpy(np.ascontiguousarray(view))
        tensor = tensor[None] if tensor.ndim == 2 else tensor.movedim(-1, 0) if tensor.ndim == 3 else tensor
    else:
        tensor = view
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3) or tensor.numel() == 0:
        raise ValueError(
            f"{name} is {tuple(view.shape)}; give an array (H, W) or (H, W, 3), or a tensor (3, H, W) or (B, 3, H, W)."
        )
    if tensor.dtype in _FULL_SCALE:
        return tensor.float() / _FULL_SCALE[tensor.dtype]
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds {tensor.dtype}; give uint8, uint16, or float in [0, 1].")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds NaN or infinite values; replace them before matching.")
    low, high = tensor.min().item(), tensor.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"{name} holds values from {low:.4g} to {high:.4g}; scale it to [0, 1].")
    return tensor.float()
