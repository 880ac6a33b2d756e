import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from stereopsis.io import read_depth, read_disparity, read_pfm, write_depth, write_disparity, write_pfm
from stereopsis.types import Depth, Disparity

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)


@st.composite
def maps(draw, low, high):
    """A map and its mask; 32-bit floats from ``low`` to ``high``."""
    shape = draw(shapes)
    limits = {"min_value": float(np.float32(low)), "max_value": float(np.float32(high)), "width": 32}
    return draw(hnp.arrays(np.float32, shape, elements=st.floats(**limits))), draw(hnp.arrays(bool, shape))


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(np.float32, shapes, elements=st.floats(width=32)),
    order=st.sampled_from("<>"),
    blank=st.sampled_from(["", " ", "\t ", " # a comment"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_pfm_round_trip_and_headers(tmp_path_factory, array, order, blank, end):
    folder = tmp_path_factory.mktemp("pfm")
    write_pfm(folder / "a.pfm", array)
    np.testing.assert_array_equal(read_pfm(folder / "a.pfm"), array)
    height, width = array.shape
    scale = "-0.003922" if order == "<" else "1"
    header = f"Pf{blank}{end}{width} {height}{blank}{end}{scale}{blank}{end}"
    (folder / "b.pfm").write_bytes(header.encode() + array[::-1].astype(f"{order}f4").tobytes())
    np.testing.assert_array_equal(read_pfm(folder / "b.pfm"), array)


def test_opencv_and_we_read_each_others_pfm(tmp_path):
    array = np.random.default_rng(0).random((5, 7), dtype=np.float32)
    write_pfm(tmp_path / "a.pfm", array)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED), array)
    cv2.imwrite(str(tmp_path / "b.pfm"), array)
    np.testing.assert_array_equal(read_pfm(tmp_path / "b.pfm"), array)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"P5\n2 2\n255\n0000", "not a PFM file"),
        (b"Pf\n2 2\n-1.0\n" + bytes(15), "truncated: 15 bytes of 16"),
        (b"Pf\n2 x\n-1.0\n" + bytes(16), "header"),
        (b"Pf\n0 2\n-1.0\n" + bytes(16), "header"),
        (b"Pf\n2 2\n0\n" + bytes(16), "header"),
        (b"Pf\n2 2", "not a PFM file"),
        (b"Pf" + bytes(5000), "not a PFM file"),
        (b"PF\n1 1\n-1.0\n" + bytes(12), "three channels"),
    ],
)
def test_broken_pfm_is_named(tmp_path, content, words):
    (tmp_path / "a.pfm").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_disparity(tmp_path / "a.pfm")
    assert "a.pfm" in str(error.value)


@pytest.mark.parametrize("suffix", [".pfm", ".npy", ".npz"])
@settings(max_examples=40, deadline=None)
@given(drawn=maps(1e-3, 1e4))
def test_float_disparity_round_trip_is_exact(tmp_path_factory, suffix, drawn):
    array, mask = drawn
    path = tmp_path_factory.mktemp("disparity") / f"a{suffix}"
    write_disparity(path, torch.from_numpy(array), torch.from_numpy(mask))
    values, valid = read_disparity(path)
    assert values.shape == valid.shape == (1, *array.shape)
    np.testing.assert_array_equal(valid[0].numpy(), mask)
    np.testing.assert_array_equal(values[0].numpy(), np.where(mask, array, 0))


@settings(max_examples=60, deadline=None)
@given(drawn=maps(0, 255.9))
def test_png16_disparity_round_trip(tmp_path_factory, drawn):
    array, mask = drawn
    path = tmp_path_factory.mktemp("disparity") / "a.png"
    write_disparity(path, array, mask)
    values, valid = read_disparity(path)
    # Even a disparity of 0 stays valid: it is stored as the smallest step.
    np.testing.assert_array_equal(valid[0].numpy(), mask)
    np.testing.assert_allclose(values[0].numpy(), np.where(mask, array, 0), atol=1 / 256)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), values[0].numpy() * 256)


