"""How the files of each data set turn into disparity, masks and rigs, where the readers of ``io`` do not know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stereopsis.calibration import read_calibration
from stereopsis.io import read_disparity
from stereopsis.io.maps import read_bytes, read_grey, reason, to_tensors
from stereopsis.types import StereoCalibration

Decoded = tuple[Float[Tensor, "1 h w"], Bool[Tensor, "1 h w"]]


@dataclass(frozen=True)
class Coding:
    """How the files of a set are to be read.

    Attributes:
        disparity: a file as disparity in pixels and where it is known.
        noc: the value of the mask ``noc`` at pixels that both views see; None for any value but 0.
        calibration: a file as a calibration.
    """

    disparity: Callable[[Path], Decoded] = read_disparity
    noc: int | None = 255
    calibration: Callable[[Path], StereoCalibration] = read_calibration

    def visible(self, path: Path) -> Bool[Tensor, "1 h w"]:
        """The mask ``noc`` in a file: which pixels of the left view the right one sees too."""
        return differs(path, 0) if self.noc is None else ~differs(path, self.noc)


def read_pixels(path: Path) -> np.ndarray:
    """The stored numbers of a PNG, palette indices among them, (H, W) or (H, W, channels)."""
    content = read_bytes(path)
    try:
        with Image.open(BytesIO(content)) as image:
            array = np.array(image)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a picture ({reason(error)}); write or copy it again.") from None
    return array.astype(np.uint8) * 255 if array.dtype == bool else array


def differs(path: Path, value: int) -> Bool[Tensor, "1 h w"]:
    """Where the map in a file is not ``value``; the first channel counts."""
    array = read_pixels(path)
    return torch.from_numpy((array if array.ndim == 2 else array[..., 0]) != value)[None]


def divided_by(divisor: float) -> Coding:
    return Coding(disparity=partial(read_disparity, divide_by=divisor))


def sintel_disparity(path: Path) -> Decoded:
    array = read_pixels(path)
    if array.ndim != 3:
        raise ValueError(f"{path} has one channel; a disparity of Sintel is packed in R, G and B.")
    values = array[..., :3].astype(np.float32) @ np.array([4, 2**-6, 2**-14], np.float32)
    return to_tensors(values, values > 0)


def cityscapes_disparity(path: Path) -> Decoded:
    codes = read_grey(path)[0].astype(np.float32)
    # 1 is a disparity of 0, infinitely far, which the positive disparities here cannot state.
    return to_tensors((codes - 1) / 256, codes > 1)


def cityscapes_camera(path: Path) -> StereoCalibration:
    try:
        camera = json.loads(read_bytes(path))
        fx, fy, cx, cy = (camera["intrinsic"][key] for key in ("fx", "fy", "u0", "v0"))
        return StereoCalibration(fx, fy, cx, cy, cx, camera["extrinsic"]["baseline"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no camera file of Cityscapes ({reason(error)}); it must hold intrinsic and extrinsic."
        ) from None


VKITTI2_RIG = StereoCalibration(725.0087, 725.0087, 620.5, 187.0, 620.5, 0.532725, width=1242, height=375)
VKITTI2_SKY = 65535


def vkitti2_disparity(path: Path) -> Decoded:
    centimetres = read_grey(path)[0].astype(np.float64)
    valid = (centimetres > 0) & (centimetres < VKITTI2_SKY)
    values = VKITTI2_RIG.fx * VKITTI2_RIG.baseline * 100 / np.where(valid, centimetres, 1)
    return to_tensors(values.astype(np.float32), valid)
