"""How many bits depth needs: points, curves, the rates that are needed, and ``stereopsis evaluate depth-rate``."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from views import shifted_pair

import stereopsis
from stereopsis.cli import main
from stereopsis.data.manifests import read_manifest
from stereopsis.evaluation.codecs import ANCHORS, CodedPair, Coder
from stereopsis.evaluation.depth_rate import (
    common_pairs,
    evaluate_depth_rate,
    mean_curve,
    needed_rate,
    needed_rates,
    open_coder,
    rate_text,
    uncoded_error,
)
from stereopsis.io import write_disparity, write_image

SHIFT = 11


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    """Two planes of a known disparity, in two groups."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    rows = []
    for number in range(2):
        left, right = shifted_pair(SHIFT, 64, 112, seed=number)
        names = {key: f"data/{key}{number}.png" for key in ("left", "right")}
        write_image(names["left"], left)
        write_image(names["right"], right)
        write_disparity(f"data/d{number}.pfm", np.full((64, 112), SHIFT, np.float32))
        rows.append({"id": f"set{number}/a", "disparity": f"data/d{number}.pfm", **names})
    path = Path("data/manifest.json")
    path.write_text(json.dumps(rows))
    return path


def jpeg(*settings: float) -> Coder:
    return replace(ANCHORS["jpeg"](), settings=settings)


