"""The protocols of the public tables on arrays worked out by hand, their masks, and the report."""

import json
import math
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stereopsis.cli import main
from stereopsis.cli.evaluate.matching import ProtocolName
from stereopsis.data.manifests import read_manifest, read_masks
from stereopsis.evaluation.metrics import disparity_metrics, region_metrics, regions
from stereopsis.evaluation.protocols import PROTOCOLS, fill_background, get_protocol, measure, summarise
from stereopsis.io import write_disparity, write_image
from stereopsis.types import Disparity
from stereopsis.visualization import ERROR_COLORS, error_map, thicken


def _map(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)[None, None]


def _answer(*rows: list[float]) -> Disparity:
    """A prediction whose zeros are gaps."""
    values = _map(*rows)
    return Disparity(values, values > 0, (values > 0).float())


# Errors 0, 1.5, 2.5, 4 and 6 px; the last pixel of each row is not known, the fourth is within 5 % of its truth.
TRUTH = _map([10.0, 10, 10, 0], [100.0, 20, 30, 0])
FOUND = _map([10.0, 11.5, 12.5, 9], [104.0, 26, 0, 9])
KNOWN = TRUTH > 0
NOC = torch.tensor([[True, True, False, True], [True, False, True, True]])[None, None]
FOREGROUND = torch.tensor([[False, False, False, False], [True, True, False, False]])[None, None]


def test_region_metrics_by_hand():
    metrics = region_metrics(FOUND, TRUTH, KNOWN, FOUND > 0)
    squares = 1.5**2 + 2.5**2 + 4**2 + 6**2
    expected = {
        "pixels": 6, "density": 5 / 6, "invalid": 100 / 6, "epe": 14 / 5, "rms": math.sqrt(squares / 5),
        "bad0.5": 80, "bad1": 80, "bad2": 60, "bad3": 40, "bad4": 20, "bad5": 20, "d1": 20,
        "a50": 2.5, "a90": 6, "a95": 6, "a99": 6,
    }  # fmt: skip
    assert metrics == pytest.approx(expected)
    old = disparity_metrics(FOUND, TRUTH, KNOWN, FOUND > 0)
    assert list(old) == ["epe", "bad1", "bad2", "bad3", "d1", "density"]
    assert all(old[key] == metrics[key] for key in old)


def test_percentile_is_the_value_at_the_floor_of_n_q():
    errors = torch.arange(200.0).flip(0)
    metrics = region_metrics(errors + 1, torch.ones(200), torch.ones(200, dtype=torch.bool))
    assert [metrics[f"a{q}"] for q in (50, 90, 95, 99)] == [100, 180, 190, 198]


def test_an_empty_region_has_no_measures():
    metrics = region_metrics(FOUND, TRUTH, KNOWN & False)
    assert metrics.pop("pixels") == 0
    assert all(math.isnan(value) for value in metrics.values())


def test_regions():
    found = regions(TRUTH, KNOWN, NOC, FOREGROUND)
    sizes = {name: int(mask.sum()) for name, mask in found.items()}
    assert sizes == {"all": 6, "below192": 6, "noc": 4, "occ": 2, "fg": 2, "bg": 4, "noc_fg": 1, "noc_bg": 3}
    assert set(regions(TRUTH, KNOWN)) == {"all", "below192"}
    assert int(regions(TRUTH * 2, KNOWN)["below192"].sum()) == 5
    with pytest.raises(ValueError, match=r"noc \(1, 1, 2, 3\); give maps of one shape"):
        regions(TRUTH, KNOWN, NOC[..., :3])


def test_every_column_names_a_measure_and_a_region():
    metrics = region_metrics(FOUND, TRUTH, KNOWN)
    parts = regions(TRUTH, KNOWN, NOC, FOREGROUND)
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name
        assert protocol.source
        assert all(column.metric in metrics and column.region in parts for column in protocol.columns)
        assert len({column.key for column in protocol.columns}) == len(protocol.columns)
        assert len({column.title for column in protocol.columns}) == len(protocol.columns)
    assert set(get_args(ProtocolName)) == set(PROTOCOLS)
    with pytest.raises(ValueError, match="no protocol 'sintel'; choose one of sceneflow, "):
        get_protocol("sintel")


def test_background_fill_of_kitti():
    filled = fill_background(_answer([0, 0, 0], [0, 5, 0], [0, 0, 0], [8, 0, 6], [0, 0, 0]))
    assert filled.disparity[0, 0].tolist() == [[5, 5, 5], [5, 5, 5], [0, 0, 0], [8, 6, 6], [8, 6, 6]]
    assert filled.valid[0, 0].all(dim=-1).tolist() == [True, True, False, True, True]
    assert not fill_background(_answer([0, 0], [0, 0])).valid.any()


def test_kitti_2015():
    answer = Disparity(FOUND, FOUND > 0, (FOUND > 0).float())
    values = measure(get_protocol("kitti2015"), answer, TRUTH, KNOWN, NOC, FOREGROUND)["values"]
    # The gap takes 9, the lower neighbour, and is wrong by 21 of 30; the 26 of 20 is the one wrong foreground pixel.
    assert values == pytest.approx({
        "d1_noc_bg": 100 / 3, "d1_noc_fg": 0, "d1_noc": 25, "d1_bg": 25, "d1_fg": 50, "d1_all": 100 / 3,
        "density_all": 5 / 6,
    })  # fmt: skip


