"""Recipes: everything that a training run depends on except the machine."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from stereopsis.data.augment import AugmentConfig
from stereopsis.data.scenes import SceneConfig
from stereopsis.data.sensors import SensorConfig
from stereopsis.matching.losses import AnyNetLossConfig, HITNetLossConfig


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one size of scenes.

    Attributes:
        steps: optimiser steps.
        batch: scenes a step; each is rendered once and serves a second step in the mirror.
        max_disparity: candidates searched; the trained network takes others at the call. 0 where nothing is matched.
        scene, augment: what is rendered, and what cameras do to it.
        sensor: what makes the depth that is to be upsampled; None for matching.
    """

    steps: int
    batch: int
    max_disparity: int
    scene: SceneConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sensor: SensorConfig | None = None


@dataclass(frozen=True)
class DKNLossConfig:
    """Of guided upsampling.

    Attributes:
        square: weight of the squared error beside L1, both in shares of the map's range.
        relative: each map's error counts in shares of what bicubic interpolation leaves, so that small ratios, whose
            errors are small, are learnt too.
    """

    square: float = 5.0  # errors of a fifth of the range count twice
    relative: bool = False


@dataclass(frozen=True)
class CodecLossConfig:
    """What a codec is trained for.

    Attributes:
        metric: the distortion.
        qualities: least and largest that are drawn, 1 to 8.
        target_bpp: bits a pixel below which the rate costs nothing (DSIC, Eq. 16), for a network of one rate; 0 for
            none.
        matching_weight: of the change in HITNet's features (:mod:`stereopsis.training.features`); 0 for none.
        luma: what squared errors of brightness count, and what those of colour are divided by.
        base: of FFCA-Net, the share of the distortion that the picture without a side view has.
    """

    metric: Literal["mse", "ms-ssim"] = "mse"
    qualities: tuple[float, float] = (1.0, 8.0)
    target_bpp: float = 0.0
    matching_weight: float = 0.0
    luma: float = 1.0
    base: float = 0.1


