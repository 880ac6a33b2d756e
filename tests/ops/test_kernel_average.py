"""The average of deformable samples: reference against its definition, kernel against the reference."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.kernel_average import (
    guided_average,
    kernel_average,
    kernel_average_reference,
    kernels_of_maps,
)

PER_LIBRARY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _inputs(b=1, c=1, n=4, h=5, w=6, spread=3.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(b, c, h, w, generator=generator, dtype=dtype)
    weights = torch.rand(b, n, h, w, generator=generator, dtype=dtype)
    shifts = spread * torch.randn(b, 2 * n, h, w, generator=generator, dtype=dtype)
    valid = torch.rand(b, 1, h, w, generator=generator) > 0.3
    return values, weights, shifts, valid


def _slowly(values, weights, shifts, radius, valid, residual, zeros_outside):
    """Pixel by pixel and sample by sample, from the definition; one map of one channel."""
    height, width = values.shape[-2:]
    out, support = torch.zeros_like(values), torch.zeros_like(values)
    for y in range(height):
        for x in range(width):
            a, c, w = [], [], weights[0, :, y, x].tolist()
            for i in range(len(w)):
                sx, sy = shifts[0, 2 * i, y, x].item(), shifts[0, 2 * i + 1, y, x].item()
                sample = known = 0.0
                for dy in (math.floor(sy), math.floor(sy) + 1):
                    for dx in (math.floor(sx), math.floor(sx) + 1):
                        g = (1 - abs(sx - dx)) * (1 - abs(sy - dy))
                        inside = 0 <= x + dx < width and 0 <= y + dy < height and max(abs(dx), abs(dy)) <= radius
                        if inside and (valid is None or valid[0, 0, y + dy, x + dx]):
                            sample += g * values[0, 0, y + dy, x + dx].item()
                            known += g
                        elif not inside and zeros_outside:
                            known += g
                a.append(sample)
                c.append(known)
            if sum(c) <= 1e-6:
                continue
            mean = sum(p * q for p, q in zip(w, c, strict=True)) / (sum(c) if residual else 1)
            if residual:
                out[0, 0, y, x] = sum((p - mean) * q for p, q in zip(w, a, strict=True))
            else:
                out[0, 0, y, x] = sum(p * q for p, q in zip(w, a, strict=True)) / mean
            support[0, 0, y, x] = sum(c) / len(c)
    return out, support


@pytest.mark.parametrize("zeros_outside", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_the_average_equals_its_definition(residual, zeros_outside, holes):
    values, weights, shifts, valid = _inputs()
    options = {"valid": valid if holes else None, "residual": residual, "zeros_outside": zeros_outside}
    found = kernel_average_reference(values, weights, shifts, radius=2, **options)
    for ours, theirs in zip(found, _slowly(values, weights, shifts, 2, **options), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_whole_steps_on_the_grid_are_a_convolution():
    values, weights, *_ = _inputs(n=9, h=8, w=9)
    grid = torch.tensor([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)], dtype=torch.float64)
    shifts = grid.view(1, 18, 1, 1).expand(1, 18, 8, 9)
    weights = weights[..., :1, :1].expand(1, 9, 8, 9)
    kernel = (weights[0, :, 0, 0] - weights[0, :, 0, 0].mean()).view(1, 1, 3, 3)
    found, _ = kernel_average(values, weights, shifts, residual=True, zeros_outside=True)
    torch.testing.assert_close(found, F.conv2d(values, kernel, padding=1))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_a_constant_stays_a_constant(residual, holes):
    values, weights, shifts, valid = _inputs(h=12, w=14, spread=6.0)
    values = torch.full_like(values, 3.0)
    found, support = kernel_average(values, weights, shifts, valid=valid if holes else None, residual=residual)
    expected = torch.where(support > 0, 0.0 if residual else 3.0, 0.0)
    torch.testing.assert_close(found, expected.to(found.dtype))
    assert support.gt(0).any()


@pytest.mark.parametrize("zeros_outside", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_of_the_reference(residual, zeros_outside):
    values, weights, shifts, valid = _inputs(c=2, n=3, h=3, w=4)
    inputs = values.requires_grad_(), weights.requires_grad_(), shifts.requires_grad_()
    for mask in (None, valid):
        assert torch.autograd.gradcheck(
            lambda v, w, s, mask=mask: kernel_average_reference(
                v, w, s, radius=2, valid=mask, residual=residual, zeros_outside=zeros_outside
            )[0],
            inputs,
        )


@PER_LIBRARY
@given(
    b=st.integers(1, 2),
    c=st.integers(1, 2),
    n=st.sampled_from([1, 4, 9]),
    h=st.integers(1, 9),
    w=st.integers(1, 40),
    radius=st.integers(1, 7),
    residual=st.booleans(),
    zeros_outside=st.booleans(),
    holes=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_kernel_equals_the_reference_in_values_and_gradients(
    kernels, threads, b, c, n, h, w, radius, residual, zeros_outside, holes, seed
):
    values, weights, shifts, valid = _inputs(b, c, n, h, w, seed=seed, dtype=torch.float32)
    options = {
        "radius": radius,
        "valid": valid if holes else None,
        "residual": residual,
        "zeros_outside": zeros_outside,
    }
    assert native.usable(values, weights, shifts)
    toward = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    results = []
    for operator in (kernel_average, kernel_average_reference):
        inputs = [t.clone().requires_grad_() for t in (values, weights, shifts)]
        out, support = operator(*inputs, **options)
        assert not support.requires_grad
        # a sum of almost nothing divides what float32 cannot hold
        sure = support > 0.05
        results.append((out * sure, support, *torch.autograd.grad((out * sure * toward).sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def test_kernel_gives_gradients_without_those_of_the_values(kernels):
    values, weights, shifts, valid = _inputs(b=2, c=2, h=7, w=30, dtype=torch.float32)
    grads = []
    for operator in (kernel_average, kernel_average_reference):
        inputs = [t.clone().requires_grad_() for t in (weights, shifts)]
        out, _ = operator(values, *inputs, valid=valid, residual=True)
        grads.append(torch.autograd.grad(out.square().sum(), inputs))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_kernel_reads_any_memory_layout(kernels):
    values, weights, shifts, valid = _inputs(b=2, n=4, h=9, w=9, dtype=torch.float32)
    turned = [t.transpose(2, 3) for t in (values, weights, shifts)]
    found = kernel_average(*turned, valid=valid.transpose(2, 3))
    expected = kernel_average_reference(*turned, valid=valid.transpose(2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_blocks_come_back_in_order():
    """On an image of indices: what a block's channel says arrives at the pixel that the channel came from."""
    index = torch.arange(6 * 4 * 5 * 4, dtype=torch.float32).view(1, 1, 24, 20)
    blocks = F.pixel_unshuffle(index, 4)
    assert blocks[0, :, 1, 2].tolist() == [20 * (4 + i) + 8 + j for i in range(4) for j in range(4)]
    weights, shifts = kernels_of_maps(
        torch.cat([blocks, -blocks, 2 * blocks], 1), None, torch.zeros(1, 2, 1, 1), (23, 18), block=4, squeeze=0.5
    )
    assert torch.equal(weights, index[..., :23, :18].sigmoid())
    assert torch.equal(shifts, torch.cat([-0.5 * index, index], 1)[..., :23, :18])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize(("b", "guides"), [(1, 1), (4, 2), (2, 0)])
