"""DSIC: the parts against their definitions, what training sees, and files that hold exactly what was encoded."""

import json
import random
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fuzzing import fuzz
from tiny import TINY as TINY_HYPERPRIOR
from tiny import photo
from torch.nn import functional as F

from stereopsis.cli import main
from stereopsis.compression.bitstream import Stream
from stereopsis.compression.dsic import ABLATIONS, DSIC, PAPER, CostVolume, DSICConfig, ablation, disparity_warp
from stereopsis.compression.hyperprior import Hyperprior, HyperpriorConfig
from stereopsis.compression.losses import rate_distortion_loss
from stereopsis.io import read_image, write_image
from stereopsis.types import StereoPair
from stereopsis.zoo import ModelCard, list_models, registry, save_weights

TINY = DSICConfig(
    widths=(8, 8, 12),
    latent=12,
    hyper=8,
    hidden=18,
    candidates=(16, 8, 4),
    cost_width=4,
    matching=4,
    alignment=3,
)
# the paper's parts, small
PAPERLIKE = replace(
    PAPER, widths=(4, 4, 4), latent=6, hyper=4, mixtures=3, candidates=(4, 4, 4), cost_width=4, volume=2, kernel=3
)


def tiny(config: DSICConfig = TINY) -> DSIC:
    """With random weights whose latents and predictions are lively."""
    torch.manual_seed(7)
    codec = DSIC(config, "dsic.test")
    with torch.no_grad():
        for net in (codec.g_a1, codec.g_a2):
            net[-1].weight.mul_(200)
        for name, parameter in codec.named_parameters():
            if name.endswith(("h_a.4.weight", "h_s.2.weight", "mean.2.weight", "weight.1.weight", "mix.0.weight")):
                parameter.mul_(20)
            if name.endswith("refine.1.weight"):
                torch.nn.init.normal_(parameter, std=0.1)
    codec.finalize()
    return codec.eval()


