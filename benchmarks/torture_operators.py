"""Calls every operator with odd tensors and compares the C kernels with the references in torch.

    python benchmarks/torture_operators.py --seconds 60 --out out/operators.json

Sizes from one pixel to some hundred columns, strided, transposed, expanded, negated and channels-last tensors, data
types that no kernel takes, and values up to infinity and NaN. An operator must give what its reference gives, or fail
where its reference fails. ``benchmarks/torture.py`` runs this under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stereopsis.ops import (
    canvas,
    cost_volume,
    enlarge,
    kernel_average,
    native,
    patch_match,
    propagation,
    soft_argmin,
    thin_conv,
    tile_match,
    tile_warp,
)

TOLERANCE = 2e-3


class Draw:
    """Random sizes and tensors of one case."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.odd_values = self.rng.random() < 0.15
        self.odd_dtype = self.rng.random() < 0.1
        self.gradients = self.rng.random() < 0.3

    def size(self, most: int = 40) -> int:
        """One, a small one, or up to most."""
        return self.rng.choice([1, 2, 3, self.rng.randint(1, 9), self.rng.randint(1, most), most])

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def tensor(self, *shape: int, positive: bool = False) -> Tensor:
        """float32 mostly, in any layout."""
        values = torch.rand(shape, generator=self.generator, dtype=torch.float32)
        values = values if positive else 4 * values - 2
        if self.odd_values and values.numel():
            odd = self.rng.choice([math.inf, -math.inf, math.nan, 1e30, -1e30, 1e9])
            values.view(-1)[self.rng.randrange(values.numel())] = odd
        if self.odd_dtype:
            values = values.to(self.rng.choice([torch.float64, torch.bfloat16, torch.float16]))
        values = self._laid_out(values)
        if self.gradients and values.is_floating_point():
            values = values.detach().requires_grad_()
        return values

    def _laid_out(self, x: Tensor) -> Tensor:
        kind = self.rng.randrange(7)
        if kind == 0 and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if kind == 1:
            wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
            wide[..., 1::2] = x
            return wide[..., 1::2]
        if kind == 2 and x.dim() > 1:
            return x.transpose(-1, -2).contiguous().transpose(-1, -2)
        if kind == 3 and x.dim() > 1:
            return x[:1].expand_as(x)  # aliased
        if kind == 4:
            return torch._neg_view(-x)
        if kind == 5:  # at an address that is no multiple of a vector
            memory = x.new_zeros(x.numel() + 3)
            memory[3:] = x.reshape(-1)
            return memory[3:].view(x.shape)
        return x


Case = tuple[Callable[[], Any], Callable[[], Any], list[Tensor]]


def _volume(d: Draw) -> Case:
    b, c, h, w, n = d.size(3), d.size(9), d.size(9), d.size(70), d.size(20)
    left, right = d.tensor(b, c, h, w), d.tensor(b, c, h, w)
    return (
        lambda: cost_volume.absolute_volume(left, right, n),
        lambda: cost_volume.absolute_volume_reference(left, right, n),
        [left, right],
    )


def _residual(d: Draw) -> Case:
    b, c, h, w, radius = d.size(3), d.size(9), d.size(9), d.size(70), d.size(4)
    left, right, disparity = d.tensor(b, c, h, w), d.tensor(b, c, h, w), d.tensor(b, 1, h, w)
    disparity = (disparity.detach() * d.rng.choice([1, 10, 100])).requires_grad_(False)
    return (
        lambda: cost_volume.residual_volume(left, right, disparity, radius),
        lambda: cost_volume.residual_volume_reference(left, right, disparity, radius),
        [left, right],
    )


def _argmin(d: Draw) -> Case:
    costs = d.tensor(d.size(3), d.size(20), d.size(9), d.size(70))
    return lambda: soft_argmin.soft_argmin(costs), lambda: soft_argmin.soft_argmin_reference(costs), [costs]


def _near(d: Draw) -> Case:
    p = d.tensor(d.size(3), d.size(20), d.size(9), d.size(70), positive=True).detach()
    return lambda: soft_argmin.mass_near_mean(p), lambda: soft_argmin.mass_near_mean_reference(p), []


def _enlarge(d: Draw) -> Case:
    b, c, h, w, size = d.size(2), d.size(3), d.size(20), d.size(30), (d.size(60), d.size(90))
    x, base = d.tensor(b, c, h, w), d.tensor(b, c, *size) if d.flag() else None
    options = {"base": base, "align_corners": d.flag()}
    return lambda: enlarge.enlarge(x, size, **options), lambda: enlarge.enlarge_reference(x, size, **options), [x]


def _finished(d: Draw) -> Case:
    b, rows, columns = d.size(3), d.size(40), d.size(60)
    disparity, confidence = d.tensor(b, 1, rows, columns), d.tensor(b, 1, d.size(20), d.size(20), positive=True)
    top, left = d.rng.randrange(rows), d.rng.randrange(columns)
    size = d.rng.randint(1, rows - top), d.rng.randint(1, columns - left)
    arguments = (disparity, confidence, (top, left), size)
    return lambda: enlarge.finished_map(*arguments), lambda: enlarge.finished_map_reference(*arguments), []


