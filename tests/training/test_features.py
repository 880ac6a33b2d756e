"""The loss that keeps pictures fit for matching, and the recipe that trains DSIC with it."""

from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch

from stereopsis.compression.dsic import DSIC, DSICConfig
from stereopsis.compression.ffca import FFCA, FFCAConfig
from stereopsis.compression.hyperprior import HyperpriorConfig
from stereopsis.matching.hitnet import HITNet, HITNetConfig
from stereopsis.training.compression import DSICObjective, FFCAObjective, PairBatch
from stereopsis.training.features import FeatureDifference
from stereopsis.training.loop import _read_checkpoint
from stereopsis.training.recipes import RECIPES, CodecLossConfig

SMALL = DSICConfig(widths=(8, 8, 12), latent=12, hyper=8, hidden=18)


def pictures(count: int = 2, size: int = 48) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def difference() -> FeatureDifference:
    return FeatureDifference()


def test_equal_pictures_cost_nothing_and_more_noise_costs_more(difference):
    smooth = torch.nn.functional.interpolate(pictures(2, 8), size=(50, 70), mode="bicubic").clamp(0, 1)
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    costs = [difference(smooth + amplitude * noise, smooth) for amplitude in (0.0, 0.01, 0.03, 0.1)]
    assert all(cost.shape == (2,) for cost in costs)
    assert torch.equal(costs[0], torch.zeros(2))
    assert all((more > less).all() for less, more in pairwise(costs))


def test_unrelated_pictures_differ_by_about_their_own_spread(difference):
    views = torch.nn.functional.interpolate(pictures(8, 8), size=(64, 64), mode="bicubic").clamp(0, 1)
    assert 0.7 < difference(views.roll(1, 0), views).mean().item() < 1.8


def test_gradients_reach_the_pictures_and_not_the_matcher(difference):
    original, decoded = pictures(), (pictures() * 0.9).requires_grad_()
    difference(decoded, original).sum().backward()
    assert decoded.grad is not None
    assert (decoded.grad != 0).float().mean() > 0.99
    assert all(p.grad is None and not p.requires_grad for p in difference.parameters())


def test_following_the_gradient_makes_pictures_agree():
    """In value, on a matcher with random weights as well."""
    torch.manual_seed(0)
    difference = FeatureDifference(HITNet(HITNetConfig()))
    original = pictures()
    decoded = (original + 0.1 * torch.randn_like(original)).requires_grad_()
    optimizer, costs = torch.optim.Adam([decoded], lr=0.01), []
    for _ in range(12):
        optimizer.zero_grad()
        cost = difference(decoded, original).mean()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.7 * costs[0]


def test_the_codec_learns_from_it_and_the_matcher_does_not():
    torch.manual_seed(0)
    recipe = replace(RECIPES["dsic.depth"], bf16=False)
    batch = PairBatch(pictures(1, 64), pictures(1, 64).flip(-1), torch.tensor([4.0]))
    model = DSIC(SMALL, "dsic.test").train()
    objective = DSICObjective(model, recipe)
    terms, _ = objective(batch, recipe.phases[0])
    assert terms.keys() == {"rate", "distortion", "matching"}
    terms["matching"].backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    for part in ("g_a1", "g_s1", "g_a2", "g_s2"):
        assert any(part in name for name in touched), part
    assert objective.features is not None
    assert all(parameter.grad is None for parameter in objective.features.parameters())
    doubled = replace(recipe, loss=replace(recipe.loss, matching_weight=8.0))
    torch.manual_seed(1)
    once, _ = objective(batch, recipe.phases[0])
    torch.manual_seed(1)
    twice, _ = DSICObjective(model, doubled)(batch, recipe.phases[0])
    assert twice["matching"].item() == pytest.approx(2 * once["matching"].item(), rel=1e-4)


def test_ffca_is_told_of_both_of_its_pictures():
    base = HyperpriorConfig(widths=(8, 8, 12), latent=12, hyper=8, hidden=18, checkerboard=True)
    torch.manual_seed(0)
    model = FFCA(FFCAConfig(base, group=4, fusion=(8, 8, 8, 8)), "ffca.test").train()
    with torch.no_grad():
        for parameter in model.fuse.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    recipe = replace(RECIPES["ffca.depth"], bf16=False)
    batch, found = PairBatch(pictures(1, 64), pictures(1, 64).flip(-1), torch.tensor([4.0])), []
    for share in (0.0, 0.5, 1.0):
        objective = FFCAObjective(model, replace(recipe, loss=replace(recipe.loss, base=share)))
        torch.manual_seed(3)
        terms, _ = objective(batch, recipe.phases[0])
        model.zero_grad()
        terms["matching"].backward()
        found.append(terms["matching"].item())
        heard = any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.fuse.parameters())
        assert heard == (share < 1)
    assert found[0] != pytest.approx(found[2], rel=1e-3)
    assert found[1] == pytest.approx((found[0] + found[2]) / 2, rel=1e-4)


def test_without_a_weight_no_matcher_is_asked():
    objective = DSICObjective(DSIC(SMALL, "dsic.test"), replace(RECIPES["dsic.depth"], loss=CodecLossConfig()))
    assert objective.features is None


def test_an_older_checkpoint_knows_no_weight_and_had_none(tmp_path):
    """Constants that a loss was given later do not keep a run from going on."""
    recipe, path = RECIPES["dsic.scenes"], tmp_path / "checkpoint.pt"
    made = asdict(recipe)
    del made["loss"]["matching_weight"]
    torch.save({"recipe": made, "step": 7}, path)
    assert _read_checkpoint(path, recipe, torch.device("cpu"))["step"] == 7
    other = replace(recipe, loss=CodecLossConfig(matching_weight=1.0))
    with pytest.raises(ValueError, match="made with another loss"):
        _read_checkpoint(path, other, torch.device("cpu"))
