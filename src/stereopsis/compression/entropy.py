"""Entropy models and the coding of whole numbers with integer tables.

Training asks a model for likelihoods, differentiable and in float. Coding uses none of that: it takes tables of
frequencies that add to 2^16, which are built once (:func:`gaussian_tables`, :meth:`FactorizedPrior.tables`) and stored
with the weights. Each table holds the symbols of a window and, last, an escape; what lies outside the window is coded
as the escape and, behind all tables, as an Elias gamma code. No value is ever clamped.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.layers import lower_bound

PRECISION = 16  # bits of a frequency
SCALES = 64
SCALE_MIN, SCALE_MAX = 0.11, 256.0
SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)  # of the logarithm, from one table to the next
LIKELIHOOD_MIN = 1e-9
PRIOR_REACH = 31  # symbols to either side of its centre in a table of the factorised prior
GAMMA_BITS = 32  # an escape's excess has fewer bits than this
MEAN_BITS = 6  # behind the point of a mean
BINS = 32  # of a mixture's table, beside the escape
WIDTH_BITS = 7  # a bin has up to 2^7 symbols
NORMAL_REACH, NORMAL_STEP_BITS = 8, 6  # the table of the normal distribution: -8 to 8 in steps of 1/64
NORMAL_BITS = 24  # of its values, and behind the point of what it is asked for
INVERSE_BITS = NORMAL_BITS - MEAN_BITS  # behind the point of 1 / scale
WEIGHT_BITS = 16  # of a mixture's weights, which add to 2^16 or a little less
CHUNK = 4096  # mixtures whose tables are in memory at once
_ANY = constriction.stream.model.Categorical(perfect=False)  # whose frequencies come with each symbol


def noisy(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """With uniform noise in [-1/2, 1/2], the stand-in for rounding while a model learns (Balle, 2018, Eq. 5)."""
    return x + torch.rand_like(x) - 0.5


def bits(likelihoods: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Information of each item of a batch."""
    return -lower_bound(likelihoods, LIKELIHOOD_MIN).log2().flatten(1).sum(1)


# --- models


class FactorizedPrior(nn.Module):
    """A density for each channel, learnt without a shape: the network of a cumulative distribution function
    (Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale hyperprior", ICLR 2018,
    appendix 6.1; DSIC's Eq. 10 and 11).

    ``c = sigmoid(f_K(... f_1(x)))`` with ``f_k(x) = g_k(H_k x + b_k)`` and ``g_k(x) = x + tanh(a_k) tanh(x)``, where
    ``H_k = softplus(.)`` keeps it increasing; K = 5 with 3 hidden units.

    Args:
        channels: number of densities.
        spread: width of the initial densities.
    """

    WIDTHS = (1, 3, 3, 3, 3, 1)

    def __init__(self, channels: int, spread: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        layers = len(self.WIDTHS) - 1
        for number in range(layers):
            c_in, c_out = self.WIDTHS[number : number + 2]
            start = math.log(math.expm1(spread ** (-1 / layers) / c_out))
            self.matrices.append(nn.Parameter(torch.full((channels, c_out, c_in), start, dtype=torch.float32)))
            self.biases.append(nn.Parameter(torch.empty(channels, c_out, 1, dtype=torch.float32).uniform_(-0.5, 0.5)))
            if number < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, c_out, 1, dtype=torch.float32)))

    def logits(self, x: Float[Tensor, "c 1 n"]) -> Float[Tensor, "c 1 n"]:
        """The cumulative distribution function before its sigmoid, of n values a channel."""
        for number, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = F.softplus(matrix) @ x + bias
            if number < len(self.factors):
                x = x + self.factors[number].tanh() * x.tanh()
        return x

    def forward(self, x: Float[Tensor, "b c h w"], step: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b c h w"]:
        """Probability of the interval of this width about each value."""
        values = x.transpose(0, 1).flatten(1)[:, None]
        half = (step / 2).expand_as(x).transpose(0, 1).flatten(1)[:, None]
        p = _between(self.logits(values - half), self.logits(values + half))
        return p.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)

    @torch.no_grad()
    def tables(self, gain: Float[Tensor, "q c"]) -> tuple[Int[Tensor, "q c n"], Int[Tensor, "q c"]]:
        """Frequencies of the symbols ``round(gain x)``.

        Returns:
            For each gain and channel the frequencies of 63 symbols about the median and of the escape; and the first of
            these symbols.
        """
        exact = copy.deepcopy(self).double().cpu()
        median = exact._median()
        window = torch.arange(-PRIOR_REACH, PRIOR_REACH + 1)
        frequencies, first = [], []
        for gains in gain.double().cpu():
            middle = (median * gains).round()
            symbols = middle[:, None] + window
            low, high = (exact.logits(((symbols + side) / gains[:, None])[:, None])[:, 0] for side in (-0.5, 0.5))
            frequencies.append(torch.stack([to_frequencies(row) for row in _between(low, high)]))
            first.append(middle.int() - PRIOR_REACH)
        return torch.stack(frequencies), torch.stack(first)

    def _median(self) -> Float[Tensor, " c"]:
        like = self.biases[0]
        low, high = (torch.full_like(like[:, :1, :1], side) for side in (-1e4, 1e4))
        for _ in range(60):
            middle = (low + high) / 2
            below = self.logits(middle) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low.flatten()


