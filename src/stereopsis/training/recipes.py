"""How the shipped weights were made: one frozen recipe a weight; the papers' own are in :mod:`.papers`."""

from __future__ import annotations

from dataclasses import replace

from stereopsis.data.augment import NO_EFFECTS, AugmentConfig
from stereopsis.data.scenes import SceneConfig
from stereopsis.data.sensors import ANY_SENSOR, SensorConfig
from stereopsis.matching.losses import AnyNetLossConfig
from stereopsis.training.papers import PAPER_RECIPES
from stereopsis.training.recipe import (
    SHORT_RUN,
    CodecLossConfig,
    DKNLossConfig,
    Phase,
    Recipe,
    override,
    recipe_from,
    with_steps,
)

__all__ = ["RECIPES", "CodecLossConfig", "DKNLossConfig", "Phase", "Recipe", "override", "recipe_from", "with_steps"]

_CAMERAS = AugmentConfig(brightness=0.4, contrast=0.3, asymmetric=0.1)
_GAPS = {"open": 0.55, "thin": 0.3, "pierced": 0.3}
_FLAT = {"panels": 0.15, "reflections": 0.15, "boards": 0.08}
_GAPS_FLAT = {**_GAPS, **_FLAT}
# a guide stays where its depth is
_GUIDES = replace(_CAMERAS, occluder=0.0, motion=0.05)
_ROOMS = SceneConfig(256, 256, max_disparity=100, surfaces=(3, 14))


def _sensor(scale: float) -> SensorConfig:
    """The protocol's, under a guide that is not quite exact."""
    return SensorConfig((scale, scale), blind=0.05, misaligned=0.7, soft=2.0)


def _upsampling(
    name: str, steps: int, seed: int, sensor: SensorConfig, rate: float = 0.02, relative: bool = False
) -> Recipe:
    return Recipe(
        name=name,
        model=name,
        phases=(Phase(steps, 4, 0, _ROOMS, _GUIDES, sensor),),
        learning_rate=rate,
        weight_decay=0.01,
        vector_learning_rate=rate / 10,
        warmup=100,
        ema=0.995,
        seed=seed,
        loss=DKNLossConfig(relative=relative),
    )