def test_kitti_2012():
    answer = Disparity(FOUND, FOUND > 0, (FOUND > 0).float())
    values = measure(get_protocol("kitti2012"), answer, TRUTH, KNOWN, NOC)["values"]
    assert values["epe_all"] == pytest.approx((14 + 21) / 6)
    assert values["epe_noc"] == pytest.approx((0 + 1.5 + 4 + 21) / 4)
    assert [values[f"bad{limit}_all"] for limit in (2, 3, 4, 5)] == pytest.approx([400 / 6, 50, 200 / 6, 200 / 6])
    assert [values[f"bad{limit}_noc"] for limit in (2, 3, 4, 5)] == pytest.approx([50, 50, 25, 25])


def test_gaps_are_no_errors_in_middlebury_and_left_out_in_eth3d():
    answer = Disparity(FOUND, FOUND > 0, (FOUND > 0).float())
    middlebury = measure(get_protocol("middlebury"), answer, TRUTH, KNOWN, NOC)["values"]
    assert (middlebury["bad4_all"], middlebury["invalid_all"]) == pytest.approx((100 / 6, 100 / 6))
    assert (middlebury["bad2_noc"], middlebury["invalid_noc"]) == pytest.approx((25, 25))
    assert middlebury["epe_all"] == pytest.approx(14 / 5)
    eth3d = measure(get_protocol("eth3d"), answer, TRUTH, KNOWN, NOC)["values"]
    assert (eth3d["bad4_all"], eth3d["density_all"]) == pytest.approx((20, 5 / 6))
    assert (eth3d["bad2_noc"], eth3d["density_noc"]) == pytest.approx((100 / 3, 3 / 4))


def test_sceneflow_gives_both_conventions():
    values = measure(get_protocol("sceneflow"), _answer([12.0, 300]), _map([10.0, 200]), _map([1.0, 1]) > 0)["values"]
    assert (values["epe_below192"], values["epe_all"]) == (2, 51)
    assert (values["bad3_below192"], values["bad3_all"]) == (0, 50)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_predicted(name):
    nothing = _answer([0.0, 0, 0, 0], [0.0, 0, 0, 0])
    values = measure(get_protocol(name), nothing, TRUTH, KNOWN, NOC, FOREGROUND)["values"]
    json.dumps(values, allow_nan=False)
    gaps = get_protocol(name).gaps
    errors = {value for key, value in values.items() if key.startswith(("bad", "d1"))}
    assert errors == {"left out": {None}, "counted": {0}, "filled": {100}}[gaps]
    assert values.get("density_all", 0) == 0
    assert values.get("invalid_all", 100) == 100


def test_masks_that_are_not_there_and_regions_that_are_empty():
    protocol = get_protocol("kitti2015")
    answer = Disparity(TRUTH, KNOWN, KNOWN.float())
    values = measure(protocol, answer, TRUTH, KNOWN)["values"]
    assert {key for key, value in values.items() if value is None} == {
        "d1_noc_bg", "d1_noc_fg", "d1_noc", "d1_bg", "d1_fg",
    }  # fmt: skip
    background = measure(protocol, answer, TRUTH, KNOWN, NOC, FOREGROUND & False)
    assert (background["values"]["d1_fg"], background["values"]["d1_bg"]) == (None, 0)
    assert background["pixels"]["fg"] == 0


def test_pixels_or_pairs_have_the_same_weight():
    rows = [
        measure(PROTOCOLS[name], _answer(found), _map(truth), _map(truth) > 0)
        for name in ("kitti2015", "kitti2012")
        for found, truth in (([10.0, 10, 10], [10.0, 10, 10]), ([10.0, 0, 0], [20.0, 0, 0]))
    ]
    pooled, averaged = summarise(PROTOCOLS["kitti2015"], rows[:2]), summarise(PROTOCOLS["kitti2012"], rows[2:])
    assert (pooled["mean"]["d1_all"], pooled["pairs"]["d1_all"]) == (25, 2)
    assert (averaged["mean"]["bad3_all"], averaged["mean"]["epe_all"]) == (50, 5)
    assert (pooled["mean"]["d1_noc"], pooled["pairs"]["d1_noc"]) == (None, 0)


