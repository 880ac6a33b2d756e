"""Tiles: what they see, how they fade into each other, and that they say what the whole view says."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stereopsis
from stereopsis.cli import main
from stereopsis.data.patterns import pattern, pattern_pair
from stereopsis.io import read_disparity, write_image
from stereopsis.matching import tiling
from stereopsis.matching.tiling import BLEND, CONTEXT, GRID, TiledMatcher, cheapest, search_range, spans
from stereopsis.pipeline.reduced import ReducedMatcher
from stereopsis.types import Disparity


class _Local(nn.Module):
    """Knows the truth of a pixel from what is less than 48 px around it, and the match from 60 px to the left."""

    max_disparity = 60

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, left, right, max_disparity=60):
        self.sizes.append(tuple(left.shape[-2:]))
        disparity = left.mean(1, keepdim=True)
        for kernel in ((97, 1), (1, 97)):
            padding = kernel[0] // 2, kernel[1] // 2
            disparity = F.avg_pool2d(disparity, kernel, 1, padding, count_include_pad=False)
        valid = torch.ones_like(disparity, dtype=torch.bool)
        edge = right[:, :1, :, :1] != 0  # a window that does not begin where the view does
        valid[..., :max_disparity] = ~edge
        return Disparity(torch.where(valid, 100 * disparity, 0.0), valid, valid * 0.5)


def _views(height, width, channels=3, batch=1):
    left = torch.cat([pattern(height, width, seed, channels) for seed in range(batch)])
    right = left + 0.1
    right[..., 0] = 0  # so that _Local knows where the view begins
    return left, right


@pytest.mark.parametrize("length", [64, 65, 500, 1282, 4001])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_spans(length, parts):
    found = spans(length, parts, 30)
    assert found[0].kept[0] == 0
    assert found[-1].kept[1] == length
    for span in found:
        assert 0 <= span.seen[0] <= span.kept[0] < span.kept[1] <= span.seen[1] <= length
        assert all(edge == length or edge % GRID == 0 for edge in span.seen)
    assert len({-(-(span.seen[1] - span.seen[0]) // GRID) for span in found}) == 1
    for one, other in pairwise(found):
        assert 0 < one.kept[1] - other.kept[0] <= 2 * BLEND
        assert one.seen[1] == length or one.seen[1] >= one.kept[1] + CONTEXT - BLEND
        assert other.seen[0] == 0 or other.seen[0] <= other.kept[0] - (CONTEXT - BLEND) - 30


@pytest.mark.parametrize("size", [(3000, 4000), (12000, 1000), (900, 14000), (20000, 20000)])
@pytest.mark.parametrize("reach", [64, 256, 1500])
def test_the_cheapest_tiles_are_bounded(size, reach):
    rows, columns = cheapest(*size, reach, 4_000_000)
    high = max(span.seen[1] - span.seen[0] for span in spans(size[0], rows))
    wide = max(span.seen[1] - span.seen[0] for span in spans(size[1], columns, reach))
    assert high * wide <= 4_000_000
    assert rows * columns > 1


def test_full_width_strips_where_they_cost_least():
    assert cheapest(3000, 4000, 600, 4_000_000)[1] == 1
    assert cheapest(900, 14000, 64, 4_000_000)[0] == 1


@pytest.mark.parametrize(
    ("height", "width", "tile"), [(600, 700, 256), (333, 1001, 300), (450, 64, 64), (64, 900, 128), (130, 130, 129)]
)
def test_any_size_equals_the_whole(height, width, tile):
    left, right = _views(height, width)
    matcher = _Local()
    whole = matcher(left, right)
    found = TiledMatcher(matcher, tile)(left, right)
    assert len(matcher.sizes) > 2
    assert torch.allclose(found.disparity, whole.disparity, atol=1e-3)
    assert found.valid.all()
    assert torch.equal(found.confidence, whole.confidence)


def test_margins_follow_the_range():
    left, right = _views(100, 1200)
    matcher = _Local()
    assert TiledMatcher(matcher, 300)(left, right, max_disparity=250).valid.all()
    near, far = _Local(), _Local()
    TiledMatcher(near, 300)(left, right, max_disparity=20)
    TiledMatcher(far, 300)(left, right, max_disparity=250)
    assert abs(far.sizes[-1][1] - near.sizes[-1][1] - 230) <= GRID


def test_batches_and_grey_views():
    left, right = _views(200, 500, channels=1, batch=2)
    matcher = _Local()
    found = TiledMatcher(matcher, 128)(left, right)
    assert torch.allclose(found.disparity, matcher(left, right).disparity, atol=1e-3)


def test_small_views_are_untouched():
    class Same(nn.Module):
        def forward(self, *views, **options):
            self.got = views, options
            return "the matcher's own answer"

    matcher, (left, right) = Same(), _views(90, 120)
    for tile in (None, 0, 120, 4000):
        assert TiledMatcher(matcher, tile)(left, right, max_disparity=7) == "the matcher's own answer"
        assert matcher.got[0][0] is left
        assert matcher.got[0][1] is right
        assert matcher.got[1] == {"max_disparity": 7}


def test_large_views_are_cut_by_themselves(monkeypatch):
    monkeypatch.setattr(tiling, "LARGEST", 300_000)
    left, right = _views(1500, 300)
    matcher = _Local()
    found = stereopsis.match(left, right.clamp(0, 1), model=matcher)
    assert found.valid.all()
    assert len(matcher.sizes) > 1
    assert max(high * wide for high, wide in matcher.sizes) <= 300_000
    matcher = _Local()
    stereopsis.match(left, right.clamp(0, 1), model=matcher, tile=0)
    assert matcher.sizes == [(1500, 300)]
    stereopsis.match(left, right.clamp(0, 1), model=TiledMatcher(matcher, 0))
    assert matcher.sizes == 2 * [(1500, 300)]


def test_matchers_that_take_little_memory_see_more_at_once():
    assert stereopsis.load("sgbm").largest_view == stereopsis.load("anynet.scenes").largest_view == 16_000_000
    assert not hasattr(stereopsis.load("sgbm-hh"), "largest_view")
    matcher = _Local()
    matcher.largest_view = 300_000
    TiledMatcher(matcher)(*_views(1500, 300))
    assert len(matcher.sizes) == 2


def test_a_graph_of_one_size_is_not_cut(monkeypatch):
    monkeypatch.setattr(tiling, "LARGEST", 1000)
    matcher = _Local()
    matcher.size = (120, 90)
    TiledMatcher(matcher)(*_views(90, 120))
    assert matcher.sizes == [(90, 120)]


def _map(disparity, confidence, valid=True):
    shape = 1, 1, 2, 4
    return Disparity(
        torch.full(shape, float(disparity)), torch.full(shape, valid), torch.full(shape, float(confidence))
    )


def test_where_tiles_agree_they_are_averaged():
    found = tiling._faded(_map(10, 0.2), _map(10.8, 0.6), -1)
    assert torch.allclose(found.disparity[0, 0, 0], torch.tensor([10.1, 10.3, 10.5, 10.7]))
    assert torch.allclose(found.confidence[0, 0, 0], torch.tensor([0.25, 0.35, 0.45, 0.55]))
    assert found.valid.all()


def test_where_tiles_do_not_agree_the_surer_one_is_right():
    found = tiling._faded(_map(10, 0.3), _map(20, 0.6), -1)
    assert found.disparity[0, 0, 0].tolist() == [10, 20, 20, 20]
    assert torch.allclose(found.confidence[0, 0, 0], torch.tensor([0.3, 0.6, 0.6, 0.6]))
    assert tiling._faded(_map(10, 0.5), _map(20, 0.5), -2).disparity[0, 0, :, 0].tolist() == [10, 20]


def test_where_one_tile_knows_nothing_the_other_speaks():
    for confidence in (0.0, 0.9):
        found = tiling._faded(_map(0, 0, valid=False), _map(20, confidence), -1)
        assert found.valid.all()
        assert (found.disparity == 20).all()
        found = tiling._faded(_map(20, confidence), _map(0, 0, valid=False), -1)
        assert found.valid.all()
        assert (found.disparity == 20).all()
    assert not tiling._faded(_map(0, 0, valid=False), _map(0, 0, valid=False), -1).valid.any()


def _step(values, edges, dim):
    """Mean absolute step over lines of a map, beside that over all others."""
    steps = values.diff(dim=dim).abs().transpose(dim, -1)
    on = torch.zeros(steps.shape[-1], dtype=torch.bool)
    on[[edge - 1 for edge in edges]] = True
    return steps[..., on].mean().item(), steps[..., ~on].mean().item()


@pytest.mark.parametrize(("name", "limit"), [("hitnet.scenes", 0.1), ("anynet.scenes", 0.1), ("sgbm", 0.1)])
def test_networks_in_tiles(name, limit):
    left, right = pattern_pair(576, 640)
    model = stereopsis.load(name)
    options = {"model": model, "max_disparity": 32}
    whole, found = (stereopsis.match(left, right, tile=tile, **options) for tile in (0, 288))
    both = whole.valid & found.valid
    assert (whole.valid == found.valid).float().mean() > 0.99
    difference = (whole.disparity - found.disparity)[both].abs()
    assert difference.mean() < limit
    assert (difference < 0.5).float().mean() > 0.98
    assert (whole.confidence - found.confidence).abs().mean() < 0.02
    for dim, edges in ((-2, [288]), (-1, [213, 426])):
        at, elsewhere = _step(found.disparity, edges, dim)
        before, _ = _step(whole.disparity, edges, dim)
        assert at < before + 0.02
        assert at < 2 * elsewhere + 0.02 or at < 1.2 * before


def test_a_previous_map_is_cut_too():
    left, right = pattern_pair(320, 400)
    model = stereopsis.load("anynet.scenes")
    past = stereopsis.match(left, right, model=model)
    options = {"model": model, "previous": past}
    whole, found = (stereopsis.match(left, right, tile=tile, **options).disparity for tile in (0, 200))
    assert (whole - found).abs().mean() < 0.1


def test_search_range():
    assert search_range(stereopsis.load("sgbm")) == 192
    assert search_range(stereopsis.load("anynet.scenes")) == 192
    assert search_range(ReducedMatcher(stereopsis.load("sgbm"), stereopsis.load("bicubic"), 3)) == 576
    assert search_range(nn.Identity()) is None


def test_what_is_no_tile():
    for tile in (-1, 10):
        with pytest.raises(ValueError, match=f"tile is {tile} px; it must be 0, .* or at least 64"):
            TiledMatcher(nn.Identity(), tile)
    with pytest.raises(ValueError, match="tile is 64 px, but a budget is for views in one piece"):
        stereopsis.match(*pattern_pair(64, 64), model="anynet.scenes", tile=64, budget=1.0)


def test_the_command(tmp_path, capsys):
    for name, view in zip(("left", "right"), pattern_pair(200, 300), strict=True):
        write_image(tmp_path / f"{name}.png", view)
    views = [str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    common = ["match", *views, "--model", "sgbm", "--max-disparity", "32", "--out"]
    for tile in ("0", "100"):
        assert main([*common, str(tmp_path / f"{tile}.pfm"), "--tile", tile]) == 0
    whole, tiled = (read_disparity(tmp_path / f"{tile}.pfm")[0].numpy() for tile in ("0", "100"))
    assert np.median(np.abs(whole - tiled)) == 0
    assert (np.abs(whole - tiled) < 1).mean() > 0.95
    capsys.readouterr()
    assert main([*common, str(tmp_path / "no.pfm"), "--tile", "5"]) == 2
    assert "--tile is 5; it must be 0" in capsys.readouterr().err
    assert not (tmp_path / "no.pfm").exists()
