"""The papers' own training: optimizer, schedule, batch and crop as published.

Data come from ``--pairs`` and ``--dataset``; without a data set these recipes run on procedural scenes of the same
size. None of the shipped weights was made with them, because the papers' runs take days on a GPU. Values that a paper
does not state are those of its public code, if there is any.
"""

from __future__ import annotations

from dataclasses import replace

from stereopsis.data.augment import NO_EFFECTS, AugmentConfig
from stereopsis.data.scenes import SceneConfig
from stereopsis.data.sensors import SensorConfig
from stereopsis.matching.losses import AnyNetLossConfig, HITNetLossConfig
from stereopsis.training.recipe import CodecLossConfig, DKNLossConfig, Phase, Recipe

# HITNet, supplement: brightness, contrast and noise, each view by itself too; patches of the right view replaced
_HITNET_CAMERAS = AugmentConfig(
    brightness=0.2, contrast=0.2, asymmetric=0.05, blur=0.0, vignette=0.0, motion=0.0, jpeg=0.0, dirt=0.0, grey=0.0
)


def _adam(name: str, model: str, phase: Phase, rate: float, **options: object) -> Recipe:
    """Adam with one rate for everything, in float32, no warm-up, no moving average."""
    recipe = Recipe(
        name=name,
        model=model,
        phases=(phase,),
        optimizer="adam",
        learning_rate=rate,
        vector_learning_rate=rate,
        weight_decay=0.0,
        warmup=1,
        clip=1e9,
        bf16=False,
    )
    return replace(recipe, **options)  # type: ignore[arg-type]


def _hitnet(name: str, model: str, steps: int, batch: int, crop: tuple[int, int], disparities: int) -> Recipe:
    scene = SceneConfig(*crop, max_disparity=0.9 * disparities, vertical_offset=2.0)
    phase = Phase(steps, batch, disparities, scene, _HITNET_CAMERAS)
    return _adam(name, model, phase, 4e-4)


PAPER_RECIPES = (
    # HITNet, section 5 and supplement: --dataset sceneflow
    replace(
        _hitnet("hitnet.paper-sceneflow", "hitnet_l", 1_420_000, 8, (320, 960), 320),
        milestones=((1_000_000, 0.25), (1_300_000, 0.1), (1_400_000, 0.025)),
        loss=HITNetLossConfig(alpha=0.9, c=0.1),
    ),
    # from nothing on KITTI 2012 and 2015: crops of 311 x 1178 in the paper, here on the grid of 64
    replace(
        _hitnet("hitnet.paper-kitti", "hitnet.scenes", 410_000, 4, (320, 1152), 256),
        milestones=((400_000, 0.25), (408_000, 0.1)),
        loss=HITNetLossConfig(alpha=0.8, c=0.5),
    ),
    # a user's KITTI files on shipped weights: --dataset kitti2015 --initial hitnet.scenes
    Recipe(
        name="hitnet.kitti",
        model="hitnet.scenes",
        phases=(Phase(2000, 2, 192, SceneConfig(320, 896), AugmentConfig(brightness=0.3, contrast=0.3)),),
        learning_rate=1e-3,
        vector_learning_rate=1e-4,
        warmup=100,
        ema=0.995,
        loss=HITNetLossConfig(initialization_weight=2, alpha=0.8, c=0.5, sampled_negatives=4, per_scale=True),
    ),
    # AnyNet, section IV: 10 epochs of 35,454 pairs of SceneFlow, batch 6
    _adam(
        "anynet.paper-sceneflow",
        "anynet",
        Phase(59_090, 6, 192, SceneConfig(256, 512, max_disparity=180), NO_EFFECTS),
        5e-4,
        loss=AnyNetLossConfig(),
    ),
    # 300 epochs of 160 pairs of KITTI, batch 6, from the weights of SceneFlow
    _adam(
        "anynet.paper-kitti",
        "anynet",
        Phase(8000, 6, 192, SceneConfig(256, 512, max_disparity=180), NO_EFFECTS),
        5e-4,
        milestones=((5333, 0.1),),
        loss=AnyNetLossConfig(),
    ),
    # DKN, section 4.1: 40,000 steps of single frames of NYU v2: --dataset nyu_v2
    *(
        _adam(
            f"{model}.paper",
            f"{model}_x8",
            Phase(40_000, 1, 0, SceneConfig(448, 576, max_disparity=200), NO_EFFECTS, SensorConfig((8.0, 8.0))),
            1e-3,
            milestones=((10_000, 0.2), (20_000, 0.04), (30_000, 0.008)),
            loss=DKNLossConfig(square=0.0),
        )
        for model in ("dkn", "fdkn")
    ),
    # the codec that DSIC starts from, and DSIC (section 4.2): Adam 2e-4, batch 4; --dataset cityscapes
    *(
        _adam(
            f"{model}.paper",
            f"{model}.paper",
            Phase(steps, 4, 0, SceneConfig(256, 512, max_disparity=120), NO_EFFECTS),
            2e-4,
            loss=CodecLossConfig(),
        )
        for model, steps in (("hyperprior", 1_000_000), ("dsic", 500_000))
    ),
    # FFCA-Net, section 6.1: MS-SSIM, Adam 1e-4, batch 16, crops of 320 x 960; --dataset kitti2015
    _adam(
        "ffca.paper",
        "ffca.paper",
        Phase(100_000, 16, 0, SceneConfig(320, 960, max_disparity=200), NO_EFFECTS),
        1e-4,
        loss=CodecLossConfig(metric="ms-ssim"),
    ),
    # the shipped shape for MS-SSIM, whose five scales need 176 pixels a side
    Recipe(
        name="ffca.msssim",
        model="ffca.scenes",
        phases=(Phase(2400, 2, 0, SceneConfig(192, 320, max_disparity=90, surfaces=(3, 10))),),
        optimizer="adamw",
        learning_rate=2e-4,
        vector_learning_rate=1e-3,
        weight_decay=0.0,
        warmup=50,
        ema=0.995,
        seed=150_000_000,
        loss=CodecLossConfig(metric="ms-ssim"),
    ),
)
