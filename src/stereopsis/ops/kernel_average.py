"""Weighted average of deformable samples (Kim, Ponce, Ham: deformable kernel networks, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops import native, triton
from stereopsis.ops.portable import portable

EMPTY = 1e-6  # support, and sum of weights, below which nothing was sampled


def kernel_average(
    values: Float[Tensor, "b c h w"],
    weights: Float[Tensor, "b n h w"],
    shifts: Float[Tensor, "b 2*n h w"],
    *,
    radius: int = 7,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    residual: bool = False,
    zeros_outside: bool = False,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """Average of n samples around every pixel, each read bilinearly from the window of 2 radius + 1 pixels around it.

    With G the bilinear kernel (equation 6) and v_t 1 where pixel t is valid, inside the image and inside the window::

        a_i = Σ_t G(p + s_i, t) v_t f_t        c_i = Σ_t G(p + s_i, t) v_t                   over the 4 neighbours t
        residual:  Σ_i (w_i - m) a_i           m = Σ_i w_i c_i / Σ_i c_i                     (equation 3 without f_p)
        else:      Σ_i w_i a_i / Σ_i w_i c_i                                                 (equation 7)

    Where nothing is missing every c_i is 1, and these are the paper's subtraction of the mean and L1 normalisation.
    Where something is, it is neither sampled nor averaged, so that a constant map gives 0 (residual) or itself.

    Args:
        values: the map f; every channel is averaged with the same weights.
        weights: w_i, not negative.
        shifts: s_i from the pixel itself, in pixels: x and y of the first sample, x and y of the second, …
        radius: of the window, in pixels.
        valid: which values may be used; what the others hold does not matter, not even NaN.
        residual: high-pass weights that add to 0, in place of weights that add to 1.
        zeros_outside: what lies outside the image or the window is a known 0, as in the authors' code.

    Returns:
        The average, 0 where no sample has support; and the support, mean of c_i in [0, 1], which carries no gradient.

    Raises:
        ValueError: the shapes do not belong together, or the radius is below 1.
    """
    b, _, h, w = values.shape
    n = weights.shape[1]
    if weights.shape != (b, n, h, w) or shifts.shape != (b, 2 * n, h, w):
        raise ValueError(
            f"values are {tuple(values.shape)}, weights {tuple(weights.shape)} and shifts {tuple(shifts.shape)}; "
            "give (b, c, h, w), (b, n, h, w) and (b, 2 n, h, w)."
        )
    if valid is not None and valid.shape != (b, 1, h, w):
        raise ValueError(f"valid is {tuple(valid.shape)}; it must be {(b, 1, h, w)} for these values.")
    if radius < 1:
        raise ValueError(f"radius is {radius}; it must be at least 1 pixel.")
    if valid is not None:
        values = torch.where(valid, values, 0.0)
    if triton.usable(values, weights, shifts) and not native.needs_gradient(values, weights, shifts):
        from stereopsis.ops.triton.kernel_average import kernel_average as on_gpu

        return on_gpu(values, weights, shifts, radius, valid, residual, zeros_outside)
    if native.usable(values, weights, shifts):
        mask = None if valid is None else valid.float().contiguous()
        tensors = (values.contiguous(), weights.contiguous(), shifts.contiguous(), mask)
        return _NativeKernelAverage.apply(*tensors, radius, residual, zeros_outside)
    form = kernel_average_portable if portable() else kernel_average_reference
    return form(values, weights, shifts, radius=radius, valid=valid, residual=residual, zeros_outside=zeros_outside)


def kernel_average_reference(
    values: Float[Tensor, "b c h w"],
    weights: Float[Tensor, "b n h w"],
    shifts: Float[Tensor, "b 2*n h w"],
    *,
    radius: int = 7,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    residual: bool = False,
    zeros_outside: bool = False,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """:func:`kernel_average` in plain torch, one sample a step."""
    if valid is not None:
        values = torch.where(valid, values, 0.0)
    weighted = torch.zeros_like(values)
    plain = torch.zeros_like(values)
    weight = torch.zeros_like(weights[:, :1])
    support = torch.zeros_like(weight)
    for w, shift in zip(weights.split(1, 1), shifts.split(2, 1), strict=True):
        sample, known = _sample(values, shift, radius, valid, zeros_outside)
        weighted = weighted + w * sample
        plain = plain + sample
        weight = weight + w * known
        support = support + known
    return _averaged(weighted, plain, weight, support, weights.shape[1], residual)


def _averaged(
    weighted: Tensor, plain: Tensor, weight: Tensor, support: Tensor, n: int, residual: bool
) -> tuple[Tensor, Tensor]:
    """The average and its support, from sums over the n samples: of w a, a, w c and c."""
    covered = (support > EMPTY) & (weight > EMPTY * EMPTY)
    if residual:
        result = weighted - weight / torch.where(covered, support, 1.0) * plain
    else:
        result = weighted / torch.where(covered, weight, 1.0)
    share = torch.where(covered, support, 0.0).detach() / n
    return torch.where(covered, result, 0.0), share


def _sample(
    values: Tensor, shift: Tensor, radius: int, valid: Tensor | None, zeros_outside: bool
) -> tuple[Tensor, Tensor]:
    """a_i and c_i of one sample."""
    b, c, h, w = values.shape
    shift = shift.clamp(-radius - 1, radius + 1)
    whole = shift.detach().floor()
    fraction = shift - whole
    left, top = whole.long().split(1, 1)
    columns = torch.arange(w, device=values.device)
    rows = torch.arange(h, device=values.device).view(-1, 1)
    sample = torch.zeros_like(values)
    known = torch.zeros_like(fraction[:, :1])
    for dy in (0, 1):
        for dx in (0, 1):
            share = torch.cat([fraction[:, :1] if dx else 1 - fraction[:, :1],
                               fraction[:, 1:] if dy else 1 - fraction[:, 1:]], 1).prod(1, keepdim=True)  # fmt: skip
            column, row = columns + left + dx, rows + top + dy
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            inside = inside & ((left + dx).abs() <= radius) & ((top + dy).abs() <= radius)
            at = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).flatten(1)[:, None]
            present = inside if valid is None else inside & valid.flatten(2).gather(2, at).view_as(inside)
            found = values.flatten(2).gather(2, at.expand(-1, c, -1)).view(b, c, h, w)
            sample = sample + share * torch.where(present, found, 0.0)
            counted = present | ~inside if zeros_outside else present
            known = known + share * counted
    return sample, known


def kernel_average_portable(
    values: Float[Tensor, "b c h w"],
    weights: Float[Tensor, "b n h w"],
    shifts: Float[Tensor, "b 2*n h w"],
    *,
    radius: int = 7,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    residual: bool = False,
    zeros_outside: bool = False,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """:func:`kernel_average` for other runtimes: all samples in one ``grid_sample``."""
    b, c, h, w = values.shape
    n = weights.shape[1]
    known = torch.ones_like(values[:, :1]) if valid is None else valid.to(values.dtype)
    # what counts as missing is taken from 1 where the outside is known, and sampled itself where it is not
    sources = torch.cat([values * known, 1 - known if zeros_outside else known], dim=1)
    wanted = shifts.view(b, n, 2, h, w)
    shift = wanted.clamp(-radius, radius)
    # beyond the window's edge only the pixel on it counts, with what is left of its share
    share = (1 - (wanted - shift).abs()).clamp(min=0).prod(2, keepdim=True)
    columns, rows = (torch.arange(side, dtype=values.dtype) for side in (w, h))
    # from 0 … side - 1 to grid_sample's -1 … 1
    x = 2 * (columns + shift[:, :, 0]) / columns[-1:].clamp(min=1) - 1
    y = 2 * (rows[:, None] + shift[:, :, 1]) / rows[-1:].clamp(min=1) - 1
    grid = torch.stack([x, y], dim=-1).view(b, n * h, w, 2)
    samples = F.grid_sample(sources, grid, align_corners=True).view(b, c + 1, n, h, w).transpose(1, 2) * share
    sample, count = samples.split([c, 1], dim=2)
    count = 1 - count if zeros_outside else count
    each = weights[:, :, None]
    return _averaged((each * sample).sum(1), sample.sum(1), (each * count).sum(1), count.sum(1), n, residual)


def kernels_of_maps(
    maps: Float[Tensor, "b 3*n*s*s h/s w/s"],
    guide: Float[Tensor, "b/e 3*n*s*s h/s w/s"] | None,
    grid: Float[Tensor, "1 2*n 1 1"],
    size: tuple[int, int] | torch.Size,
    *,
    block: int = 1,
    squeeze: float = 1.0,
) -> tuple[Float[Tensor, "b n h w"], Float[Tensor, "b 2*n h w"]]:
    """Weights and shifts of every pixel from what the two streams of a DKN say of it (section 3.2).

    Args:
        maps: weights before the sigmoid, then offsets, of blocks of s x s pixels as by ``pixel_unshuffle``.
        guide: what the products are taken with, one for every e maps in a row; None for the maps alone.
        grid: shifts where the offsets are 0.
        size: height and width of the map; blocks may reach beyond it.
        block: s.
        squeeze: what the offsets are multiplied by.
    """
    split = [maps.shape[1] // 3, 2 * (maps.shape[1] // 3)]
    weights, offsets = maps.float().split(split, 1)
    weights = weights.sigmoid()
    if guide is not None:
        each = maps.shape[0] // guide.shape[0]
        guide = guide.float() if each == 1 else guide.float().repeat_interleave(each, 0)
        guide_weights, guide_offsets = guide.split(split, 1)
        weights = weights * guide_weights.sigmoid()
        offsets = offsets * guide_offsets
    weights, offsets = (F.pixel_shuffle(t, block)[..., : size[0], : size[1]] for t in (weights, offsets))
    return weights, torch.add(grid, offsets, alpha=squeeze)


def guided_average(
    values: Float[Tensor, "b c h w"],
    maps: Float[Tensor, "b 3*n*s*s h/s w/s"],
    guide: Float[Tensor, "b/e 3*n*s*s h/s w/s"] | None,
    grid: Float[Tensor, "1 2*n 1 1"],
    *,
    block: int = 1,
    squeeze: float = 1.0,
    radius: int = 7,
    valid: Bool[Tensor, "b 1 h w"] | None = None,
    residual: bool = False,
    zeros_outside: bool = False,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """:func:`kernel_average` with the weights and shifts of :func:`kernels_of_maps`.

    The kernel in C never writes those down, takes maps of bfloat16 as they are, and is for inference: no gradients.
    """
    streams = [maps] if guide is None else [maps, guide]
    alike = all(t.dtype == maps.dtype and t.device == values.device for t in streams)
    known = alike and maps.dtype in (torch.float32, torch.bfloat16) and native.usable(values, grid)
    if not known or native.needs_gradient(values, *streams):
        weights, shifts = kernels_of_maps(maps, guide, grid, values.shape[-2:], block=block, squeeze=squeeze)
        return kernel_average(
            values, weights, shifts, radius=radius, valid=valid, residual=residual, zeros_outside=zeros_outside
        )
    b, c, h, w = values.shape
    mask = None if valid is None else valid.float().contiguous()
    values = (values if valid is None else torch.where(valid, values, 0.0)).contiguous()
    out, support = native.empty(b, c, h, w), native.empty(b, 1, h, w)
    maps, guide = native.channels_last(maps), None if guide is None else native.channels_last(guide)
    rows, columns, channels = maps.shape[1:]
    numbers = (c, channels // (3 * block**2), h, w, radius, residual, zeros_outside)
    each = 1 if guide is None else b // guide.shape[0]
    native.run(
        "guided_average",
        [values, mask, out, support, maps, guide, grid.contiguous(), native.scalar(squeeze)],
        (*numbers, block, rows, columns, each, maps.dtype == torch.bfloat16),
        b * rows,
    )
    return out, support


class _NativeKernelAverage(torch.autograd.Function):
    """The same in C, without a copy of the samples; threads take rows."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weights: Tensor,
        shifts: Tensor,
        mask: Tensor | None,
        radius: int,
        residual: bool,
        zeros_outside: bool,
    ) -> tuple[Tensor, Tensor]:
        b, c, h, w = values.shape
        out, support = native.empty(b, c, h, w), native.empty(b, 1, h, w)
        numbers = (c, weights.shape[1], h, w, radius, residual, zeros_outside)
        native.run("kernel_average", [values, weights, shifts, mask, out, support], numbers, b * h)
        ctx.save_for_backward(values, weights, shifts, mask)
        ctx.numbers = tuple(map(int, numbers))
        ctx.mark_non_differentiable(support)
        return out, support

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, weights, shifts, mask = ctx.saved_tensors
        b, _, h, _ = values.shape
        grad_weights, grad_shifts = native.empty(*weights.shape), native.empty(*shifts.shape)
        grad_values = native.zeros(*values.shape) if ctx.needs_input_grad[0] else None
        tensors = [values, weights, shifts, mask, grads[0].contiguous(), grad_values, grad_weights, grad_shifts]
        # rows of one map add to each other's pixels, so that only whole maps may be shared out
        step = 1 if grad_values is None else h
        native.run("kernel_average_backward", tensors, ctx.numbers, b * h, step=step)
        return grad_values, grad_weights, grad_shifts, None, None, None, None
