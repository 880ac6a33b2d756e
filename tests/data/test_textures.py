"""Texture bank: packing, mip levels and look-up."""

import math

import pytest
import torch
from torch.nn import functional as F

from stereopsis.data.textures import LEVELS, SIZE, TextureBank, _pack, installed_photos, make_bank, sample_bank


def _full(value, like):
    return torch.full_like(like, value, dtype=torch.long)


@pytest.fixture(scope="module")
def image():
    return (torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


@pytest.fixture(scope="module")
def bank(image):
    return TextureBank(torch.stack([_pack(torch.zeros_like(image)), _pack(image)]), ())


def _grid(side, spacing=1):
    v, u = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((u + 0.5) * spacing)[None], ((v + 0.5) * spacing)[None]


@pytest.mark.parametrize("level", range(LEVELS))
def test_texel_centres_give_the_texels_of_every_level(bank, image, level):
    expected = image
    for _ in range(level):
        expected = F.avg_pool2d(expected, 2)
    u, v = _grid(SIZE >> level, 2**level)
    found = sample_bank(bank, _full(1, u), u, v, _full(level, u))
    torch.testing.assert_close(found[0], expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_between_texels_it_is_bilinear(bank, image):
    u, v = torch.tensor([[[10.25 + 0.5]]]), torch.tensor([[[20.75 + 0.5]]])
    found = sample_bank(bank, _full(1, u), u, v, _full(0, u))[0, :, 0, 0]
    top = 0.75 * image[:, 20, 10] + 0.25 * image[:, 20, 11]
    bottom = 0.75 * image[:, 21, 10] + 0.25 * image[:, 21, 11]
    torch.testing.assert_close(found, 0.25 * top + 0.75 * bottom, rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", [0, 3])
def test_textures_repeat_beyond_their_sides(bank, level):
    u, v = torch.rand(1, 8, 8) * SIZE, torch.rand(1, 8, 8) * SIZE
    inside = sample_bank(bank, _full(1, u), u, v, _full(level, u))
    for du, dv in ((SIZE, 0), (0, -SIZE), (-3 * SIZE, 2 * SIZE)):
        repeated = sample_bank(bank, _full(1, u), u + du, v + dv, _full(level, u))
        torch.testing.assert_close(repeated, inside, rtol=0, atol=2e-3)


def test_levels_beyond_the_last_are_the_last_and_indices_choose_the_texture(bank):
    u, v = torch.rand(1, 8, 8) * SIZE, torch.rand(1, 8, 8) * SIZE
    last = sample_bank(bank, _full(1, u), u, v, _full(LEVELS - 1, u))
    assert torch.equal(sample_bank(bank, _full(1, u), u, v, _full(LEVELS + 3, u)), last)
    assert sample_bank(bank, _full(0, u), u, v, _full(0, u)).eq(0).all()


def test_the_bank_depends_on_its_seed_alone(drawn_bank):
    assert len(drawn_bank) == 10
    assert drawn_bank.sources == ()
    again = make_bank(photo_crops=0, drawn=2)
    assert torch.equal(again.texels, drawn_bank.texels[:2])
    other = make_bank(seed=1, photo_crops=0, drawn=2)
    assert not torch.equal(other.texels, again.texels)
    assert drawn_bank.texels.shape[1] == sum((SIZE >> level) ** 2 for level in range(LEVELS))


def test_drawn_textures_are_varied_and_in_range(drawn_bank):
    texels = drawn_bank.texels[:, : SIZE * SIZE]
    colours = torch.stack([texels & 255, (texels >> 8) & 255, (texels >> 16) & 255], 1).float() / 255
    assert (texels >> 24).eq(0).all()
    assert colours.std(dim=2).amax(1).min() > 0.01  # none is a blank
    assert not torch.equal(colours[0], colours[1])


def test_photos_are_free_ones_and_never_the_benchmarks_pair():
    pytest.importorskip("skimage", reason="the photos come with scikit-image")
    names = [path.name for path in installed_photos()]
    assert names
    assert not [name for name in names if "motorcycle" in name]
    bank = make_bank(photo_crops=1, drawn=0)
    assert bank.sources == tuple(names)
    assert len(bank) == len(names)
    assert math.isfinite(bank.texels.float().mean())
    assert bank.texels.float().std(dim=1).min() > 0
