"""What a codec is trained for: rate plus lambda times distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stereopsis.ops.images import LUMA

# Of the first and the last quality; between them lambda grows geometrically. They give about 0.05 and 1 bpp.
LAMBDA_MIN, LAMBDA_MAX = 0.0006, 0.06
# 1 - MS-SSIM times this stands for 255^2 MSE, so that a quality means about the same rate with either (CompressAI's
# pairs of lambdas, 8.73 and 0.0067 or 60.5 and 0.0483, have ratios of 1,303 and 1,253).
MS_SSIM_WEIGHT = 1275.0
# Exponents of the five scales (Wang, Simoncelli, Bovik, 2003).
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SMALLEST = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)  # side in pixels that the coarsest scale's window fits into


Metric = Literal["mse", "ms-ssim"]


class Coded(Protocol):
    """What every codec's forward returns."""

    @property
    def x_hat(self) -> Tensor: ...
    @property
    def bits(self) -> Tensor: ...


@dataclass(frozen=True)
class RateDistortion:
    """The loss and its parts, of each item of a batch.

    Attributes:
        loss: what is minimised.
        bpp: estimated bits a pixel.
        distortion: MSE of values in [0, 255], or 1 - MS-SSIM.
    """

    loss: Float[Tensor, " b"]
    bpp: Float[Tensor, " b"]
    distortion: Float[Tensor, " b"]


def lambda_of(quality: float | Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Lambda of qualities 1 to 8, for MSE of values in [0, 1] times 255^2."""
    share = (torch.as_tensor(quality, dtype=torch.float32) - 1) / 7
    return LAMBDA_MIN * (share * math.log(LAMBDA_MAX / LAMBDA_MIN)).exp()


def rate_distortion_loss(
    output: Coded,
    target: Float[Tensor, "b 3 h w"],
    quality: float | Float[Tensor, " b"],
    metric: Metric = "mse",
    luma: float = 1.0,
) -> RateDistortion:
    """``bpp + lambda 255^2 MSE``, or ``bpp + 1275 lambda (1 - MS-SSIM)``.

    Args:
        output: of a codec's forward.
        target: the images, in [0, 1]; MS-SSIM needs sides of 176 pixels.
        quality: that the codec was given.
        luma: what squared errors of brightness count, and what those of colour are divided by; 1 for MS-SSIM.

    Raises:
        ValueError: sides too small for MS-SSIM, or MS-SSIM with another luma than 1.
    """
    pixels = target.shape[-2] * target.shape[-1]
    weight = lambda_of(quality).to(target)
    if metric == "mse":
        distortion = 255**2 * weigh_luma(output.x_hat - target, luma).square().mean((1, 2, 3))
    elif luma != 1:
        raise ValueError(f"luma is {luma:g}, but MS-SSIM looks at all channels alike; take 1, or mse.")
    else:
        distortion = 1 - ms_ssim(output.x_hat, target)
        weight = weight * MS_SSIM_WEIGHT
    bpp = output.bits / pixels
    return RateDistortion(bpp + weight * distortion, bpp, distortion)


def luma_matrix(luma: float) -> Float[Tensor, "3 3"]:
    """The symmetric matrix W with ``|W e|^2 = luma |e|^2`` for grey e and ``|e|^2 / luma`` for e without luma."""
    weights = torch.tensor(LUMA, dtype=torch.float64)
    metric = torch.eye(3, dtype=torch.float64) / luma + 3 * (luma - 1 / luma) * torch.outer(weights, weights)
    values, vectors = torch.linalg.eigh(metric)
    return (vectors * values.sqrt() @ vectors.mT).float()


def weigh_luma(images: Float[Tensor, "b 3 h w"], luma: float) -> Float[Tensor, "b 3 h w"]:
    """Images, or differences of images, in a space of colours where squared errors count as ``luma`` says."""
    return images if luma == 1 else torch.einsum("dc,bchw->bdhw", luma_matrix(luma).to(images), images)


def ms_ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Multi-scale structural similarity of images in [0, 1], over all channels alike (Wang, Simoncelli, Bovik, 2003).

    Raises:
        ValueError: a side below 176 pixels, where the window does not fit into the coarsest of five scales.
    """
    if min(a.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"the images are {a.shape[-1]}x{a.shape[-2]}; MS-SSIM needs sides of {SMALLEST} pixels, take larger ones."
        )
    steps = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    window = (-steps.square() / (2 * SIGMA**2)).exp()
    window = (window / window.sum()).expand(a.shape[1], 1, 1, WINDOW)
    product = a.new_ones(a.shape[:2])
    for number, weight in enumerate(SCALE_WEIGHTS):
        if number:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        similarity, contrast = _ssim(a, b, window)
        value = similarity if number == len(SCALE_WEIGHTS) - 1 else contrast
        product = product * value.relu() ** weight
    return product.mean(1)


def _ssim(a: Tensor, b: Tensor, window: Tensor) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """Mean over the image of the whole index, and of its part that leaves out the luminance."""

    def blurred(x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(F.conv2d(x, window, groups=channels), window.mT, groups=channels)

    # around the mean of both images, because in float32 squares of large values cancel to less than nothing
    middle = (a.mean((-2, -1), keepdim=True) + b.mean((-2, -1), keepdim=True)) / 2
    a, b = a - middle, b - middle
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + middle, mean_b + middle
    contrast = (2 * covariance + K2**2) / (var_a + var_b + K2**2)
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    return (contrast * luminance).mean((-2, -1)), contrast.mean((-2, -1))
