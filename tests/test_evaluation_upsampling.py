"""The protocol of guided upsampling: its measures against plain ones, and official weights on real data."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from stereopsis.evaluation.upsampling import (
    evaluate_upsampling,
    read_upsampling_manifest,
    upsampling_metrics,
)
from stereopsis.io import write_image
from stereopsis.upsampling.dkn import DKN, OFFICIAL
from stereopsis.zoo import load
from stereopsis.zoo.importers import import_dkn


@pytest.fixture
def manifest(tmp_path):
    """Two images with a step of depth in each, one of which the scale does not divide."""
    rows = []
    (tmp_path / "data" / "lists").mkdir(parents=True)
    for number, (height, width, metric) in enumerate(((48, 64, "rmse_255"), (67, 83, "rmse_cm"))):
        depth = np.full((height, width), 50, np.uint8)
        depth[:, width // 3 :] = 150
        folder = tmp_path / "data" / f"set{number}"
        folder.mkdir()
        write_image(folder / "image.png", np.stack([depth] * 3, -1))
        Image.fromarray(depth).save(folder / "depth.png")
        rows.append(
            {
                "id": f"set{number}/0",
                "image": f"set{number}/image.png",
                "depth": f"set{number}/depth.png",
                "metric": metric,
                "scale_to_unit": 2.0 if number else 1,
            }
        )
    path = tmp_path / "data" / "lists" / "manifest.json"
    path.write_text(json.dumps(rows))
    return path


def test_the_protocol(manifest):
    images = read_upsampling_manifest(manifest)
    assert [image.scale_to_unit for image in images] == [1.0, 2.0]
    result = evaluate_upsampling(load("bicubic"), images, 8, name="bicubic")
    assert (result["model"], result["scale"], result["reduction"], result["images"]) == ("bicubic", 8, "bicubic", 2)
    assert [row["id"] for row in result["per_image"]] == ["set0/0", "set1/0"]
    assert set(result["groups"]) == {"set0", "set1"}
    for row in result["per_image"]:
        assert row["rmse"] == row["bicubic_rmse"]
        assert row["ratio"] == 1
        assert row["edge_rmse"] > row["rmse"] > row["flat_rmse"]
    json.dumps(result, allow_nan=False)
    better = evaluate_upsampling(load("guided-filter"), images, 8)
    assert better["mean"]["ratio"] == pytest.approx(better["mean"]["rmse"] / better["mean"]["bicubic_rmse"])
    assert better["mean"]["ratio"] < 1
    faithful = evaluate_upsampling(load("bicubic"), images, 8, back_projections=1)
    assert faithful["back_projections"] == 1
    assert faithful["mean"]["rmse"] != result["mean"]["rmse"]


def test_rmse_is_pillows_bicubic_in_both_directions(manifest):
    depth = np.asarray(Image.open(manifest.parent.parent / "set0/depth.png")).astype(np.float32)
    small = Image.fromarray(depth).resize((8, 6), Image.Resampling.BICUBIC)
    large = np.asarray(small.resize((64, 48), Image.Resampling.BICUBIC))
    row = evaluate_upsampling(load("bicubic"), read_upsampling_manifest(manifest)[:1], 8)["per_image"][0]
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean((large - depth) ** 2)), rel=1e-4)


@pytest.mark.parametrize("reduction", ["area", "cubic", "nearest", "every"])
@pytest.mark.parametrize("scale", [2, 7.5])
def test_other_reductions_and_ratios(manifest, reduction, scale):
    result = evaluate_upsampling(load("nearest"), read_upsampling_manifest(manifest), scale, reduction=reduction)
    assert result["reduction"] == reduction
    assert result["mean"]["rmse"] >= 0


def test_measures():
    truth = torch.zeros(1, 1, 20, 30)
    truth[..., 15:] = 100
    known = torch.ones_like(truth, dtype=torch.bool)
    prediction = truth.clone()
    prediction[..., 14] = 20  # at the edge
    prediction[..., 2] = 4  # far from it, and below the limit
    found = upsampling_metrics(prediction, truth, known)
    assert found["rmse"] == pytest.approx(np.sqrt((400 + 16) / 30))
    assert found["mae"] == pytest.approx(24 / 30)
    assert found["edge_rmse"] == pytest.approx(np.sqrt(400 / 8))  # columns 11 to 18
    assert found["flat_rmse"] == pytest.approx(np.sqrt(16 / 22))
    assert found["bad_edge"] == pytest.approx(100 / 8)
    flat = upsampling_metrics(torch.ones_like(truth), torch.zeros_like(truth), known)
    assert flat["rmse"] == flat["flat_rmse"] == 1
    assert np.isnan(flat["edge_rmse"])


def test_what_cannot_be_measured_is_none(manifest):
    for file in manifest.parent.parent.rglob("depth.png"):
        Image.fromarray(np.full(np.asarray(Image.open(file)).shape, 7, np.uint8)).save(file)
    result = evaluate_upsampling(load("nearest"), read_upsampling_manifest(manifest), 8)
    assert result["mean"]["edge_rmse"] is None
    assert result["mean"]["rmse"] == pytest.approx(0, abs=1e-4)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "rmse_mm"}, "must be rmse_255 or rmse_cm"),
        ({"scale_to_unit": 0}, "scale_to_unit of set0/0"),
        ({"depth": "set0/nothing.png"}, "does not exist"),
        ({"depth": "set1/depth.png"}, "must have the size of its image"),
    ],
)
def test_bad_manifests_are_refused_in_one_sentence(manifest, change, words):
    rows = json.loads(manifest.read_text())
    rows[0] |= change
    manifest.write_text(json.dumps(rows))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        evaluate_upsampling(load("bicubic"), read_upsampling_manifest(manifest), 8)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_other_bad_input_is_refused(manifest, tmp_path):
    images = read_upsampling_manifest(manifest)
    with pytest.raises(ValueError, match="there are no images"):
        evaluate_upsampling(load("bicubic"), [], 8)
    with pytest.raises(ValueError, match="scale is 1; it must be above 1"):
        evaluate_upsampling(load("bicubic"), images, 1)
    with pytest.raises(ValueError, match="too small for a scale of 100"):
        evaluate_upsampling(load("bicubic"), images, 100)
    np.save(manifest.parent.parent / "set0" / "depth.npy", np.full((48, 64), np.nan, np.float32))
    rows = json.loads(manifest.read_text())
    rows[0]["depth"] = "set0/depth.npy"
    manifest.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="needs a dense map"):
        evaluate_upsampling(load("bicubic"), read_upsampling_manifest(manifest), 8)


def test_the_authors_weights_on_middlebury(shared_data):
    model = import_dkn(DKN(OFFICIAL), shared_data("weights/dkn/FDKN_8x")).eval()
    images = read_upsampling_manifest(shared_data("data/rgbd/manifest.json"))
    mean = evaluate_upsampling(model, images, 8)["mean"]
    assert mean["rmse"] == pytest.approx(2.1, abs=0.1)
    assert mean["ratio"] < 0.6