def _codec(name: str, steps: int, seed: int, crop: tuple[int, int, int], predictor_rate: float = 1e-3) -> Recipe:
    """Crops of this height, width and largest disparity."""
    height, width, disparity = crop
    scene = SceneConfig(height, width, max_disparity=disparity, surfaces=(3, 10))
    return Recipe(
        name=name,
        model=name,
        phases=(Phase(steps, 4, 0, scene, _GUIDES),),
        learning_rate=2e-4,
        weight_decay=0.0,
        vector_learning_rate=predictor_rate,
        warmup=50,
        ema=0.995,
        seed=seed,
        loss=CodecLossConfig(),
    )


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
        # from hitnet.scenes' end: surfaces with gaps, which a tile fills too readily, and an average over the steps
        Recipe(
            name="hitnet.gaps",
            model="hitnet.scenes",
            phases=(
                Phase(1500, 2, 208, SceneConfig(256, 512, max_disparity=200, surfaces=(8, 24), **_GAPS), _CAMERAS),
                Phase(4500, 2, 128, SceneConfig(256, 512, max_disparity=120, surfaces=(8, 30), **_GAPS), _CAMERAS),
            ),
            learning_rate=4e-3,
            vector_learning_rate=6e-4,
            warmup=100,
            ema=0.995,
            seed=20_000_000,
            loss=replace(SHORT_RUN, initialization_weight=2),
        ),
        # from hitnet.gaps' end: near things before far ones, beside which much is seen by one camera alone
        Recipe(
            name="hitnet.wide",
            model="hitnet.scenes",
            phases=(
                Phase(600, 2, 224, SceneConfig(256, 640, max_disparity=210, surfaces=(4, 14)), _CAMERAS),
                Phase(600, 2, 144, SceneConfig(256, 640, max_disparity=130, surfaces=(8, 24), **_GAPS), _CAMERAS),
            ),
            learning_rate=2.5e-3,
            vector_learning_rate=4e-4,
            warmup=100,
            ema=0.995,
            seed=30_000_000,
            loss=replace(SHORT_RUN, initialization_weight=2),
        ),
        # from the mean of hitnet.gaps' end and hitnet.wide's: kinds of scenes in turn, averaged over more than a turn
        Recipe(
            name="hitnet.turns",
            model="hitnet.scenes",
            phases=5
            * (
                Phase(200, 2, 224, SceneConfig(256, 640, max_disparity=210, surfaces=(4, 14)), _CAMERAS),
                Phase(200, 2, 144, SceneConfig(256, 640, max_disparity=130, surfaces=(8, 30), **_GAPS), _CAMERAS),
                Phase(200, 2, 208, SceneConfig(256, 640, max_disparity=200, surfaces=(6, 22), **_GAPS), _CAMERAS),
            ),
            learning_rate=3e-3,
            vector_learning_rate=5e-4,
            warmup=100,
            ema=0.999,
            seed=50_000_000,
            loss=replace(SHORT_RUN, initialization_weight=2),
        ),
        # from hitnet.turns' end: flat panels, boards and reflections among all that came before
        Recipe(
            name="hitnet.surfaces",
            model="hitnet.scenes",
            phases=5
            * (
                Phase(200, 2, 224, SceneConfig(256, 640, max_disparity=210, surfaces=(4, 14), **_FLAT), _CAMERAS),
                Phase(200, 2, 144, SceneConfig(256, 640, max_disparity=130, surfaces=(8, 30), **_GAPS_FLAT), _CAMERAS),
                Phase(200, 2, 208, SceneConfig(256, 640, max_disparity=200, surfaces=(6, 22), **_GAPS_FLAT), _CAMERAS),
            ),
            learning_rate=1e-3,
            vector_learning_rate=1.7e-4,
            warmup=100,
            ema=0.999,
            seed=60_000_000,
            loss=replace(SHORT_RUN, initialization_weight=2),
        ),
        Recipe(
            name="anynet.scenes",
            model="anynet.scenes",
            phases=(
                Phase(2000, 8, 96, SceneConfig(128, 256, max_disparity=90, surfaces=(3, 9)), _CAMERAS),
                Phase(3400, 4, 192, SceneConfig(256, 512, max_disparity=180, surfaces=(6, 20)), _CAMERAS),
            ),
            learning_rate=0.05,
            weight_decay=0.01,
            vector_learning_rate=0.01,
            ema=0.995,
            seed=40_000_000,
            loss=AnyNetLossConfig(classification=1.0),
        ),
        # each from the one before, DKN from nothing; docs/training.md tells how the first came about
        _upsampling("fdkn_x8.scenes", 400, 60_000_000, _sensor(8), rate=0.01),
        _upsampling("fdkn_x4.scenes", 400, 70_000_000, _sensor(4), rate=0.01),
        _upsampling("fdkn_x16.scenes", 400, 80_000_000, _sensor(16), rate=0.01),
        _upsampling("fdkn.any", 2000, 90_000_000, ANY_SENSOR, relative=True),
        _upsampling("fdkn.unguided", 1200, 98_000_000, ANY_SENSOR, relative=True),
        _upsampling("fdkn.denoise", 800, 95_000_000, SensorConfig((1, 1), noise=0.12, blind=0.05, misaligned=0.3)),
        _upsampling("dkn_x8.scenes", 1600, 100_000_000, _sensor(8)),
        _codec("hyperprior.photos", 3000, 110_000_000, (192, 192, 80), predictor_rate=3e-3),
        Recipe(
            name="hyperprior2.photos",
            model="hyperprior2.photos",
            phases=tuple(
                Phase(steps, scenes, 0, SceneConfig(256, 256, max_disparity=80, surfaces=(3, 10)), _GUIDES)
                for steps, scenes in ((10_000, 1), (50_000, 2))
            ),
            learning_rate=5e-4,
            weight_decay=0.0,
            vector_learning_rate=2e-3,
            warmup=200,
            clip=0.5,
            ema=0.999,
            seed=210_000_000,
            loss=CodecLossConfig(),
        ),
        # both from hyperprior.photos' end, for both views or for the base; --initial takes it
        _codec("dsic.scenes", 1400, 130_000_000, (192, 192, 90)),
        _codec("ffca.scenes", 2400, 150_000_000, (128, 320, 90)),
        # for pictures that are to be matched: from dsic.scenes' end; from nothing; from hyperprior.depth's end
        replace(
            _codec("dsic.depth", 400, 170_000_000, (192, 192, 90), predictor_rate=5e-4),
            learning_rate=1e-4,
            loss=CodecLossConfig(matching_weight=4.0),
        ),
        replace(
            _codec("hyperprior.depth", 4000, 170_000_000, (192, 192, 80), predictor_rate=3e-3),
            model="hyperprior.photos",
            loss=CodecLossConfig(matching_weight=4.0, luma=3.0),
        ),
        replace(
            _codec("ffca.depth", 1400, 180_000_000, (128, 320, 90)),
            loss=CodecLossConfig(matching_weight=4.0, luma=3.0, base=0.5),
        ),
        # for --pairs: a user's own pairs, with ground truth or without, from a shipped weight
        Recipe(
            name="hitnet.finetune",
            model="hitnet.scenes",
            phases=(Phase(1000, 2, 192, SceneConfig(256, 512)),),
            learning_rate=1e-3,
            vector_learning_rate=1e-4,
            warmup=50,
            ema=0.99,
        ),
        Recipe(
            name="hitnet.adapt",
            model="hitnet.scenes",
            phases=(Phase(400, 1, 192, SceneConfig(256, 512), NO_EFFECTS),),
            learning_rate=2e-4,
            vector_learning_rate=2e-5,
            warmup=50,
            ema=0.99,
        ),
        Recipe(
            name="hitnet.smoke",
            model="hitnet.scenes",
            phases=(Phase(200, 1, 48, SceneConfig(height=64, width=128, max_disparity=40, surfaces=(2, 4))),),
            warmup=20,
        ),
        *PAPER_RECIPES,
    )
}
