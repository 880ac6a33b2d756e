"""The demo: a real rectified pair with ground truth, matched, measured, and turned into depth and points.

The pair is Motorcycle of Middlebury 2014 at a quarter of its size, which the scikit-image wheel holds:
D. Scharstein et al., "High-Resolution Stereo Datasets with Subpixel-Accurate Ground Truth", GCPR 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from stereopsis.evaluation.metrics import disparity_metrics
from stereopsis.geometry import unproject
from stereopsis.geometry.holes import fill_from_background
from stereopsis.pipeline.depth import metric_depth, stereo_depth
from stereopsis.types import Depth, Disparity, PointCloud, StereoCalibration, StereoPair
from stereopsis.visualization import colorize, error_map
from stereopsis.visualization.points import depth_picture, on_surfaces, render_points
from stereopsis.zoo.registry import load

# As published for the full size; the pair in the wheel is the mean of 4 x 4 pixels of it.
FULL_SIZE = StereoCalibration(
    fx=3979.911,
    fy=3979.911,
    cx=1244.772,
    cy=1019.507,
    cx_right=1369.115,
    baseline=0.193001,
    width=2964,
    height=2000,
    ndisp=280,
)
BASELINE_MODEL = "sgbm"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """One method on the pair.

    Attributes:
        name: as in the tables.
        disparity: dense; holes filled where ``found`` is below 1.
        found: fraction of the pixels that the method itself gave a value.
        metrics: as :func:`~stereopsis.evaluation.metrics.disparity_metrics` returns.
        seconds: of one call.
        picture: disparity in the colours of the ground truth.
        errors: in the colours of the KITTI benchmark.
    """

    name: str
    disparity: Disparity
    found: float
    metrics: dict[str, float]
    seconds: float
    picture: UInt8[np.ndarray, "h w 3"]
    errors: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Demo:
    """Everything the demo shows; ``methods`` are the network and the baseline.

    Attributes:
        depth: metres, from the network.
        cloud: the same as points, without those that fly between two surfaces.
        truth_picture: ground truth in colours, black where it is not known.
        confidence_picture, depth_picture, cloud_picture: of the network.
    """

    pair: StereoPair
    calibration: StereoCalibration
    methods: tuple[Result, Result]
    depth: Depth
    cloud: PointCloud
    truth_picture: UInt8[np.ndarray, "h w 3"]
    confidence_picture: UInt8[np.ndarray, "h w 3"]
    depth_picture: UInt8[np.ndarray, "h w 3"]
    cloud_picture: UInt8[np.ndarray, "h w 3"]

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        metres = self.depth.depth[self.depth.valid]
        near, median, far = (metres.quantile(torch.tensor(q, dtype=metres.dtype)).item() for q in (0.01, 0.5, 0.99))
        return {
            "pair": "Middlebury 2014 Motorcycle, quarter size",
            "width": self.calibration.width,
            "height": self.calibration.height,
            "methods": [
                {"model": r.name, **r.metrics, "found": r.found, "seconds": round(r.seconds, 3)} for r in self.methods
            ],
            "depth": {"near": near, "median": median, "far": far, "valid": self.depth.valid.float().mean().item()},
            "points": len(self.cloud),
        }


def load_pair() -> tuple[StereoPair, Float[Tensor, "1 1 h w"], Bool[Tensor, "1 1 h w"]]:
    """The pair with its calibration, the true disparity in pixels (0 where not known), and where it is known.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The demo takes its pair from scikit-image, which is not installed; run pip install scikit-image."
        ) from error
    left, right, truth = stereo_motorcycle()
    images = [torch.from_numpy(view).permute(2, 0, 1)[None].float() / 255 for view in (left, right)]
    height, width = truth.shape
    known = torch.from_numpy(np.isfinite(truth) & (truth > 0))[None, None]
    disparity = torch.from_numpy(np.where(known[0, 0].numpy(), truth, 0).astype(np.float32))[None, None]
    return StereoPair(images[0], images[1], FULL_SIZE.resize(width, height)), disparity, known


def run(model: str = "hitnet.scenes", progress: Progress | None = None) -> Demo:
    """Match the demo's pair with a model and with the baseline, and derive depth and points.

    Args:
        model: a dense matcher by name.
        progress: called with a few words before each step.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
        ValueError, FileNotFoundError: the model cannot be loaded.
    """
    tell = progress or (lambda step: None)
    tell("reading the pair")
    pair, truth, known = load_pair()
    calibration = pair.calibration
    assert calibration is not None
    values = truth[known]
    scale = float(values.quantile(0.01)), float(values.quantile(0.99))
    methods = []
    for name in (model, BASELINE_MODEL):
        tell(f"matching with {name}")
        methods.append(_measure(name, pair, calibration, truth, known, scale))
    tell("depth and points")
    disparity = methods[0].disparity
    depth = metric_depth(disparity, calibration)
    cloud = unproject(Depth(depth.depth, on_surfaces(depth)), calibration, pair.left)
    return Demo(
        pair=pair,
        calibration=calibration,
        methods=(methods[0], methods[1]),
        depth=depth,
        cloud=cloud,
        truth_picture=colorize(truth, known, *scale),
        confidence_picture=colorize(disparity.confidence, disparity.valid, 0, 1, "bone"),
        depth_picture=depth_picture(depth),
        cloud_picture=render_points(cloud, (truth.shape[-2], truth.shape[-1]), focal=0.88 * calibration.fx),
    )


def _measure(
    name: str,
    pair: StereoPair,
    calibration: StereoCalibration,
    truth: Tensor,
    known: Tensor,
    scale: tuple[float, float],
) -> Result:
    matched = stereo_depth(pair.left, pair.right, calibration, model=load(name))
    disparity = matched.disparity
    found = disparity.valid.float().mean().item()
    if found < 1:
        disparity = fill_from_background(disparity)
    return Result(
        name=name if found == 1 else f"{name}, holes filled",
        disparity=disparity,
        found=found,
        metrics=disparity_metrics(disparity.disparity, truth, known, disparity.valid),
        seconds=matched.seconds,
        picture=colorize(disparity.disparity, disparity.valid, *scale),
        errors=error_map(disparity.disparity, truth, known),
    )
