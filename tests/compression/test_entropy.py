"""Entropy models against their definitions, and coding of every whole number."""

import numpy as np
import pytest
import torch

from stereopsis.compression.entropy import (
    PRECISION,
    SCALE_MAX,
    SCALE_MIN,
    SCALES,
    Decoder,
    Encoder,
    FactorizedPrior,
    GaussianConditional,
    GaussianMixtureConditional,
    Mixtures,
    Tables,
    bits,
    checksum,
    gaussian_reach,
    gaussian_tables,
    inverse_scales,
    normal_table,
    scale_of,
    tables_of_gaussians,
    to_frequencies,
)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return tables_of_gaussians(gaussian_tables())


def _drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    index = generator.integers(0, SCALES, count)
    scales = scale_of(torch.from_numpy(index).double()).numpy()
    return np.round(generator.normal(size=count) * scales).astype(np.int32), index


def test_every_symbol_comes_back(tables):
    symbols, index = _drawn(20_000)
    encoder = Encoder()
    encoder.encode(symbols, index, tables)
    encoder.encode_check(0xBEEF)
    decoder = Decoder(encoder.finish())
    assert np.array_equal(decoder.decode(index, tables), symbols)
    assert decoder.decode_check() == 0xBEEF


@pytest.mark.parametrize("extreme", [2**31 - 1, -(2**31) + 1, 2**20, -1300, 1300, 5, -5])
def test_nothing_is_clamped(tables, extreme):
    symbols = np.array([0, extreme, 1, -extreme, 0], np.int32)
    for index in (0, SCALES - 1):
        encoder = Encoder()
        encoder.encode(symbols, np.full(5, index), tables)
        assert Decoder(encoder.finish()).decode(np.full(5, index), tables).tolist() == symbols.tolist()


def test_nothing_to_code(tables):
    encoder, empty = Encoder(), np.empty(0, np.int64)
    encoder.encode(empty.astype(np.int32), empty, tables)
    assert encoder.finish() == b""
    assert Decoder(b"").decode(empty, tables).size == 0


def test_real_bits_are_the_estimate(tables):
    symbols, index = _drawn(100_000)
    encoder = Encoder()
    encoder.encode(symbols, index, tables)
    scale = scale_of(torch.from_numpy(index).double())
    estimate = bits(GaussianConditional()(torch.from_numpy(symbols).double(), torch.zeros(()), scale)[None]).item()
    assert abs(8 * len(encoder.finish()) / estimate - 1) < 0.002


def test_rubbish_decodes_to_rubbish_or_one_sentence(tables):
    generator = np.random.default_rng(2)
    for size in (0, 3, 40, 400):
        decoder, message = Decoder(generator.bytes(size)), "damaged"
        try:
            found = decoder.decode(np.arange(600) % SCALES, tables)
        except ValueError as error:
            message = str(error)
        else:
            assert found.dtype == np.int32
        assert "damaged" in message


def test_tables():
    joined = gaussian_tables()
    parts = joined.split([2 * reach + 2 for reach in gaussian_reach()])
    assert all(int(part.sum()) == 1 << PRECISION and int(part.min()) >= 1 for part in parts)
    assert all(torch.equal(part[:-1], part[:-1].flip(0)) for part in parts)
    assert scale_of(torch.tensor([0.0, SCALES - 1.0])).tolist() == pytest.approx([SCALE_MIN, SCALE_MAX])


def test_frequencies_of_a_certain_symbol():
    assert to_frequencies(torch.tensor([0.0, 1.0, 0.0])).tolist() == [1, (1 << PRECISION) - 3, 1, 1]


def test_gaussian_against_torch():
    y, mean, scale = torch.randn(50).double() * 4, torch.randn(50).double(), torch.rand(50).double() + 0.2
    normal = torch.distributions.Normal(mean, scale)
    expected = normal.cdf(y + 0.5) - normal.cdf(y - 0.5)
    assert torch.allclose(GaussianConditional()(y, mean, scale), expected, atol=1e-12)


def test_far_tails_keep_gradients():
    y = torch.tensor([[5.0]], requires_grad=True)
    bits(GaussianConditional()(y, torch.zeros(1, 1), torch.full((1, 1), 1.0))).sum().backward()
    assert y.grad.item() > 1


def test_mixture_is_the_weighted_sum():
    y = torch.randn(1, 2, 3, 3)
    mean, scale = torch.randn(3, 1, 2, 3, 3), torch.rand(3, 1, 2, 3, 3) + 0.3
    weight = torch.softmax(torch.randn(3, 1, 2, 1, 1), 0)
    single = GaussianConditional()
    expected = sum(weight[k] * single(y, mean[k], scale[k]) for k in range(3))
    assert torch.allclose(GaussianMixtureConditional()(y, weight, mean, scale), expected)


def test_prior_is_a_distribution():
    torch.manual_seed(0)
    prior = FactorizedPrior(3)
    symbols = torch.arange(-4000.0, 4001).expand(1, 3, 1, -1)
    p = prior(symbols, torch.ones(1, 3, 1, 1))
    assert torch.allclose(p.sum(-1), torch.ones(1, 3, 1), atol=1e-3)
    assert (p >= 0).all()
    # intervals of half the width share the probability
    halves = prior(torch.stack([symbols - 0.25, symbols + 0.25]).flatten(0, 1), torch.full((2, 3, 1, 1), 0.5))
    assert torch.allclose(halves.sum(0), p[0], atol=1e-6)