def test_every_format_writes_its_own_invalid_value(tmp_path):
    array, mask = np.array([[5.0, 7.0]]), np.array([[True, False]])
    for suffix in (".pfm", ".png", ".npy", ".npz"):
        write_disparity(tmp_path / f"a{suffix}", array, mask)
    assert read_pfm(tmp_path / "a.pfm").tolist() == [[5, np.inf]]
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[1280, 0]]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), [[5, np.nan]])
    assert np.load(tmp_path / "a.npz")["disparity"].tolist() == [[5, 0]]
    assert np.load(tmp_path / "a.npz")["valid"].tolist() == [[True, False]]


def test_png16_refuses_256_pixels(tmp_path):
    write_disparity(tmp_path / "a.png", np.array([[255.99]]))
    with pytest.raises(ValueError, match=r"largest disparity is 256 px.*less than 256 px.*\.pfm"):
        write_disparity(tmp_path / "b.png", np.array([[256.0]]))
    # Where it is not valid a large value does no harm.
    write_disparity(tmp_path / "c.png", np.array([[300.0, 1.0]]), np.array([[False, True]]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "c.png"]


def test_disparity_type_is_written_with_its_mask(tmp_path):
    values = torch.tensor([[[[3.0, 4.0]]]])
    mask = torch.tensor([[[[False, True]]]])
    write_disparity(tmp_path / "a.npz", Disparity(values, mask, values))
    assert read_disparity(tmp_path / "a.npz")[0].tolist() == [[[0, 4]]]
    with pytest.raises(ValueError, match="one map"):
        write_disparity(tmp_path / "b.npz", torch.ones(2, 1, 3, 3))
    with pytest.raises(ValueError, match="1 valid pixels are not finite"):
        write_disparity(tmp_path / "b.pfm", np.array([[np.nan, 1]]), np.array([[True, True]]))
    with pytest.raises(ValueError, match="one shape"):
        write_disparity(tmp_path / "b.pfm", np.ones((2, 2)), np.ones((2, 3), bool))


def test_8_bit_disparity_needs_its_divisor(tmp_path):
    Image.fromarray(np.array([[0, 40]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="8 bits and no stated scale; pass divide_by"):
        read_disparity(tmp_path / "a.png")
    values, valid = read_disparity(tmp_path / "a.png", divide_by=4)
    assert (values.tolist(), valid.tolist()) == ([[[0, 10]]], [[[False, True]]])
    with pytest.raises(ValueError, match="divide_by is 0"):
        read_disparity(tmp_path / "a.png", divide_by=0)


@pytest.mark.parametrize(("maxval", "kind"), [(40, "u1"), (1000, ">u2")])
def test_pgm_numbers_are_not_stretched(tmp_path, maxval, kind):
    stored = np.arange(maxval + 1)[None]
    (tmp_path / "a.pgm").write_bytes(f"P5\n{maxval + 1} 1\n{maxval}\n".encode() + stored.astype(kind).tobytes())
    np.testing.assert_array_equal(read_disparity(tmp_path / "a.pgm", 1)[0][0].numpy(), stored)


def test_palette_indices_are_the_values(tmp_path):
    image = Image.fromarray(np.array([[3, 7]], np.uint8)).convert("P")
    image.putpalette([255 - i // 3 for i in range(768)])
    image.save(tmp_path / "a.png")
    assert read_disparity(tmp_path / "a.png", 1)[0].tolist() == [[[3, 7]]]


def test_negative_disparity(tmp_path):
    write_pfm(tmp_path / "flow.pfm", np.array([[-3.0, -0.5, np.inf]], np.float32))
    assert read_disparity(tmp_path / "flow.pfm")[0].tolist() == [[[3, 0.5, 0]]]
    write_pfm(tmp_path / "sgbm.pfm", np.array([[3.0, -1.0]], np.float32))
    values, valid = read_disparity(tmp_path / "sgbm.pfm")
    assert (values.tolist(), valid.tolist()) == ([[[3, 0]]], [[[True, False]]])


def test_wrong_map_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_disparity(tmp_path / "a.pfm")
    for reader in (read_disparity, read_depth):
        with pytest.raises(ValueError, match=r"suffix '\.exr'"):
            reader(tmp_path / "a.exr")
    for writer in (write_disparity, write_depth):
        with pytest.raises(ValueError, match=r"suffix '\.jpg'"):
            writer(tmp_path / "a.jpg", np.ones((2, 2)))
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a RGB picture; a map must have one channel"):
        read_disparity(tmp_path / "a.png")
    (tmp_path / "a.npy").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as an array"):
        read_disparity(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read as an array"):
        read_disparity(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="height x width"):
        read_disparity(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="holds a, b; it must hold 'disparity'"):
        read_disparity(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read as an array"):
        read_disparity(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".pfm", ".npy", ".npz"])
@settings(max_examples=30, deadline=None)
@given(drawn=maps(1e-3, 1e4))
def test_float_depth_round_trip_is_exact(tmp_path_factory, suffix, drawn):
    array, mask = drawn
    path = tmp_path_factory.mktemp("depth") / f"a{suffix}"
    write_depth(path, array, mask)
    values, valid = read_depth(path)
    np.testing.assert_array_equal(valid[0].numpy(), mask)
    np.testing.assert_array_equal(values[0].numpy(), np.where(mask, array, 0))


@settings(max_examples=40, deadline=None)
@given(drawn=maps(0, 60), unit=st.sampled_from([0.001, 1 / 5000, 0.01]))
def test_png16_depth_round_trip_states_its_unit(tmp_path_factory, drawn, unit):
    array, mask = drawn
    array = array * np.float32(unit / 0.001)
    path = tmp_path_factory.mktemp("depth") / "a.png"
    write_depth(path, torch.from_numpy(array), torch.from_numpy(mask), unit=unit)
    values, valid = read_depth(path)
    np.testing.assert_array_equal(valid[0].numpy(), mask)
    np.testing.assert_allclose(values[0].numpy(), np.where(mask, array, 0), atol=1.01 * unit)
    assert float(Image.open(path).text["depth_unit_metres"]) == unit


def test_png16_depth_overflow_is_refused_or_counted(tmp_path):
    array = np.array([[65.534, 65.535, 200.0]])
    with pytest.raises(ValueError, match=r"2 of 3 valid pixels lie beyond 65.534 m.*overflow='drop'"):
        write_depth(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="2 of 3 valid pixels"):
        write_depth(tmp_path / "a.png", array, overflow="drop")
    assert read_depth(tmp_path / "a.png")[1].tolist() == [[[True, False, False]]]
    with pytest.raises(ValueError, match="unit is 0"):
        write_depth(tmp_path / "a.png", array, unit=0)


def test_depth_unit_of_a_foreign_file(tmp_path):
    Image.fromarray(np.array([[0, 5000]], np.uint16)).save(tmp_path / "a.png")
    assert read_depth(tmp_path / "a.png")[0].tolist() == [[[0, 5]]]
    assert read_depth(tmp_path / "a.png", unit=1 / 5000)[0].tolist() == [[[0, 1]]]
    with pytest.raises(ValueError, match="unit is -1"):
        read_depth(tmp_path / "a.png", unit=-1)


def test_whole_numbers_in_arrays_are_millimetres(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 1500]], np.uint16))
    assert read_depth(tmp_path / "a.npy")[0].tolist() == [[[0, 1.5]]]
    assert read_depth(tmp_path / "a.npy", unit=1)[0].tolist() == [[[0, 1500]]]


def test_depth_type_is_written_with_its_mask(tmp_path):
    depth = Depth(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[False, True]]]]))
    write_depth(tmp_path / "a.npy", depth)
    assert read_depth(tmp_path / "a.npy")[0].tolist() == [[[0, 4]]]


