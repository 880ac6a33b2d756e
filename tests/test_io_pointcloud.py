import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stereopsis.io import read_point_cloud, write_point_cloud
from stereopsis.types import PointCloud


@settings(max_examples=50, deadline=None)
@given(data=st.data(), count=st.integers(0, 20), colored=st.booleans())
def test_round_trip(tmp_path_factory, data, count, colored):
    floats = st.floats(-1e6, 1e6, width=32)
    points = data.draw(hnp.arrays(np.float32, (count, 3), elements=floats))
    colors = data.draw(hnp.arrays(np.uint8, (count, 3))) if colored else None
    path = tmp_path_factory.mktemp("ply") / "a.ply"
    write_point_cloud(path, PointCloud(torch.from_numpy(points), None if colors is None else torch.from_numpy(colors)))
    cloud = read_point_cloud(path)
    np.testing.assert_array_equal(cloud.points.numpy(), points)
    if colors is None:
        assert cloud.colors is None
    else:
        np.testing.assert_array_equal(cloud.colors.numpy(), colors)
    row = 12 + (3 if colored else 0)
    assert path.read_bytes().endswith(b"end_header\n" + path.read_bytes()[path.stat().st_size - row * count :])


HEADER = """ply
format {kind} 1.0
comment made by hand
element vertex 2
property double x
property double y
property double z
property uchar intensity
property uchar red
property uchar green
property uchar blue
element face 0
property list uchar int vertex_indices
end_header
"""


@pytest.mark.parametrize("kind", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_files_of_other_tools(tmp_path, kind):
    rows = [(1, 2, 3, 9, 10, 20, 30), (-1.5, 0, 4, 8, 40, 50, 60)]
    if kind == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
    else:
        order = "<" if "little" in kind else ">"
        fields = [(c, f"{order}f8") for c in "xyz"] + [(c, "u1") for c in "irgb"]
        body = np.array(rows, dtype=fields).tobytes()
    path = tmp_path / "a.ply"
    path.write_bytes(HEADER.format(kind=kind).encode() + body)
    cloud = read_point_cloud(path)
    assert cloud.points.tolist() == [[1, 2, 3], [-1.5, 0, 4]]
    assert cloud.colors.tolist() == [[10, 20, 30], [40, 50, 60]]
    path.write_bytes(path.read_bytes()[: -(len(body) // 2 + 3)])
    with pytest.raises(ValueError, match=r"a\.ply is truncated: it announces 2 points"):
        read_point_cloud(path)


def test_wrong_clouds_and_files(tmp_path):
    path = tmp_path / "a.ply"
    with pytest.raises(ValueError, match="1 points are not finite"):
        write_point_cloud(path, PointCloud(torch.tensor([[0, 0, float("nan")], [1, 1, 1]])))
    with pytest.raises(ValueError, match="2 points and 1 colours"):
        write_point_cloud(path, PointCloud(torch.zeros(2, 3), torch.zeros(1, 3, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"must end in \.ply"):
        write_point_cloud(tmp_path / "a.obj", PointCloud(torch.zeros(2, 3)))
    assert not list(tmp_path.iterdir())
    path.write_text("hello")
    with pytest.raises(ValueError, match="not a PLY file"):
        read_point_cloud(path)
    path.write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n")
    with pytest.raises(ValueError, match="no property y, z"):
        read_point_cloud(path)
    path.write_text("ply\nelement vertex 1\nproperty float x\nend_header\n1\n")
    with pytest.raises(ValueError, match="no format"):
        read_point_cloud(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_point_cloud(tmp_path / "b.ply")


BYTES = [[255, 0, 0], [0, 128, 0], [10, 20, 30]]


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), "rgb"])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uchar", BYTES),
        ("int", BYTES),
        ("float", [[value / 255 for value in row] for row in BYTES]),
        ("double", BYTES),
        ("ushort", [[256 * value for value in row] for row in BYTES]),
        ("ushort", [[257 * value for value in row] for row in BYTES]),
    ],
)
def test_colours_of_any_name_and_type(tmp_path, names, kind, values):
    lines = ["ply", "format ascii 1.0", "element vertex 3", *(f"property float {axis}" for axis in "xyz")]
    lines += [f"property {kind} {name}" for name in names] + ["end_header"]
    lines += [" ".join(map(str, [k, 0, 1, *row])) for k, row in enumerate(values)]
    (tmp_path / "a.ply").write_text("\n".join(lines) + "\n")
    assert read_point_cloud(tmp_path / "a.ply").colors.tolist() == BYTES


def test_reported_colours(shared_data):
    for name in ("ply-colours/float.ply", "ply-colours/ushort.ply", "ply-colours-2/diffuse.ply"):
        assert read_point_cloud(shared_data(f"cases/{name}")).colors.tolist() == BYTES
