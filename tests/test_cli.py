"""The command line as a whole, and the commands without a file of tests of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from views import shifted_pair

import stereopsis
from stereopsis.cli import main
from stereopsis.io import write_disparity, write_image


def run(*arguments: str, module: str = "stereopsis") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["stereopsis", "stereopsis.cli"])
def test_as_a_program(module):
    done = run("--version", module=module)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, stereopsis.__version__, "")


def test_bad_input_as_a_program(tmp_path):
    done = run("match", "absent.png", "absent.png", "--out", str(tmp_path / "o.pfm"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stereopsis: absent.png does not exist; name an existing image or folder.\n"


def test_a_reader_that_leaves():
    command = f"{sys.executable} -m stereopsis models --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "["
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_names_every_command(words, capsys):
    assert main(words) == 0
    text = capsys.readouterr().out
    for command in (
        *("demo", "match", "depth", "upsample", "doctor", "evaluate", "models", "import", "train", "scenes"),
        *("restore", "smooth", "board", "calibrate", "rectify", "export", "bench", "compress", "decompress", "info"),
        *("view", "serve"),
        "pipeline",
    ):
        assert f"• {command}" in text


def test_help_loads_neither_opencv_nor_models():
    code = (
        "import sys; from stereopsis.cli import main; main(['match', '--help']);"
        "print(*sorted({'cv2', 'PIL', 'safetensors', 'skimage', 'stereopsis.matching.hitnet'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_models(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(stereopsis.list_models())
    assert rows["hitnet.eth3d"]["parameters"] == 655_723
    assert rows["hitnet.eth3d"]["weights"] == "import"
    assert rows["hitnet.scenes"]["shipped"]
    assert rows["hitnet.scenes"]["licence"] == "Apache-2.0"
    assert rows["hitnet.scenes"]["training_time"]
    assert rows["sgbm"]["parameters"] == 0
    assert main(["models", "sgbm*"]) == 0
    text = capsys.readouterr().out
    assert "sgbm-hh" in text
    assert "hitnet" not in text


def test_the_card_of_one_model(capsys):
    assert main(["models", "anynet.scenes"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("anynet.scenes", "43,269", "Apache-2.0", "training time", "procedural"))
    assert main(["models", "nothing*"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_scenes(tmp_path, capsys, monkeypatch):
    from stereopsis.data import textures

    bank = textures.make_bank(photo_crops=0, drawn=4)
    monkeypatch.setattr(textures, "make_bank", lambda: bank)
    arguments = ["scenes", "--out", str(tmp_path / "a" / "b"), "--count", "2", "--width", "96", "--height", "64"]
    assert main([*arguments, "--max-disparity", "24", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["largest_disparity"] <= 25
    with Image.open(result["out"]) as sheet:
        assert sheet.size == (4 * 96 + 3 * 4, 2 * 64 + 4)


@pytest.fixture
def manifest(tmp_path):
    """Two pairs with ground truth in two groups, as the manifest describes them."""
    rows = []
    for group, shift in (("near", 12), ("far", 5)):
        folder = tmp_path / "data" / group
        folder.mkdir(parents=True)
        for name, view in zip(("left", "right"), shifted_pair(shift), strict=True):
            write_image(folder / f"{name}.png", view)
        import numpy as np

        write_disparity(folder / "truth.pfm", np.full((96, 160), shift, np.float32))
        files = {key: f"{group}/{name}" for key, name in
                 (("left", "left.png"), ("right", "right.png"), ("disparity", "truth.pfm"))}  # fmt: skip
        rows.append({"id": f"{group}/0", **files})
    (tmp_path / "data" / "lists").mkdir()
    path = tmp_path / "data" / "lists" / "manifest.json"
    path.write_text(json.dumps(rows))
    return path


def test_evaluate(manifest, tmp_path, capsys):
    out = tmp_path / "new" / "result.json"
    arguments = ["evaluate", "matching", "--data", str(manifest), "--model", "sgbm", "--max-disparity", "32"]
    assert main([*arguments, "--fill", "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert json.loads(out.read_text()) | {"warnings": []} == result
    assert (result["model"], result["pairs"], result["fill"]) == ("sgbm", 2, True)
    assert set(result["mean"]) == {"epe", "bad1", "bad2", "bad3", "d1", "density"}
    assert result["mean"]["density"] == 1
    assert result["mean"]["epe"] < 1
    assert [row["id"] for row in result["per_pair"]] == ["near/0", "far/0"]
    assert result["groups"]["far"]["pairs"] == 1


def test_evaluate_prints_a_table(manifest, capsys):
    assert main(["evaluate", "matching", "--data", str(manifest), "--model", "bm", "--max-disparity", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["all", "2"] for line in lines)
    assert any(line.split()[:2] == ["near", "1"] for line in lines)


@pytest.fixture
def short_recipe(monkeypatch):
    """A recipe of twenty tiny steps, and drawn textures alone."""
    from dataclasses import replace

    from stereopsis.data.textures import make_bank
    from stereopsis.training import loop
    from stereopsis.training.recipes import RECIPES

    recipe = RECIPES["hitnet.smoke"]
    phase = replace(recipe.phases[0], steps=20)
    monkeypatch.setitem(RECIPES, "short", replace(recipe, name="short", phases=(phase,), warmup=2))
    monkeypatch.setattr(loop, "make_bank", lambda: make_bank(photo_crops=0, drawn=4))


def test_train(short_recipe, tmp_path, capsys):
    out = tmp_path / "new" / "run"
    assert main(["train", "short", "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["steps"] == 20
    assert result["means"]["epe"] > 0
    assert "step 20 of 20: short loss" in printed.err
    assert (out / "checkpoint.pt").is_file()
    assert main(["train", "short", "--out", str(out)]) == 2
    assert "add --resume to go on" in capsys.readouterr().err
    assert main(["train", "short", "--out", str(out), "--resume"]) == 0
    assert main(["train", "short", "warmup", "3", "--out", str(out), "--resume"]) == 2
    assert "made with another warmup" in capsys.readouterr().err


def test_train_on_pairs_from_a_shipped_weight(short_recipe, manifest, tmp_path, capsys):
    """A folder without ground truth, measured on a manifest at the end."""
    from stereopsis.zoo.weights import read_card

    folder = tmp_path / "pairs"
    for side in ("left", "right"):
        (folder / side).mkdir(parents=True)
        source = next(manifest.parent.parent.rglob(f"*{side}*.png"))
        (folder / side / "0.png").write_bytes(source.read_bytes())
    out = tmp_path / "run"
    words = ["train", "short", "phases.0.steps", "2", "--initial", "hitnet.scenes", "--pairs", str(folder)]
    assert main([*words, "--evaluate", str(manifest), "--out", str(out), "--json"]) == 0
    assert json.loads((out / "evaluation.jsonl").read_text().splitlines()[-1])["step"] == 2
    card = read_card(out / "short.safetensors")
    assert card.data == "the user's own pairs (folder, 1 of them)"
    assert card.notes == "Started from hitnet.scenes."
    assert main(["train", "short", "--out", str(tmp_path / "new"), "--pairs", str(folder), "--dataset", "moon"]) == 2
    assert "must be one of" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp932", "gbk", "euc_kr", "cp437", "ascii"])
def test_help_on_consoles_of_other_encodings(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for words in (["--help"], ["match", "--help"]):
        done = subprocess.run([sys.executable, "-m", "stereopsis", *words], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr[-500:]
        assert b"stereopsis" in done.stdout or b"hitnet" in done.stdout


def test_pairs_with_and_without_truth_are_counted(tmp_path, capsys, short_recipe):
    left, right = shifted_pair(6, 64, 128)
    for number in range(3):
        for name, view in (("left", left), ("right", right)):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / "set" / name / f"{number}.png", view)
    words = ["train", "short", "--pairs", str(tmp_path / "set"), "--steps", "2", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert "3 pairs, 0 with ground truth; the network is trained by comparing" in capsys.readouterr().err
    (tmp_path / "set/disparity").mkdir()
    write_disparity(tmp_path / "set/disparity/0.pfm", np.full((64, 128), 6, np.float32))
    assert main([*words, str(tmp_path / "b")]) == 2
    assert "2 of 3 pairs have no ground truth" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "c"), "--mixed"]) == 0
    assert "3 pairs, 1 with ground truth" in capsys.readouterr().err
