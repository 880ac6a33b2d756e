"""Pairs by time: of tables as of EuRoC and TUM, and of streams."""

import pytest

from stereopsis.io import find_pairs
from stereopsis.io.stamps import MOST_WAITING, Pairing, pair_tables

MS = 10**6


def _paired(left, right, tolerance=0.010):
    items = sorted([(t * MS, 0, f"l{t}") for t in left] + [(t * MS, 1, f"r{t}") for t in right])
    pairing = Pairing(tolerance)
    return [(a, b) for _, a, b in pairing((side, time, item) for time, side, item in items)], pairing.unpaired


def test_partners_lie_within_the_tolerance():
    assert _paired([0, 50, 100], [3, 48, 100]) == ([("l0", "r3"), ("l50", "r48"), ("l100", "r100")], 0)


def test_what_has_no_partner_is_left_out_and_counted():
    assert _paired([0, 50, 100, 150], [0, 100, 175]) == ([("l0", "r0"), ("l100", "r100")], 3)
    assert _paired([0, 50], []) == ([], 2)


def test_a_side_that_is_far_behind_does_not_fill_the_memory():
    pairing = Pairing()
    lefts = ((0, 1000 * MS + number * MS, number) for number in range(1000))
    assert list(pairing([*lefts, (1, 1999 * MS, "last")])) == [(1999 * MS, 999, "last")]
    assert pairing.unpaired == 999
    waiting = Pairing()
    assert len(list(waiting([*((0, n * MS, n) for n in range(MOST_WAITING + 20)), (1, 0, "first")]))) == 0


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match="it must be at least 0"):
        Pairing(tolerance)


def _euroc(root, lefts, rights):
    for camera, times in (("cam0", lefts), ("cam1", rights)):
        (root / camera / "data").mkdir(parents=True)
        rows = [f"{time * MS},{time * MS}.png" for time in times]
        (root / camera / "data.csv").write_text("#timestamp [ns],filename\n" + "\r\n".join(rows) + "\n")
        for time in times:
            (root / camera / "data" / f"{time * MS}.png").touch()
    return root


@pytest.mark.parametrize("words", [("",), ("cam0", "cam1"), ("cam0/data", "cam1/data")])
def test_euroc_folders_are_paired_by_their_tables(tmp_path, words):
    root = _euroc(tmp_path / "mav0", [0, 50, 100], [1, 99])
    with pytest.warns(UserWarning, match="1 images of .* have no partner within 10 ms and were left out"):
        pairs = find_pairs(*(root / word for word in words))
    assert [(pair.name, pair.left.name, pair.right.name) for pair in pairs] == [
        ("0", "0.png", "1000000.png"),
        ("100000000", "100000000.png", "99000000.png"),
    ]
    assert all(pair.left.is_file() and pair.right.is_file() for pair in pairs)
    if words == ("",):
        assert find_pairs(tmp_path, tolerance=0.06)[0] == pairs[0]  # the folder above, as EuRoC's archives have it


def test_tum_tables_in_seconds(tmp_path):
    (tmp_path / "rgb.txt").write_text("# color images\n1305031102.175304 rgb/a.png\n1305031102.211214 rgb/b.png\n")
    (tmp_path / "depth.txt").write_text("1305031102.160407 depth/a.png\n1305031102.212000 depth/b.png\n")
    for name in ("rgb/a", "rgb/b", "depth/a", "depth/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").touch()
    pairs = pair_tables(tmp_path / "rgb.txt", tmp_path / "depth.txt", 0.02)
    assert pairs == [(tmp_path / f"rgb/{name}.png", tmp_path / f"depth/{name}.png") for name in "ab"]


def test_bad_tables(tmp_path):
    root = _euroc(tmp_path, [0], [500])
    with pytest.raises(ValueError, match=r"No image of .* has a partner in .* within 10 ms"):
        find_pairs(root / "cam0", root / "cam1")
    (root / "cam0" / "data.csv").write_text("0\n")
    with pytest.raises(ValueError, match=r"data.csv, line 1 is '0'; it must be a time and a file"):
        find_pairs(root / "cam0", root / "cam1")


def test_the_real_euroc_sequence(shared_data):
    pairs = find_pairs(shared_data("data/sequences/euroc/MicroEuroc"))
    assert len(pairs) == 8
    assert all(pair.left.name == pair.right.name for pair in pairs)
