"""Rate and distortion of codecs, BD-rates, and ``stereopsis evaluate compression``."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from stereopsis.cli import main
from stereopsis.evaluation.codecs import ANCHORS, CodedPair
from stereopsis.evaluation.compression import BD_RATES, akima_integral, bd_rate, decibel, measure_pair
from stereopsis.io import write_image
from stereopsis.zoo import list_models, registry, save_weights
from stereopsis.zoo.weights import ModelCard

sys.path.insert(0, str(Path(__file__).parent / "compression"))
from tiny import NAME, TINY, photo, tiny

RATE, QUALITY = [0.1, 0.2, 0.4, 0.8, 1.4], [28.0, 30.5, 33.2, 36.0, 38.1]


def _bytes(image) -> np.ndarray:
    return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()


def test_akima_against_scipy():
    interpolate = pytest.importorskip("scipy.interpolate")
    generator = np.random.default_rng(0)
    for count in (3, 4, 7):
        x, y = np.cumsum(generator.uniform(0.5, 2, count)), generator.normal(size=count)
        low, high = x[0] + 0.3, x[-1] - 0.2
        expected = interpolate.Akima1DInterpolator(x, y).integrate(low, high)
        assert akima_integral(x, y, low, high) == pytest.approx(float(expected), abs=1e-9)


def test_bd_rate_against_the_usual_package():
    package = pytest.importorskip("bjontegaard")
    rate, quality = [0.08, 0.17, 0.3, 0.7], [28.5, 31.0, 33.0, 36.5]
    expected = package.bd_rate(RATE, QUALITY, rate, quality, method="akima", require_matching_points=False)
    assert bd_rate(RATE, QUALITY, rate, quality) == pytest.approx(expected, abs=0.01)


def test_bd_rate_of_known_curves():
    assert bd_rate(RATE, QUALITY, RATE, QUALITY) == pytest.approx(0)
    assert bd_rate(RATE, QUALITY, [0.8 * r for r in RATE], QUALITY) == pytest.approx(-20)
    assert bd_rate(RATE, QUALITY, RATE[::-1], QUALITY[::-1]) == pytest.approx(0)
    assert bd_rate(RATE, QUALITY, RATE, [q + 20 for q in QUALITY]) is None
    assert bd_rate(RATE[:2], QUALITY[:2], RATE, QUALITY) is None


def test_a_point():
    a = np.full((200, 200, 3), 100, np.uint8)
    b = a + 10
    point = measure_pair([a, a], CodedPair(1000, [a, b], 0.1, 0.2))
    assert point["bpp"] == pytest.approx(0.1)
    assert point["bpp_left"] is point["bpp_right"] is None
    assert measure_pair([a, a], CodedPair(1000, [a, b], 0.1, 0.2, (600, 300)))["bpp_right"] == pytest.approx(0.06)
    assert point["psnr_left"] == 100
    assert point["psnr_right"] == pytest.approx(20 * np.log10(25.5))
    assert point["psnr"] == pytest.approx(10 * np.log10(255**2 / 50))
    assert point["ms_ssim_left"] == pytest.approx(1)
    assert measure_pair([a[:160], a[:160]], CodedPair(1, [a[:160], b[:160]], 0, 0))["ms_ssim"] is None
    assert decibel(0.99) == pytest.approx(20)


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_code_pairs_of_odd_size(name):
    try:
        anchor = ANCHORS[name]()
    except ImportError as error:
        pytest.skip(str(error))
    views = [_bytes(photo(67, 91)), _bytes(photo(67, 91, 1.0))]
    few, many = (anchor.code(views, setting) for setting in (anchor.settings[1], anchor.settings[-1]))
    assert 0 < few.size < many.size
    assert [view.shape for view in many.views] == [view.shape for view in views]
    errors = [measure_pair(views, coded)["psnr"] for coded in (few, many)]
    assert errors[0] < errors[1]
    assert errors[1] > 25


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A manifest of two pairs and a small codec."""
    from stereopsis.compression.hyperprior import Hyperprior

    list_models()
    entry = registry.ModelEntry(NAME, "compression", "hyperprior", lambda: Hyperprior(TINY, NAME), "", TINY)
    monkeypatch.setitem(registry._entries, NAME, entry)
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    save_weights("w.safetensors", tiny(), ModelCard("hyperprior"))
    rows = []
    for number in range(2):
        row = {"id": f"set/{number}"}
        for key, phase in (("left", 0.0), ("right", 1.0)):
            row[key] = f"data/{key}{number}.png"
            write_image(row[key], photo(176, 180, phase + number))
        rows.append(row | {"disparity": row["left"]})
    Path("data/manifest.json").write_text(json.dumps(rows))
    return tmp_path


COMMAND = ["evaluate", "compression", "--data", "data/manifest.json", "--model", NAME, "--weights", "w.safetensors"]


def test_a_table_of_bytes(folder, capsys):
    options = ["--qualities", "1,4,8", "--anchors", "jpeg,webp", "--limit", "1", "--out", "r.json", "--json"]
    assert main([*COMMAND, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads(Path("r.json").read_text()) | {"warnings": []} == result
    assert [point["quality"] for point in result["points"]] == [1, 4, 8]
    assert all(set(result[key]) == {"jpeg", "webp"} for key in BD_RATES)
    assert result["anchors"]["jpeg"]["chroma"] == "4:2:0"
    [row] = result["per_image"]
    for point in row["points"]:
        assert point["bpp"] == pytest.approx(8 * point["bytes"] / (2 * 176 * 180))
        assert 0 < point["ms_ssim"] < 1
        # the rest is headers
        assert 0 < point["bytes"] - (point["bpp_left"] + point["bpp_right"]) / 8 * 176 * 180 < 100
    for point in row["anchors"]["jpeg"]:
        assert point["bpp_left"] + point["bpp_right"] == pytest.approx(2 * point["bpp"])


def test_in_words(folder, capsys):
    assert main([*COMMAND, "--qualities", "2,5", "--anchors", "jpeg"]) == 0
    shown = capsys.readouterr().out
    assert "BD-rate PSNR %" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--qualities 1,x", "give numbers with commas"),
        ("--qualities 0", "quality is 0; it must lie in 1 to 8"),
        ("--limit 0", "--limit is 0"),
        ("--anchors bpg", "there is no anchor 'bpg'; choose from jpeg"),
    ],
)
def test_bad_options(folder, capsys, options, message):
    assert main([*COMMAND, *options.split()]) == 2
    assert message in capsys.readouterr().err
