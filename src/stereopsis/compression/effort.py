"""What an encoder can do for its image in more time; the decoder and the format stay the same.

``g_a`` gives the latents that are best on average, and rounding takes the nearest symbol whatever it costs. For one
image other symbols cost less, rate + lambda distortion taken together (rate-distortion optimised quantisation). They
are found by descent along coordinates. Each pass predicts what one more or one less of every symbol would change: its
bits from the tables, its error from the gradient of the distortion behind ``g_s`` and from the energy that ``g_s``
gives the channel. Then it moves a random part of the symbols that gain by it; if neighbours moved at once, their errors
would add up to more than predicted.

Latents adapted to one image: Campos, Meierhans, Djelouah, Schroers, "Content adaptive optimization for neural image
compression", 2019 (https://arxiv.org/abs/1906.01223). They move y by gradient descent through a rounding that has no
gradient; moves of whole symbols need no stand-in for rounding.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stereopsis.compression.entropy import PRECISION, gaussian_reach
from stereopsis.compression.integer import to_fixed
from stereopsis.compression.losses import lambda_of

EFFORTS = 4
PASSES = (0, 4, 12, 40)  # by effort
SHARES = (0.0, 0.5, 0.25, 0.2)  # of the symbols that would gain, those that one pass moves
LARGEST = 30  # symbol that is moved


class Refinable(Protocol):
    """What :func:`refine` calls of :class:`~stereopsis.compression.single.HyperpriorCodec`."""

    gaussian: Tensor

    @property
    def g_s(self) -> Any: ...

    @property
    def _gains(self) -> Any: ...

    @property
    def _features(self) -> Any: ...

    @property
    def _distribution(self) -> Any: ...


def check_effort(effort: int) -> None:
    """
    Raises:
        ValueError: not 0, 1, 2 or 3.
    """
    if effort not in range(EFFORTS):
        raise ValueError(f"effort is {effort}; it must be 0 (fast) to {EFFORTS - 1} (small files), for example 1.")


def symbol_bits(gaussian: Int[Tensor, " n"]) -> Float[Tensor, "64 k"]:
    """Bits of the symbols 0 to :data:`LARGEST` + 1 in each table of
    :func:`~stereopsis.compression.entropy.gaussian_tables`; beyond a table's reach, those of its last symbol."""
    tables, start = [], 0
    for reach in gaussian_reach():
        frequencies = gaussian[start + reach : start + 2 * reach + 1].double()
        tables.append(frequencies[torch.arange(LARGEST + 2, device=gaussian.device).clamp(max=reach)])
        start += 2 * reach + 2
    return (PRECISION - torch.stack(tables).log2()).float()


def refine(
    codec: Refinable,
    image: Float[Tensor, "1 3 h w"],
    y: Float[Tensor, "1 m h/16 w/16"],
    z: Float[Tensor, "1 n h/64 w/64"],
    quality: float,
    effort: int,
) -> Float[Tensor, "1 m h/16 w/16"]:
    """Latents of one image that cost less than those of ``g_a``, rate + lambda 255^2 MSE taken together.

    Args:
        codec: in evaluation mode.
        image: in [0, 1], not padded.
        y, z: what ``g_a`` and ``h_a`` give for the padded image; z stays as it is.
        quality: 1 to 8.
        effort: 1 to 3. A pass takes about three times as long as ``g_s``. Random numbers are the same in every call.
    """
    with torch.inference_mode(False), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        wanted = torch.tensor([quality], device=image.device, dtype=torch.float32)
        gain, inverse, gain_z = codec._gains(wanted)
        features = codec._features(to_fixed((z * gain_z).round() / gain_z))
        bits = symbol_bits(codec.gaussian)
        # bits that the square of one pixel's error is worth
        worth = 255**2 * float(lambda_of(quality)) / 3
        image, y = image.clone(), y * gain
        curvature: Tensor | None = None
        for _ in range(PASSES[effort]):
            mean, index = codec._distribution(y, features, gain)
            symbols = (y - mean).round()
            with torch.enable_grad():
                y_hat = ((symbols + mean) * inverse).requires_grad_()
                shown = codec.g_s(y_hat)[..., : image.shape[-2], : image.shape[-1]] + 0.5
                if curvature is None:
                    curvature = worth * _energy(shown, y_hat, generator) * inverse.square()
                (slope,) = torch.autograd.grad(worth * (shown - image).square().sum(), y_hat)
            rates = [bits[index.round().long(), _size(symbols + move)] for move in (-1, 0, 1)]
            drawn = torch.rand(y.shape, generator=generator, dtype=torch.float32).to(y) < SHARES[effort]
            movable = drawn & (symbols.abs() <= LARGEST)
            y = symbols + mean + _moves(rates, slope * inverse, curvature) * movable
        return y / gain


def _energy(shown: Tensor, y_hat: Tensor, generator: torch.Generator) -> Float[Tensor, "1 m 1 1"]:
    """The sum of squares that one of each channel adds to the picture, by its response to random signs."""
    signs = torch.randint(0, 2, shown.shape, generator=generator).to(shown) * 2 - 1
    (response,) = torch.autograd.grad((shown * signs).sum(), y_hat, retain_graph=True)
    return response.square().mean((0, 2, 3), keepdim=True)


def _size(symbols: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    return symbols.abs().long().clamp(max=LARGEST + 1)


def _moves(
    rates: list[Float[Tensor, "1 m h w"]], slope: Float[Tensor, "1 m h w"], curvature: Float[Tensor, "1 m 1 1"]
) -> Float[Tensor, "1 m h w"]:
    """What each symbol gains by: -1, 0 or 1.

    Args:
        rates: bits of each symbol less one, as it is, and plus one.
        slope, curvature: of the error, in bits.
    """
    less, more = (rates[1 + move] - rates[1] + move * slope + curvature for move in (-1, 1))
    return torch.where(less < more, -1.0, 1.0) * (torch.minimum(less, more) < 0)