def test_pictures_of_sparse_and_occluded_errors():
    truth = np.full((3, 5), 20.0)
    known = np.zeros((3, 5), bool)
    known[1, 1] = True
    picture = error_map(truth, truth, known, noc=np.zeros((3, 5), bool))
    dim = [value // 2 for value in ERROR_COLORS[0][1]]
    assert picture[1, 1].tolist() == dim
    thick = thicken(picture, known)
    assert (thick[:, :3] == dim).all()
    assert (thick[:, 3:] == 0).all()
    assert (picture[0] == 0).all()
    with pytest.raises(ValueError, match="one shape"):
        thicken(picture, known[:2])


@pytest.fixture
def manifest(tmp_path):
    """Two pairs of 48 x 32 pixels: noise moved by 6 px, and grey in which nothing can be matched."""
    folder = tmp_path / "data" / "lists"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (32, 60, 3), dtype=np.uint8)
    write_image(tmp_path / "data" / "left.png", noise[:, :48])
    write_image(tmp_path / "data" / "right.png", noise[:, 6:54])
    write_image(tmp_path / "data" / "grey.png", np.full((32, 48, 3), 128, np.uint8))
    truth = np.full((32, 48), 6, np.float32)
    truth[:4] = np.inf
    write_disparity(tmp_path / "data" / "truth.pfm", truth)
    truth[:, :6] = np.inf
    write_disparity(tmp_path / "data" / "noc.png", truth)
    codes = np.full((32, 48), 255, np.uint8)
    codes[:, :6] = 128
    codes[:4] = 0
    Image.fromarray(codes).save(tmp_path / "data" / "mask.png")
    objects = np.zeros((32, 48), np.uint8)
    objects[20:, 20:] = 3
    Image.fromarray(objects).save(tmp_path / "data" / "objects.png")
    common = {"disparity": "truth.pfm", "objects": "objects.png"}
    rows = [
        {"id": "a/../moved", "left": "left.png", "right": "right.png", "noc": "noc.png", **common},
        {"id": "b/<grey>", "left": "grey.png", "right": "grey.png", "noc": "mask.png", **common},
    ]
    path = folder / "manifest.json"
    path.write_text(json.dumps(rows))
    return path


def test_masks_of_both_kinds_are_one(manifest):
    masks = [read_masks(pair) for pair in read_manifest(manifest)]
    assert torch.equal(masks[0][0], masks[1][0])
    assert int(masks[0][0].sum()) == 28 * 42
    assert int(masks[0][1].sum()) == 12 * 28
    root = manifest.parents[1]
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / "mask.png")
    assert int(read_masks(read_manifest(manifest)[1])[0].sum()) == 4


def test_a_missing_mask_and_one_of_another_size(manifest, capsys):
    root = manifest.parents[1]
    arguments = ["evaluate", "matching", "--data", str(manifest), "--model", "sgbm", "--max-disparity", "16"]
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / "objects.png")
    assert main([*arguments, "--protocol", "kitti2015"]) == 2
    assert "objects.png is 4x4 but" in capsys.readouterr().err
    (root / "noc.png").unlink()
    assert main([*arguments, "--protocol", "kitti2015"]) == 2
    error = capsys.readouterr().err
    assert "noc.png, the noc file of a/../moved in" in error
    assert len(error.splitlines()) == 1


def test_command_with_protocol_and_report(manifest, tmp_path, capsys):
    folder = tmp_path / "new" / "report"
    arguments = ["evaluate", "matching", "--data", str(manifest), "--model", "sgbm", "--max-disparity", "16"]
    assert main([*arguments, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--json", "--protocol", "kitti2015", "--report", str(folder)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert str(folder / "index.html") in printed.err
    assert "warning" not in printed.err
    # The option adds keys and changes none.
    measured = result.pop("protocol")
    rows = [row.pop("protocol") for row in result["per_pair"]]
    for one in (plain, result):
        for row in one["per_pair"]:
            row.pop("seconds")
    assert result == plain
    assert measured["name"] == "kitti2015"
    assert measured["pairs"]["d1_noc_fg"] == 2
    assert rows[0]["values"]["d1_noc"] < 5
    assert rows[1]["values"]["d1_noc"] == measured["groups"]["b"]["mean"]["d1_noc"] == 100
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["0001_a_.._moved.png", "0002_b_grey.png", "index.html"]
    with Image.open(folder / files[0]) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 1000
    page = (folder / "index.html").read_text()
    assert "b/&lt;grey&gt;" in page
    assert "<grey>" not in page
    assert page.index("0002_b_grey.png") < page.index("0001_a_.._moved.png")  # the worst first
    assert "KITTI stereo 2015" in page


def test_command_prints_a_table_and_says_which_masks_are_missing(manifest, capsys):
    rows = [{key: value for key, value in row.items() if key not in ("noc", "objects")}
            for row in json.loads(manifest.read_text())]  # fmt: skip
    manifest.write_text(json.dumps(rows[:1]))
    arguments = ["evaluate", "matching", "--data", str(manifest), "--model", "sgbm", "--max-disparity", "16"]
    assert main([*arguments, "--protocol", "kitti2015"]) == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["D1-fg", "noc", "%", "-", "0"] in lines
    assert [line[-1] for line in lines if line[:3] == ["D1-all", "all", "%"]] == ["1"]
    assert "1 of 1 pairs have no usable 'noc'" in printed.err
    assert "1 of 1 pairs have no usable 'objects'" in printed.err


def test_a_report_that_cannot_be_a_folder_is_refused_before_work(manifest, capsys):
    arguments = ["evaluate", "matching", "--data", str(manifest), "--model", "sgbm", "--report", str(manifest)]
    assert main(arguments) == 2
    assert "is an input and would replace it; name another file" in capsys.readouterr().err