def test_prior_learns_a_distribution():
    torch.manual_seed(0)
    prior = FactorizedPrior(2)
    optimizer = torch.optim.Adam(prior.parameters(), 0.03)
    drawn = torch.randn(64, 2, 8, 8) * torch.tensor([1.0, 4.0]).view(2, 1, 1) + 3
    step = torch.ones(1, 2, 1, 1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = bits(prior(drawn + torch.rand_like(drawn) - 0.5, step)).mean()
        loss.backward()
        optimizer.step()
    entropy = 64 * (2.047 + 2.047 + 2)  # of rounded normal distributions of scale 1 and 4
    assert loss.item() < 1.05 * entropy
    frequencies, first = prior.tables(torch.ones(1, 2))
    assert frequencies.sum(-1).tolist() == [[1 << PRECISION] * 2]
    peak = first[0] + frequencies[0, :, :-1].argmax(-1)
    assert (peak - 3).abs().max() <= 1


def test_checksum_continues():
    symbols = np.arange(10, dtype=np.int32)
    assert checksum(symbols[5:], checksum(symbols[:5])) == checksum(symbols)


# --- mixtures


def _mixtures(count: int, k: int, widest: int = SCALES - 1) -> tuple[np.ndarray, Mixtures, torch.Tensor]:
    """Symbols drawn from random mixtures, the mixtures, and the probabilities of the symbols."""
    generator = np.random.default_rng(4)
    weight = generator.random((k, count)) ** 2
    weight = np.floor(weight / weight.sum(0) * 65536).astype(np.int64)
    mean, index = generator.integers(-2000, 2000, (k, count)), generator.integers(0, widest + 1, (k, count))
    chosen = (generator.random(count) < np.cumsum(weight / weight.sum(0), 0)).argmax(0)[None]
    scale = scale_of(torch.from_numpy(index).double())
    where, width = (np.take_along_axis(part, chosen, 0)[0] for part in (mean, scale.numpy()))
    symbols = np.round(where / 64 + generator.normal(size=count) * width).astype(np.int32)
    parts = (torch.from_numpy(part)[:, None, None, None].double() for part in (weight / 65536, mean / 64))
    p = GaussianMixtureConditional()(
        torch.from_numpy(symbols).double()[None, None, None], *parts, scale[:, None, None, None]
    )
    return symbols, Mixtures(weight, mean, index, normal_table().numpy(), inverse_scales().numpy()), p


@pytest.mark.parametrize(("k", "widest"), [(1, 63), (3, 20), (5, 63)])
def test_mixtures_come_back_in_as_many_bits_as_estimated(k, widest):
    symbols, mixtures, p = _mixtures(9000, k, widest)
    encoder = Encoder()
    encoder.encode_mixtures(symbols, mixtures)
    encoder.encode_check(0xBEEF)
    stream = encoder.finish()
    decoder = Decoder(stream)
    assert np.array_equal(decoder.decode_mixtures(mixtures), symbols)
    assert decoder.decode_check() == 0xBEEF
    assert abs(8 * len(stream) / bits(p[0]).item() - 1) < 0.005


def test_mixtures_clamp_nothing():
    symbols, mixtures, _ = _mixtures(12, 2)
    symbols[:8] = [2**31 - 1, -(2**31) + 1, 2**20, -(2**20), 3000, -3000, 2049, -2049]
    encoder = Encoder()
    encoder.encode_mixtures(symbols, mixtures)
    assert np.array_equal(Decoder(encoder.finish()).decode_mixtures(mixtures), symbols)


def test_a_mixtures_table_is_its_distribution():
    mixtures = Mixtures(
        np.array([[30000], [35000]]),
        np.array([[-90], [130]]),
        np.array([[20], [25]]),
        normal_table().numpy(),
        inverse_scales().numpy(),
    )
    frequencies = mixtures.frequencies(np.array([0]), mixtures.low, mixtures.size, True)[0]
    edges = torch.from_numpy(mixtures.low + mixtures.size // 32 * np.arange(33)) - 0.5
    scales = scale_of(torch.tensor([20.0, 25.0]).double())
    below = sum(
        share / 65000 * torch.distributions.Normal(mean / 64, scale).cdf(edges)
        for share, mean, scale in zip((30000, 35000), (-90, 130), scales, strict=True)
    )
    assert frequencies[:-1] / 2**20 == pytest.approx(below.diff().numpy(), abs=1e-5)
    assert frequencies.min() >= 1


def test_no_mixtures_and_rubbish():
    _, none, _ = _mixtures(0, 2)
    assert Decoder(b"").decode_mixtures(none).size == 0
    _, mixtures, _ = _mixtures(500, 3)
    generator = np.random.default_rng(2)
    for size in (0, 3, 40, 400):
        message = "damaged"
        try:
            found = Decoder(generator.bytes(size)).decode_mixtures(mixtures)
        except ValueError as error:
            message = str(error)
        else:
            assert found.dtype == np.int32
        assert "damaged" in message
