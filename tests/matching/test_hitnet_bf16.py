"""HITNet as a program of kernels in bfloat16, against its modules in float32."""

import copy
import gc
import threading
from dataclasses import replace

import pytest
import torch

import stereopsis
from stereopsis.data.patterns import pattern_pair
from stereopsis.matching import hitnet_bf16
from stereopsis.matching.hitnet import ETH3D, SF, HITNet, HITNetConfig
from stereopsis.ops import bf16_conv
from stereopsis.ops.portable import standard_operators

pytestmark = pytest.mark.skipif(
    bf16_conv.kernel() is None, reason="no arithmetic of bfloat16: not built, switched off, or not in this CPU"
)
SMALL = HITNetConfig(max_disparity=64, feature_channels=(8, 8, 12, 12, 16), refine_channels=(16, 16, 8))
VARIANTS = {
    "multi-scale": SMALL,
    "the authors'": replace(SMALL, in_channels=1, winner="lowest", split_steps=(0.5, 0.5), padding="grey"),
    "single-scale": replace(SF, max_disparity=48, feature_channels=(8, 8, 12, 12, 16), refine_channels=(16, 16, 8)),
    "six scales": replace(SMALL, feature_channels=(8, 8, 12, 12, 16, 24)),
}


def _network(config=SMALL):
    torch.manual_seed(0)
    return HITNet(config).eval()


def _three_ways(model, left, right, max_disparity, monkeypatch):
    """In float32, in bfloat16 by the kernels, and in bfloat16 by the modules under autocast."""
    with torch.inference_mode():
        exact = model(left, right, max_disparity=max_disparity)
        model.compute_dtype = torch.bfloat16
        ours = model(left, right, max_disparity=max_disparity)
        monkeypatch.setattr(bf16_conv, "kernel", lambda: None)
        theirs = model(left, right, max_disparity=max_disparity)
    assert not torch.equal(ours.disparity, theirs.disparity)
    assert ours.valid.equal(exact.valid)
    assert ours.disparity.shape == exact.disparity.shape
    return exact, ours, theirs


@pytest.mark.parametrize("name", VARIANTS)
def test_no_further_from_float32_than_autocast(name, monkeypatch):
    """Random weights leave many tiles with several matches that are as good, and rounding decides between them."""
    left, right = (torch.cat([view, view.flip(-2)]) for view in pattern_pair(70, 150))
    exact, ours, theirs = _three_ways(_network(VARIANTS[name]), left, right, 40, monkeypatch)
    for field in ("disparity", "confidence"):
        a, b = ((getattr(found, field) - getattr(exact, field)).abs() for found in (ours, theirs))
        assert a.median() < 1.5 * b.median() + 1e-3
        assert a.mean() < 1.5 * b.mean() + 1e-2


@pytest.mark.parametrize("size", [(120, 200), (65, 193)])
def test_trained_weights_lose_little(size, monkeypatch):
    model = stereopsis.load("hitnet.scenes", dtype=torch.float32)
    exact, ours, theirs = _three_ways(model, *pattern_pair(*size), 64, monkeypatch)
    error = (ours.disparity - exact.disparity).abs()
    assert error.median() < 0.05
    assert error.mean() < 2 * (theirs.disparity - exact.disparity).abs().mean() + 0.02
    assert (ours.confidence - exact.confidence).abs().mean() < 0.01


def test_a_single_pixel_and_no_rows_of_another_image():
    model = stereopsis.load("hitnet.scenes")
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1)).disparity.isfinite().all()
        views = pattern_pair(64, 96)
        alone = model(*views).disparity
        batch = model(*(torch.cat([view, torch.rand(1, 3, 64, 96)]) for view in views)).disparity
    assert torch.equal(batch[:1], alone)