@pytest.mark.parametrize("holes", [False, True])
def test_guided_average_equals_its_two_steps(kernels, threads, dtype, block, b, guides, holes):
    generator = torch.Generator().manual_seed(block)
    h, w, n = 7, 18, 4
    values, _, _, valid = _inputs(b=b, n=n, h=h, w=w, dtype=torch.float32)
    shape = (3 * n * block**2, -(-h // block), -(-w // block))
    maps = 3 * torch.randn(b, *shape, generator=generator).to(dtype)
    guide = 2 * torch.randn(guides, *shape, generator=generator).to(dtype) if guides else None
    grid = torch.randn(1, 2 * n, 1, 1, generator=generator)
    arrangement = {"block": block, "squeeze": 0.7}
    options = {"valid": valid if holes else None, "residual": holes, "radius": 5}
    expected = kernel_average_reference(values, *kernels_of_maps(maps, guide, grid, (h, w), **arrangement), **options)
    with torch.inference_mode():
        found = guided_average(values, maps, guide, grid, **arrangement, **options)
    sure = expected[1] > 0.05
    torch.testing.assert_close(found[0] * sure, expected[0] * sure, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


def test_guided_average_has_gradients_where_they_are_asked_for():
    values, *_ = _inputs(n=4, dtype=torch.float32)
    maps = torch.randn(1, 12, 5, 6, requires_grad=True)
    out, _ = guided_average(values, maps, None, torch.zeros(1, 8, 1, 1))
    assert torch.autograd.grad(out.square().sum(), maps)[0].any()


@pytest.mark.parametrize("operator", [kernel_average, kernel_average_reference])
@given(seed=st.integers(0, 10_000), residual=st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_a_hole_holds_does_not_matter(operator, seed, residual):
    values, weights, shifts, valid = _inputs(h=7, w=9, seed=seed, dtype=torch.float32)
    results = []
    for content in (0.0, 1e30, math.nan, math.inf):
        filled = torch.where(valid, values, content).requires_grad_()
        out, support = operator(filled, weights, shifts, valid=valid, residual=residual)
        (grad,) = torch.autograd.grad(out.sum(), filled)
        results.append((out.detach(), support, grad))
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))
    assert results[0][2][~valid].eq(0).all()


def test_nothing_in_reach_gives_nothing():
    values, weights, shifts, _ = _inputs(h=30, w=30, dtype=torch.float32)
    valid = torch.zeros(1, 1, 30, 30, dtype=torch.bool)
    valid[..., :3, :3] = True
    for residual in (False, True):
        out, support = kernel_average(values, weights, shifts, radius=2, valid=valid, residual=residual)
        assert support[..., 6:, :].eq(0).all()
        assert out[support == 0].eq(0).all()
        assert support[..., :3, :3].gt(0).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": torch.rand(1, 4, 5, 7)}, "give (b, c, h, w)"),
        ({"shifts": torch.rand(1, 4, 5, 6)}, "(b, 2 n, h, w)"),
        ({"valid": torch.ones(1, 1, 5, 5, dtype=torch.bool)}, "valid is (1, 1, 5, 5)"),
        ({"radius": 0}, "radius is 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, words):
    values, weights, shifts, _ = _inputs()
    with pytest.raises(ValueError) as error:
        kernel_average(**{"values": values, "weights": weights, "shifts": shifts, **change})
    message = str(error.value)
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message