# what a run of thousands of steps, not millions, needs
SHORT_RUN = HITNetLossConfig(initialization_weight=8, alpha=0.8, c=0.5, sampled_negatives=4, per_scale=True)


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on but the machine.

    Attributes:
        name: of the weight.
        model: registry name of what is trained.
        phases: from small scenes, many a second, to large ones.
        learning_rate, weight_decay: of Muon, which trains the kernels of convolutions; for codecs, of AdamW for the
            transforms.
        vector_learning_rate: of AdamW, which trains all else: biases, normalisations, gains; for codecs, what predicts
            symbols.
        warmup: steps to these peaks; from there a cosine down to a fiftieth.
        clip: largest gradient norm.
        bf16: convolutions in bfloat16.
        ema: decay of the weights' moving average, which is then what is published; 0 for none.
        evaluate_every: steps between two validations, if there is something to validate on.
        seed: of the first scene and of the initial weights; a run sees every scene once, and its mirror image.
        loss: constants of the family's loss.
        optimizer: of the kernels of convolutions. "muon" is joined by AdamW for all other parameters; "adam" and
            "adamw" train all parameters. Codecs take AdamW in place of Muon.
        milestones: (step, share of the peak rates from there on), as papers state it; without any the rates follow a
            cosine.
    """

    name: str
    model: str
    phases: tuple[Phase, ...]
    learning_rate: float = 0.008
    weight_decay: float = 0.1
    vector_learning_rate: float = 1.2e-3
    warmup: int = 200
    clip: float = 1.0
    bf16: bool = True
    ema: float = 0.0
    evaluate_every: int = 500
    seed: int = 1_000_000
    loss: HITNetLossConfig | AnyNetLossConfig | DKNLossConfig | CodecLossConfig = SHORT_RUN
    optimizer: Literal["adam", "adamw", "muon"] = "muon"
    milestones: tuple[tuple[int, float], ...] = ()

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase a step belongs to."""
        first = 0
        for phase in self.phases:
            first += phase.steps
            if step < first:
                return phase
        raise ValueError(f"step {step} lies beyond the {self.steps} steps of {self.name}.")


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Return a recipe of another length.

    Phases that alternate are repeated, the last turn cut short; phases that differ keep their shares. Milestones keep
    their shares too. Every phase has an even number of steps, because a scene serves two.

    Raises:
        ValueError: ``steps`` is below 2.
    """
    if steps < 2:
        raise ValueError(f"a run of {steps} steps is too short; give at least 2.")
    turn = _turn(recipe.phases)
    milestones = tuple((round(at * steps / recipe.steps), share) for at, share in recipe.milestones)
    if len(turn) < len(recipe.phases):
        phases: list[Phase] = []
        left = steps
        while left > 0:
            phase = turn[len(phases) % len(turn)]
            phases.append(replace(phase, steps=min(phase.steps, _even(left))))
            left -= phases[-1].steps
    else:
        share = steps / recipe.steps
        phases = [replace(phase, steps=_even(phase.steps * share)) for phase in recipe.phases]
    return replace(recipe, phases=tuple(phases), milestones=milestones)


def _even(steps: float) -> int:
    return max(2 * round(steps / 2), 2)


def _turn(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The shortest sequence of phases whose repetition gives them all."""
    for length in range(1, len(phases)):
        if len(phases) % length == 0 and phases == phases[:length] * (len(phases) // length):
            return phases[:length]
    return phases


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that :func:`dataclasses.asdict` gave, also through JSON or by an earlier version.

    Fields that did not exist then take their defaults.

    Raises:
        ValueError: a field is unknown, so the recipe belongs to a newer version.
    """
    values = dict(values)
    loss = values.pop("loss", None)
    recipe = _rebuilt(Recipe, values, "recipe")
    if loss is None:
        return recipe
    kinds = (HITNetLossConfig, AnyNetLossConfig, DKNLossConfig, CodecLossConfig)
    # no field of one loss is a field of another with fewer fields: the first that has them all is the one
    kind = next((kind for kind in kinds if loss.keys() <= {part.name for part in fields(kind)}), None)
    if kind is None:
        raise ValueError(f"the loss of the recipe has the fields {', '.join(loss)}; no loss of this version has them.")
    return replace(recipe, loss=_rebuilt(kind, loss, "loss"))


def _rebuilt(kind: Any, value: Any, name: str) -> Any:
    if isinstance(kind, UnionType):
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return None if value is None else _rebuilt(kinds[0], value, name)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise ValueError(f"{name} has the unknown field {min(unknown)}; it was written by another version.")
        return kind(**{key: _rebuilt(hints[key], part, f"{name}.{key}") for key, part in value.items()})
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        each = [parts[0]] * len(value) if len(parts) == 2 and parts[1] is Ellipsis else parts
        return tuple(_rebuilt(part, entry, name) for part, entry in zip(each, value, strict=True))
    return value


def override(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """A recipe with other numbers: pairs of a name and a value, e.g. ``learning_rate 0.01 phases.0.steps 100``.

    Raises:
        ValueError: a name without a value, an unknown name, or a value of another type.
    """
    if len(words) % 2:
        raise ValueError(f"{words[-1]!r} has no value; write a name and a value, e.g. learning_rate 0.01.")
    for name, text in zip(words[::2], words[1::2], strict=True):
        recipe = _with(recipe, name.split("."), text, name)
    return recipe


def _with(node: Any, path: list[str], text: str, name: str) -> Any:
    if not path:
        try:
            value = type(node)(text) if isinstance(node, str) else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if isinstance(node, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(node) or is_dataclass(node):
            raise ValueError(f"{name} is {text!r}; give a value like {node!r}.")
        return value
    key, *rest = path
    if isinstance(node, tuple) and key.isdecimal() and int(key) < len(node):
        return tuple(_with(part, rest, text, name) if k == int(key) else part for k, part in enumerate(node))
    if is_dataclass(node) and not isinstance(node, type) and key in {field.name for field in fields(node)}:
        return replace(node, **{key: _with(getattr(node, key), rest, text, name)})
    known = [field.name for field in fields(node)] if is_dataclass(node) else []
    hint = (
        f"choose one of {', '.join(known)}"
        if known
        else f"it goes from 0 to {len(node) - 1}"
        if isinstance(node, tuple)
        else "it has no parts"
    )
    raise ValueError(f"there is no {key!r} in {name}; {hint}.")


# exposure differs more between real cameras than the augmentation's defaults say