def _average(d: Draw) -> Case:
    b, c, n, h, w = d.size(2), d.size(3), d.size(9), d.size(16), d.size(40)
    values, weights = d.tensor(b, c, h, w), d.tensor(b, n, h, w, positive=True)
    shifts = d.tensor(b, 2 * n, h, w)
    valid = torch.rand(b, 1, h, w, generator=d.generator, dtype=torch.float32) > 0.3 if d.flag() else None
    options: dict[str, Any] = {
        "radius": d.rng.choice([1, 2, 7]), "valid": valid, "residual": d.flag(), "zeros_outside": d.flag(),
    }  # fmt: skip
    form = (values, weights, shifts)
    return (
        lambda: kernel_average.kernel_average(*form, **options),
        lambda: kernel_average.kernel_average_reference(*form, **options),
        [values, weights],
    )


def _guided(d: Draw) -> Case:
    b, c, n, block, h, w = d.size(2), d.size(2), d.size(5), d.rng.choice([1, 2, 4]), d.size(16), d.size(40)
    values = d.tensor(b, c, h, w).detach()
    coarse = (-(-h // block), -(-w // block))
    maps = d.tensor(b, 3 * n * block**2, *coarse).detach()
    guide = d.tensor(b, 3 * n * block**2, *coarse).detach() if d.flag() else None
    if guide is not None:
        guide = guide.to(maps.dtype)
    grid = 2 * torch.rand(1, 2 * n, 1, 1, generator=d.generator, dtype=torch.float32)
    valid = torch.rand(b, 1, h, w, generator=d.generator, dtype=torch.float32) > 0.3 if d.flag() else None
    options: dict[str, Any] = {"block": block, "squeeze": 0.5}
    rest: dict[str, Any] = {"valid": valid, "residual": d.flag(), "zeros_outside": d.flag()}

    def reference() -> Any:
        weights, shifts = kernel_average.kernels_of_maps(maps, guide, grid, (h, w), **options)
        return kernel_average.kernel_average_reference(values, weights, shifts, **rest)

    return lambda: kernel_average.guided_average(values, maps, guide, grid, **options, **rest), reference, []


def _patches(d: Draw) -> Case:
    size = d.rng.choice([1, 2, 4, 16])
    shape = (d.size(2), d.size(5), d.size(30), d.size(150))
    target, side = d.tensor(*shape).detach(), d.tensor(*shape).detach()
    direction = d.rng.choice(["left", "right", "both"])

    def found(form: Any) -> Any:
        columns = form(target, side, size, direction)
        return _similarity(target, side, columns, size)

    return lambda: found(patch_match.patch_match), lambda: found(patch_match.patch_match_reference), []


def _similarity(target: Tensor, side: Tensor, columns: Tensor, size: int) -> Tensor:
    """How alike what was found is: ties may be broken by the last bits."""
    side, target = (patch_match._whole_patches(x, size) for x in (side.float(), target.float()))
    width = side.shape[3]
    at = (columns[:, :, :, None] + torch.arange(size)).clamp(0, width - 1).flatten(2)
    at = at.repeat_interleave(size, 1)[:, None].expand(-1, side.shape[1], -1, -1)
    taken = side.gather(3, at)
    per = (taken * target).sum(1, keepdim=True)
    power = taken.square().sum(1, keepdim=True)
    sums = [nn.functional.avg_pool2d(x, size) * size**2 for x in (per, power)]
    return sums[0] / (sums[1] + 1e-20).sqrt()


def _propagate(d: Draw) -> Case:
    b, c, h, w = d.size(2), d.size(4), d.size(40), d.size(90)
    x, gates, normalize = d.tensor(b, c, h, w), d.tensor(b, 3, c, h, w), d.flag()
    scaled = (gates.detach() / 6).requires_grad_(gates.requires_grad)
    return (
        lambda: propagation.propagate(x, scaled, normalize=normalize),
        lambda: propagation.propagate_reference(x, scaled, normalize=normalize),
        [x, scaled],
    )


def _thin(d: Draw) -> Case:
    b, c, o, h, w = d.size(2), d.size(9), d.size(9), d.size(30), d.size(90)
    slices = (d.size(9),) if d.flag() else ()
    sources = [d.tensor(b, d.size(9), *slices, h, w).detach() for _ in range(d.rng.randint(1, 2))]
    c = sum(source.shape[1] for source in sources)
    kernel = d.tensor(o, c, *((3,) if slices else ()), 3, 3).detach()
    bias = d.tensor(o).detach() if d.flag() else None
    norm: Any = None
    if d.flag():
        norm = (nn.BatchNorm3d if slices else nn.BatchNorm2d)(c).eval().requires_grad_(False)
    options: dict[str, Any] = {"norm": norm, "relu": d.flag()}
    if not slices:
        options |= {"stride": d.rng.choice([1, 2]), "pool": d.flag() and h > 1 and w > 1}
    return (
        lambda: thin_conv.thin_conv(sources, kernel, bias, **options),
        lambda: thin_conv.thin_conv_reference(sources, kernel, bias, **options),
        [],
    )


def _canvas(d: Draw) -> Case:
    sides = {side: d.rng.choice([0, 1, 5, 17]) for side in ("top", "left", "bottom", "right")}
    c = canvas.Canvas((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), **sides, repeat=d.flag())
    shape = (d.size(2), d.rng.choice([1, 3]), d.size(30), d.size(70))
    images = [d.tensor(*shape, positive=True).detach() for _ in range(d.rng.randint(1, 2))]
    outputs = d.size(9)
    kernel, bias = d.tensor(outputs, 3, 3, 3).detach(), d.tensor(outputs).detach()

    def reference() -> Any:
        return nn.functional.conv2d(torch.cat([c.draw(image) for image in images]), kernel, bias, padding=1)

    return lambda: c.convolved(images, kernel, bias), reference, []


def _tiles(d: Draw) -> Case:
    b, c, h, w, n = d.size(2), d.size(20), d.size(6), d.size(40), d.rng.choice([1, 7, 33, 200])
    left, right = d.tensor(b, c, h, w).detach(), d.tensor(b, c, h, d.size(160)).detach()
    exclude = 20 * d.tensor(b, 1, h, w, positive=True).detach() if d.flag() else None

    def cost(found: Tensor) -> Tensor:
        costs = tile_match.matching_cost(left, right, found)
        return costs if exclude is None else torch.cat([costs, ((found - exclude).abs() <= 1.5).float()])

    return (
        lambda: cost(tile_match.tile_match(left, right, n, exclude)),
        lambda: cost(tile_match.tile_match_reference(left, right, n, exclude)),
        [],
    )


def _warp(d: Draw) -> Case:
    b, c, h, w = d.size(2), d.size(20), 4 * d.size(4), 4 * d.size(20)
    left, right, disparity = d.tensor(b, c, h, w), d.tensor(b, c, h, w), 10 * d.tensor(b, 1, h, w).detach()
    return (
        lambda: tile_warp.tile_warp_cost(left, right, disparity),
        lambda: tile_warp.tile_warp_cost_reference(left.float(), right.float(), disparity),
        [left, right],
    )


CASES = {
    "absolute_volume": _volume, "residual_volume": _residual, "soft_argmin": _argmin, "mass_near_mean": _near,
    "enlarge": _enlarge, "finished_map": _finished, "kernel_average": _average, "guided_average": _guided,
    "patch_match": _patches, "propagate": _propagate, "thin_conv": _thin, "canvas": _canvas, "tile_match": _tiles,
    "tile_warp_cost": _warp,
}  # fmt: skip


def outcome(call: Callable[[], Any], inputs: list[Tensor]) -> list[Tensor] | str:
    """Results and gradients, or the name of an error."""
    try:
        found = call()
        found = [found] if isinstance(found, Tensor) else list(found)
        ready = [x for x in inputs if x.requires_grad and x.is_leaf]
        first = found[0]
        if ready and first.requires_grad:
            found += [g for g in torch.autograd.grad(first.float().sum(), ready, allow_unused=True) if g is not None]
        return [x.detach() for x in found]
    except (ValueError, RuntimeError, IndexError) as error:
        return type(error).__name__


def differs(found: Any, expected: Any, exact: bool) -> str:
    """Why two outcomes differ; empty where they do not."""
    if isinstance(found, str) or isinstance(expected, str):
        both = [x if isinstance(x, str) else "a result" for x in (found, expected)]
        return "" if "a result" not in both else " for ".join(both)
    for one, other in zip(found, expected, strict=False):
        if one.shape != other.shape:
            return f"shape {tuple(one.shape)} for {tuple(other.shape)}"
        if not exact or not one.numel():
            continue
        one, other = one.double(), other.double()
        scale = max(float(other.abs().max()), 1.0)
        wrong = ((one - other).abs() > TOLERANCE * scale).float().mean()
        if not float(wrong) <= 0.002:
            return f"largest difference {float((one - other).abs().max()):.3g} of {scale:.3g} in {float(wrong):.2%}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start, counts, refused, wrong = time.monotonic(), Counter(), Counter(), []
    torch.set_num_threads(2)
    seed = options.seed
    while time.monotonic() - start < options.seconds and seed - options.seed < options.cases:
        name = list(CASES)[seed % len(CASES)]
        draw = Draw(seed)
        fast, reference, inputs = CASES[name](draw)
        found, expected = outcome(fast, inputs), outcome(reference, inputs)
        # halves round differently, and what is not finite has no one right value
        why = differs(found, expected, exact=not draw.odd_values and not draw.odd_dtype)
        if why:
            wrong.append(f"{name}, seed {seed}: {why}")
            print(wrong[-1], flush=True)
        counts[name] += 1
        refused[name] += isinstance(found, str)
        seed += 1
    result = {
        "library": getattr(native.library(), "_name", None), "seconds": round(time.monotonic() - start, 1),
        "cases": dict(counts), "errors as the reference's": dict(refused), "wrong": wrong,
    }  # fmt: skip
    result["library"] = Path(result["library"]).name if result["library"] else None
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{sum(counts.values())} cases, {len(wrong)} wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
