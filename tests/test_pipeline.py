"""The one-call interface: files, arrays and tensors to disparity."""

import numpy as np
import pytest
import torch

import stereopsis
from stereopsis.io import write_image
from stereopsis.pipeline.match import as_images
from stereopsis.pipeline.reduced import ReducedMatcher


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Noise (60, 120, 3), uint8, shifted by 11 px."""
    scene = np.random.default_rng(0).integers(0, 256, (60, 131, 3), dtype=np.uint8)
    return scene[:, :120], scene[:, 11:]


def test_files_arrays_and_tensors_agree(pair, tmp_path):
    expected = stereopsis.match(*pair, model="sgbm", max_disparity=16)
    assert expected.disparity.shape == (1, 1, 60, 120)
    assert expected.disparity[expected.valid].median() == pytest.approx(11, abs=0.1)
    for name, view in zip(("left", "right"), pair, strict=True):
        write_image(tmp_path / f"{name}.png", view)
    tensors = [torch.from_numpy(view.copy()).permute(2, 0, 1).float() / 255 for view in pair]
    model = stereopsis.load("sgbm")
    for views in (
        (tmp_path / "left.png", str(tmp_path / "right.png")),
        tensors,
        [view[None] for view in tensors],
        [(view / 255).astype(np.float64) for view in pair],
        [view.astype(np.uint16) * 257 for view in pair],
    ):
        assert stereopsis.match(*views, model=model, max_disparity=16).disparity.equal(expected.disparity)


def test_grey_views(pair):
    grey = [view[..., 0] for view in pair]
    assert as_images(grey[0]).shape == as_images(grey[0][..., None]).shape == (1, 1, 60, 120)
    assert stereopsis.match(*grey, model="bm", max_disparity=16).valid.any()


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"image is \(4, 4, 4\); give an array"),
        (np.zeros((0, 4), np.uint8), r"image is \(0, 4\); give an array"),
        (torch.zeros(4), r"image is \(4,\); give an array"),
        (np.zeros((4, 4), np.int64), "image holds torch.int64; give uint8"),
        (np.full((4, 4), np.nan), "image holds NaN"),
        (np.full((4, 4), 255.0), r"image holds values from 255 to 255; scale it to \[0, 1\]"),
    ],
)
def test_what_is_no_image(view, message):
    with pytest.raises(ValueError, match=message):
        as_images(view)


def test_views_of_different_size(pair):
    with pytest.raises(ValueError, match="left is 120x60 and right is 119x60; the two views"):
        stereopsis.match(pair[0], pair[1][:, 1:], model="sgbm")


def test_a_bad_limit(pair):
    with pytest.raises(ValueError, match="max_disparity is 0"):
        stereopsis.match(*pair, model="sgbm", max_disparity=0)


def test_a_missing_file(pair):
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        stereopsis.match("absent.png", pair[1], model="sgbm")


class _TwoSurfaces(torch.nn.Module):
    """A matcher that knows the scene: 4 px everywhere, and 8 px in the columns 20 to 29 of the right view alone."""

    def forward(self, left, right, max_disparity=16):
        disparity = torch.full((1, 1, *left.shape[-2:]), 4.0)
        if left.mean() > right.mean():  # the brighter view is the right one, so this is its turn, in the mirror
            disparity[..., -30:-20] = 8.0
        return stereopsis.Disparity(disparity, torch.ones_like(disparity, dtype=torch.bool), torch.ones_like(disparity))


def test_the_check_leaves_out_what_the_right_view_contradicts():
    left, right = np.full((4, 60), 0.2, np.float32), np.full((4, 60), 0.8, np.float32)
    plain = stereopsis.match(left, right, model=_TwoSurfaces())
    assert plain.valid.all()
    checked = stereopsis.match(left, right, model=_TwoSurfaces(), check=1.0)
    columns = torch.nonzero(~checked.valid[0, 0, 0]).flatten().tolist()
    # the first four leave the right view, and 24 to 33 meet the right view's columns 20 to 29
    assert columns == [0, 1, 2, 3, *range(24, 34)]
    assert (checked.disparity[~checked.valid] == 0).all()
    assert (checked.disparity[checked.valid] == 4).all()


def test_the_check_fills_what_lies_behind_and_keeps_what_is_only_contradicted():
    left, right = np.full((4, 60), 0.2, np.float32), np.full((4, 60), 0.8, np.float32)

    class Nearer(_TwoSurfaces):
        """The left map has 6 px in the columns 10 to 35, which the right view takes for 4 or 8."""

        def forward(self, left, right, max_disparity=16):
            found = super().forward(left, right)
            if left.mean() < right.mean():
                found.disparity[..., 10:36] = 6.0
            return found

    filled = stereopsis.match(left, right, model=Nearer(), check=1.0, fill=True)
    assert filled.valid.all()
    row = filled.disparity[0, 0, 0]
    # columns 26 to 35 lie behind the right view's 8 px and take the lower neighbour; 10 to 25 are contradicted alone
    assert row.tolist() == [4.0] * 10 + [6.0] * 16 + [4.0] * 34
    holes = stereopsis.match(left, right, model=Nearer(), check=1.0)
    assert not holes.valid[..., 10:36].any()
    plain = stereopsis.match(left, right, model=Nearer(), fill=True)
    assert torch.equal(plain.disparity, stereopsis.match(left, right, model=Nearer()).disparity)


@pytest.mark.parametrize("size", [(60, 120), (59, 117)])
def test_a_reduced_matcher_answers_at_full_size_in_full_pixels(size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 24, 56, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(size[0], size[1] + 12), mode="bicubic").clamp(0, 1)
    left, right = wide[..., : size[1]], wide[..., 12:]
    matcher, upsampler = (stereopsis.load(name) for name in ("sgbm", "bicubic"))
    found = ReducedMatcher(matcher, upsampler, 2)(left, right, max_disparity=32)
    assert found.disparity.shape == found.valid.shape == found.confidence.shape == (1, 1, *size)
    assert found.disparity[found.valid].median() == pytest.approx(12, abs=0.3)
    assert (found.disparity[~found.valid] == 0).all()
    assert (found.confidence[~found.valid] == 0).all()


def test_a_scale_that_does_not_reduce_is_refused():
    with pytest.raises(ValueError, match="scale is 1; it must be above 1"):
        ReducedMatcher(stereopsis.load("sgbm"), stereopsis.load("nearest"), 1)