CONFIGS = {"compact": TINY, "paper": PAPERLIKE}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def codec(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def pair() -> StereoPair:
    left = photo(47, 97)
    return StereoPair(left[..., :81], left[..., 16:])


# --- shapes


def test_the_papers_shape():
    """The public reimplementation has 91,729,694: these, and 3 quantiles a channel of both z."""
    with torch.device("meta"):
        codec = DSIC(PAPER)
    gains = sum(parameter.numel() for name, parameter in codec.named_parameters() if ".log_" in name)
    assert sum(parameter.numel() for parameter in codec.parameters()) - gains == 91_729_694 - 2 * 3 * 128
    assert sum(parameter.numel() for parameter in codec.context.parameters()) == 37_101_120
    assert sum(parameter.numel() for parameter in codec.encoder_skips[1].parameters()) == 2_881_060


def test_the_compact_shape_is_small():
    with torch.device("meta"):
        codec = DSIC()
    assert sum(parameter.numel() for parameter in codec.parameters()) < 10_000_000
    assert [c * s for c, s in zip(codec.config.candidates, (2, 4, 8), strict=True)] == [128, 128, 128]


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("base", CONFIGS.values(), ids=CONFIGS.keys())
def test_each_switch_removes_what_it_says(base, name, pair):
    codec = tiny(ablation(base, name))
    parts = {part.split(".")[0] for part, _ in codec.named_parameters()}
    assert ("DispSkip" in name) == bool({"context", "encoder_skips", "decoder_skips"} & parts)
    assert ("hyperprior" in name) == any(".h_a." in part for part, _ in codec.named_parameters())
    with torch.no_grad():
        output = codec(pair.left, pair.right)
        assert ("hyperprior" in name) == bool(output.bits_z.sum() > 0)
        # what view 2 costs depends on view 1 where one of the two parts is there
        other = codec(1 - pair.left, pair.right)
    assert (output.bits[1] != other.bits[1]) == ("DispSkip" in name or "CE0" in name)
    decoded = codec.decompress(codec.compress(pair))
    assert (decoded.right - output.x_hat[1:].clamp(0, 1)).abs().mean() < 1 / 255


# --- parts


def test_warp_is_the_weighted_sum():
    torch.manual_seed(0)
    h1, cost = torch.randn(2, 3, 11, 9, requires_grad=True), torch.rand(2, 4, 11, 9, requires_grad=True)
    expected = sum(cost[:, d : d + 1] * F.pad(h1, (0, d))[..., d:] for d in range(4))
    found = disparity_warp(h1, cost)
    assert torch.allclose(found, expected, atol=1e-6)
    upstream = torch.randn_like(found)
    pairs = zip(*(torch.autograd.grad(x, (h1, cost), upstream) for x in (found, expected)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_an_untrained_cost_volume_finds_a_shift():
    torch.manual_seed(0)
    h1 = torch.randn(1, 8, 12, 40)
    h2 = F.pad(h1, (0, 5))[..., 5:]
    volume = CostVolume(8, 16, replace(TINY, cost_width=8, matching=8))
    with torch.no_grad():
        cost = volume(h1, h2, torch.zeros(1, 16, 2, 5))
    assert torch.allclose(cost.sum(1), torch.ones(1, 12, 40))
    assert (cost.argmax(1)[..., :30] == 5).float().mean() > 0.95
    assert (disparity_warp(h1, cost) - h2)[..., :30].abs().mean() < 0.3


def test_a_candidate_is_a_pixel_to_the_right():
    h1 = torch.arange(6.0).expand(1, 1, 1, 6)
    cost = torch.zeros(1, 3, 1, 6)
    cost[:, 2] = 1
    assert disparity_warp(h1, cost).flatten().tolist() == [2, 3, 4, 5, 0, 0]


# --- exactness


@contextmanager
def _setting(name: str):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads({"1 thread": 1, "2 threads": 2}.get(name, threads))
        with torch.backends.mkldnn.flags(enabled=name != "no oneDNN"):
            yield
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("setting", ["no oneDNN", "channels_last", "1 thread", "2 threads", "one by one"])
def test_predictions_are_the_same_whole_numbers(codec, setting):
    generator = torch.Generator().manual_seed(3)
    predictor = codec.view2.predictor
    z, y1 = (
        torch.randint(-2000, 2000, (2, channels, *size), generator=generator).double()
        for channels, size in ((codec.config.hyper, (3, 2)), (codec.config.latent, (12, 8)))
    )
    expected = predictor(z, y1, exact=True)
    with _setting(setting):
        if setting == "channels_last":
            z, y1 = (x.contiguous(memory_format=torch.channels_last) for x in (z, y1))
        parts = [slice(0, 1), slice(1, 2)] if setting == "one by one" else [slice(0, 2)]
        found = [predictor(z[part], y1[part], exact=True) for part in parts]
    for field in ("mean", "index", "logits"):
        whole = getattr(expected, field)
        if whole is not None:
            assert torch.equal(torch.cat([getattr(part, field) for part in found], 1), whole)
            assert torch.equal(whole, whole.round())
            assert whole.std() > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_decodes_what_the_cpu_encoded(codec, pair):
    content = codec.compress(pair, 6.0)
    expected = codec.decompress(content)
    other = tiny(codec.config).cuda()
    assert (other.decompress(content).right - expected.right).abs().max() < 1.5 / 255


def test_training_sees_what_runs(codec):
    """But for float rounding, which softmax and alignment may carry to a step of an activation."""
    generator = torch.Generator().manual_seed(4)
    z = torch.randint(-500, 500, (1, codec.config.hyper, 3, 3), generator=generator).double()
    y1 = torch.randint(-500, 500, (1, codec.config.latent, 12, 12), generator=generator).double()
    exact = codec.view2.predictor(z, y1, exact=True)
    with torch.no_grad():
        seen = codec.view2.predictor(z.float() / 256, y1.float() / 256)
    assert (seen.mean * 256 - exact.mean).abs().mean() < 1
    assert (seen.index * 256 - exact.index).abs().mean() < 1


# --- coding


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (47, 81), (65, 127)])
@pytest.mark.parametrize("quality", [1.0, 4.3, 8.0])
def test_symbols_come_back_exactly(codec, monkeypatch, size, quality):
    from stereopsis.compression import dsic_entropy

    seen = []
    original = dsic_entropy.checksum
    monkeypatch.setattr(dsic_entropy, "checksum", lambda s, start=0: seen.append(s.copy()) or original(s, start))
    pair = StereoPair(photo(*size), photo(*size, 1.0))
    content = codec.compress(pair, quality)
    written = seen.copy()
    seen.clear()
    decoded = codec.decompress(content)
    assert [s.ravel().tolist() for s in seen] == [s.ravel().tolist() for s in written]
    assert len(written) == 4
    assert all(s.any() for s in written[1::2])
    assert decoded.right.shape == pair.right.shape


def test_what_no_table_holds_is_an_escape(pair):
    codec = tiny()
    mixed = tiny(PAPERLIKE)
    for each in (codec, mixed):
        with torch.no_grad():
            each.g_a2[-1].weight.mul_(1e4)
        assert codec.decompress(codec.compress(pair)).right.shape == pair.right.shape
        streams = each.encode([pair.left, pair.right], 40)
        assert len(streams[1].payload) > 1.5 * len(streams[0].payload)
        each.decode(streams, (47, 81), 40)


def test_the_picture_is_what_training_saw(codec, pair):
    with torch.no_grad():
        seen = codec(pair.left, pair.right, 5.0)
    decoded = codec.decompress(codec.compress(pair, 5.0))
    for view, x_hat in zip((decoded.left, decoded.right), seen.x_hat, strict=True):
        assert (view - x_hat.clamp(0, 1)).abs().mean() < 1 / 255


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("quality", [1.0, 4.3, 8.0])
def test_real_bits_are_the_estimate(config, quality):
    torch.manual_seed(0)
    codec = DSIC(replace(config, latent=32)).eval()
    views = [photo(192, 256), photo(192, 256, 1.0)]
    with torch.no_grad():
        for net in (codec.g_a1, codec.g_a2):
            net[-1].weight.mul_(20)  # latents about as large as the scales that training starts with
        codec.finalize()
        estimate = codec(*views, quality).bits
    streams = codec.compress_record(StereoPair(*views), quality).streams
    for stream, number in zip(streams, estimate.tolist(), strict=True):
        # a range coder ends on a word, and the check inside takes 2 bytes
        assert abs(8 * len(stream.payload) - number) < 0.01 * number + 48


def test_one_image_is_view_1(codec, pair):
    image = codec.decompress(codec.compress(pair.left))
    assert torch.equal(image, codec.decompress(codec.compress(pair)).left)


def test_damage_is_refused_in_one_sentence_or_harmless(codec):
    result = fuzz(codec, 100, random.Random(1))
    assert not result.uncaught
    assert not result.wrong
    assert result.refused + result.harmless == 100
    assert result.slowest < 1
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in result.sentences)


