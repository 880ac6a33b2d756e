"""Losses: HITNet's against the paper's formulas computed slowly, slant ground truth on known planes, AnyNet's."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.matching.anynet import AnyNet, AnyNetEstimate
from stereopsis.matching.hitnet import HITNet, HITNetConfig, HITNetStages, TileMatch
from stereopsis.matching.losses import (
    AnyNetLossConfig,
    HITNetLossConfig,
    Truth,
    anynet_loss,
    fit_slant,
    hitnet_loss,
    initialization_loss,
    robust_loss,
    view_loss,
)

PAPER = HITNetLossConfig()
TERMS = ("initialization", "propagation", "slant", "confidence")


def _truth(disparity, slant=None, valid=None, visible=None):
    everywhere = torch.ones_like(disparity, dtype=torch.bool)
    return Truth(
        disparity,
        everywhere if valid is None else valid,
        torch.zeros_like(disparity).expand(-1, 2, -1, -1) if slant is None else slant,
        everywhere if visible is None else visible,
    )


def _plane(height, width, a, bx, by):
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return (a + bx * x + by * y)[None, None]


# --- robust loss


@pytest.mark.parametrize(("alpha", "c"), [(0.9, 0.1), (0.8, 0.5), (1.0, 1.0), (-2.0, 0.3)])
def test_robust_loss_is_barrons_formula(alpha, c):
    for x in (0.0, 0.03, 0.5, 1.0, 20.0):
        expected = abs(alpha - 2) / alpha * ((((x / c) ** 2) / abs(alpha - 2) + 1) ** (alpha / 2) - 1)
        found = robust_loss(torch.tensor(x, dtype=torch.float64), alpha, c).item()
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_robust_loss_known_shapes():
    x = torch.linspace(-3, 3, 31, dtype=torch.float64)
    torch.testing.assert_close(robust_loss(x, 1.0, 0.5), ((x / 0.5).square() + 1).sqrt() - 1)  # Charbonnier
    small = torch.tensor([1e-4], dtype=torch.float64)
    torch.testing.assert_close(robust_loss(small, 0.9, 0.1), 0.5 * (small / 0.1).square(), rtol=1e-5, atol=0)


def test_robust_loss_has_gradients():
    x = torch.tensor([0.2, 1.0, -4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: robust_loss(v, 0.9, 0.1), (x,))


# --- slant ground truth


@pytest.mark.parametrize(("bx", "by"), [(0.0, 0.0), (0.3, 0.0), (0.0, -0.25), (-0.6, 0.4), (0.05, 0.8)])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_slant_of_a_plane_is_exact(bx, by, missing):
    disparity = _plane(32, 48, 40, bx, by)
    valid = torch.rand(disparity.shape, generator=torch.Generator().manual_seed(0)) >= missing
    slant, known = fit_slant(torch.where(valid, disparity, float("nan")), valid)
    assert known.all()
    assert slant.shape == (1, 2, 32, 48)
    torch.testing.assert_close(slant, torch.tensor([bx, by]).view(1, 2, 1, 1).expand_as(slant), rtol=0, atol=1e-3)


@pytest.mark.parametrize("step", [4.0, 10.0, 40.0, -25.0])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_slant_is_exact_up_to_a_depth_discontinuity(step, missing):
    """Two planes that meet in the windows must not mix."""
    x = torch.arange(48)
    before, after = _plane(32, 48, 60, 0.3, -0.2), _plane(32, 48, 60 + 0.3 * 24 + step, -0.1, 0.1)
    after = after + 0.1 * 24
    disparity = torch.where(x < 24, before, after)
    valid = torch.rand(disparity.shape, generator=torch.Generator().manual_seed(1)) >= missing
    slant, known = fit_slant(disparity, valid)
    left, right = torch.tensor([0.3, -0.2]).view(1, 2, 1, 1), torch.tensor([-0.1, 0.1]).view(1, 2, 1, 1)
    error = (slant - torch.where(x < 24, left, right)).abs().amax(1, keepdim=True)
    at = valid & known
    assert known[valid].float().mean() > 0.99
    # the planes' distance changes along the edge, and where it falls below the gate's they may touch
    assert (error[at] < 1e-3).float().mean() > 0.99
    assert error[at].max() < 1


def test_slant_at_a_crease_errs_only_beside_it():
    x = torch.arange(48)
    disparity = torch.where(x < 24, _plane(32, 48, 40, 0.4, 0.1), _plane(32, 48, 40 + 24 * 0.8, -0.4, 0.1))
    slant, known = fit_slant(disparity, torch.ones_like(disparity, dtype=torch.bool))
    assert known.all()
    expected = torch.where(x < 24, 0.4, -0.4).expand(32, 48)
    away = (x - 24).abs() > 5
    torch.testing.assert_close(slant[0, 0][:, away], expected[:, away], rtol=0, atol=1e-3)
    assert slant[0, 0].abs().max() < 0.41


def test_slant_survives_noise():
    generator = torch.Generator().manual_seed(0)
    disparity = _plane(40, 60, 40, 0.2, -0.1) + 0.05 * torch.randn(1, 1, 40, 60, generator=generator)
    slant, known = fit_slant(disparity, torch.ones_like(disparity, dtype=torch.bool))
    assert known.all()
    inner = slant[..., 4:-4, 4:-4] - torch.tensor([0.2, -0.1]).view(1, 2, 1, 1)
    assert inner.abs().mean() < 0.005


def test_slant_forgets_outliers_near_the_plane():
    """Too near for the first fit to see: the later ones drop what lies more than a pixel off."""
    disparity = _plane(32, 48, 40, 0.1, 0.05)
    off = torch.rand(disparity.shape, generator=torch.Generator().manual_seed(2)) < 0.1
    slant, known = fit_slant(disparity + 1.6 * off, torch.ones_like(off))
    error = (slant - torch.tensor([0.1, 0.05]).view(1, 2, 1, 1)).abs().amax(1, keepdim=True)
    at = known & ~off
    assert at.float().mean() > 0.85
    assert (error[at] < 1e-3).float().mean() > 0.95


def test_slant_is_unknown_where_too_little_is_known():
    disparity = _plane(32, 48, 40, 0.3, -0.2)
    valid = torch.zeros_like(disparity, dtype=torch.bool)
    valid[..., 5, 5] = valid[..., 5, 6] = True  # two pixels
    valid[..., 20, :] = True  # a line tells nothing across it
    valid[..., 20:28, 30:40] = True  # a patch
    slant, known = fit_slant(disparity, valid)
    assert not known[..., :12, :].any()
    assert not known[..., 20, :20].any()
    assert known[..., 22:26, 32:38].all()
    assert slant[(~known).expand_as(slant)].eq(0).all()
    torch.testing.assert_close(slant[..., 24, 35], torch.tensor([[0.3, -0.2]]), rtol=0, atol=1e-3)


def test_slant_of_chaos_is_unknown_rather_than_zero():
    """Where no plane fits, the second fit has nothing to stand on and must say so."""
    disparity = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 200
    slant, known = fit_slant(disparity, torch.ones_like(disparity, dtype=torch.bool))
    assert not (known & slant.eq(0).all(1, keepdim=True)).any()


# --- initialisation (Eq. 9-11)


def _tiles(height=2, width=6, candidates=16, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(batch, 3, height, width, generator=generator) * 0.3
    right = torch.randn(batch, 3, height, 4 * width, generator=generator) * 0.3
    return TileMatch(left.requires_grad_(), right.requires_grad_(), candidates)


def _slow_initialization(match, truth, scale, margin):
    """Eq. 9-11, tile by tile."""
    total, count = 0.0, 0
    batch, _, h, w = match.left.shape
    side = 4 * scale
    for n in range(batch):
        for ty in range(h):
            for tx in range(w):

                def rho(d, n=n, ty=ty, tx=tx):
                    column = min(max(4 * tx + 1 - d, 0), match.right.shape[3] - 1)
                    return (match.left[n, :, ty, tx] - match.right[n, :, ty, column]).abs().sum()

                window = (n, 0, slice(ty * side, (ty + 1) * side), slice(tx * side, (tx + 1) * side))
                both_see = truth.valid[window] & truth.visible[window]
                if not both_see.any():
                    continue
                d = truth.disparity[window][both_see].max().item() / scale  # max-pooled, then in pixels of the scale
                if not 0 < d <= match.max_disparity - 1 or d > 4 * tx + 1:
                    continue
                low = math.floor(d)
                at_truth = (d - low) * rho(low + 1) + (low + 1 - d) * rho(low)
                others = [k for k in range(match.max_disparity) if abs(k - d) > 1.5]
                hinge = max(margin - min(rho(k) for k in others), 0) if others else 0.0
                total, count = total + at_truth + hinge, count + 1
    return total / max(count, 1)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_initialization_loss_is_equations_9_to_11(scale):
    match = _tiles(batch=2)
    generator = torch.Generator().manual_seed(7)
    shape = (2, 1, 8 * scale, 24 * scale)
    truth = _truth(
        torch.rand(shape, generator=generator) * 12 * scale,
        valid=torch.rand(shape, generator=generator) > 0.8,
        visible=torch.rand(shape, generator=generator) > 0.8,
    )
    found = initialization_loss(match, truth, scale, PAPER)
    expected = _slow_initialization(match, truth, scale, PAPER.margin)
    assert expected > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(found, (match.left, match.right)),
        torch.autograd.grad(expected, (match.left, match.right)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5, 3.0])
def test_margin_is_the_configs(margin):
    match = _tiles()
    truth = _truth(torch.full((1, 1, 8, 24), 3.25))
    found = initialization_loss(match, truth, 1, replace(PAPER, margin=margin))
    torch.testing.assert_close(found, _slow_initialization(match, truth, 1, margin), rtol=1e-5, atol=1e-6)


def test_truth_of_a_tile_is_its_largest_disparity_seen_by_both_views():
    match = _tiles()
    disparity = torch.full((1, 1, 8, 24), 2.0)
    disparity[..., ::4, ::4] = 5.0
    hidden = torch.ones_like(disparity, dtype=torch.bool)
    disparity[..., 1::4, 1::4] = 9.0
    hidden[..., 1::4, 1::4] = False
    found = initialization_loss(match, _truth(disparity, visible=hidden), 1, PAPER)
    torch.testing.assert_close(found, initialization_loss(match, _truth(torch.full_like(disparity, 5.0)), 1, PAPER))


def test_tiles_without_anything_to_match_do_not_count():
    match = _tiles(candidates=8)
    nothing = _truth(torch.full((1, 1, 8, 24), 3.0), visible=torch.zeros(1, 1, 8, 24, dtype=torch.bool))
    beyond = _truth(torch.full((1, 1, 8, 24), 7.5))  # more than the last candidate
    for truth in (nothing, beyond):
        loss = initialization_loss(match, truth, 1, PAPER)
        assert loss == 0
        gradients = torch.autograd.grad(loss, (match.left, match.right))
        assert all(g.eq(0).all() for g in gradients)


@pytest.mark.parametrize("sampled", [0, 4])
def test_no_hinge_where_every_candidate_lies_in_the_band(sampled):
    """Coarse scales may have 3 candidates only; the truth itself must not be pushed away as a non-match."""
    match = _tiles(candidates=3)
    match = TileMatch(match.left[..., 1:].detach().requires_grad_(), match.right, 3)
    truth = _truth(torch.full((1, 1, 8, 20), 1.0))
    loss = initialization_loss(match, truth, 1, replace(PAPER, sampled_negatives=sampled))
    columns = [4 * x + 1 - 1 for x in range(5)]
    at_truth = (match.left - match.right[..., columns]).abs().sum(1).mean()
    torch.testing.assert_close(loss, at_truth)


def test_sampled_negatives_add_a_cross_entropy_and_keep_the_rest():
    match = _tiles()
    truth = _truth(torch.full((1, 1, 8, 24), 3.25))
    torch.manual_seed(0)
    plain = initialization_loss(match, truth, 1, PAPER)
    sampled = initialization_loss(match, truth, 1, replace(PAPER, sampled_negatives=4))
    assert sampled > plain
    assert all(g.isfinite().all() for g in torch.autograd.grad(sampled, (match.left, match.right)))


# --- geometry (Eq. 12-14)


def _features_that_match(disparity, height, width, candidates):
    """Tile features with cost 0 at an integer disparity and far more than the margin elsewhere."""
    right = torch.randn(1, 16, height, 4 * width, generator=torch.Generator().manual_seed(0)) * 10
    column = (4 * torch.arange(width) + 1 - disparity).clamp(min=0)
    return TileMatch(right[..., column].clone(), right, candidates)


def _tile_planes(height, width, tile, scale, a, bx, by, w):
    """Hypotheses that lie on the plane a + bx x + by y: d at the tile's centre in pixels of the scale."""
    middle = (tile - 1) / 2
    y, x = torch.meshgrid(
        torch.arange(height // tile) * tile + middle, torch.arange(width // tile) * tile + middle, indexing="ij"
    )
    d = (a + bx * x + by * y) / scale
    h = torch.zeros(1, 16, *d.shape)
    h[:, 0], h[:, 1], h[:, 2] = d, bx, by
    return h, torch.full((1, 1, *d.shape), w)


def _stages(height=64, width=128, a=32.0, bx=0.0, by=0.0, scales=3, w=1.0, change=lambda h: h):
    """What a network would say that knows the plane, coarse to fine."""
    matches, initial, propagated, selected = [], [], [], []
    for level in reversed(range(scales)):
        scale = 2**level
        h, weight = _tile_planes(height, width, 4 * scale, scale, a, bx, by, w)
        matches.append(_features_that_match(int(a) // scale, *h.shape[2:], 64 // scale))
        initial.append(h)
        hypotheses = 1 if level == scales - 1 else 2
        propagated.append([(change(h.clone()), weight.clone()) for _ in range(hypotheses)])
        selected.append(propagated[-1][0])
    refined = [change(_tile_planes(height, width, tile, 1, a, bx, by, w)[0]) for tile in (4, 2, 1)]
    return HITNetStages(matches, initial, propagated, selected, refined)


@pytest.mark.parametrize("per_scale", [False, True])
@pytest.mark.parametrize(("bx", "by"), [(0.0, 0.0), (0.25, 0.0), (-0.125, 0.375)])
def test_planes_on_the_truth_cost_nothing(per_scale, bx, by):
    disparity = _plane(64, 128, 32, bx, by)
    slant = torch.tensor([bx, by]).view(1, 2, 1, 1).expand(1, 2, 64, 128)
    terms = hitnet_loss(_stages(bx=bx, by=by), _truth(disparity, slant), replace(PAPER, per_scale=per_scale))
    assert set(terms) == set(TERMS)
    assert all(value.ndim == 0 for value in terms.values())
    for name in ("propagation", "slant", "confidence"):
        assert terms[name].item() == pytest.approx(0, abs=1e-5), name


@pytest.mark.parametrize("scales", [1, 3, 5])
def test_a_perfect_network_on_a_flat_scene_has_no_loss_at_all(scales):
    terms = hitnet_loss(_stages(scales=scales), _truth(torch.full((1, 1, 64, 128), 32.0)), PAPER)
    for name in TERMS:
        assert terms[name].item() == pytest.approx(0, abs=1e-5), name


def _slow_geometry(stages, truth, config):
    """Eq. 12-14, pixel by pixel at full resolution, summed over scales and hypotheses."""
    totals = dict.fromkeys(("propagation", "slant", "confidence"), 0.0)
    scales = len(stages.initial)
    parts = []
    for index, updated in enumerate(stages.propagated):
        scale = 2 ** (scales - 1 - index)
        single = len(updated) == 1
        parts += [(h, w, 4 * scale, scale, math.inf if single else config.truncation) for h, w in updated]
    parts += [(h, None, tile, 1, math.inf) for h, tile in zip(stages.refined, (4, 2, 1), strict=True)]
    batch, _, height, width = truth.disparity.shape
    for h, w, tile, scale, truncation in parts:
        sums, known, close = dict.fromkeys(totals, 0.0), 0, 0
        for n in range(batch):
            for y in range(height):
                for x in range(width):
                    if not truth.valid[n, 0, y, x]:
                        continue
                    known += 1
                    d, dx, dy = h[n, :3, y // tile, x // tile].tolist()
                    d_hat = d * scale + (x % tile - (tile - 1) / 2) * dx + (y % tile - (tile - 1) / 2) * dy
                    difference = abs(truth.disparity[n, 0, y, x].item() - d_hat)
                    clipped = torch.tensor(min(difference, truncation), dtype=torch.float64)
                    sums["propagation"] += robust_loss(clipped, config.alpha, config.c).item()
                    if difference < config.slant_threshold:
                        close += 1
                        gx, gy = truth.slant[n, :, y, x].tolist()
                        sums["slant"] += abs(gx - dx) + abs(gy - dy)
                    if w is not None:
                        value = w[n, 0, y // tile, x // tile].item()
                        sums["confidence"] += max(1 - value, 0) if difference < config.near else 0
                        sums["confidence"] += max(value, 0) if difference > config.far else 0
        totals["propagation"] += sums["propagation"] / max(known, 1)
        totals["slant"] += sums["slant"] / max(close, 1)
        totals["confidence"] += sums["confidence"] / max(known, 1)
    return totals


@pytest.mark.parametrize("constants", [{}, {"alpha": 0.8, "c": 0.5, "truncation": 2.0, "near": 0.5, "far": 3.0}])
def test_geometry_terms_are_equations_12_to_14_at_full_resolution(constants):
    config = replace(PAPER, **constants)
    generator = torch.Generator().manual_seed(3)

    def rough(h):
        return h + torch.randn(h.shape, generator=generator) * 0.4

    stages = _stages(16, 32, 8.0, 0.1, -0.05, scales=3, change=rough)
    for updated in stages.propagated:
        for _, w in updated:
            w.copy_(torch.randn(w.shape, generator=generator))
    truth = _truth(
        _plane(16, 32, 8, 0.1, -0.05) + torch.rand(1, 1, 16, 32, generator=generator),
        torch.randn(1, 2, 16, 32, generator=generator) * 0.1,
        valid=torch.rand(1, 1, 16, 32, generator=generator) > 0.3,
    )
    found = hitnet_loss(stages, truth, config)
    for name, expected in _slow_geometry(stages, truth, config).items():
        assert found[name].item() == pytest.approx(expected, rel=1e-4), name


def _only(index, hypothesis, delta, slope=0.0):
    """A perfect flat network of two scales but for one hypothesis that is off by delta pixels, and its slope."""
    stages = _stages(32, 64, 16.0, scales=2)
    h, _ = stages.propagated[index][hypothesis]
    scale = 2 - index
    h[:, 0] += delta / scale
    h[:, 1] += slope
    return stages


FLAT = _truth(torch.full((1, 1, 32, 64), 16.0))


def test_truncation_holds_where_hypotheses_compete_and_not_where_one_stands_alone():
    loss = {
        (index, delta): hitnet_loss(_only(index, 0, delta), FLAT, PAPER)["propagation"].item()
        for index in (0, 1)
        for delta in (0.5, 1.0, 10.0, 100.0)
    }
    rho = {d: robust_loss(torch.tensor(d), PAPER.alpha, PAPER.c).item() for d in (0.5, 1.0, 10.0, 100.0)}
    for delta in (0.5, 1.0, 10.0, 100.0):
        assert loss[0, delta] == pytest.approx(rho[delta], rel=1e-4)  # coarsest: one hypothesis, A is infinite
        assert loss[1, delta] == pytest.approx(rho[min(delta, 1.0)], rel=1e-4)


def test_no_gradient_beyond_the_truncation():
    for delta, moves in ((0.5, True), (10.0, False)):
        stages = _only(1, 0, delta)
        h = stages.propagated[1][0][0].requires_grad_()
        (gradient,) = torch.autograd.grad(hitnet_loss(stages, FLAT, PAPER)["propagation"], h)
        assert gradient[:, 0].ne(0).any().item() is moves


def test_slant_counts_only_within_a_pixel_of_the_truth():
    # of a 4 x 4 tile with slope 0.25 every pixel stays within 0.375 of its centre
    near = hitnet_loss(_only(1, 0, 0.5, slope=0.25), FLAT, PAPER)["slant"].item()
    far = hitnet_loss(_only(1, 0, 5.0, slope=0.25), FLAT, PAPER)["slant"].item()
    assert near == pytest.approx(0.25, rel=1e-5)
    assert far == 0
    wide = hitnet_loss(_only(1, 0, 5.0, slope=0.25), FLAT, replace(PAPER, slant_threshold=6.0))["slant"].item()
    assert wide == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(
    ("delta", "w", "expected"),
    [
        (0.5, 0.3, 0.7),  # near: pulled to 1
        (0.5, 1.5, 0.0),
        (1.2, 0.3, 0.0),  # between C1 and C2 nothing
        (2.0, 0.3, 0.3),  # far: pulled to 0
        (2.0, -1.0, 0.0),
    ],
)
def test_confidence_hinges(delta, w, expected):
    stages = _only(1, 1, delta)
    stages.propagated[1][1][1].fill_(w)
    assert hitnet_loss(stages, FLAT, PAPER)["confidence"].item() == pytest.approx(expected, abs=1e-6)


def test_per_scale_thresholds_grow_with_the_tiles():
    """At scale 2 an error of 1.6 pixels is 0.8 of that scale's."""
    stages = _stages(32, 64, 16.0, scales=3)
    stages.propagated[1][0][0][:, 0] += 1.6 / 2
    stages.propagated[1][0][1].fill_(0.25)
    paper, scaled = (hitnet_loss(stages, FLAT, replace(PAPER, per_scale=p)) for p in (False, True))
    assert paper["confidence"].item() == pytest.approx(0.25)
    assert scaled["confidence"].item() == pytest.approx(0.75)
    assert paper["propagation"].item() == pytest.approx(robust_loss(torch.tensor(1.0), 0.9, 0.1).item(), rel=1e-4)
    assert scaled["propagation"].item() == pytest.approx(robust_loss(torch.tensor(0.8), 0.9, 0.1).item(), rel=1e-4)


def test_initialization_weight_scales_its_term_alone():
    stages = _only(1, 0, 0.5)
    for match in stages.matches:
        match.left.add_(0.1)
    plain, heavy = (hitnet_loss(stages, FLAT, replace(PAPER, initialization_weight=weight)) for weight in (1.0, 8.0))
    assert plain["initialization"] > 0.1
    torch.testing.assert_close(heavy["initialization"], 8 * plain["initialization"])
    assert all(torch.equal(heavy[name], plain[name]) for name in TERMS[1:])


@pytest.mark.parametrize("hole", [float("nan"), float("inf"), -1e9])
@pytest.mark.parametrize("per_scale", [False, True])
def test_what_stands_in_invalid_pixels_does_not_matter(hole, per_scale):
    config = replace(PAPER, per_scale=per_scale)
    valid = torch.rand(FLAT.disparity.shape, generator=torch.Generator().manual_seed(0)) > 0.4

    def terms_and_gradient(fill):
        stages = _only(1, 0, 0.5, slope=0.1)
        hypotheses = [stages.propagated[0][0][0], stages.propagated[1][0][0], stages.refined[2]]
        for h in hypotheses:
            h.requires_grad_()
        truth = replace(
            FLAT,
            disparity=torch.where(valid, FLAT.disparity, fill),
            slant=torch.where(valid, FLAT.slant, fill),
            valid=valid,
        )
        terms = hitnet_loss(stages, truth, config)
        return terms, torch.autograd.grad(sum(terms.values()), hypotheses)

    terms, gradients = terms_and_gradient(hole)
    expected, expected_gradients = terms_and_gradient(16.0)
    for name in TERMS:
        assert torch.equal(terms[name], expected[name]), name
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(ours, theirs)


# --- training a network with them


@pytest.fixture(scope="module")
def scene():
    scenes = render(3, 1, make_bank(photo_crops=0, drawn=6), SceneConfig(64, 128, 40.0, (2, 4), 0.0))
    truth = Truth(scenes.disparity, torch.ones_like(scenes.visible), scenes.slant, scenes.visible)
    return 2 * scenes.left - 1, 2 * scenes.right - 1, truth


@pytest.mark.parametrize(
    "config",
    [PAPER, HITNetLossConfig(alpha=0.8, c=0.5, sampled_negatives=4, per_scale=True)],
    ids=["paper", "short training"],
)
def test_gradient_flows_to_every_parameter(scene, config):
    left, right, truth = scene
    torch.manual_seed(0)
    model = HITNet(HITNetConfig(max_disparity=64))
    terms = hitnet_loss(model.stages(left, right), truth, config)
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_losses_decrease_over_50_steps_on_one_scene(scene):
    left, right, truth = scene
    torch.manual_seed(0)
    model = HITNet(HITNetConfig(max_disparity=64))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(50):
        terms = hitnet_loss(model.stages(left, right), truth, PAPER)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(torch.stack([*terms.values(), loss]).detach())
    start, end = torch.stack(history[:5]).mean(0), torch.stack(history[-5:]).mean(0)
    for name, before, after in zip((*TERMS, "sum"), start.tolist(), end.tolist(), strict=True):
        if name != "confidence":  # it starts near its floor: w is 0, and few hypotheses are right yet
            assert after < 0.8 * before, f"{name} went from {before:.2f} to {after:.2f}"
    assert end[-1] < 0.6 * start[-1]
    assert F.relu(end).equal(end)


# --- AnyNet


def _stages_of(disparity, levels=12):
    """Estimates that are sure of a disparity: at every stage all probability is on its neighbours."""
    estimates = []
    start = torch.zeros_like(disparity)
    for stage, scale in enumerate((16, 8, 4, 4)):
        at = (..., slice(scale // 2, None, scale), slice(scale // 2, None, scale))
        count, first = (levels, 0) if stage == 0 else (5, 2)
        index = ((disparity - start)[at] / scale + first).clamp(0, count - 1)
        candidates = torch.arange(count).view(1, -1, 1, 1)
        estimates.append(AnyNetEstimate(disparity.clone(), (1 - (candidates - index).abs()).clamp(min=0)))
        start = disparity
    return estimates


def _flat_truth(d, height=32, width=64):
    disparity = torch.full((1, 1, height, width), float(d))
    return Truth(disparity, torch.ones_like(disparity, dtype=torch.bool), disparity, disparity > 0)


def test_stages_at_the_truth_cost_nothing_but_the_share_between_two_candidates():
    truth = _flat_truth(48)
    terms = anynet_loss(_stages_of(truth.disparity), truth, 192, AnyNetLossConfig(classification=1))
    assert terms["regression"] == 0
    assert terms["classification"] == pytest.approx(0, abs=1e-5)
    between = _flat_truth(56)  # half way between the candidates 48 and 64
    terms = anynet_loss(_stages_of(between.disparity), between, 192, AnyNetLossConfig(classification=1))
    assert terms["classification"] == pytest.approx(0.25 * math.log(2), abs=1e-5)


def test_stages_count_by_their_weights_and_only_in_range():
    truth = _flat_truth(40)
    for stage, weight in enumerate((0.25, 0.5, 1.0, 1.0)):
        estimates = _stages_of(truth.disparity)
        estimates[stage] = replace(estimates[stage], disparity=truth.disparity + 3)
        terms = anynet_loss(estimates, truth, 192, AnyNetLossConfig())
        assert terms.keys() == {"regression"}
        assert terms["regression"] == pytest.approx(weight * 2.5)
        assert anynet_loss(estimates, truth, 32, AnyNetLossConfig())["regression"] == 0
        unknown = replace(truth, valid=~truth.valid, disparity=torch.full_like(truth.disparity, torch.nan))
        assert anynet_loss(estimates, unknown, 192, AnyNetLossConfig(classification=1))["regression"] == 0


def test_anynet_losses_fall_over_50_steps_on_one_scene():
    torch.manual_seed(0)
    model = AnyNet().train()
    wide = F.interpolate(torch.rand(1, 3, 16, 44), scale_factor=4, mode="bilinear")
    left, right = wide[..., :128], wide[..., 20:148]
    truth = _flat_truth(20, 64, 128)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for _ in range(50):
        estimates = list(model.estimates(left, right, 64))
        terms = anynet_loss(estimates, truth, 64, AnyNetLossConfig(classification=1))
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(torch.stack([*terms.values()]).detach())
    start, end = torch.stack(history[:5]).mean(0), torch.stack(history[-5:]).mean(0)
    assert (end < 0.7 * start).all(), (start, end)


# --- without ground truth


def _seen_twice(d=6.0, width=96):
    """A smooth random view and the same d pixels on, with their disparities."""
    wide = F.interpolate(
        torch.rand(1, 3, 12, 28, generator=torch.Generator().manual_seed(0)), size=(48, width + int(d)), mode="bicubic"
    ).clamp(0, 1)
    disparity = torch.full((1, 1, 48, width), d)
    return wide[..., :width], wide[..., int(d) :], disparity


def test_views_made_from_each_other_by_the_truth_cost_nothing():
    left, right, d = _seen_twice()
    terms = view_loss(left, right, d, d)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"photometric": 0, "smoothness": 0, "consistency": 0},
        abs=1e-3,  # windows at the sides see beyond
    )


@pytest.mark.parametrize("offset", [-1.5, -0.5, 0.5, 1.5])
def test_a_wrong_disparity_costs_and_its_gradient_leads_back(offset):
    left, right, d = _seen_twice()
    found = (d + offset).requires_grad_()
    terms = view_loss(left, right, found, found)
    assert terms["photometric"] > 1e-3
    terms["photometric"].backward()
    assert found.grad.mean().sign() == (1 if offset > 0 else -1)


def test_what_the_maps_disagree_on_is_not_counted():
    left, right, d = _seen_twice()
    wrong = d.clone()
    wrong[..., 20:40, 30:60] = 20  # the right map knows nothing of it
    assert view_loss(left, right, wrong, d)["photometric"] < 0.02
    assert view_loss(left, right, wrong, d)["smoothness"] > 0


def test_unknown_slants_are_not_learnt():
    stages, truth = _stages(), _truth(_plane(64, 128, 32.3, 0.0, 0.0))
    strange = replace(truth, slant=torch.full_like(truth.slant, torch.nan), slant_valid=torch.zeros_like(truth.valid))
    config = HITNetLossConfig()
    terms, known = hitnet_loss(stages, strange, config), hitnet_loss(stages, truth, config)
    assert terms["slant"] == 0
    assert terms["propagation"] == known["propagation"]