def test_features_and_first_hypotheses_equal_the_modules():
    model = stereopsis.load("hitnet.scenes", dtype=torch.float32)
    left, right = pattern_pair(128, 192)
    with torch.inference_mode():
        stages = model.stages(2 * left - 1, 2 * right - 1, 64)
        features = model.features(2 * torch.cat([left, right]) - 1)
        parts = hitnet_bf16._Parts(model, 1)
        images = parts.program.map(2, 128, 192, 4)
        images.view[:, :3] = 2 * torch.cat([left, right]) - 1
        maps = parts._features(images)
        hypotheses = parts._initialized(0, maps[0].images(0, 1), maps[0].images(1, 1), maps[2], 64)
        parts.program()
    for ours, theirs in zip(maps, features, strict=True):
        assert (ours.view - theirs).norm() / theirs.norm() < 0.01
    found, expected = hypotheses.view, stages.initial[-1]
    assert (found[:, 0] == expected[:, 0]).float().mean() > 0.98
    assert (found[:, 3:] - expected[:, 3:]).norm() / expected[:, 3:].norm() < 0.05


def test_is_what_load_chooses_here():
    model = stereopsis.load("hitnet.scenes")
    assert model.compute_dtype == torch.bfloat16
    assert model.fastest_dtype("meta") == torch.float32
    assert stereopsis.load("hitnet.scenes", dtype=torch.float32).compute_dtype == torch.float32


def test_changed_weights_and_other_sizes_are_noticed():
    model = _network()
    model.compute_dtype = torch.bfloat16
    views, small = pattern_pair(64, 128), pattern_pair(64, 64)
    with torch.inference_mode():
        first = model(*views)
        assert model(*small).disparity.shape == (1, 1, 64, 64)
        assert torch.equal(model(*views).disparity, first.disparity)
        assert not torch.equal(model(*views, max_disparity=8).disparity, first.disparity)
    with torch.no_grad():
        model.refine[2].update.bias[0] += 1
        changed = model(*views)
    assert (changed.disparity - first.disparity).median() == pytest.approx(1, abs=0.1)


def test_results_are_the_callers_own_and_threads_take_turns():
    model = _network()
    model.compute_dtype = torch.bfloat16
    pairs = [[view.roll(step, -1) for view in pattern_pair(64, 128)] for step in range(4)]
    with torch.inference_mode():
        expected = [model(*pair).disparity for pair in pairs]
    assert not torch.equal(expected[0], expected[1])
    found = [[] for _ in pairs]

    def work(pair, out):
        with torch.inference_mode():
            out.extend(model(*pair).disparity for _ in range(5))

    threads = [threading.Thread(target=work, args=given) for given in zip(pairs, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for theirs, ours in zip(found, expected, strict=True):
        assert all(torch.equal(one, ours) for one in theirs)
        assert len(theirs) == 5


def test_gradients_and_traces_go_through_the_modules():
    model = _network()
    model.compute_dtype = torch.bfloat16
    left, right = pattern_pair(64, 64)
    assert not hitnet_bf16.usable(model, left, right)  # weights want gradients
    model(left, right).disparity.sum().backward()
    assert model.features.stem[0].weight.grad.abs().sum() > 0
    with torch.inference_mode():
        assert hitnet_bf16.usable(model, left, right)
        assert not hitnet_bf16.usable(model, left.double(), right)
        with standard_operators():
            assert not hitnet_bf16.usable(model, left, right)
            exact = model(left, right).disparity
        model.compute_dtype = torch.float32
        torch.testing.assert_close(exact, model(left, right).disparity, rtol=0, atol=1e-3)


def test_a_copy_is_a_network_of_its_own_and_memory_is_freed():
    model = _network()
    model.compute_dtype = torch.bfloat16
    views = pattern_pair(64, 64)
    with torch.inference_mode():
        expected = model(*views).disparity
        twin = copy.deepcopy(model)
        assert torch.equal(twin(*views).disparity, expected)
    before = len(hitnet_bf16._programs)
    del twin
    gc.collect()
    assert len(hitnet_bf16._programs) == before - 1


def test_grey_views_and_views_of_other_strides():
    model, grey = _network(), _network(replace(ETH3D, max_disparity=32))
    model.compute_dtype = grey.compute_dtype = torch.bfloat16
    left, right = pattern_pair(64, 96)
    with torch.inference_mode():
        expected = model(left, right).disparity
        strided = (view.contiguous(memory_format=torch.channels_last) for view in (left, right))
        assert torch.equal(model(*strided).disparity, expected)
        assert model(left[:, :1], right[:, :1]).disparity.shape == expected.shape
        assert grey(left, right).disparity.shape == expected.shape