def test_a_file_without_streams_is_refused(codec):
    with pytest.raises(ValueError, match="has 0 streams where a pair has 2"):
        codec.decode([], (8, 8), 0)
    with pytest.raises(ValueError, match="do not match their checksum"):
        codec.decode([Stream(b"", 0)] * 2, (64, 64), 0)


# --- training


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_parameter_learns(config):
    torch.manual_seed(0)
    codec = DSIC(config)
    left, right, quality = torch.rand(2, 3, 70, 90), torch.rand(2, 3, 70, 90), torch.tensor([1.0, 7.5])
    output = codec(left, right, quality)
    assert output.x_hat.shape == (4, 3, 70, 90)
    assert output.bits.shape == (4,)
    rate_distortion_loss(output, torch.cat([left, right]), quality.repeat(2)).loss.sum().backward()
    assert not [name for name, parameter in codec.named_parameters() if parameter.grad is None]
    for part in ("context", "encoder_skips", "decoder_skips", "g_a2", "g_s2", "view1", "view2"):
        assert any(p.grad.abs().sum() > 0 for p in codec.get_submodule(part).parameters())


def test_starts_as_the_hyperprior_codec(pair):
    torch.manual_seed(0)
    single = Hyperprior(TINY_HYPERPRIOR).eval()
    with torch.no_grad():
        single.g_a[-1].weight.mul_(200)
        single.log_gain.add_(0.1)
    codec = DSIC(TINY).eval()
    codec.start_from(single.state_dict())
    with torch.no_grad():
        found = codec(pair.left, pair.right)
        expected = [single(view) for view in (pair.left, pair.right)]
    assert torch.allclose(found.x_hat, torch.cat([each.x_hat for each in expected]), atol=1e-4)
    assert torch.allclose(found.bits, torch.cat([each.bits for each in expected]), rtol=0.02)
    with pytest.raises(ValueError, match=r"g_a\.0\.weight of the hyperprior codec has the shape .* same widths"):
        codec.start_from(Hyperprior(replace(TINY_HYPERPRIOR, widths=(6, 8, 12))).state_dict())


