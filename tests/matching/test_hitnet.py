"""HITNet: its size, its interface, and parity with the authors' network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from stereopsis.matching.hitnet import (
    ETH3D,
    HYPOTHESIS,
    MIDDLEBURY,
    MULTI_SCALE,
    SF,
    XL,
    HITNet,
    HITNetConfig,
    L,
    TileInitialization,
)
from stereopsis.ops import bf16_conv, native
from stereopsis.types import Disparity
from stereopsis.zoo.importers import import_hitnet

SMALL = HITNetConfig(max_disparity=64, feature_channels=(8, 8, 12, 12, 16), refine_channels=(16, 16, 8))
SMALL_SINGLE = replace(SF, max_disparity=48, feature_channels=(8, 8, 12, 12, 16), refine_channels=(16, 16, 8))


def _network(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return HITNet(config).eval()


def _pair(*shape, seed=1):
    """A random view and the same 5 pixels on."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.rand(*shape[:-1], shape[-1] + 5, generator=generator)
    return wide[..., :-5].contiguous(), wide[..., 5:].contiguous()


@pytest.fixture
def torch_kernels(monkeypatch):
    """The plain torch operators, as where no library was built."""
    monkeypatch.setattr(native, "library", lambda: None)


# --- size and interface


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (replace(MULTI_SCALE, in_channels=1), 655_723),
        (ETH3D, 655_723),
        (SF, 456_291),
        (L, 968_155),
        (XL, 2_066_971),
        (MIDDLEBURY, 1_616_663),
    ],
    ids=["multi-scale", "ETH3D", "SF", "L", "XL", "Middlebury"],
)
def test_parameter_counts_of_the_published_variants(config, parameters):
    assert sum(p.numel() for p in HITNet(config).parameters()) == parameters


@pytest.mark.parametrize(
    ("config", "scales", "multiple"), [(MULTI_SCALE, 5, 64), (SF, 1, 16), (XL, 1, 16), (MIDDLEBURY, 6, 128)]
)
def test_scales_and_padding(config, scales, multiple):
    assert (config.scales, config.size_multiple) == (scales, multiple)


@pytest.mark.parametrize("config", [SMALL, SMALL_SINGLE], ids=["multi-scale", "single-scale"])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (17, 33), (64, 64), (65, 131)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_one_or_three_channels(config, size, channels):
    model = _network(config)
    with torch.inference_mode():
        result = model(*_pair(2, channels, *size))
    assert isinstance(result, Disparity)
    for value, dtype in (
        (result.disparity, torch.float32),
        (result.confidence, torch.float32),
        (result.valid, torch.bool),
    ):
        assert value.shape == (2, 1, *size)
        assert value.dtype == dtype
    assert result.valid.all()
    assert result.disparity.isfinite().all()
    assert result.disparity.min() >= 0
    assert result.confidence.min() >= 0
    assert result.confidence.max() <= 1


def test_the_single_scale_network_matches_at_full_resolution_only():
    model = _network(SMALL_SINGLE)
    with torch.inference_mode():
        stages = model.stages(torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48))
    assert [h.shape for h in stages.initial] == [(1, HYPOTHESIS, 8, 12)]
    assert [len(updated) for updated in stages.propagated] == [1]
    assert [tuple(h.shape[2:]) for h in stages.refined] == [(8, 12), (16, 24), (32, 48)]


def test_stages_go_from_coarse_to_fine():
    with torch.inference_mode():
        stages = _network().stages(torch.rand(2, 3, 64, 128), torch.rand(2, 3, 64, 128), 40)
    sizes = [(1, 2), (2, 4), (4, 8), (8, 16), (16, 32)]
    assert [tuple(h.shape[2:]) for h in stages.initial] == sizes
    assert [tuple(h.shape[2:]) for h, _ in stages.selected] == sizes
    assert [len(updated) for updated in stages.propagated] == [1, 2, 2, 2, 2]
    assert [match.max_disparity for match in stages.matches] == [3, 5, 10, 20, 40]
    for h, match in zip(stages.initial, stages.matches, strict=True):
        assert h[:, 0].max() <= match.max_disparity - 1
        assert torch.equal(h[:, 0], h[:, 0].round())
        assert h[:, 1:3].eq(0).all()


@pytest.mark.parametrize("winner", ["highest", "lowest"])
def test_the_winner_of_a_tile_is_the_one_with_the_better_w(winner):
    model = _network(replace(SMALL, winner=winner))
    generator = torch.Generator().manual_seed(0)
    h = [torch.randn(2, 16, 3, 4, generator=generator) for _ in range(2)]
    w = [torch.randn(2, 1, 3, 4, generator=generator) for _ in range(2)]
    w[1][0] = w[0][0]  # ties stay with the first, which is the initialisation's
    kept, w_kept = model._winner(list(zip(h, w, strict=True)))
    better = w[1] > w[0] if winner == "highest" else w[1] < w[0]
    assert better.any()
    assert torch.equal(kept, torch.where(better, h[1], h[0]))
    assert torch.equal(w_kept, torch.maximum(*w) if winner == "highest" else torch.minimum(*w))


