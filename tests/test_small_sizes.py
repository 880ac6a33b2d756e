"""Views of one pixel, of one row or column and below a tile: a sentence or a possible answer, in every model."""

import numpy as np
import pytest
import torch
from PIL import Image

import stereopsis
from stereopsis.types import Depth, StereoPair
from stereopsis.upsampling.upsample import upsample
from stereopsis.zoo.registry import get_entry, list_models, load

SIZES = [(1, 1), (1, 7), (7, 1), (1, 100), (15, 15), (17, 33)]
NAMES = [name for name in list_models() if get_entry(name).weights_file or not get_entry(name).needs_weights]
FAMILIES = {
    family: [name for name in NAMES if get_entry(name).family == family]
    for family in ("matching", "upsampling", "compression")
}


def views(height, width):
    wide = torch.rand(1, 3, height, width + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return wide[..., 1:], wide[..., :-1]


@pytest.fixture(scope="module")
def model(request):
    return load(request.param)


@pytest.mark.parametrize("max_disparity", [None, 1, 7, 10**9])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", FAMILIES["matching"], indirect=True)
def test_matching(model, size, max_disparity):
    try:
        found = stereopsis.match(*views(*size), model=model, max_disparity=max_disparity)
    except ValueError as error:
        assert "needs at least 16x16 pixels" in str(error)  # noqa: PT017
        assert min(size) < 16
        return
    assert found.disparity.shape == (1, 1, *size)
    assert (
        0
        <= float(found.disparity.min())
        <= float(found.disparity.max())
        <= min(size[1] - 1, (max_disparity or 192) + 16)
    )
    assert not found.disparity[~found.valid].any()
    if size[1] == 1:
        assert not found.disparity.any()


@pytest.mark.parametrize("max_disparity", [0, -1, 1.5, True])
def test_a_range_that_is_none(max_disparity):
    with pytest.raises(ValueError, match=r"max_disparity is .*; it must be a whole number of at least 1 pixel"):
        stereopsis.match(*views(17, 33), model="sgbm", max_disparity=max_disparity)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", FAMILIES["upsampling"], indirect=True)
def test_upsampling(model, size):
    image = views(*size)[0]
    depth = torch.full((1, 1, *(-(-side // 2) for side in size)), 2.0, dtype=torch.float32)
    try:
        found = upsample(model, image, Depth(depth, torch.ones_like(depth, dtype=torch.bool)))
    except ValueError as error:
        assert "must" in str(error)  # noqa: PT017
        return
    assert found.depth.shape == (1, 1, *size)
    assert torch.allclose(found.depth[found.valid], torch.tensor(2.0, dtype=torch.float32), atol=0.1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", FAMILIES["compression"], indirect=True)
def test_compression(model, size):
    found = model.decompress(model.compress(StereoPair(*views(*size)), quality=2))
    assert found.left.shape == found.right.shape == (1, 3, *size)
    assert 0 <= float(found.left.min()) <= float(found.left.max()) <= 1


BYTES = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
GREY = np.ascontiguousarray(BYTES[..., 0])
SAME = {
    "pillow": Image.fromarray(BYTES),
    "pillow with alpha": Image.fromarray(np.dstack([BYTES, GREY])),
    "strided": BYTES[::-1][::-1],
    "fortran": np.asfortranarray(BYTES),
    "read only": np.frombuffer(BYTES.tobytes(), np.uint8).reshape(BYTES.shape),
    "float64": BYTES / 255.0,
    "long double": (BYTES / 255.0).astype(np.longdouble),
    "big-endian float": (BYTES / 255.0).astype(">f4"),
    "16 bits": BYTES.astype(np.uint16) * 257,
    "big-endian 16 bits": (BYTES.astype(np.uint16) * 257).astype(">u2"),
    "tensor": torch.from_numpy(BYTES).permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", SAME)
def test_views_of_any_kind(kind):
    right = np.roll(BYTES, -1, 1)
    expected = stereopsis.match(BYTES, right, model="sgbm")
    found = stereopsis.match(SAME[kind], right, model="sgbm")
    assert torch.equal(found.disparity, expected.disparity)


@pytest.mark.parametrize(
    "image", [Image.fromarray(GREY), Image.fromarray(GREY).convert("P"), Image.fromarray(GREY > 99)]
)
def test_grey_images_of_pillow(image):
    assert stereopsis.match(image, image, model="sgbm").disparity.shape == (1, 1, 20, 40)


@pytest.mark.parametrize(
    "view",
    [*(BYTES.astype(kind) for kind in (np.int64, complex, object, "U3", bool)), BYTES[..., :2], BYTES[:0]],
)
def test_arrays_that_are_no_images(view):
    with pytest.raises(ValueError, match=r"^left (holds|is)"):
        stereopsis.match(view, BYTES, model="sgbm")