def test_the_second_view_gets_cheaper():
    """Shifted copies, from the same single-image codec: with the other view in sight the second one costs less."""
    torch.manual_seed(0)
    wide, quality = photo(64, 80), 7.0
    left, right = wide[..., :64], wide[..., 16:]
    config = replace(TINY, widths=(16, 16, 16), latent=16, cost_width=8, matching=8, candidates=(16, 8, 8))

    def learn(codec: torch.nn.Module, views: list[torch.Tensor], steps: int, rate: float) -> torch.Tensor:
        optimizer = torch.optim.Adam(codec.parameters(), rate)
        for _ in range(steps):
            loss = rate_distortion_loss(codec(*views, quality), torch.cat([left, right]), quality).loss.mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
            optimizer.step()
        codec.eval()
        with torch.no_grad():
            return rate_distortion_loss(codec(*views, quality), torch.cat([left, right]), quality).loss

    single = Hyperprior(HyperpriorConfig(config.widths, config.latent, config.hyper, hidden=config.hidden))
    learn(single, [torch.cat([left, right])], 100, 5e-3)
    shares = []
    for variant in (config, ablation(config, "IE + hyperprior")):
        torch.manual_seed(0)
        codec = DSIC(variant)
        codec.start_from(single.state_dict())
        first, second = learn(codec, [left, right], 80, 3e-3).tolist()
        shares.append(second / first)
    assert shares[0] < 0.9 * shares[1], shares


# --- use


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Nothing outside the model's file knows of it."""
    list_models()
    entry = registry.ModelEntry("dsic.test", "compression", "dsic", lambda: DSIC(TINY, "dsic.test"), "", TINY)
    monkeypatch.setitem(registry._entries, "dsic.test", entry)
    monkeypatch.chdir(tmp_path)
    save_weights("w.safetensors", tiny(), ModelCard("dsic"))
    Path("data").mkdir()
    for name, phase in (("left", 0.0), ("right", 1.0)):
        write_image(f"data/{name}.png", photo(176, 180, phase))
    use = ["--model", "dsic.test", "--weights", "w.safetensors"]
    assert main(["compress", "data/left.png", "data/right.png", "--out", "p.stz", *use]) == 0
    assert main(["decompress", "p.stz", "--out", "back", "--weights", "w.safetensors"]) == 0
    assert read_image("back/right.png").shape == (3, 176, 180)
    rows = [{"id": "0", "left": "data/left.png", "right": "data/right.png", "disparity": "data/left.png"}]
    Path("data/manifest.json").write_text(json.dumps(rows))
    capsys.readouterr()
    options = ["--data", "data/manifest.json", "--qualities", "2,5", "--anchors", "jpeg", "--json"]
    assert main(["evaluate", "compression", *options, *use]) == 0
    assert [point["quality"] for point in json.loads(capsys.readouterr().out)["points"]] == [2, 5]


def test_the_page():
    page = (Path(__file__).resolve().parents[2] / "docs" / "dsic.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "dsic.md", "exec"), {})
    with torch.device("meta"):
        for config in (DSICConfig(), PAPER):
            assert f"{sum(parameter.numel() for parameter in DSIC(config).parameters()):,}" in page
    assert all(f"`{name}`" in page for name in ABLATIONS)


def test_training_starts_from_a_hyperprior_by_its_name_or_file(tmp_path):
    from safetensors.torch import load_file

    from stereopsis.training.initial import start_from
    from stereopsis.zoo import get_entry
    from stereopsis.zoo.weights import SHIPPED

    entry, file = get_entry("dsic.scenes"), SHIPPED / "hyperprior.photos.safetensors"
    first = load_file(file)["g_a.0.weight"].float()
    for initial in ("hyperprior.photos", str(file)):
        model = entry.build()
        start_from(model, initial, entry)
        assert torch.equal(model.g_a1[0].weight, first)
        assert torch.equal(model.g_a2[0].weight, first)
