"""Batches: scenes and real pairs, the same at any time they are asked for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from stereopsis.data.augment import NO_EFFECTS
from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.sensors import SensorConfig
from stereopsis.data.textures import make_bank
from stereopsis.training.compression import ImageStream, PairViewStream, make_stream, seen_from_right
from stereopsis.training.recipes import CodecLossConfig, Phase, Recipe
from stereopsis.training.streams import PairStream, SceneStream, visible_by_truth
from stereopsis.training.upsampling import GuidedStream

SCENE = SceneConfig(height=64, width=64, max_disparity=20.0, surfaces=(1, 2))
TINY = Recipe(
    name="tiny",
    model="hitnet.scenes",
    phases=(Phase(5, 1, 24, SCENE), Phase(4, 2, 32, replace(SCENE, width=128, max_disparity=28.0))),
)
PAIRS = replace(TINY, phases=(Phase(20, 2, 24, replace(SCENE, height=32), NO_EFFECTS),))


@pytest.fixture(scope="module")
def bank():
    return make_bank(photo_crops=0, drawn=3)


def _same(a, b):
    for name, value in vars(a).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(b, name)), name


def test_two_steps_share_a_scene_and_its_mirror_image(bank):
    stream = SceneStream(TINY, bank)
    first, second, third = (stream(step) for step in range(3))
    assert first.left.shape == second.right.shape == (1, 3, 64, 64)
    assert not torch.equal(first.truth.disparity, second.truth.disparity)
    scenes = render(TINY.seed, 1, bank, SCENE)
    assert torch.equal(scenes.disparity, first.truth.disparity)
    assert torch.equal(scenes.disparity_right.flip(-1), second.truth.disparity)
    assert torch.equal(scenes.mirrored().slant, second.truth.slant)
    assert torch.equal(scenes.mirrored().visible, second.truth.visible)
    assert not torch.equal(third.truth.disparity, first.truth.disparity)
    assert not torch.equal(third.left, first.left)


@pytest.mark.parametrize("step", range(9))
def test_a_batch_depends_on_its_step_alone(bank, step):
    """Whether the steps before it were run or not, at a change of phase in the middle of a scene's pair too."""
    stream = SceneStream(TINY, bank)
    for earlier in range(step):
        stream(earlier)
    batch, fresh = stream(step), SceneStream(TINY, bank)(step)
    assert batch.left.shape[0] == TINY.phase_at(step).batch
    assert batch.left.shape[3] == TINY.phase_at(step).scene.width
    _same(batch, fresh)
    _same(batch.truth, fresh.truth)


def test_every_process_renders_scenes_of_its_own(bank):
    alone = {render(TINY.seed + 2 * k, 1, bank, SCENE).disparity.sum().item() for k in range(4)}
    streams = [SceneStream(TINY, bank) for _ in range(2)]
    shared = [stream(step, rank, 2).truth.disparity for step in (0, 2) for rank, stream in enumerate(streams)]
    assert {disparity.sum().item() for disparity in shared} == alone


def _pair(number, height=48, width=100, known=True):
    """A plane at 5 + number pixels; the right view is the left one moved."""
    generator = torch.Generator().manual_seed(number)
    wide = torch.rand(3, height, width + 20, generator=generator)
    d = 5 + number
    disparity = torch.full((1, height, width), float(d))
    return SimpleNamespace(
        left=wide[..., :width],
        right=wide[..., d : d + width],
        disparity=disparity if known else None,
        valid=torch.ones_like(disparity, dtype=torch.bool) if known else None,
        noc=None,
    )


def test_pairs_are_cropped_with_their_truth():
    stream = PairStream(PAIRS, [_pair(0), _pair(3)])
    for step in range(6):
        batch = stream(step)
        assert batch.left.shape == batch.right.shape == (2, 3, 32, 64)
        for left, right, d, visible in zip(
            batch.left, batch.right, batch.truth.disparity, batch.truth.visible, strict=True
        ):
            shift = int(d[0, 0, 0])
            torch.testing.assert_close(left[..., shift:], right[..., : 64 - shift])
            assert torch.equal(visible, torch.arange(64).expand(1, 32, 64) >= shift)
        assert batch.truth.slant.abs().max() < 1e-4
        assert batch.truth.slant_valid.float().mean() > 0.8


