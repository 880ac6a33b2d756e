"""The Triton kernels against the references: on a GPU, or with ``TRITON_INTERPRET=1`` on the CPU.

``test_triton_without_gpu.py`` runs this file under the interpreter; sizes are small because of it.
"""

import os

import pytest
import torch

from stereopsis.matching.hitnet import HITNet, HITNetConfig
from stereopsis.ops import native, triton
from stereopsis.ops.cost_volume import (
    absolute_volume,
    absolute_volume_reference,
    residual_volume,
    residual_volume_reference,
)
from stereopsis.ops.kernel_average import kernel_average, kernel_average_reference
from stereopsis.ops.patch_match import DIRECTIONS, patch_match, patch_match_reference
from stereopsis.ops.propagation import propagate, propagate_reference
from stereopsis.ops.tile_match import matching_cost, tile_match, tile_match_reference
from stereopsis.ops.tile_warp import tile_warp_cost, tile_warp_cost_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

if not INTERPRETED and not torch.cuda.is_available():
    reason = "there is no CUDA GPU; test_triton_without_gpu.py runs these tests under Triton's interpreter"
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture
def device(monkeypatch):
    """Where the kernels run."""
    pytest.importorskip("triton", reason="Triton is not installed")
    if os.environ.get("STEREOPSIS_KERNELS") == "torch":
        pytest.skip("the kernels are switched off (STEREOPSIS_KERNELS=torch)")
    if not INTERPRETED:
        return "cuda"
    monkeypatch.setattr(triton, "DEVICE", "cpu")
    return "cpu"


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=_generator(seed))


def _integers(*shape, seed=0, spread=3):
    """Integer-valued features, so that sums are exact in any order and ties are frequent."""
    return torch.randint(-spread, spread + 1, shape, generator=_generator(seed)).float()


def _quarters(*shape, reach, seed=0):
    """Disparities at which linear interpolation of integers is exact."""
    return torch.randint(-4 * reach, 4 * reach, shape, generator=_generator(seed)) / 4


def _away_from_kinks(*shape, reach, seed=0):
    """Disparities whose fraction keeps off 0, where linear interpolation has a corner."""
    whole = torch.randint(-reach, reach, shape, generator=_generator(seed)).float()
    return whole + 0.1 + 0.8 * torch.rand(shape, generator=_generator(seed + 1))


def _values_and_gradients(operator, inputs, weights):
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    out = operator(*inputs)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)


