"""The hyperprior codec: shapes, what training sees, and files that hold exactly what was encoded."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY, photo, tiny
from torch.nn import functional as F

from stereopsis.compression.bitstream import Reader, pack
from stereopsis.compression.codec import LEVELS, level_of, quality_of
from stereopsis.compression.hyperprior import PAPER, Hyperprior, HyperpriorConfig, checkerboard
from stereopsis.compression.losses import LAMBDA_MAX, LAMBDA_MIN, lambda_of, rate_distortion_loss, weigh_luma
from stereopsis.types import StereoPair


def _symbols(monkeypatch, codec):
    """Every array of symbols that passes through a codec from now on."""
    from stereopsis.compression import single

    seen = []
    original = single.checksum
    monkeypatch.setattr(single, "checksum", lambda s, start=0: seen.append(s.copy()) or original(s, start))
    return seen


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (47, 81), (65, 127)])
@pytest.mark.parametrize("quality", [1.0, 4.3, 8.0])
def test_symbols_come_back_exactly(codec, monkeypatch, size, quality):
    seen = _symbols(monkeypatch, codec)
    pair = StereoPair(photo(*size), photo(*size, 1.0))
    content = codec.compress(pair, quality)
    written = seen.copy()
    seen.clear()
    decoded = codec.decompress(content)
    assert [s.ravel().tolist() for s in seen] == [s.ravel().tolist() for s in written]
    assert decoded.left.shape == pair.left.shape
    assert torch.equal((decoded.left * 255).round() / 255, decoded.left)
    assert any(s.any() for s in written)


def test_the_picture_is_what_training_saw(codec):
    view = photo(100, 120)
    with torch.no_grad():
        seen = codec(view, 5.0)
    decoded = codec.decompress(codec.compress(view, 5.0))
    assert (decoded - seen.x_hat.clamp(0, 1)).abs().mean() < 1 / 255


def test_the_decoder_needs_nothing_but_whole_numbers(codec):
    """Another library, layout and number of threads may move the pixels a little, and the symbols not at all."""
    view = photo(96, 96)
    content = codec.compress(view, 6.0)
    expected = codec.decompress(content)
    before = torch.get_num_threads()
    with torch.backends.mkldnn.flags(enabled=False):
        assert (codec.decompress(content) - expected).abs().max() < 1.5 / 255
    try:
        torch.set_num_threads(2)
        assert (codec.decompress(content) - expected).abs().max() < 1.5 / 255
    finally:
        torch.set_num_threads(before)
    other = tiny(codec.config.checkerboard).to(memory_format=torch.channels_last)
    assert other.fingerprint() == codec.fingerprint()
    assert (other.decompress(content) - expected).abs().max() < 1.5 / 255


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_decodes_what_the_cpu_encoded(codec):
    content = codec.compress(photo(96, 96), 6.0)
    expected = codec.decompress(content)
    other = tiny(codec.config.checkerboard).cuda()
    assert (other.decompress(content) - expected).abs().max() < 1.5 / 255


def test_grey(codec):
    view = photo(40, 50)[:, :1]
    content = codec.compress(StereoPair(view, view))
    assert Reader(content).record(0).channels == 1
    assert codec.decompress(content).right.shape == (1, 1, 40, 50)


def test_calibration_and_metadata_travel(codec):
    from stereopsis.types import StereoCalibration

    rig = StereoCalibration(500, 500, 20, 20, 20, 0.12, width=50, height=40)
    content = codec.compress(StereoPair(photo(40, 50), photo(40, 50), rig), metadata={"place": "Vík"})
    assert codec.decompress(content).calibration == rig
    assert Reader(content).header.metadata["place"] == "Vík"


def test_more_quality_more_bits(codec):
    sizes = [len(codec.compress(photo(128, 128), quality)) for quality in range(1, 9)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.5 * sizes[0]


def test_a_rate_is_kept(codec):
    view = photo(128, 128)
    rates = [8 * codec.compress_record(view, quality).bytes / 128**2 for quality in (1, 4, 8)]
    record = codec.record_of_rate(view, rates[1])
    assert quality_of(record.level) >= 4
    assert 8 * record.bytes / 128**2 <= rates[1]
    assert codec.record_of_rate(view, 2 * rates[2]).level == LEVELS - 1
    with pytest.raises(ValueError, match="are too few, since quality 1 takes"):
        codec.record_of_rate(view, rates[0] / 2)


def test_wrong_weights_are_named(codec):
    content = codec.compress(photo(40, 50))
    other = tiny(codec.config.checkerboard)
    with torch.no_grad():
        other.g_s[0].bias.add_(0.1)
    other.forget()
    with pytest.raises(ValueError, match=r"written by hyperprior\.test with weights .* give the weights it was"):
        other.decompress(content)
    # and where somebody forges the fingerprint, the symbols tell
    other.h_s[0].weight_q.add_(1)
    record = Reader(content).record(0)
    with pytest.raises(ValueError, match="do not match their checksum"):
        other.decompress(pack(other.header(photo(40, 50)), [replace(record, level=level_of(4))]))


def test_fingerprint_survives_the_weights_file(codec, tmp_path):
    from stereopsis.zoo import ModelCard, read_weights, save_weights

    path = save_weights(tmp_path / "w.safetensors", codec, ModelCard("hyperprior"))
    other = Hyperprior(codec.config)
    other.load_state_dict(read_weights(path)[0])
    assert other.fingerprint() == codec.fingerprint()
    content = codec.compress(photo(40, 50))
    assert (other.decompress(content) - codec.decompress(content)).abs().max() < 3 / 255


@pytest.mark.parametrize(
    ("view", "quality", "message"),
    [
        (photo(8, 8), 0.5, "quality is 0.5; it must lie in 1 to 8"),
        (photo(8, 8), float("nan"), "quality is nan"),
        (photo(8, 8).repeat(2, 1, 1, 1), 4, r"must be \(1, 3, H, W\)"),
        (torch.full((1, 3, 8, 8), float("nan")), 4, "not finite"),
        (torch.zeros(1, 1, 1, 16385), 4, "16385x1 pixels; the format allows"),
    ],
)
def test_what_cannot_be_compressed(codec, view, quality, message):
    with pytest.raises(ValueError, match=message):
        codec.compress(view, quality)


# --- training


def test_the_papers_shape():
    # 7,028,003 of the public mean-scale model with N = 128 and M = 192 are these and 3 quantiles a channel of z
    codec = Hyperprior(PAPER)
    gains = sum(parameter.numel() for name, parameter in codec.named_parameters() if name.startswith("log_"))
    assert sum(parameter.numel() for parameter in codec.parameters()) - gains == 7_028_003 - 3 * 128


def test_the_shipped_shape_is_small():
    assert sum(parameter.numel() for parameter in Hyperprior().parameters()) < 3_500_000


@pytest.mark.parametrize("two_passes", [False, True])
def test_every_parameter_learns(two_passes):
    torch.manual_seed(0)
    codec = Hyperprior(replace(TINY, checkerboard=two_passes))
    image, quality = torch.rand(2, 3, 70, 90), torch.tensor([1.0, 7.5])
    output = codec(image, quality)
    assert output.x_hat.shape == image.shape
    assert output.bits.shape == (2,)
    found = rate_distortion_loss(output, image, quality)
    found.loss.sum().backward()
    assert all(parameter.grad is not None for parameter in codec.parameters())
    expected = output.bits / 6300 + lambda_of(quality) * 65025 * (output.x_hat - image).square().mean((1, 2, 3))
    assert torch.allclose(found.loss, expected)


@pytest.fixture(scope="module", params=[False, True], ids=["one pass", "checkerboard"])
def learnt(request):
    """A small codec after 60 steps on one picture, and its losses."""
    torch.manual_seed(0)
    config = HyperpriorConfig(widths=(16, 16, 16), latent=16, hyper=8, checkerboard=request.param)
    codec = Hyperprior(config)
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    image = torch.cat([photo(64, 64, phase) for phase in (0.0, 1.0)])
    losses = []
    for _ in range(60):
        loss = rate_distortion_loss(codec(image, 4.0), image, 4.0).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    codec.finalize()
    return codec.eval(), losses


def test_loss_falls(learnt):
    losses = learnt[1]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("two_passes", [False, True])
@pytest.mark.parametrize("quality", [1.0, 4.3, 8.0])
def test_real_bits_are_the_estimate(two_passes, quality):
    torch.manual_seed(0)
    codec = Hyperprior(replace(TINY, latent=32, checkerboard=two_passes)).eval()
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(20)  # latents about as large as the scales that training starts with
        codec.finalize()
        view = photo(256, 320)
        estimate = codec(view, quality).bits.item()
    stream = codec.compress_record(view, quality).streams[0]
    # a range coder ends on a word, and the check inside takes 2 bytes
    assert abs(8 * len(stream.payload) - estimate) < 0.01 * estimate + 48


def test_transforms_start_as_principal_components():
    """With as many channels as numbers nothing is lost but what the normalisations leave; with fewer, the least."""
    images = torch.cat([photo(192, 256, phase) for phase in (0.0, 1.0, 2.0)])
    whole, few = (Hyperprior(HyperpriorConfig(widths=(12, 48, 192), latent=m, hyper=8)) for m in (768, 96))
    errors = []
    for codec in (whole, few):
        codec.start_from_images(images)
        with torch.no_grad():
            y = codec.g_a(images - 0.5)
            errors.append((codec.g_s(y) + 0.5 - images).square().mean().item())
    blocks = F.unfold(images - 0.5, 16, stride=16).transpose(0, 1).flatten(1).double()
    lost = torch.linalg.eigvalsh(blocks @ blocks.mT)[:-96].sum().item() / blocks.numel()
    assert errors[0] < 1e-4
    assert errors[1] == pytest.approx(lost, rel=0.15)
    assert y.flatten(2).var(-1).mean(0).argmax() == 0


def test_transforms_start_with_brightness_where_it_counts_more():
    """Few components are then those of luma, and the error that counts is smaller."""
    images = torch.cat([photo(192, 256, phase) for phase in (0.0, 1.0, 2.0)])
    errors = []
    for luma in (1.0, 4.0):
        torch.manual_seed(0)
        codec = Hyperprior(HyperpriorConfig(widths=(12, 48, 64), latent=64, hyper=8))
        codec.start_from_images(images, luma)
        with torch.no_grad():
            shown = codec.g_s(codec.g_a(images - 0.5)) + 0.5
        errors.append([weigh_luma(shown - images, weight).square().mean().item() for weight in (1.0, 4.0)])
    assert errors[1][1] < 0.9 * errors[0][1]
    assert errors[0][0] < errors[1][0]


def test_lambdas():
    found = lambda_of(torch.tensor([1.0, 4.5, 8.0]))
    assert found.tolist() == pytest.approx([LAMBDA_MIN, (LAMBDA_MIN * LAMBDA_MAX) ** 0.5, LAMBDA_MAX])


def test_checkerboard():
    board = checkerboard((2, 3), torch.device("cpu"))
    assert board.tolist() == [[True, False, True], [False, True, False]]


def test_qualities():
    assert [level_of(quality) for quality in (1, 1.03, 4.5, 8)] == [0, 0, 56, LEVELS - 1]
    assert quality_of(56) == 4.5
