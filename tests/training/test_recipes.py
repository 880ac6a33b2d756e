"""Numbers of a recipe given on the command line."""

import pytest

from stereopsis.training.recipes import RECIPES, override

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