def _between(low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sigmoid(high) - sigmoid(low), taken on the side of 0 where the two do not cancel."""
    sign = -torch.sign(low + high).detach()
    return (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()


class GaussianConditional(nn.Module):
    """Normal distributions whose means and scales something else decides (Balle, 2018; with means: Minnen, 2018)."""

    def forward(
        self, y: Float[Tensor, "*shape"], mean: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Probability of the unit interval about each value."""
        return _normal_between((y - mean).abs(), scale)


class GaussianMixtureConditional(nn.Module):
    """Mixtures of K normal distributions (DSIC, Eq. 8 and 9)."""

    def forward(
        self,
        y: Float[Tensor, "b c h w"],
        weight: Float[Tensor, "k b c h|1 w|1"],
        mean: Float[Tensor, "k b c h w"],
        scale: Float[Tensor, "k b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """Probability of the unit interval about each value; the weights add to 1 over k."""
        return (weight * _normal_between((y - mean).abs(), scale)).sum(0)


def _normal_between(distance: Tensor, scale: Tensor) -> Tensor:
    """Mass of N(0, scale) in the unit interval this far from 0, taken on the tail's side, where erfc is exact."""
    root = 0.5**0.5 / scale
    return 0.5 * (torch.erfc((distance - 0.5) * root) - torch.erfc((distance + 0.5) * root))


def scale_of(index: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scale of a table's normal distribution; between tables, of one between them."""
    return SCALE_MIN * (SCALE_STEP * index).exp()


# --- tables


def to_frequencies(p: Float[Tensor, " n"]) -> Int[Tensor, " n+1"]:
    """Whole numbers, at least 1 each, that add to 2^16: the symbols', and last that of everything else."""
    total = 1 << PRECISION
    whole = torch.cat([p, (1 - p.sum()).clamp(min=0)[None]]).double()
    whole = (whole / whole.sum() * (total - len(whole))).floor() + 1
    whole[p.argmax()] += total - whole.sum()
    return whole.int()


def gaussian_reach() -> list[int]:
    """Symbols to either side of 0 in the table of each scale."""
    return [math.ceil(5 * SCALE_MIN * math.exp(SCALE_STEP * index)) + 3 for index in range(SCALES)]


def gaussian_tables() -> Int[Tensor, " n"]:
    """Frequencies of normal distributions about 0, one table of :func:`gaussian_reach` after the other."""
    tables = []
    for index, reach in enumerate(gaussian_reach()):
        distance = torch.arange(-reach, reach + 1, device="cpu").abs().double()
        scale = scale_of(torch.tensor(float(index), device="cpu", dtype=torch.float64))
        tables.append(to_frequencies(_normal_between(distance, scale)))
    return torch.cat(tables)


def normal_table() -> Int[Tensor, " n"]:
    """The standard normal distribution function in [0, 2^24], of -8 to 8 in steps of 1/64."""
    count = NORMAL_REACH << NORMAL_STEP_BITS
    x = torch.arange(-count, count + 1, device="cpu").double() / 2**NORMAL_STEP_BITS
    return (2**NORMAL_BITS * 0.5 * torch.erfc(-x * 0.5**0.5)).round().int()


def inverse_scales() -> Int[Tensor, " 64"]:
    """1 / scale of each table index."""
    return (2**INVERSE_BITS / scale_of(torch.arange(SCALES, device="cpu").double())).round().int()


class Tables:
    """Frequency tables as the coder takes them.

    Args:
        frequencies: one array a table, the escape last.
        first: the first symbol of each.
    """

    def __init__(self, frequencies: list[np.ndarray], first: list[int]) -> None:
        self.first = first
        self.escape = [len(table) - 1 for table in frequencies]
        # dyadic probabilities, whose sums float64 holds exactly in any order
        self.models = [
            constriction.stream.model.Categorical(table / 2.0**PRECISION, perfect=False) for table in frequencies
        ]


def tables_of_gaussians(flat: Int[Tensor, " n"]) -> Tables:
    """The tables that :func:`gaussian_tables` has joined."""
    reach = gaussian_reach()
    ends = np.cumsum([2 * side + 2 for side in reach])
    return Tables(np.split(flat.cpu().numpy(), ends[:-1]), [-side for side in reach])


class Mixtures:
    """A mixture of K normal distributions for each of n symbols, in whole numbers (DSIC, Eq. 13).

    A symbol is found in at most three steps: among 32 bins as wide as the mixture needs, then among the parts of that
    bin, down to width 1. Each step's table is the exact difference of the distribution function at the edges.

    Args:
        weight: (k, n), adding to 2^16 or a little less over k.
        mean: (k, n), in 1/64.
        index: (k, n), of the scales.
        normal: :func:`normal_table`.
        inverse: :func:`inverse_scales`.
    """

    def __init__(
        self, weight: np.ndarray, mean: np.ndarray, index: np.ndarray, normal: np.ndarray, inverse: np.ndarray
    ) -> None:
        self.weight, self.mean, self.normal = weight.astype(np.int64), mean.astype(np.int64), normal.astype(np.int64)
        self.inverse = inverse.astype(np.int64)[index]
        centre = ((self.weight * self.mean).sum(0) + (self.weight.sum(0) << (MEAN_BITS - 1))) >> MEAN_BITS
        centre //= self.weight.sum(0)
        reach = (np.abs(self.mean - (centre << MEAN_BITS)) >> MEAN_BITS) + np.array(gaussian_reach())[index] + 1
        self.size = BINS << (reach.max(0)[:, None] > BINS // 2 << np.arange(WIDTH_BITS)).sum(1)  # symbols in the bins
        self.low = centre - self.size // 2  # the first of them

    def __len__(self) -> int:
        return self.mean.shape[1]

    def frequencies(self, which: np.ndarray, low: np.ndarray, size: np.ndarray, whole: bool) -> np.ndarray:
        """Frequencies (n, 33) of the bins that share ``size`` symbols from ``low`` on, and of the escape.

        Args:
            which: the mixtures that are meant.
            whole: of everything there is; otherwise of these symbols alone, where the escape has next to nothing.
        """
        steps = np.minimum(np.arange(BINS + 1) * _width(size)[:, None], size[:, None])
        # the lower edge of each bin, in 1/64, and that of the first one behind
        edges = ((low[:, None] + steps) << MEAN_BITS) - (1 << (MEAN_BITS - 1))
        below = np.zeros_like(edges)
        limit = (NORMAL_REACH << NORMAL_BITS) - 1
        cut = NORMAL_BITS - NORMAL_STEP_BITS
        for weight, mean, inverse in zip(self.weight, self.mean, self.inverse, strict=True):
            x = ((edges - mean[which, None]) * inverse[which, None]).clip(-limit, limit) + limit + 1
            place, rest = x >> cut, x & ((1 << cut) - 1)
            start = self.normal[place]
            below += weight[which, None] * (start + ((self.normal[place + 1] - start) * rest >> cut))
        mass = np.diff(below)
        inside = mass.sum(1, keepdims=True)
        total = (self.weight.sum(0) << NORMAL_BITS)[which, None] if whole else inside
        return (np.concatenate([mass, total - inside], 1) << 20) // np.maximum(total, 1) + 1


# --- coding


class Encoder:
    """Writes symbols into one stream."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: np.ndarray, index: np.ndarray, tables: Tables) -> None:
        """Appends symbols, those of one table after those of another.

        Args:
            symbols: int32, of any value.
            index: which table each symbol has.
        """
        order, counts = _grouped(index, len(tables.models))
        left = []
        for model, first, escape, part in zip(
            tables.models, tables.first, tables.escape, np.split(symbols[order], np.cumsum(counts)[:-1]), strict=True
        ):
            if part.size == 0:
                continue
            place = part.astype(np.int64) - first
            outside = (place < 0) | (place >= escape)
            # the excess alternates between the sides: 0, 2, 4 ... above the window, 1, 3, 5 ... below it
            left.append(np.where(place < 0, -2 * place - 1, 2 * (place - escape))[outside])
            self._coder.encode(np.where(outside, escape, place).astype(np.int32), model)
        self._encode_gamma(np.concatenate(left) if left else np.empty(0, np.int64))

    def encode_mixtures(self, symbols: np.ndarray, mixtures: Mixtures) -> None:
        """Appends a symbol (int32, of any value) of each mixture."""
        place = symbols.astype(np.int64) - mixtures.low
        outside = (place < 0) | (place >= mixtures.size)
        which, low, size = np.arange(len(mixtures)), mixtures.low, mixtures.size
        while which.size:
            bins = np.where(outside[which], BINS, (symbols[which] - low) // _width(size))
            for part in _chunks(which.size):
                frequencies = mixtures.frequencies(which[part], low[part], size[part], size is mixtures.size)
                self._coder.encode(bins[part].astype(np.int32), _ANY, frequencies.astype(np.float64))
            which, low, size = _within(which, low, size, bins)
        self._encode_gamma(np.where(place < 0, -2 * place - 1, 2 * (place - mixtures.size))[outside])

    def encode_check(self, value: int) -> None:
        """Appends 16 bits."""
        self._coder.encode(value, constriction.stream.model.Uniform(1 << 16))

    def finish(self) -> bytes:
        """The stream, without the zero bytes at its end, which the decoder takes as given."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")

    def _encode_gamma(self, excess: np.ndarray) -> None:
        if excess.size == 0:
            return
        value = excess + 1
        length = np.frexp(value.astype(np.float64))[1] - 1  # of the binary number, without its first 1
        self._coder.encode(length.astype(np.int32), constriction.stream.model.Uniform(GAMMA_BITS))
        place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        digits = (np.repeat(value, length) >> place) & 1
        if digits.size:
            self._coder.encode(digits.astype(np.int32), constriction.stream.model.Uniform(2))


class Decoder:
    """Reads what an :class:`Encoder` wrote, in the same order.

    Args:
        stream: may hold anything; what is read is then as arbitrary.
    """

    def __init__(self, stream: bytes) -> None:
        self._coder = constriction.stream.queue.RangeDecoder(
            np.frombuffer(stream + bytes(-len(stream) % 4), "<u4").astype(np.uint32)
        )

    def decode(self, index: np.ndarray, tables: Tables) -> np.ndarray:
        """As many symbols (int32) as there are indices.

        Raises:
            ValueError: the stream is damaged.
        """
        order, counts = _grouped(index, len(tables.models))
        parts, escaped, sides = [], [], []
        for model, first, escape, count in zip(tables.models, tables.first, tables.escape, counts, strict=True):
            if count == 0:
                continue
            place = self._decode(model, int(count)).astype(np.int64)
            parts.append(place + first)
            escaped.append(place == escape)
            sides.append(np.full(int(escaped[-1].sum()), first))
        if not parts:
            return np.empty(0, np.int32)
        values, outside = np.concatenate(parts), np.concatenate(escaped)
        excess, lowest = self._decode_gamma(int(outside.sum())), np.concatenate(sides)
        values[outside] = np.where(excess % 2, lowest - (excess + 1) // 2, values[outside] + excess // 2)
        found = np.empty(len(values), np.int32)
        found[order] = _in_32_bits(values)
        return found

    def decode_mixtures(self, mixtures: Mixtures) -> np.ndarray:
        """A symbol (int32) of each mixture.

        Raises:
            ValueError: the stream is damaged.
        """
        which, low, size = np.arange(len(mixtures)), mixtures.low, mixtures.size
        values, outside = np.empty(len(mixtures), np.int64), np.zeros(len(mixtures), bool)
        while which.size:
            parts = []
            for part in _chunks(which.size):
                frequencies = mixtures.frequencies(which[part], low[part], size[part], size is mixtures.size)
                parts.append(self._decode(_ANY, frequencies.astype(np.float64)))
            bins = np.concatenate(parts).astype(np.int64)
            values[which] = low + bins * _width(size)
            outside[which] |= bins == BINS
            which, low, size = _within(which, low, size, bins)
        excess, lowest = self._decode_gamma(int(outside.sum())), mixtures.low[outside]
        highest = lowest + mixtures.size[outside]
        values[outside] = np.where(excess % 2, lowest - (excess + 1) // 2, highest + excess // 2)
        return _in_32_bits(values)

    def decode_check(self) -> int:
        """16 bits."""
        return int(self._decode(constriction.stream.model.Uniform(1 << 16), 1)[0])

    def _decode_gamma(self, count: int) -> np.ndarray:
        if count == 0:
            return np.empty(0, np.int64)
        length = self._decode(constriction.stream.model.Uniform(GAMMA_BITS), count).astype(np.int64)
        value = np.int64(1) << length
        total = int(length.sum())
        if total:
            digits = self._decode(constriction.stream.model.Uniform(2), total).astype(np.int64)
            start = np.cumsum(length) - length
            place = np.arange(total) - np.repeat(start, length)
            np.add.at(value, np.repeat(np.arange(count), length), digits << place)
        return value - 1

    def _decode(self, model: Any, count: int | np.ndarray) -> np.ndarray:
        try:
            return self._coder.decode(model, count)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"the stream is damaged ({error}); copy or encode it again.") from error


def checksum(symbols: np.ndarray, start: int = 0) -> int:
    """CRC-32 of symbols as little-endian int32."""
    return zlib.crc32(symbols.astype("<i4").tobytes(), start)


def _in_32_bits(values: np.ndarray) -> np.ndarray:
    if values.size and np.abs(values).max() >= 1 << 31:
        raise ValueError("the stream holds a number beyond 32 bits; it is damaged, copy or encode it again.")
    return values.astype(np.int32)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def _width(size: np.ndarray) -> np.ndarray:
    """Symbols in a bin, where bins share so many; the last ones may be empty."""
    return np.maximum(size // BINS, 1)


def _within(
    which: np.ndarray, low: np.ndarray, size: np.ndarray, bins: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mixtures whose symbol lies in a bin with others: their bin's first symbol, and how many it has."""
    width = _width(size)
    wide = (width > 1) & (bins < BINS)
    return which[wide], (low + bins * width)[wide], width[wide]


def _grouped(index: np.ndarray, tables: int) -> tuple[np.ndarray, np.ndarray]:
    """The order that puts symbols of one table together, and how many each table has."""
    return np.argsort(index, kind="stable"), np.bincount(index, minlength=tables)