def test_confidence_rises_as_w_gets_better():
    w = torch.linspace(-3, 4, 50).view(1, 1, 1, 50)
    for winner, sign in (("highest", 1), ("lowest", -1)):
        confidence = _network(replace(SMALL, winner=winner))._confidence(w)
        assert ((confidence >= 0) & (confidence <= 1)).all()
        assert (confidence.diff() * sign > 0).all()
    # trained w is near 1 where right and near 0 where wrong
    assert _network()._confidence(torch.tensor(1.0)) > 0.8
    assert _network()._confidence(torch.tensor(0.0)) < 0.2


def test_max_disparity_may_be_given_at_the_call():
    model = _network()
    left, right = (2 * view - 1 for view in _pair(1, 3, 64, 128))
    with torch.inference_mode():
        for asked, candidates in ((None, 64), (128, 128), (8, 8), (1, 1)):
            stages = model.stages(left, right, asked)
            assert stages.matches[-1].max_disparity == candidates
            assert stages.initial[-1][:, 0].max() < candidates
        own = model(left, right)
        assert torch.equal(own.disparity, model(left, right, 64).disparity)
        assert not torch.equal(own.disparity, model(left, right, 4).disparity)


@pytest.mark.parametrize(
    ("left", "right", "arguments", "words"),
    [
        ((1, 3, 20, 30), (1, 3, 20, 31), {}, "left is 30x20 and right is 31x20"),
        ((1, 3, 20, 30), (1, 1, 20, 30), {}, "(1, 1, 20, 30)"),
        ((1, 2, 20, 30), (1, 2, 20, 30), {}, "2 channels"),
        ((1, 4, 20, 30), (1, 4, 20, 30), {}, "4 channels"),
        ((1, 3, 20, 30), (1, 3, 20, 30), {"max_disparity": 0}, "max_disparity is 0"),
        ((1, 3, 20, 30), (1, 3, 20, 30), {"max_disparity": -5}, "max_disparity is -5"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(left, right, arguments, words):
    with pytest.raises(ValueError) as error:
        _network()(torch.rand(left), torch.rand(right), **arguments)
    message = str(error.value)
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message


def test_values_that_are_not_finite_come_out_as_invalid():
    left, right = _pair(1, 3, 64, 128)
    left[0, 0, 10, 10] = float("nan")
    with torch.inference_mode():
        result = _network()(left, right)
    assert not result.valid.all()
    assert result.disparity[~result.valid].eq(0).all()
    assert result.disparity.isfinite().all()
    assert ((result.confidence >= 0) & (result.confidence <= 1)).all()


def test_grey_views_are_the_same_as_three_equal_channels():
    model = _network()
    left, right = _pair(1, 1, 64, 128)
    with torch.inference_mode():
        grey = model(left, right)
        colour = model(left.expand(-1, 3, -1, -1), right.expand(-1, 3, -1, -1))
    assert torch.equal(grey.disparity, colour.disparity)


def test_colour_becomes_luma_for_a_grey_network():
    model = _network(replace(SMALL, in_channels=1))
    left, right = _pair(1, 3, 64, 128)
    luma = [0.299 * v[:, :1] + 0.587 * v[:, 1:2] + 0.114 * v[:, 2:] for v in (left, right)]
    with torch.inference_mode():
        found, expected = model(left, right).disparity, model(*luma).disparity
    assert (found - expected).abs().median() < 1e-4


def test_a_batch_is_its_samples_one_by_one():
    model = _network()
    left, right = _pair(2, 3, 64, 128)
    with torch.inference_mode():
        both = model(left, right)
        alone = [model(left[n : n + 1], right[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(both.disparity, torch.cat([a.disparity for a in alone]), rtol=0, atol=1e-3)
    torch.testing.assert_close(both.confidence, torch.cat([a.confidence for a in alone]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("padding", ["edge", "grey"])
def test_padding_does_not_move_the_image(padding):
    """The crop of a padded map is where the image was: a view and its padded self agree."""
    model = _network(replace(SMALL, padding=padding))
    left, right = _pair(1, 3, 50, 100)
    if padding == "grey":
        views = [F.pad(view - 0.5, (0, 28, 0, 14)) + 0.5 for view in (left, right)]  # mid-grey is 0 inside
    else:
        views = [F.pad(view, (0, 28, 0, 14), "replicate") for view in (left, right)]
    inner = (..., slice(50), slice(100))
    with torch.inference_mode():
        found, padded = model(left, right), model(*views)
    torch.testing.assert_close(found.disparity, padded.disparity[inner], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.confidence, padded.confidence[inner], rtol=0, atol=1e-3)


def test_only_the_authors_weights_see_a_grey_border():
    assert ETH3D.padding == "grey"
    assert {config.padding for config in (MULTI_SCALE, SF, L, XL)} == {"edge"}


# --- numerics


def test_the_torch_operators_give_what_the_kernels_give(monkeypatch):
    if native.library() is None:
        pytest.skip("no C kernels were built here, or they are switched off")
    model = _network()
    left, right = _pair(1, 3, 70, 150)
    with torch.inference_mode():
        fast = model(left, right)
        monkeypatch.setattr(native, "library", lambda: None)
        plain = model(left, right)
    torch.testing.assert_close(fast.disparity, plain.disparity, rtol=0, atol=1e-3)
    torch.testing.assert_close(fast.confidence, plain.confidence, rtol=0, atol=1e-3)


def test_left_tiles_are_the_strided_convolution():
    torch.manual_seed(0)
    tiles = TileInitialization(16, 16, 24)
    features = torch.randn(2, 16, 24, 40)
    strided = tiles._embed(F.conv2d(features, tiles.reduce.weight, tiles.reduce.bias, stride=4))
    torch.testing.assert_close(tiles.left_tiles(features), strided, rtol=1e-4, atol=1e-5)


def test_right_tiles_at_every_fourth_column_are_the_left_tiles_of_the_same_image():
    """The right tile of pixel u stands in column u + 1, which is what matching's 4 x + 1 - d counts on."""
    torch.manual_seed(0)
    tiles = TileInitialization(16, 16, 24)
    features = torch.randn(2, 16, 24, 40)
    right = tiles.right_tiles(features)
    assert right.shape[3] == 40
    torch.testing.assert_close(right[..., 1::4], tiles.left_tiles(features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left_tiles", "right_tiles"])
@pytest.mark.parametrize("channels", [16, 24, 32])
def test_bfloat16_tiles_agree_with_float32(side, channels):
    """oneDNN with AMX once computed the strided convolution wrongly in this layout, with a relative error near 1."""
    torch.manual_seed(0)
    tiles = TileInitialization(channels, 16, 24)
    features = torch.randn(1, channels, 64, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = getattr(tiles, side)(features)
        with torch.autocast("cpu", torch.bfloat16):
            found = getattr(tiles, side)(features.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.02


def test_bfloat16_stages_agree_with_float32():
    """Feature by feature on a fixed network; the winners of matching may differ, so hypotheses are compared in bulk."""
    model = _network(MULTI_SCALE)
    left, right = (2 * view - 1 for view in _pair(1, 3, 128, 192))
    with torch.inference_mode():
        both = torch.cat([left, right]).contiguous(memory_format=torch.channels_last)
        expected, plain = model.features(both), model.stages(left, right, 64)
        with torch.autocast("cpu", torch.bfloat16):
            found, rough = model.features(both), model.stages(left, right, 64)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.03
    for ours, theirs in zip(rough.matches, plain.matches, strict=True):
        for side in ("left", "right"):
            a, b = getattr(ours, side), getattr(theirs, side)
            assert a.dtype == torch.float32
            assert (a - b).norm() / b.norm() < 0.05
    for ours, theirs in zip(rough.initial, plain.initial, strict=True):
        assert ours.dtype == torch.float32
        assert ((ours[:, 0] - theirs[:, 0]).abs() <= 1).float().mean() > 0.8
    for ours in (*rough.refined, *(h for h, _ in rough.selected)):
        assert ours.dtype == torch.float32  # planes never lose bits


def test_compute_dtype_runs_the_network_in_bfloat16(monkeypatch):
    monkeypatch.setattr(bf16_conv, "kernel", lambda: None)  # those of CPUs with such arithmetic run no modules
    model = _network()
    left, right = _pair(1, 3, 64, 128)
    with torch.inference_mode():
        expected = model(left, right).disparity
        model.compute_dtype = torch.bfloat16
        seen = []
        handle = model.features.register_forward_hook(lambda module, given, out: seen.extend(e.dtype for e in out))
        found = model(left, right)
        handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert found.disparity.dtype == found.confidence.dtype == torch.float32
    assert not torch.equal(found.disparity, expected)
    assert (found.disparity - expected).abs().median() < 0.5


# --- parity with the authors' ETH3D network


@pytest.fixture(scope="module")
def official(shared_data):
    return import_hitnet(HITNet(ETH3D), shared_data("weights/hitnet/eth3d.pb")).eval()


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data("weights/hitnet/golden_slim_100x150.npz")) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def golden_stages(official, golden):
    views = [F.pad(2 * golden[side][None, None] - 1, (0, -150 % 64, 0, -100 % 64)) for side in ("left", "right")]
    with torch.inference_mode():
        return official.stages(*views)


def test_pb_and_npz_hold_the_same_weights(official, shared_data):
    other = import_hitnet(HITNet(ETH3D), shared_data("weights/hitnet/eth3d_weights_tfnames.npz"))
    for name, value in official.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def _assert_golden_disparity(official, golden):
    with torch.inference_mode():
        found = official(golden["left"][None, None], golden["right"][None, None])
    error = (found.disparity - golden["disp"].permute(0, 3, 1, 2)).abs()
    assert (error < 0.02).float().mean() >= 0.999
    assert error.mean() < 1e-3
    assert found.valid.all()


def test_disparity_equals_the_authors_graph(official, golden):
    _assert_golden_disparity(official, golden)


def test_disparity_equals_the_authors_graph_on_the_torch_operators(official, golden, torch_kernels):
    _assert_golden_disparity(official, golden)


@pytest.mark.parametrize("level", range(5))
def test_features_equal_the_authors_graph(official, golden, level):
    views = [F.pad(2 * golden[side][None, None] - 1, (0, -150 % 64, 0, -100 % 64)) for side in ("left", "right")]
    with torch.inference_mode():
        features = official.features(torch.cat(views))[4 - level]
    expected = golden[f"feat{level}" if level < 3 else f"feat{level}_crop"].permute(0, 3, 1, 2)
    torch.testing.assert_close(features[..., : expected.shape[2], : expected.shape[3]], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("level", range(5))
def test_initial_hypotheses_equal_the_authors_graph(golden_stages, golden, level):
    found, expected = golden_stages.initial[level], golden[f"init{level}"].permute(0, 3, 1, 2)
    same = found[:, :1] == expected[:, :1]
    assert (~same).float().mean() < 1e-3  # argmin over near-equal costs
    torch.testing.assert_close(found * same, expected * same, rtol=0, atol=1e-4)


@pytest.mark.parametrize("level", range(5))
def test_selected_hypotheses_equal_the_authors_graph(golden_stages, golden, level):
    found, expected = golden_stages.selected[level][0], golden[f"prop{level}"][:, :, :, 0].permute(0, 3, 1, 2)
    assert ((found - expected).abs().amax(1) < 0.02).float().mean() >= 0.999
    w = torch.cat([w for _, w in golden_stages.propagated[level]], 1)
    expected_w = golden[f"w{level}"][..., 0].permute(0, 3, 1, 2)
    assert ((w - expected_w).abs() < 0.02).float().mean() >= 0.999


@pytest.mark.parametrize("step", [0, 1])
def test_refined_planes_equal_the_authors_graph(golden_stages, golden, step):
    found, expected = golden_stages.refined[step][:, :3], golden[f"refine{step}"].permute(0, 3, 1, 2)
    assert ((found - expected).abs().amax(1) < 0.02).float().mean() >= 0.999


@pytest.mark.parametrize("change", [{"winner": "highest"}, {"split_steps": (1.0, 0.5)}])
def test_parity_would_notice_the_papers_variant(official, golden, change):
    """The graph differs from the paper here, and looks plausible either way; the golden file must tell them apart."""
    other = HITNet(replace(ETH3D, **change)).eval()
    other.load_state_dict(official.state_dict())
    with torch.inference_mode():
        found = other(golden["left"][None, None], golden["right"][None, None]).disparity
    error = (found - golden["disp"].permute(0, 3, 1, 2)).abs()
    assert (error < 0.02).float().mean() < 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cones_through_the_official_weights(official, shared_data, dtype):
    folder = shared_data("data/stereo/middlebury2003/cones")
    left, right = (
        torch.from_numpy(np.asarray(Image.open(folder / f"cones_{side}.png").convert("L"), np.float32) / 255)[
            None, None
        ]
        for side in ("left", "right")
    )
    truth = torch.from_numpy(np.asarray(Image.open(folder / "cones_disparity_left.png"), np.float32) / 4)[None, None]
    model = HITNet(ETH3D).eval()
    model.load_state_dict(official.state_dict())
    model.compute_dtype = dtype
    with torch.inference_mode():
        found = model(left, right)
    assert found.disparity.shape == (1, 1, 375, 450)
    known = truth > 0
    error = (found.disparity - truth).abs()
    assert error[known].mean() < 1.0
    sure = known & (found.confidence > found.confidence[known].median())
    assert error[sure].mean() < error[known & ~sure].mean()  # confidence says where it errs