def test_pair_batches_come_again_and_every_pair_comes_each_time_through():
    pairs = [_pair(k) for k in range(4)]
    stream, again = PairStream(PAIRS, pairs), PairStream(PAIRS, pairs)
    seen = []
    for step in range(4):
        batch = stream(step)
        seen += batch.truth.disparity[:, 0, 0, 0].tolist()
        if step == 3:
            _same(batch, again(3))
    assert sorted(seen[:4]) == sorted(seen[4:]) == [5, 6, 7, 8]
    ranked = [stream(0, rank, 2).truth.disparity[:, 0, 0, 0].tolist() for rank in range(2)]
    assert sorted(ranked[0] + ranked[1]) == [5, 6, 7, 8]


def test_small_pairs_are_padded_and_the_padding_is_not_known():
    batch = PairStream(PAIRS, [_pair(1, 20, 50)])(0)
    assert batch.left.shape == (2, 3, 32, 64)
    assert batch.truth.valid.float().mean() == pytest.approx(20 * 50 / (32 * 64))


def test_pairs_without_truth_give_batches_without():
    assert PairStream(PAIRS, [_pair(0, known=False)])(0).truth is None


def test_no_pairs_is_said_in_one_sentence():
    with pytest.raises(ValueError, match="there are no pairs to train on"):
        PairStream(PAIRS, [])


def test_what_stands_behind_is_not_visible():
    disparity = torch.full((1, 1, 3, 40), 4.0)
    disparity[..., 20:30] = 12
    visible = visible_by_truth(disparity, torch.ones_like(disparity, dtype=torch.bool))[0, 0, 1]
    # the front covers right columns 8 to 17, which the background would fill from left columns 12 to 21
    assert visible.tolist() == [k >= 4 and not 12 <= k < 20 for k in range(40)]


# --- guided upsampling

GUIDED = replace(TINY, phases=(Phase(20, 3, 0, SCENE, NO_EFFECTS, SensorConfig((4, 4))),))


def test_guides_are_the_left_views_beside_their_maps(bank):
    """Up to the turn and the flip that a batch draws."""
    matched = set()
    for step in range(8):
        batch = GuidedStream(GUIDED, bank)(step)
        view = SceneStream(GUIDED, bank).scenes(step, 0, 1)
        assert batch.image.shape == (3, 3, 64, 64)
        assert batch.truth.shape == batch.depth.depth.shape == (3, 1, 64, 64)
        assert batch.depth.valid.all()
        turns = {
            "as it is": lambda t: t,
            "flipped": lambda t: t.flip(2),
            "turned": lambda t: t.transpose(2, 3),
            "both": lambda t: t.transpose(2, 3).flip(2),
        }
        # a camera without effects still has its saturation
        grey = batch.image.mean(1, keepdim=True)
        distance = {k: (grey - f(view.left).mean(1, keepdim=True)).abs().mean().item() for k, f in turns.items()}
        turn = min(distance, key=distance.__getitem__)
        assert distance[turn] < 0.01
        matched.add(turn)
        disparity = turns[turn](view.disparity)
        for truth, d in zip(batch.truth.flatten(1), disparity.flatten(1), strict=True):
            order = d.argsort()
            steps = truth[order].diff()
            assert (steps >= -1e-6).all() or (steps <= 1e-6).all()  # disparity or depth: it rises or falls with it
    assert len(matched) > 2


@pytest.mark.parametrize("step", range(4))
def test_a_guided_batch_depends_on_its_step_alone(bank, step):
    stream = GuidedStream(GUIDED, bank)
    for earlier in range(step):
        stream(earlier)
    batch, fresh = stream(step), GuidedStream(GUIDED, bank)(step)
    _same(batch, fresh)
    _same(batch.depth, fresh.depth)


