"""FFCA-Net: the parts against their definitions, what training sees, and files that need no side view to be whole."""

import json
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import fuzzing
import pytest
import torch
from tiny import TINY as TINY_HYPERPRIOR
from tiny import photo

from stereopsis.cli import main
from stereopsis.compression.bitstream import Reader, Stream
from stereopsis.compression.ffca import (
    ABLATIONS,
    FFCA,
    PAPER,
    FFCAConfig,
    HourglassRefinement,
    ablation,
    coarser,
    differing,
    ffca_loss,
    shifted,
    structure,
)
from stereopsis.compression.hyperprior import Hyperprior
from stereopsis.compression.losses import lambda_of
from stereopsis.io import read_image, write_image
from stereopsis.types import StereoPair
from stereopsis.zoo import ModelCard, list_models, registry, save_weights

BASE = replace(TINY_HYPERPRIOR, checkerboard=True)
TINY = FFCAConfig(BASE, group=4, fusion=(8, 8, 8, 8))
PAPERLIKE = replace(PAPER, base=replace(BASE, widths=(8, 8, 8), latent=8), group=4, fusion=(8, 8, 8, 8), head=4)
CONFIGS = {"compact": TINY, "paper": PAPERLIKE}


def tiny(config: FFCAConfig = TINY) -> FFCA:
    """With random weights whose latents and predictions are lively, and that make something of the side view."""
    torch.manual_seed(7)
    codec = FFCA(config, "ffca.test")
    with torch.no_grad():
        codec.base.g_a[-1].weight.mul_(200)
        codec.base.h_a[-1].weight.mul_(20)
        codec.base.h_s[-1].weight.mul_(20)
        for parameter in codec.fuse.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    codec.finalize()
    return codec.eval()


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def codec(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def pair() -> StereoPair:
    wide = photo(47, 113)
    return StereoPair(wide[..., :81], wide[..., 32:])


# --- shapes


def test_the_papers_sizes():
    """Tables 5 and 6."""
    with torch.device("meta"):
        proposed, without = FFCA(PAPER), FFCA(ablation(PAPER, "W/O FFF"))
    assert _count(proposed.fuse) == pytest.approx(3.04e6, rel=0.1)
    assert _count(proposed.refine) == pytest.approx(0.24e6, rel=0.1)
    assert round(_count(without.fuse) / 1e6, 2) == 7.02


def test_the_compact_shape_is_small():
    with torch.device("meta"):
        assert _count(FFCA()) < 10_000_000


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("base", CONFIGS.values(), ids=CONFIGS.keys())
def test_each_switch_removes_what_it_says(base, name, pair, monkeypatch):
    from stereopsis.compression import ffca, fusion

    codec, search, searches = tiny(ablation(base, name)), ffca.patch_match, []
    monkeypatch.setattr(ffca, "patch_match", lambda *a, **k: searches.append(a) or search(*a, **k))
    content = codec.compress(pair.left)
    assert codec.decompress(content, side=pair.right).shape == pair.left.shape
    assert ("SPM" not in name) == bool(searches)
    assert ("HSSR" not in name) == hasattr(codec, "refine")
    assert ("FFF" in name) == any(isinstance(m, fusion.ResidualUpsample) for m in codec.modules())


# --- parts


@pytest.mark.parametrize("shift", [-3, 0, 4])
def test_an_untrained_refinement_finds_a_shift(shift):
    scene = torch.rand(1, 12, 32, 80, generator=torch.Generator().manual_seed(0))
    x, y = scene[..., 8:72], scene[..., 8 + shift : 72 + shift]  # what x has at u, y has at u - shift
    features = [torch.zeros(1, c, 32 >> k, 64 >> k) for k, c in enumerate(BASE.widths)]
    with torch.no_grad():
        shifts = HourglassRefinement(TINY)(features, features, (x, y))
    assert torch.allclose(shifts.sum(1), torch.ones(1, 32, 64))
    assert (shifts.argmax(1) - TINY.reach == shift)[..., 8:-8].all()
    moved = shifted(y, shifts, torch.ones(1, 12, dtype=torch.bool))
    assert (moved - x)[..., 8:-8].abs().max() < 0.01


def test_without_distances_it_starts_with_no_shift():
    features = [torch.randn(1, 8, 32 >> k, 32 >> k) for k in range(3)]
    with torch.no_grad():
        shifts = HourglassRefinement(PAPERLIKE)(features, features, None)
    assert (shifts[:, PAPERLIKE.reach] > 0.8).all()


def test_shifts_of_a_coarser_scale():
    """In its pixels: 4 become 2 and then 1, and 1 is half a pixel, which both neighbours share."""
    for shift, scale, expected in (
        (4, 2, {2: 1.0}),
        (4, 4, {1: 1.0}),
        (1, 2, {0: 0.5, 1: 0.5}),
        (-3, 4, {-1: 0.75, 0: 0.25}),
    ):
        fine = torch.zeros(1, 9, 8, 8)
        fine[:, shift + 4] = 1
        found = coarser(fine, scale)
        assert found.shape == (1, 2 * -(-4 // scale) + 1, 8 // scale, 8 // scale)
        middle = found.shape[1] // 2
        for place in range(found.shape[1]):
            assert torch.allclose(found[:, place], torch.tensor(expected.get(place - middle, 0.0)))


@pytest.mark.parametrize("batch", [1, 2])
def test_chosen_channels_alone_are_moved(batch):
    """Eq. 7 and 8, whatever the size of the map and the scale of a channel."""
    generator = torch.Generator().manual_seed(0)
    h_x = torch.randn(batch, 4, 12, 40, generator=generator) * torch.tensor([1, 100, 0.01, 1]).view(-1, 1, 1)
    h_y = h_x + h_x.std((2, 3), keepdim=True) * torch.tensor([0.1, 0.9, 0.9, 0.3]).view(-1, 1, 1)
    chosen = differing(h_x, h_y, 0.5)
    assert chosen.tolist() == [[False, True, True, False]] * batch
    assert torch.equal(differing(h_x.repeat(1, 1, 3, 2), h_y.repeat(1, 1, 3, 2), 0.5), chosen)
    shifts = torch.zeros(batch, 3, 12, 40)
    shifts[:, 2] = 1  # one pixel: from further left
    moved = shifted(h_y, shifts, chosen)
    assert torch.equal(moved[:, [0, 3]], h_y[:, [0, 3]])
    assert torch.allclose(moved[:, 1:3, :, 1:], h_y[:, 1:3, :, :-1])
    assert torch.equal(shifted(h_y, shifts, torch.zeros_like(chosen)), h_y)


@pytest.mark.parametrize("side_is", ["right", "left"])
def test_the_side_views_features_come_to_lie_on_the_main_views(side_is):
    """A shift by 32 pixels is a whole one at every scale."""
    wide = photo(128, 320)
    views = [wide[..., :256], wide[..., 32:288]]
    x, y = views
    if side_is == "left":
        x, y = y, x
    codec = tiny()
    with torch.no_grad():
        _, h_x = codec._synthesis(torch.randn(1, 12, 8, 16))
        _, found = codec._with_side(x, h_x, y, side_is)
        _, expected = codec._with_side(x, h_x, x, side_is)
    inside = slice(128, 192) if side_is == "left" else slice(96, 192)
    for level, (one, other) in enumerate(zip(found, expected, strict=True)):
        columns = slice(inside.start >> (level + 1), inside.stop >> (level + 1))
        middle = slice(one.shape[2] // 2 - 1, one.shape[2] // 2 + 1)
        assert torch.allclose(one[..., middle, columns], other[..., middle, columns], atol=1e-3), level


def test_structure_is_free_of_the_mean():
    picture = photo(64, 128)
    found = structure(picture)
    assert found.shape == (1, 12, 32, 64)
    assert torch.allclose(structure(0.5 * picture + 0.3), 0.5 * found, atol=1e-5)


# --- coding


def test_an_untrained_network_adds_nothing(pair):
    torch.manual_seed(0)
    for config in CONFIGS.values():
        codec = FFCA(config).eval()
        codec.finalize()
        content = codec.compress(pair.left)
        assert torch.equal(codec.decompress(content), codec.decompress(content, side=pair.right))


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (47, 81), (65, 127)])
@pytest.mark.parametrize("quality", [1.0, 8.0])
def test_any_size_with_and_without_a_side_view(codec, size, quality):
    view, other = photo(*size), photo(*size, 1.0)
    content = codec.compress(view, quality)
    plain, aided = codec.decompress(content), codec.decompress(content, side=other)
    assert plain.shape == aided.shape == view.shape
    assert torch.equal(plain, codec.base.decompress_record(Reader(content).record(0), Reader(content).header))
    if min(size) > 1:
        assert not torch.equal(plain, aided)
        assert not torch.equal(aided, codec.decompress(content, side=1 - other))


def test_the_picture_is_what_training_saw(codec, pair):
    with torch.no_grad():
        seen = codec(pair.left, pair.right, 5.0)
    content = codec.compress(pair.left, 5.0)
    for decoded, x_hat in (
        (codec.decompress(content), seen.base),
        (codec.decompress(content, side=pair.right), seen.x_hat),
    ):
        assert (decoded - x_hat.clamp(0, 1)).abs().mean() < 1 / 255


def test_a_pair_is_two_files(codec, pair):
    """Views are coded apart: the right one is the left one's side view."""
    together = Reader(codec.compress(pair, 6.0)).record(0)
    apart = [codec.compress(view, 6.0) for view in (pair.left, pair.right)]
    payloads = [Reader(content).record(0).streams[0].payload for content in apart]
    assert [stream.payload for stream in together.streams] == payloads
    decoded = codec.decompress(codec.compress(pair, 6.0))
    assert torch.equal(decoded.right, codec.decompress(apart[1]))
    assert (decoded.left - codec.decompress(apart[0], side=decoded.right)).abs().max() < 1.5 / 255


def test_grey_views(codec, pair):
    content = codec.compress(pair.left[:, :1])
    assert codec.decompress(content, side=pair.right).shape == (1, 1, 47, 81)
    assert codec.decompress(content, side=pair.right[:, :1]).shape == (1, 1, 47, 81)


def test_a_side_view_that_does_not_fit_is_one_sentence(codec, pair):
    content = codec.compress(pair.left)
    for side, message in (
        (pair.right[..., :-1], "the side view is 80x47 and the main view 81x47; give the other view of the same"),
        (pair.right[0], r"the side view has the shape \(3, 47, 81\)"),
        (torch.full_like(pair.right, torch.nan), "the side view holds values that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.decompress(content, side=side)
    with pytest.raises(ValueError, match="the file holds both views, which decode together; leave the side view out"):
        codec.decompress(codec.compress(pair), side=pair.right)
    other = Hyperprior(TINY_HYPERPRIOR).eval()
    other.finalize()
    with pytest.raises(ValueError, match="hyperprior decodes without a side view; leave it out"):
        other.decompress(other.compress(pair.left), side=pair.right)


def test_damage_to_a_pair_is_refused_in_one_sentence_or_harmless(codec):
    result = fuzzing.fuzz(codec, 60, random.Random(1))
    assert not result.uncaught
    assert not result.wrong
    assert result.slowest < 1
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in result.sentences)


def test_damage_to_a_main_view_is_refused_in_one_sentence_or_harmless(codec, pair):
    """A side view does not make up for symbols that are not those that were encoded."""
    kinds = [fuzzing._flip, fuzzing._cut, fuzzing._insert, fuzzing._remove]
    generator, content = random.Random(2), codec.compress(pair.left)
    header, record = Reader(content).header, Reader(content).record(0)
    expected = codec.decompress(content, side=pair.right)
    sentences = []
    for number in range(80):
        if number % 4:
            changed = generator.choice(kinds)(content, generator)
        else:
            changed = fuzzing._forge(header, record, generator)
        start = time.process_time()
        try:
            found = codec.decompress(changed, side=pair.right)
        except ValueError as error:
            sentences.append(str(error))
        else:
            assert torch.equal(found, expected)
        assert time.process_time() - start < 1
    assert len(sentences) > 50
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in sentences)


def test_a_file_without_streams_is_refused(codec):
    with pytest.raises(ValueError, match="has 0 streams where a pair has 2"):
        codec.decode([], (8, 8), 0)
    with pytest.raises(ValueError, match="do not match their checksum"):
        codec.decode([Stream(b"", 0)] * 2, (64, 64), 0)


# --- training


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_parameter_learns(config):
    codec = tiny(config).train()
    left, right, quality = torch.rand(2, 3, 70, 90), torch.rand(2, 3, 70, 90), torch.tensor([1.0, 7.5])
    output = codec(left, right, quality)
    assert output.x_hat.shape == output.base.shape == left.shape
    ffca_loss(output, left, quality).loss.sum().backward()
    assert not [name for name, parameter in codec.named_parameters() if parameter.grad is None]
    for part in ("base", "side", "refine", "fuse"):
        assert any(p.grad.abs().sum() > 0 for p in codec.get_submodule(part).parameters())


def test_the_loss_is_equation_9(pair):
    codec, quality = tiny(), torch.tensor([3.0])
    with torch.no_grad():
        output = codec(pair.left, pair.right, quality)
        found = ffca_loss(output, pair.left, quality, alpha=0.2, base=0.25)
    d1, plain = (255**2 * (picture - pair.left).square().mean() for picture in (output.x_hat, output.base))
    d2 = plain * (output.h_x - output.h_y).square().mean() / output.h_x.square().mean()
    rate = output.bits / (47 * 81)
    expected = rate + lambda_of(3.0) * (0.8 * (0.75 * d1 + 0.25 * plain) + 0.2 * d2)
    assert torch.allclose(found.loss, expected)
    assert torch.allclose(found.bpp, rate)
    assert torch.allclose(found.distortion, d1)


@pytest.mark.parametrize("checkerboard", [False, True])
def test_starts_as_the_hyperprior_codec(pair, checkerboard):
    torch.manual_seed(0)
    single = Hyperprior(replace(TINY_HYPERPRIOR, checkerboard=checkerboard)).eval()
    with torch.no_grad():
        single.g_a[-1].weight.mul_(200)
        single.h_s[-1].weight.mul_(20)
        single.log_gain.add_(0.1)
    codec = FFCA(TINY).eval()
    codec.start_from(single.state_dict())
    with torch.no_grad():
        found, expected = codec(pair.left, pair.right), single(pair.left)
    assert torch.allclose(found.x_hat, expected.x_hat, atol=1e-4)
    assert torch.allclose(found.base, expected.x_hat, atol=1e-4)
    assert torch.allclose(found.bits, expected.bits, rtol=0.001)
    for each in (single, codec):
        each.finalize()
    pairs = [Reader(each.compress(pair.left)).record(0).streams[0] for each in (single, codec)]
    assert len(pairs[0].payload) == pytest.approx(len(pairs[1].payload), abs=4)
    with pytest.raises(ValueError, match=r"g_a\.0\.weight of the hyperprior codec has the shape .* same widths"):
        codec.start_from(Hyperprior(replace(TINY_HYPERPRIOR, widths=(6, 8, 12))).state_dict())


def test_the_side_view_comes_to_help():
    """Thirty-odd steps on a pair of shifted copies."""
    torch.manual_seed(0)
    wide, quality = photo(64, 160), 4.0
    left, right = wide[..., :128], wide[..., 32:]
    codec = FFCA(replace(TINY, base=replace(BASE, widths=(8, 16, 16), latent=16)))
    optimizer = torch.optim.Adam(codec.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        output = codec(left, right, quality)
        loss = ffca_loss(output, left, quality).loss.mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    codec.eval()
    with torch.no_grad():
        output = codec(left, right, quality)
    with_side, without = ((picture - left).square().mean() for picture in (output.x_hat, output.base))
    assert with_side < 0.9 * without


# --- use


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small codec under a name, and a manifest of two pairs."""
    list_models()
    entry = registry.ModelEntry("ffca.test", "compression", "ffca", lambda: FFCA(TINY, "ffca.test"), "", TINY)
    monkeypatch.setitem(registry._entries, "ffca.test", entry)
    monkeypatch.chdir(tmp_path)
    save_weights("w.safetensors", tiny(), ModelCard("ffca"))
    Path("data").mkdir()
    for name, phase in (("left", 0.0), ("right", 1.0)):
        write_image(f"data/{name}.png", photo(176, 180, phase))
    write_image("small.png", photo(40, 60))
    rows = [{"id": "0", "left": "data/left.png", "right": "data/right.png", "disparity": "data/left.png"}]
    Path("data/manifest.json").write_text(json.dumps(rows))
    return tmp_path


USE = ["--model", "ffca.test", "--weights", "w.safetensors"]


def test_a_main_view_there_and_back(folder, capsys):
    assert main(["compress", "data/left.png", "--out", "m.stz", *USE, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["pairs"][0]
    assert row["bpp"] == pytest.approx(8 * Path("m.stz").stat().st_size / (176 * 180))
    back = ["decompress", "m.stz", "--weights", "w.safetensors", "--out"]
    assert main([*back, "plain"]) == 0
    assert main([*back, "aided", "--side", "data/right.png"]) == 0
    assert main([*back, "other", "--side", "data/right.png", "--side-is", "left"]) == 0
    plain, aided, other = (read_image(f"{name}/image.png") for name in ("plain", "aided", "other"))
    assert plain.shape == (3, 176, 180)
    assert not torch.equal(torch.as_tensor(plain), torch.as_tensor(aided))
    assert not torch.equal(torch.as_tensor(other), torch.as_tensor(aided))
    capsys.readouterr()
    assert main([*back, "wrong", "--side", "small.png"]) == 2
    assert "the side view is 60x40 and the main view 180x176" in capsys.readouterr().err
    assert not Path("wrong").exists()


def test_a_sequence_of_main_views(folder, capsys):
    assert main(["compress", "data/left.png", "--out", "m.stz", *USE]) == 0
    assert main(["compress", "data/right.png", "--out", "m.stz", "--append", *USE]) == 0
    back = ["decompress", "m.stz", "--weights", "w.safetensors", "--out", "back", "--side", "data/right.png"]
    capsys.readouterr()
    assert main(back) == 2
    assert "--side is one view and m.stz holds 2 images; choose one with --index" in capsys.readouterr().err
    assert main([*back, "--index", "0"]) == 0
    assert main(["compress", "data/left.png", "--out", "n.stz", *USE, "--calibration", "data"]) == 2


def test_main_views_are_measured_alone(folder, capsys):
    options = ["--data", "data/manifest.json", "--qualities", "2,4,6", "--json"]
    anchors = "ffca.test-without-side,jpeg"
    assert main(["evaluate", "compression", *options, "--anchors", anchors, *USE]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rate"] == "main view alone"
    plain = result["anchors"]["ffca.test-without-side"]["points"]
    for point, other in zip(result["points"], plain, strict=True):
        assert point["bpp"] == other["bpp"]
        assert point["psnr"] == point["psnr_left"] != other["psnr"]
        assert point["psnr_right"] is None
    [row] = result["per_image"]
    assert row["points"][0]["bpp"] == pytest.approx(8 * row["points"][0]["bytes"] / (176 * 180))
    assert set(result["bd_rate_psnr"]) == {"ffca.test-without-side", "jpeg"}
    arguments = [*options, "--anchors", "ffca.test-without-side", "--model", "hyperprior"]
    assert main(["evaluate", "compression", *arguments]) == 2
    assert "there is no anchor 'ffca.test-without-side'" in capsys.readouterr().err


def test_the_page():
    page = (Path(__file__).resolve().parents[2] / "docs" / "ffca.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "ffca.md", "exec"), {})
    with torch.device("meta"):
        for config in (FFCAConfig(), PAPER):
            codec = FFCA(config)
            assert f"{_count(codec):,}" in page
            assert all(f"{_count(part):,}" in page for part in (codec.side, codec.refine, codec.fuse))
    assert all(f"`{name}`" in page for name in ABLATIONS)