def lossless(name: str = "lossless") -> Coder:
    """Gives back what it was given, and counts one byte for four pixels."""
    return Coder(name, "4:4:4", "level", (1.0,), lambda views, _: CodedPair(views[0].size // 6, views, 0.1, 0.2))


@pytest.fixture
def matchers():
    return {"sgbm": stereopsis.load("sgbm")}


def test_what_changes_nothing_costs_nothing(manifest, matchers):
    pairs = read_manifest(manifest)
    result = evaluate_depth_rate([lossless()], pairs, matchers)
    for pair in pairs:
        [point] = result["codecs"]["lossless"]["pairs"][pair.id]
        assert point["bpp"] == 2.0
        assert point["psnr"] == 100
        assert (point["encode_seconds"], point["decode_seconds"]) == (0.1, 0.2)
        measured = point["disparity"]["sgbm"]
        assert measured["truth"] == result["uncoded"][pair.id]["sgbm"]
        assert measured["original"] == {"epe": 0, "bad2": 0, "d1": 0}
        assert measured["truth"]["epe"] < 1


def test_fewer_bits_are_worse_depth(manifest, matchers):
    result = evaluate_depth_rate([jpeg(1, 20, 95)], read_manifest(manifest), matchers)
    ids = common_pairs(result)
    assert ids == ["set0/a", "set1/a"]
    for reference in ("truth", "original"):
        (few, worst), _, (many, best) = mean_curve(result, "jpeg", ids, "sgbm", "epe", reference)
        assert few < many
        assert worst > best
    assert uncoded_error(result, ids, "sgbm", "bad2") == pytest.approx(
        np.mean([result["uncoded"][i]["sgbm"]["bad2"] for i in ids])
    )
    rate = needed_rates(result, ids)["sgbm"]["jpeg"]
    (low, _), *_, (high, _) = mean_curve(result, "jpeg", ids, "sgbm", "bad2")
    assert low <= rate["bpp"] <= high


def test_the_needed_rate_of_known_curves():
    assert needed_rate([(0.1, 9.0), (0.4, 5.0), (1.6, 3.0)], 7.0) == {"bpp": pytest.approx(0.2), "bound": "="}
    assert needed_rate([(1.6, 3.0), (0.1, 9.0), (0.4, 5.0)], 7.0)["bpp"] == pytest.approx(0.2)
    assert needed_rate([(0.1, 4.0), (0.4, 3.0)], 7.0) == {"bpp": 0.1, "bound": "<="}
    assert needed_rate([(0.1, 9.0), (0.4, 8.0)], 7.0) == {"bpp": 0.4, "bound": ">"}
    # a curve that comes back at few bits is not trusted there
    assert needed_rate([(0.1, 5.0), (0.2, 9.0), (0.4, 5.0)], 7.0)["bpp"] == pytest.approx(0.08**0.5)
    assert [rate_text({"bpp": 0.25, "bound": bound}) for bound in ("=", "<=", ">")] == ["0.250", "≤ 0.250", "> 0.250"]


def test_what_is_known_is_not_measured_again(manifest, matchers):
    pairs, saved = read_manifest(manifest), []
    first = evaluate_depth_rate([lossless()], pairs[:1], matchers, save=lambda result: saved.append(json.dumps(result)))
    assert len(saved) == 1
    kept = json.loads(saved[0])
    kept["codecs"]["lossless"]["pairs"]["set0/a"][0]["bytes"] = -1
    result = evaluate_depth_rate([lossless(), lossless("other")], pairs, matchers, known=kept)
    assert result["codecs"]["lossless"]["pairs"]["set0/a"][0]["bytes"] == -1
    assert first["codecs"]["lossless"]["pairs"].keys() == {"set0/a"}
    assert all(codec["pairs"].keys() == {"set0/a", "set1/a"} for codec in result["codecs"].values())
    done = []
    evaluate_depth_rate([lossless()], pairs, matchers, known=result, save=done.append)
    assert not done
    with pytest.raises(ValueError, match="the matchers were"):
        evaluate_depth_rate([lossless()], pairs, {"bm": stereopsis.load("bm")}, known=result)
    result["uncoded"]["set0/a"]["sgbm"]["bad2"] += 5
    with pytest.raises(ValueError, match="sgbm has changed since other codecs were measured"):
        evaluate_depth_rate([lossless("third")], pairs, matchers, known=result)
    with pytest.raises(ValueError, match="settings of lossless were"):
        evaluate_depth_rate([replace(lossless(), settings=(2.0,))], pairs, matchers, known=result)


def test_views_and_truth_of_other_sizes_are_refused(manifest, matchers):
    write_disparity("data/d0.pfm", np.ones((10, 10), np.float32))
    with pytest.raises(ValueError, match="set0/a differ in size"):
        evaluate_depth_rate([lossless()], read_manifest(manifest), matchers)
    with pytest.raises(ValueError, match="there is nothing to evaluate"):
        evaluate_depth_rate([lossless()], [], matchers)


def test_coders_by_name():
    assert open_coder("jpeg", ()).settings[-1] == 95
    with pytest.raises(ValueError, match="there is no codec 'bpg'; choose from jpeg"):
        open_coder("bpg", ())
    with pytest.raises(ValueError, match="there is no codec 'sgbm'"):
        open_coder("sgbm", (4,))


COMMAND = ["evaluate", "depth-rate", "--data", "data/manifest.json", "--codecs", "jpeg", "--matchers", "sgbm"]


def test_as_a_command(manifest, capsys):
    options = ["--every", "2", "--out", "new/r.json", "--max-disparity", "32"]
    assert main([*COMMAND, *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    stored = json.loads(Path("new/r.json").read_text())
    assert stored["max_disparity"] == 32
    assert stored["codecs"] == result["codecs"]
    assert result["pairs"] == 1
    assert result["needed_bpp"]["sgbm"]["jpeg"]["bpp"] > 0
    again = [*COMMAND, "--out", "new/r.json", "--max-disparity", "32", "--resume"]
    assert main(again) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mean of 2 pairs" in shown
    assert "bad-2 has risen by more than 1 point" in shown
    assert json.loads(Path("new/r.json").read_text())["codecs"]["jpeg"]["pairs"].keys() == {"set0/a", "set1/a"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--every 0", "--every is 0"),
        ("--qualities 9", "quality is 9; it must lie in 1 to 8"),
        ("--codecs bpg", "there is no codec 'bpg'"),
        ("--matchers fdkn.any", "fdkn.any does not match views"),
        ("--resume", "to go on with; leave --resume out"),
        ("--out data/d0.pfm --resume", "is not JSON"),
        ("--out data/manifest.json --resume", "data/manifest.json is an input"),
        ("--out data", "which is a folder"),
    ],
)
def test_bad_options(manifest, capsys, options, message):
    Path("data/d0.pfm").write_text("no json")
    assert main([*COMMAND, *options.split()]) == 2
    assert message in capsys.readouterr().err