def test_real_disparity_files_are_as_the_manifest_says(shared_data):
    manifest = shared_data("data/stereo/manifest.json")
    entries = json.loads(manifest.read_text())
    assert len(entries) == 41
    for entry in entries:
        values, valid = read_disparity(manifest.parents[1] / entry["disparity"], entry["divide_by"])
        assert values.shape == (1, entry["height"], entry["width"]), entry["id"]
        assert values.max().item() == pytest.approx(entry["max_disparity"], abs=0.1), entry["id"]
        assert valid.float().mean().item() == pytest.approx(entry["coverage"], abs=0.01), entry["id"]


def test_real_depth_files(shared_data):
    path = sorted(shared_data("data/rgbd/tum_sequence/seq_1/depth").glob("*.png"))[0]
    values, valid = read_depth(path, unit=1 / 5000)
    assert 1 < values[valid].median() < 5
    assert 0.5 < valid.float().mean() < 0.8


# --- what other tools write


def _case(shared_data, name):
    return shared_data(f"cases/{name}")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.uint32])
def test_the_largest_value_of_a_type_is_a_hole(tmp_path, kind):
    codes = np.array([[1000, 65535 if kind == np.uint16 else np.iinfo(kind).max, 2000]], kind)
    np.save(tmp_path / "a.npy", codes)
    Image.fromarray(codes.astype(np.uint16) if kind == np.uint16 else codes.astype(np.int32)).save(tmp_path / "a.tif")
    for name in ("a.npy", "a.tif") if kind != np.uint32 else ("a.npy",):
        with pytest.warns(UserWarning, match="the largest value of its type"):
            values, valid = read_depth(tmp_path / name)
        assert valid[0, 0].tolist() == [True, False, True]
        assert values[0, 0].tolist() == pytest.approx([1.0, 0.0, 2.0])


