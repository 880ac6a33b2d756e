"""Manifests and the evaluation of matchers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stereopsis.data.manifests import BenchmarkPair, read_manifest, read_truth
from stereopsis.evaluation.matching import METRICS, evaluate_matching
from stereopsis.types import Disparity
from stereopsis.zoo import load

TRUTH = 5.0


class _Constant(nn.Module):
    """Answers one disparity everywhere, on the left half only if told so."""

    def __init__(self, value: float, half: bool = False) -> None:
        super().__init__()
        self.value, self.half, self.limits = value, half, []

    def forward(self, left: Tensor, right: Tensor, max_disparity: int = 7) -> Disparity:
        assert left.ndim == 4
        assert left.dtype == torch.float32
        self.limits.append(max_disparity)
        valid = torch.ones_like(left[:, :1], dtype=torch.bool)
        if self.half:
            valid[..., left.shape[-1] // 2 :] = False
        return Disparity(valid * self.value, valid, valid.float())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three pairs of 8 x 6 pixels in two groups: PNG, PFM and NPZ truth, each with one unknown pixel."""
    folder = tmp_path / "stereo"
    folder.mkdir()
    truth = np.full((6, 8), TRUTH, np.float32)
    png = (truth * 3).astype(np.uint8)
    png[0, 0] = 0
    Image.fromarray(png).save(folder / "d.png")
    truth[0, 0] = np.inf
    (folder / "d.pfm").write_bytes(b"Pf\n8 6\n-1.0\n" + truth[::-1].tobytes())
    truth[0, 0] = np.nan
    np.savez(folder / "d.npz", truth)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "view.png")
    rows = [
        {"id": identity, "left": "stereo/view.png", "right": "stereo/view.png", "disparity": f"stereo/{file}"}
        for identity, file in (("a/one", "d.png"), ("a/two", "d.pfm"), ("b", "d.npz"))
    ]
    rows[0]["divide_by"] = 3
    path = folder / "manifest.json"
    path.write_text(json.dumps(rows))
    return path


def test_manifest_paths_are_relative_to_the_folder_above(manifest):
    pairs = read_manifest(manifest)
    assert [pair.id for pair in pairs] == ["a/one", "a/two", "b"]
    assert [pair.group for pair in pairs] == ["a", "a", "b"]
    assert pairs[0] == BenchmarkPair(
        "a/one",
        manifest.parent / "view.png",
        manifest.parent / "view.png",
        manifest.parent / "d.png",
        3.0,
    )


def test_truth_of_every_format(manifest):
    for pair in read_manifest(manifest):
        truth, known = read_truth(pair)
        assert truth.shape == known.shape == (1, 1, 6, 8)
        assert truth[known].unique().tolist() == [TRUTH]
        assert (~known).nonzero().tolist() == [[0, 0, 0, 0]]
        assert truth[0, 0, 0, 0] == 0


def test_evaluation(manifest):
    seen = []
    model = _Constant(TRUTH + 1.5)
    result = evaluate_matching(
        model, read_manifest(manifest), name="constant", max_disparity=32, progress=lambda *step: seen.append(step)
    )
    assert (result["model"], result["pairs"]) == ("constant", 3)
    assert list(result["mean"]) == list(METRICS)
    assert result["mean"] == pytest.approx({"epe": 1.5, "bad1": 100, "bad2": 0, "bad3": 0, "d1": 0, "density": 1})
    assert {group: row["pairs"] for group, row in result["groups"].items()} == {"a": 2, "b": 1}
    assert [row["id"] for row in result["per_pair"]] == ["a/one", "a/two", "b"]
    assert seen == [(1, 3, "a/one"), (2, 3, "a/two"), (3, 3, "b")]
    assert model.limits == [32] * 3
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_models_own_limit_is_kept(manifest):
    model = _Constant(TRUTH)
    assert evaluate_matching(model, read_manifest(manifest))["model"] == "_Constant"
    assert model.limits == [7] * 3


def test_filling_makes_it_dense(manifest):
    model, pairs = _Constant(TRUTH, half=True), read_manifest(manifest)
    assert evaluate_matching(model, pairs)["mean"]["density"] == pytest.approx(23 / 47)
    assert evaluate_matching(model, pairs, fill=True)["mean"]["density"] == 1


def test_a_model_that_finds_nothing_is_null_in_json(manifest):
    class Nothing(_Constant):
        def forward(self, left: Tensor, right: Tensor) -> Disparity:
            zero = torch.zeros_like(left[:, :1])
            return Disparity(zero, zero > 0, zero)

    result = evaluate_matching(Nothing(0), read_manifest(manifest))
    assert result["mean"] == {"epe": None, "bad1": None, "bad2": None, "bad3": None, "d1": None, "density": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no pairs"),
        ('{"a": 1}', "holds no pairs"),
        ('[{"id": "x", "left": "l"}]', "pair 0 of .* lacks right, disparity"),
        ("[3]", "pair 0 of .* lacks id"),
    ],
)
def test_bad_manifests(tmp_path, text, message):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


def test_missing_files_are_named(manifest):
    with pytest.raises(FileNotFoundError, match="no manifest"):
        read_manifest(manifest.parent / "other.json")
    (manifest.parent / "d.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"d\.npz, the disparity file of b .* paths are relative to"):
        read_manifest(manifest)


@pytest.mark.parametrize("divide_by", [0, -1, "x"])
def test_bad_divisor(manifest, divide_by):
    rows = json.loads(manifest.read_text())
    rows[1]["divide_by"] = divide_by
    manifest.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="divide_by of a/two"):
        read_manifest(manifest)


def test_truth_of_another_size(manifest):
    Image.fromarray(np.ones((6, 9), np.uint8)).save(manifest.parent / "d.png")
    with pytest.raises(ValueError, match=r"d\.png is 9x6 but .*view\.png is 8x6"):
        evaluate_matching(_Constant(1), read_manifest(manifest))


def test_no_pairs():
    with pytest.raises(ValueError, match="no pairs to evaluate"):
        evaluate_matching(_Constant(1), [])


def test_sgbm_on_real_pairs(shared_data):
    """The reference figures for the small Middlebury 2003 scenes: EPE 1.46, bad-3 7.2 with holes filled."""
    pairs = [pair for pair in read_manifest(shared_data("data/stereo/manifest.json")) if pair.group == "mb2003"]
    mean = evaluate_matching(load("sgbm"), pairs, max_disparity=192, fill=True)["mean"]
    assert mean["epe"] == pytest.approx(1.46, abs=0.1)
    assert mean["bad3"] == pytest.approx(7.2, abs=0.5)
