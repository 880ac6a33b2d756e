"""Numbers of a recipe given on the command line."""

from dataclasses import replace

import pytest
import torch

from stereopsis.data.textures import make_bank
from stereopsis.training.loop import train
from stereopsis.training.recipes import RECIPES, override
from stereopsis.zoo.registry import get_entry

RECIPE = RECIPES["hitnet.smoke"]


def test_numbers_are_replaced_wherever_they_stand():
    words = "learning_rate 0.5 warmup 3 phases.0.steps 7 phases.0.scene.surfaces.1 9 loss.per_scale False bf16 False"
    changed = override(RECIPE, words.split())
    assert changed.learning_rate == 0.5
    assert changed.warmup == 3
    assert changed.steps == 7
    assert changed.phases[0].scene.surfaces == (2, 9)
    assert changed.loss.per_scale is False
    assert changed.bf16 is False
    assert changed.phases[0].augment == RECIPE.phases[0].augment
    assert RECIPE.warmup != 3  # the recipe itself stays


def test_whole_numbers_serve_as_fractions():
    assert override(RECIPE, ["learning_rate", "1"]).learning_rate == 1.0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("learning_rate", "'learning_rate' has no value"),
        ("rate 1", "there is no 'rate' in rate; choose one of name, model, phases, learning_rate"),
        ("phases.4.steps 1", "there is no '4' in phases.4.steps; it goes from 0 to 0"),
        ("warmup.x 1", "there is no 'x' in warmup.x; it has no parts"),
        ("warmup 1.5", "warmup is '1.5'; give a value like 20"),
        ("learning_rate fast", "learning_rate is 'fast'; give a value like 0.008"),
        ("phases.0 3", "phases.0 is '3'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(words, complaint):
    with pytest.raises(ValueError) as error:
        override(RECIPE, words.split())
    assert complaint in str(error.value)
    assert str(error.value).endswith(".")


STEPS = {
    "hitnet.scenes": "phases.0.scene.height 64 phases.0.scene.width 64 phases.0.scene.max_disparity 20",
    "anynet.paper-sceneflow": "phases.0.scene.height 64 phases.0.scene.width 64 phases.0.scene.max_disparity 20",
    "fdkn.paper": "phases.0.scene.height 64 phases.0.scene.width 64 phases.0.scene.max_disparity 20",
    "hyperprior.paper": "phases.0.scene.height 64 phases.0.scene.width 64",
    "dsic.scenes": "phases.0.scene.height 64 phases.0.scene.width 64 loss.target_bpp 0.5",
    "ffca.msssim": "loss.metric ms-ssim",
}


@pytest.mark.parametrize(("name", "words"), STEPS.items())
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_recipe_with_other_values_takes_a_step(tmp_path, name, words, optimizer):
    """The papers' recipes and the overrides that the documentation names, at the smallest size."""
    recipe = override(RECIPES[name], [*words.split(), "optimizer", optimizer, "phases.0.batch", "1"])
    recipe = replace(recipe, phases=(replace(recipe.phases[0], steps=1),))
    bank = make_bank(photo_crops=0, drawn=2)
    torch.manual_seed(0)
    model = get_entry(recipe.model).build()
    before = [parameter.clone() for parameter in model.parameters()]
    train(recipe, model, tmp_path, bank=bank)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, state["model"].values(), strict=False))
