"""How the shipped weights were made: one frozen recipe a weight."""

from __future__ import annotations

from dataclasses import dataclass, field

from stereopsis.data.augment import AugmentConfig
from stereopsis.data.scenes import SceneConfig
from stereopsis.matching.losses import HITNetLossConfig


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one size of scenes.

    Attributes:
        steps: optimiser steps.
        batch: scenes a step; each is rendered once and serves a second step in the mirror.
        max_disparity: candidates searched; the trained network takes others at the call.
        scene, augment: what is rendered, and what cameras do to it.
    """

    steps: int
    batch: int
    max_disparity: int
    scene: SceneConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on but the machine.

    Attributes:
        name: of the weight.
        model: registry name of what is trained.
        phases: from small scenes, many a second, to large ones.
        learning_rate, weight_decay: of Muon, which trains the kernels.
        vector_learning_rate: of AdamW, which trains the biases.
        warmup: steps to these peaks; from there a cosine down to a fiftieth.
        clip: largest gradient norm.
        bf16: convolutions in bfloat16.
        seed: of the first scene and of the initial weights; a run sees every scene once, and its mirror image.
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
    seed: int = 1_000_000
    loss: HITNetLossConfig = field(
        default_factory=lambda: HITNetLossConfig(
            initialization_weight=8, alpha=0.8, c=0.5, sampled_negatives=4, per_scale=True
        )
    )

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


# exposure differs more between real cameras than the augmentation's defaults say
_CAMERAS = AugmentConfig(brightness=0.4, contrast=0.3, asymmetric=0.1)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="hitnet.scenes",
            model="hitnet.scenes",
            phases=(
                Phase(1800, 4, 64, SceneConfig(128, 256, max_disparity=60, surfaces=(3, 9)), _CAMERAS),
                Phase(5200, 2, 208, SceneConfig(256, 512, max_disparity=200, surfaces=(6, 20)), _CAMERAS),
                Phase(2300, 2, 144, SceneConfig(256, 512, max_disparity=140, surfaces=(8, 24)), _CAMERAS),
            ),
        ),
        Recipe(
            name="hitnet.smoke",
            model="hitnet.scenes",
            phases=(Phase(60, 1, 48, SceneConfig(height=64, width=128, max_disparity=40, surfaces=(2, 4))),),
            warmup=10,
        ),
    )
}