def _assert_close(found, expected, **tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize(
    ("w", "width", "max_disparity"),
    [
        (1, 4, 1),
        (1, 1, 7),  # one column, everything clamped
        (3, 12, 50),  # more candidates than columns
        (16, 64, 32),  # whole blocks of the kernel
        (17, 68, 33),
        (35, 139, 40),
    ],
)
@pytest.mark.parametrize("excluding", [False, True])
def test_tile_matching_is_exact_on_integers(device, w, width, max_disparity, excluding):
    left, right = _integers(2, 3, 2, w).to(device), _integers(2, 3, 2, width, seed=1).to(device)
    exclude = torch.rand(2, 1, 2, w, generator=_generator(2)).to(device) * max_disparity if excluding else None
    problem = (left, right, max_disparity, exclude)
    assert triton.usable(left, right)
    assert torch.equal(tile_match(*problem), tile_match_reference(*problem))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tile_matching_in_every_precision_and_layout(device, dtype):
    left = _integers(3, 16, 5, 11).to(device, dtype).to(memory_format=torch.channels_last)
    right = _integers(5, 16, 3, 44, seed=1).to(device, dtype).transpose(0, 2)
    exclude = (torch.rand(3, 1, 11, 5, generator=_generator(2)) * 20).to(device).transpose(2, 3)
    found = tile_match(left, right, 20, exclude)
    assert found.dtype == dtype
    assert torch.equal(found.float(), tile_match_reference(left.float(), right.float(), 20, exclude))


def test_tile_matching_finds_the_lowest_cost_of_real_features(device):
    left, right = _normal(1, 16, 2, 16).to(device), _normal(1, 16, 2, 64, seed=1).to(device)
    found, expected = tile_match(left, right, 61), tile_match_reference(left, right, 61)
    # where the sums' order decides between two candidates, either will do
    costs = [matching_cost(left, right, d) for d in (found, expected)]
    torch.testing.assert_close(*costs, rtol=1e-5, atol=0)
    assert (found == expected).float().mean() > 0.99


def test_tile_matching_without_an_answer_is_0(device):
    left, right = _normal(1, 4, 2, 6).to(device), _normal(1, 4, 2, 24).to(device)
    right[..., 9] = float("nan")
    assert torch.equal(tile_match(left, right, 20), tile_match_reference(left, right, 20))
    assert tile_match(left, torch.full_like(right, float("nan")), 20).eq(0).all()
    assert tile_match(left, right, 3, torch.ones(1, 1, 2, 6, device=device)).eq(0).all()


@pytest.mark.parametrize("channels", [1, 24])
@pytest.mark.parametrize(("w", "reach"), [(4, 9), (36, 5), (36, 60), (64, 3000)])
def test_warping_costs_are_exact_on_integers(device, channels, w, reach):
    left, right = _integers(2, channels, 4, w).to(device), _integers(2, channels, 4, w, seed=1).to(device)
    disparity = _quarters(2, 1, 4, w, reach=reach).to(device)
    assert triton.usable(left, right, disparity)
    found = tile_warp_cost(left, right, disparity)
    assert torch.equal(found, tile_warp_cost_reference(left, right, disparity))


def test_warping_costs_in_values_and_gradients(device):
    channels = 17  # more than a program takes at once
    problem = [
        _normal(1, channels, 4, 36),
        _normal(1, channels, 4, 36, seed=1),
        _away_from_kinks(1, 1, 4, 36, reach=40),
    ]
    problem = [t.to(device) for t in problem]
    weights = _normal(1, 64, 1, 9, seed=3).to(device)
    found = _values_and_gradients(tile_warp_cost, problem, weights)
    _assert_close(found, _values_and_gradients(tile_warp_cost_reference, problem, weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_warping_costs_in_every_precision_and_layout(device, dtype):
    left = _integers(2, 8, 4, 12).to(device, dtype).to(memory_format=torch.channels_last)
    right = _integers(4, 8, 2, 12, seed=1).to(device, dtype).transpose(0, 2)
    disparity = _quarters(2, 1, 12, 4, reach=9).to(device).transpose(2, 3)
    weights = _integers(2, 64, 1, 3, seed=2).to(device)
    found = _values_and_gradients(tile_warp_cost, (left, right, disparity), weights)
    assert found[0].dtype == torch.float32
    assert [t.dtype for t in found[1:]] == [dtype, dtype, torch.float32]
    expected = _values_and_gradients(tile_warp_cost_reference, (left.float(), right.float(), disparity), weights)
    assert torch.equal(found[0], expected[0])
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    _assert_close([t.float() for t in found[1:]], expected[1:], rtol=tolerance, atol=tolerance)


def test_disparities_that_are_no_numbers_stay_where_they_are(device):
    left, right = _normal(1, 3, 4, 16).to(device), _normal(1, 3, 4, 16, seed=1).to(device)
    disparity = torch.zeros(1, 1, 4, 16, device=device)
    disparity[0, 0, 1, 6], disparity[0, 0, 2, 9], disparity[0, 0, 3, 3] = float("nan"), float("inf"), -1e30
    costs = tile_warp_cost(left, right, disparity).view(4, 4, 4, 4)  # row, column, kind, tile
    bad = costs[:, :, 1:].isnan().any(2)
    assert bad.nonzero().tolist() == [[1, 2, 1], [2, 1, 2]]
    edge = (left[0, :, 3, 3] - right[0, :, 3, -1]).abs().sum()
    torch.testing.assert_close(costs[3, 3, 1:, 0], edge.expand(3))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (33, 9)])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_scan_in_values_and_gradients(device, size, normalize):
    x, gates = _normal(2, 2, *size).to(device), _normal(2, 3, 2, *size, seed=1).to(device)
    if not normalize:
        gates = gates / gates.abs().sum(1, keepdim=True)
    weights = _normal(2, 2, *size, seed=2).to(device)
    assert triton.usable(x, gates)
    expected = propagate_reference(x, gates, normalize=normalize)
    torch.testing.assert_close(propagate(x, gates, normalize=normalize), expected, rtol=1e-4, atol=1e-4)
    results = [
        _values_and_gradients(lambda *inputs, scan=scan: scan(*inputs, normalize=normalize), (x, gates), weights)
        for scan in (propagate, propagate_reference)
    ]
    _assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scan_in_every_precision_and_layout(device, dtype):
    x = _normal(6, 2, 2, 9).to(device, dtype).transpose(0, 2)
    gates = (torch.rand(2, 3, 2, 9, 6, generator=_generator(1)) / 3).to(device, dtype).transpose(3, 4)
    found = propagate(x, gates)
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(found.float(), propagate_reference(x.float(), gates.float()), rtol=0, atol=tolerance)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("zeros_outside", [False, True])
def test_the_weighted_average(device, masked, residual, zeros_outside):
    values, weights = _normal(2, 1, 2, 9).to(device), torch.rand(2, 2, 2, 9, generator=_generator(1)).to(device)
    shifts = (4 * _normal(2, 4, 2, 9, seed=2)).to(device)
    valid = (torch.rand(2, 1, 2, 9, generator=_generator(3)) < 0.6).to(device) if masked else None
    options = {"radius": 3, "valid": valid, "residual": residual, "zeros_outside": zeros_outside}
    if masked:
        values[~valid.expand_as(values)] = float("nan")
    assert triton.usable(values, weights, shifts)
    found = kernel_average(values, weights, shifts, **options)
    _assert_close(found, kernel_average_reference(values, weights, shifts, **options), rtol=1e-4, atol=1e-5)


def test_the_weighted_average_is_exact_at_whole_shifts(device):
    values = _integers(1, 3, 2, 140).to(device)
    weights = torch.ones(2, 140, 2, 1, device=device).permute(3, 2, 0, 1)
    shifts = _integers(1, 4, 2, 140, seed=1, spread=2).to(device)
    found = kernel_average(values, weights, shifts, radius=2)
    _assert_close(found, kernel_average_reference(values, weights, shifts, radius=2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((2, 3, 9, 21), 4, torch.float32),
        ((1, 1, 4, 4), 4, torch.bfloat16),
        ((1, 2, 1, 70), 1, torch.float32),
        ((1, 2, 17, 83), 8, torch.float16),
    ],
)
def test_patches_are_matched_exactly_on_integers(device, direction, shape, size, dtype):
    target, side = _integers(*shape, spread=1).to(device, dtype), _integers(*shape, spread=1, seed=1).to(device, dtype)
    assert triton.usable(target, side)
    found = patch_match(target.to(memory_format=torch.channels_last), side.mT.contiguous().mT, size, direction)
    assert torch.equal(found, patch_match_reference(target, side, size, direction))


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_of_equal_windows_the_nearest(device, value):
    target = torch.full((1, 2, 8, 100), value, device=device)
    own = torch.arange(0, 104, 8, device=device).clamp(max=96).view(1, 1, -1)
    for direction in DIRECTIONS:
        assert torch.equal(patch_match(target, target, 8, direction), own)


@pytest.mark.parametrize(("width", "candidates"), [(1, 1), (7, 9), (65, 17)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_absolute_volume_is_exact_on_integers(device, width, candidates, dtype):
    left = _integers(2, 4, 3, width).to(device, dtype).to(memory_format=torch.channels_last)
    right = _integers(2, 4, width, 3, seed=1).to(device, dtype).mT
    assert triton.usable(left, right)
    found = absolute_volume(left, right, candidates)
    assert torch.equal(found, absolute_volume_reference(left, right, candidates))


@pytest.mark.parametrize(("width", "radius", "reach"), [(1, 1, 3), (12, 2, 20), (70, 3, 8), (20, 2, 3000)])
def test_the_residual_volume_is_exact_on_integers(device, width, radius, reach):
    left, right = _integers(2, 3, 4, width).to(device), _integers(2, 3, 4, width, seed=1).to(device)
    disparity = _quarters(2, 1, width, 4, reach=reach).to(device).mT
    disparity[0, 0, 0, 0], disparity[0, 0, 1, 0], disparity[1, 0, 0, 0] = float("nan"), float("inf"), -1e30
    assert triton.usable(left, right, disparity)
    found = residual_volume(left, right, disparity, radius)
    assert torch.equal(found, residual_volume_reference(left, right, disparity, radius))


def test_what_has_no_backward_kernel_keeps_its_gradients(device):
    left, right = _normal(1, 3, 4, 12).to(device), _normal(1, 3, 4, 12, seed=1).to(device)
    disparity = _away_from_kinks(1, 1, 4, 12, reach=6).to(device)
    values, map_weights, shifts = (
        t.to(device) for t in (_normal(1, 1, 4, 9), _normal(1, 2, 4, 9).abs(), _normal(1, 4, 4, 9))
    )
    for ours, theirs, inputs in (
        (lambda *t: absolute_volume(*t, 5), lambda *t: absolute_volume_reference(*t, 5), (left, right)),
        (lambda *t: residual_volume(*t, 2), lambda *t: residual_volume_reference(*t, 2), (left, right, disparity)),
        (lambda *t: kernel_average(*t)[0], lambda *t: kernel_average_reference(*t)[0], (values, map_weights, shifts)),
    ):
        weights = torch.ones((), device=device)
        _assert_close(_values_and_gradients(ours, inputs, weights), _values_and_gradients(theirs, inputs, weights))


@torch.no_grad()
def test_hitnet_is_the_same_with_kernels(device, monkeypatch):
    torch.manual_seed(0)
    model = HITNet(HITNetConfig(max_disparity=16, feature_channels=(8, 8, 8))).to(device)
    left, right = torch.rand(2, 1, 3, 16, 32, generator=_generator(0)).to(device)
    found = model.maps(left, right)
    monkeypatch.setattr(triton, "DEVICE", "none")
    monkeypatch.setattr(native, "library", lambda: None)
    expected = model.maps(left, right)
    assert expected[0].std() > 0
    _assert_close(found, expected, rtol=1e-3, atol=1e-3)