def test_a_blind_sensor_has_a_grey_guide(bank):
    phase = replace(GUIDED.phases[0], sensor=SensorConfig((4, 4), blind=1.0))
    assert (GuidedStream(replace(GUIDED, phases=(phase,)), bank)(0).image == 0.5).all()


def test_matching_recipes_have_no_sensor(bank):
    with pytest.raises(ValueError, match="the recipe tiny states no sensor, which upsampling needs"):
        GuidedStream(TINY, bank)(0)


# --- codecs


def test_codecs_see_scenes_and_photos_at_every_quality(bank):
    recipe = replace(TINY, phases=(Phase(20, 2, 0, SCENE),), loss=CodecLossConfig())
    stream = ImageStream(recipe, bank)
    batches = [stream(step) for step in range(6)]
    for step, batch in enumerate(batches):
        assert batch.images.shape == (4, 3, 64, 64)
        assert 0 <= batch.images.min() < batch.images.max() <= 1
        _same(batch, ImageStream(recipe, bank)(step))
    quality = torch.cat([batch.quality for batch in batches])
    assert 1 <= quality.min() < 3
    assert 6 < quality.max() <= 8
    assert stream.photos
    stream.photos.images = []
    assert torch.equal(stream(0).images[:2], batches[0].images[:2])  # the scenes are the same without photos


def test_codecs_for_pairs_see_scenes_and_photos_over_their_disparities(bank):
    recipe = replace(TINY, phases=(Phase(20, 2, 0, SCENE, NO_EFFECTS),), loss=CodecLossConfig())
    stream = PairViewStream(recipe, bank)
    for step in range(4):
        batch = stream(step)
        assert batch.left.shape == batch.right.shape == (2, 3, 64, 64)
        _same(batch, PairViewStream(recipe, bank)(step))
        scenes = SceneStream(recipe, bank).scenes(step, 0, 1)
        straight = [view[:1] for view in (scenes.left, scenes.right)]
        turned = [view.flip(2) for view in straight]
        shown = torch.cat([batch.left[:1], batch.right[:1]], 3)
        assert min((torch.cat(views, 3) - shown).abs().mean() for views in (straight, turned)) < 0.02
        assert (batch.left[1:] - scenes.left[1:]).abs().mean() > 0.02
    for model, kind in (("hyperprior.photos", ImageStream), ("dsic.scenes", PairViewStream)):
        assert isinstance(make_stream(replace(recipe, model=model), bank), kind)


def test_the_second_hyperprior_codec_sees_three_photos_a_scene_and_gray_images(bank):
    recipe = replace(TINY, model="hyperprior2.photos", phases=(Phase(8, 2, 0, SCENE),), loss=CodecLossConfig())
    stream = make_stream(recipe, bank)
    batches = [stream(step).images for step in range(8)]
    assert all(batch.shape == (8 if stream.photos else 4, 3, 64, 64) for batch in batches)
    images = torch.cat(batches)
    without = (images - images.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    assert 0 < without.sum() < len(images) / 2


def test_the_right_view_of_a_photo_is_what_lies_at_the_disparity():
    left = torch.rand(1, 3, 8, 20, generator=torch.Generator().manual_seed(0))
    disparity = torch.full((1, 1, 8, 20), 4.0)
    visible = torch.ones(1, 1, 8, 20, dtype=torch.bool)
    visible[..., 3, 5] = False
    behind = torch.full_like(left, 0.25)
    right = seen_from_right(left, behind, disparity, visible)
    assert (right[..., 3, 5] == 0.25).all()
    assert (right[..., 16:] == 0.25).all()  # the left view does not see it
    right[..., 3, 5] = left[..., 3, 9]
    assert torch.allclose(right[..., :16], left[..., 4:], atol=1e-5)
