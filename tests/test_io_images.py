import os

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from stereopsis.io import IMAGE_SUFFIXES, atomic_write, read_image, write_image

LOSSLESS = [suffix for suffix in IMAGE_SUFFIXES if suffix not in {".jpg", ".jpeg", ".webp", ".pgm"}]


def _bytes(image):
    return (image * 255).round().to(torch.uint8)


@pytest.mark.parametrize("suffix", LOSSLESS)
@settings(max_examples=10, deadline=None)
@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (3, *s))))
def test_colour_round_trip(tmp_path_factory, suffix, array):
    path = tmp_path_factory.mktemp("image") / f"a{suffix}"
    write_image(path, torch.from_numpy(array).float() / 255)
    read = read_image(path)
    assert read.dtype == torch.float32
    np.testing.assert_array_equal(_bytes(read).numpy(), array)


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_16_bit_round_trip(tmp_path_factory, channels, data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
    array = data.draw(hnp.arrays(np.uint16, (channels, *shape)))
    folder = tmp_path_factory.mktemp("image")
    for suffix in (".png", ".tif"):
        path = folder / f"a{suffix}"
        write_image(path, torch.from_numpy(array.astype(np.float32) / 65535), bits=16)
        read = read_image(path, channels=None)
        np.testing.assert_array_equal((read.double() * 65535).round().numpy(), array)


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".tiff", ".bmp"])
def test_grey_is_repeated_kept_or_made(tmp_path, suffix):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    path = tmp_path / f"grey{suffix}"
    write_image(path, grey)
    assert read_image(path).shape == (3, 3, 4)
    for channels in (1, None):
        np.testing.assert_array_equal(_bytes(read_image(path, channels))[0].numpy(), grey)
    colour = tmp_path / "colour.png"
    write_image(colour, torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1).expand(3, 2, 2))
    assert read_image(colour, 1)[0, 0, 0].item() == pytest.approx(0.299)
    assert read_image(colour, None).shape == (3, 2, 2)


def test_16_bit_ppm_and_pgm_keep_their_precision(tmp_path):
    array = np.array([[[258, 1000, 40000]]], dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(b"P6\n# a comment\n1 1\n65535\n" + array.astype(">u2").tobytes())
    np.testing.assert_allclose(read_image(tmp_path / "a.ppm")[:, 0, 0] * 65535, [258, 1000, 40000], rtol=1e-6)
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + array.astype(">u2").tobytes())
    np.testing.assert_allclose(read_image(tmp_path / "a.pgm", 1)[0, 0] * 65535, [258, 1000, 40000], rtol=1e-6)


def test_16_bit_alpha_is_dropped(tmp_path):
    array = np.full((2, 3, 4), 30000, np.uint16)
    array[..., 0] = 1000  # blue, as OpenCV orders it
    array[..., 3] = 5
    cv2.imwrite(str(tmp_path / "a.png"), array)
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[:, 0, 0] * 65535, [30000, 30000, 1000], rtol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    source = Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode)
    if mode in {"RGBA", "LA"}:
        source.putalpha(7)
    source.save(path)
    image = read_image(path)
    assert image.shape == (3, 3, 4)
    assert (image == 1).all()


def test_transparent_palette_keeps_its_colour(tmp_path):
    source = Image.new("P", (2, 2), 1)
    source.putpalette([0, 0, 0, 10, 200, 30])
    source.save(tmp_path / "a.png", transparency=1)
    assert _bytes(read_image(tmp_path / "a.png"))[:, 0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    source = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14)
    exif = Image.Exif()
    exif[0x0112] = orientation
    source.save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    np.testing.assert_array_equal(_bytes(read_image(tmp_path / "a.png")).permute(1, 2, 0).numpy(), expected)


def test_float_tiff_is_checked(tmp_path):
    def save(values):
        Image.fromarray(np.array(values, dtype=np.float32)).save(tmp_path / "a.tif")
        return tmp_path / "a.tif"

    assert read_image(save([[0.25, 1.0]]), 1).tolist() == [[[0.25, 1.0]]]
    with pytest.raises(ValueError, match="not finite"):
        read_image(save([[0.25, float("nan")]]))
    with pytest.raises(ValueError, match=r"from 0 to 255; they must lie in \[0, 1\]"):
        read_image(save([[0, 255]]))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("suffix", "bits"),
    [(".png", 8), (".png", 16), (".jpg", 8), (".ppm", 8), (".tif", 8), (".tif", 16), (".bmp", 8), (".webp", 8)],
)
def test_truncated_files_are_named(tmp_path, suffix, bits):
    path = tmp_path / f"broken{suffix}"
    write_image(path, torch.rand(3, 40, 50), bits=bits)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"broken.*cannot be read as an image.*again") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png does not exist"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is empty"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image \(not a picture\)"):
        read_image(tmp_path / "a.png")


def test_impossible_images_are_not_written(tmp_path):
    for image, words in (
        (torch.full((3, 2, 2), float("nan")), "12 values of the image are not finite"),
        (torch.zeros(2, 3, 4, 4), "shape"),
        (torch.zeros(4, 4, 4), "shape"),
        (np.zeros((2, 2), np.int32), "holds int32"),
    ):
        with pytest.raises(ValueError, match=words):
            write_image(tmp_path / "a.png", image)
    for name, words in (("a.gif", "suffix '.gif'"), ("a.pgm", "cannot hold colour")):
        with pytest.raises(ValueError, match=words):
            write_image(tmp_path / name, torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match="16 bits are not possible"):
        write_image(tmp_path / "a.jpg", torch.zeros(3, 2, 2), bits=16)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]  # noqa: PTH208


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist; create it"):
        write_image(tmp_path / "none" / "a.png", torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match="is a folder"), atomic_write(tmp_path):
        pass


def test_real_images(shared_data):
    image = read_image(shared_data("data/stereo/tsukuba/scene1.row3.col3.ppm"))
    assert image.shape == (3, 288, 384)
    grey = read_image(shared_data("data/pairs/libelas/cones_left.pgm"))
    assert grey.shape[0] == 3
    assert torch.equal(grey[0], grey[2])


def test_an_image_beyond_the_limit_is_refused_in_our_words(tmp_path, capsys):
    from stereopsis.cli import main

    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"large\.png has more than 178 megapixels; cut it into parts first"):
        read_image(tmp_path / "large.png")
    assert main(["doctor", str(tmp_path / "large.png"), str(tmp_path / "large.png")]) == 2
    printed = capsys.readouterr().err
    assert "megapixels" in printed
    assert "bomb" not in printed
