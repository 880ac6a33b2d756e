"""``stereopsis upsample`` and ``stereopsis evaluate upsampling``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from views import texture

from stereopsis.cli import main
from stereopsis.io import read_depth, write_depth, write_image

PAIR = "image.png depth.npy"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An image, small depth of it with a hole, and broken files; tests run inside it."""
    monkeypatch.chdir(tmp_path)
    image = texture(64, 96)
    image[:, 48:] //= 2
    write_image("image.png", image)
    depth = np.full((8, 12), 2.0, np.float32)
    depth[:, 6:] = 4.0
    np.save("dense.npy", depth)
    depth[2, 3] = np.nan
    np.save("depth.npy", depth)
    write_depth("depth.png", np.where(np.isfinite(depth), depth, 0))
    np.save("large.npy", np.ones((65, 96), np.float32))
    np.save("square.npy", np.ones((12, 12), np.float32))
    np.save("empty.npy", np.zeros((8, 12), np.float32))
    np.save("negative.npy", -depth)
    np.save("nan.npy", np.full((8, 12), np.nan, np.float32))
    mask = np.full((8, 12), 255, np.uint8)
    mask[:, :2] = 0
    Image.fromarray(mask).save("mask.png")
    np.save("mask.npy", mask > 0)
    Image.fromarray(np.zeros_like(mask)).save("nothing.png")
    Image.fromarray(mask[:-1]).save("short.png")
    return tmp_path


@pytest.mark.parametrize("ending", ["png", "npy", "npz", "pfm"])
@pytest.mark.parametrize("depth", ["depth.npy", "depth.png"])
def test_depth_at_the_images_size(folder, capsys, ending, depth):
    out = f"new/result.{ending}"
    assert main(["upsample", "image.png", depth, "--out", out, "--scale", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["width"], result["height"], result["scale"]) == (96, 64, 8)
    assert result["out"] == out
    values, valid = read_depth(out)
    assert values.shape == (1, 64, 96)
    assert valid.float().mean() > 0.95
    assert values[valid].min() > 1.5
    assert values[valid].max() < 4.5


def test_in_words(folder, capsys):
    assert main(["upsample", *PAIR.split(), "--out", "o.png", "--model", "nearest"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("o.png  2 to 4 m, ")
    values, valid = read_depth("o.png")
    assert not valid[0, 16:24, 24:32].any()  # the hole stays where it was
    assert values[valid].unique().tolist() == [2, 4]


@pytest.mark.parametrize("mask", ["mask.png", "mask.npy"])
def test_a_mask(folder, capsys, mask):
    assert main(["upsample", "image.png", "dense.npy", "--out", "o.npy", "--model", "bicubic", "--valid", mask]) == 0
    _, valid = read_depth("o.npy")
    assert not valid[..., :16].any()
    assert valid[..., 16:].all()


@pytest.mark.parametrize(("option", "metres"), [([], 0.002), (["--unit", "0.5"], 1.0)])
def test_the_unit_of_a_file(folder, option, metres):
    Image.fromarray(np.full((8, 12), 2, np.uint16)).save("steps.png")
    assert main(["upsample", "image.png", "steps.png", "--out", "o.npy", *option]) == 0
    values, _ = read_depth("o.npy")
    assert values.mean().item() == pytest.approx(metres)


def test_depth_of_the_images_size_is_filtered(folder, capsys):
    np.save("same.npy", np.random.default_rng(0).uniform(1, 2, (64, 96)).astype(np.float32))
    assert main(["upsample", "image.png", "same.npy", "--out", "o.npy", "--model", "joint-bilateral", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 1
    values, _ = read_depth("o.npy")
    assert values.std() < 0.2


CASES = [
    ("image.png large.npy --out OUT.npy", "must not be larger than the image"),
    ("image.png square.npy --out OUT.npy", "another shape"),
    ("image.png empty.npy --out OUT.npy", "empty.npy has no valid depth"),
    ("image.png nan.npy --out OUT.npy", "nan.npy has no valid depth"),
    ("image.png negative.npy --out OUT.npy", "negative.npy has no valid depth"),
    (f"{PAIR} --out OUT.npy --valid nothing.png", "has no valid depth"),
    (f"{PAIR} --out OUT.npy --valid short.png", "short.png is 12x7 and the depth map is 12x8"),
    (f"{PAIR} --out OUT.npy --valid absent.png", "absent.png does not exist"),
    (f"{PAIR} --out OUT.npy --valid image.png", "must have one channel"),
    ("absent.png depth.npy --out OUT.npy", "absent.png does not exist"),
    ("image.png absent.npy --out OUT.npy", "absent.npy does not exist"),
    ("image.png image.png --out OUT.npy", "must have one channel"),
    (f"{PAIR} --out OUT.jpg", "must end in .pfm, .png, .npy, .npz"),
    (f"{PAIR} --out OUT.npy --scale 4", "--scale is 4, but the image is 96x64 and the depth map is 12x8"),
    (f"{PAIR} --out OUT.npy --scale 0.5", "--scale is 0.5; it must be at least 1"),
    (f"{PAIR} --out OUT.npy --unit 0", "unit is 0.0; it must be above 0"),
    (f"{PAIR} --out OUT.npy --model sgbm", "sgbm does not upsample; choose one of bicubic"),
    (f"{PAIR} --out OUT.npy --model fdkn_x8", "fdkn_x8 has no shipped weights"),
    (f"{PAIR} --out OUT.npy --model fdkn_x8.official", "stereopsis import"),
    (f"{PAIR} --out OUT.npy --weights w.safetensors", "there is no weights file w.safetensors"),
    (f"{PAIR} --out OUT.npy --model guided-filter --weights w.safetensors", "guided-filter is a classical method"),
    (f"{PAIR} --out OUT.npy --device nowhere", "device 'nowhere' cannot be used here"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_bad_input_is_one_sentence_and_no_file(folder, capsys, line, message):
    before = sorted(folder.rglob("*"))
    assert main(["upsample", *line.split()]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("stereopsis: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(".\n")
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def manifest(folder):
    np.save("truth.npy", np.kron(np.load("dense.npy"), np.ones((8, 8), np.float32)))
    (folder / "lists").mkdir()
    row = {"id": "set/0", "image": "image.png", "depth": "truth.npy", "metric": "rmse_cm", "scale_to_unit": 100}
    (folder / "lists" / "manifest.json").write_text(json.dumps([row]))
    return "lists/manifest.json"


def test_evaluate(manifest, capsys):
    words = ["evaluate", "upsampling", "--data", manifest, "--model", "guided-filter", "--scale", "4"]
    assert main([*words, "--json", "--out", "new/result.json"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed)
    assert json.loads(Path("new/result.json").read_text()) | {"warnings": []} == result
    assert (result["model"], result["scale"], result["reduction"]) == ("guided-filter", 4, "bicubic")
    assert {"rmse", "bicubic_rmse", "ratio", "bad_edge"} <= set(result["mean"])
    assert [row["id"] for row in result["per_image"]] == ["set/0"]
    assert main([*words, "--reduction", "nearest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["all", "1"] for line in lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--data absent.json --model bicubic", "there is no manifest absent.json"),
        ("--data lists/manifest.json --model sgbm", "does not upsample"),
        ("--data lists/manifest.json --model bicubic --scale 1", "--scale is 1; it must be above 1"),
        ("--data lists/manifest.json --model bicubic --out lists", "which is a folder"),
        ("--data image.png --model bicubic", "is not JSON"),
    ],
)
def test_evaluate_refuses_bad_input(manifest, capsys, line, message):
    assert main(["evaluate", "upsampling", *line.split()]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