def test_opencvs_fixed_point_is_recognised(tmp_path):
    true = np.array([[20.5, 0, 31.25, 40.0]], np.float32)
    codes = np.where(true > 0, 16 * true, -16).astype(np.int16)
    np.save(tmp_path / "a.npy", codes)
    with pytest.warns(UserWarning, match=r"OpenCV's fixed point: 1 pixels of -16 .* divided by 16"):
        values, valid = read_disparity(tmp_path / "a.npy")
    np.testing.assert_array_equal(values[0].numpy(), true)
    assert valid[0, 0].tolist() == [True, False, True, True]
    Image.fromarray(codes.view(np.uint16)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="1 pixels of 65520"):
        values, valid = read_disparity(tmp_path / "a.png")
    np.testing.assert_array_equal(values[0].numpy(), true)
    with pytest.warns(UserWarning, match="divided by 32"):
        assert read_disparity(tmp_path / "a.npy", divide_by=32)[0].max() == 20


def test_kitti_pngs_with_large_values_are_not_taken_for_fixed_point(tmp_path):
    """65520 among values on both sides of it is a disparity."""
    Image.fromarray(np.array([[65520, 65530, 256]], np.uint16)).save(tmp_path / "a.png")
    values, valid = read_disparity(tmp_path / "a.png")
    assert valid.all()
    assert values[0, 0].tolist() == [65520 / 256, 65530 / 256, 1.0]


def test_mostly_negative_maps_are_turned_round_and_the_rest_is_not_valid(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[-5.5, -6.25, 3.0, -7.0]], np.float32))
    with pytest.warns(UserWarning, match="mostly negative values; their sign was changed, and 1 positive ones"):
        values, valid = read_disparity(tmp_path / "a.npy")
    assert values[0, 0].tolist() == [5.5, 6.25, 0.0, 7.0]
    assert valid[0, 0].tolist() == [True, True, False, True]


def test_reported_maps(shared_data):
    folder = _case(shared_data, "depth-65535")
    with pytest.warns(UserWarning, match="the largest value of its type"):
        values, valid = read_depth(folder / "depth.png")
    expected = read_depth(folder / "depth_with_zero.png")
    assert torch.equal(values, expected[0])
    assert torch.equal(valid, expected[1])
    folder = _case(shared_data, "float-tiff-disparity")
    assert torch.equal(read_disparity(folder / "disparity.tif")[0], read_disparity(folder / "disparity.npy")[0])
    folder = _case(shared_data, "sgbm-fixed-point")
    for name in ("disparity_int16.npy", "disparity_int16_as_uint16.png"):
        with pytest.warns(UserWarning, match="fixed point"):
            values, valid = read_disparity(folder / name)
        assert values[valid].min() > 15
        assert values[valid].max() < 26.5
