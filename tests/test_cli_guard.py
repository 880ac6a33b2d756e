"""No command replaces an input, whatever spelling, link or folder hides that the output is one."""

import hashlib
import inspect
import os
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from views import shifted_pair

from stereopsis.calibration import RawCamera, StereoCalibration, StereoRig, write_calibration, write_rig
from stereopsis.cli import main
from stereopsis.cli.guard import MORE_OUTPUTS, OUTPUTS
from stereopsis.io import write_depth, write_image

HEIGHT, WIDTH = 64, 96
# For each command with an output: its words, in which OUT stands for what must not be replaced; each line is a case.
CASES = {
    "match": [
        "left.png right.png --model bm --out left.png",
        "left.png right.png --model bm --out d.pfm --preview right.png",
        "left.png right.png --model bm --out d.pfm --confidence left.png",
        "rec --model bm --out rec/left --format png",
        "rec/left rec/right --model bm --out rec/left --format png",
    ],
    "depth": [
        "left.png right.png --calibration calib.txt --model bm --out rec --files depth",
        "rec --calibration rig.yaml --model bm --out rec",
    ],
    "pipeline": ["left.png right.png --calibration calib.txt --model bm --codec hyperprior.photos --out ."],
    "upsample": [
        "left.png depth.png --model bicubic --out depth.png",
        "left.png depth.png --model bicubic --out left.png",
    ],
    "restore": ["left.png right.png --out right.png"],
    "smooth": ["left.png --out left.png"],
    "compress": ["left.png right.png --model hyperprior.photos --quality 1 --out archive.stz"],
    "decompress": ["archive.stz --out archive.stz"],
    "calibrate": ["rec/left rec/right --board 3x3 --square 0.1 --out rig.yaml"],
    "rectify": ["rec --calibration rig.yaml --out rec"],
    "convert": ["calib.txt --out calib.txt", "rig.yaml --out rig.yaml --format kalibr"],
    "import": ["weights.safetensors --architecture hitnet.eth3d --out weights.safetensors"],
    "evaluate matching": ["--data pairs.json --model bm --out pairs.json"],
    "evaluate upsampling": ["--data pairs.json --model bicubic --out pairs.json"],
    "evaluate compression": ["--data pairs.json --model hyperprior.photos --out pairs.json"],
    "evaluate depth-rate": ["--data pairs.json --codecs jpeg --out pairs.json"],
    "view": ["left.png right.png --model bm --out left.png"],
}
# They read nothing that a user has recorded, or write into a folder under names of their own.
WITHOUT_INPUT = {"demo", "board", "scenes", "train", "export", "photos"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    left, right = shifted_pair(11, HEIGHT, WIDTH)
    for place in ("", "rec/left/", "rec/right/"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name, view in (("left", left), ("right", right)):
        write_image(tmp_path / f"{name}.png", view)
        write_image(tmp_path / f"rec/{name}/0.png", view)
    ramp = np.linspace(1, 3, WIDTH // 4, dtype=np.float32) * np.ones((1, HEIGHT // 4, 1), np.float32)
    write_depth(
        tmp_path / "depth.png", torch.from_numpy(ramp), torch.ones(1, HEIGHT // 4, WIDTH // 4, dtype=torch.bool)
    )
    Image.fromarray((1000 * ramp[0]).astype(np.uint16)).save(tmp_path / "rec/depth.png")  # a sensor's
    middle = {"cx": WIDTH / 2, "cy": HEIGHT / 2, "width": WIDTH, "height": HEIGHT}
    rig = StereoCalibration(fx=150.0, fy=150.0, cx_right=WIDTH / 2, baseline=0.1, **middle)
    write_calibration(rig, tmp_path / "calib.txt")
    camera = RawCamera(np.array([[150.0, 0, WIDTH / 2], [0, 150, HEIGHT / 2], [0, 0, 1]]), np.zeros(5), "pinhole")
    write_rig(StereoRig(camera, camera, np.eye(3), np.array([-0.1, 0, 0]), WIDTH, HEIGHT), tmp_path / "rig.yaml")
    for name in ("archive.stz", "weights.safetensors", "pairs.json"):
        (tmp_path / name).write_text("recorded by a person")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _recorded(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("command", "words"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_no_input_is_replaced(folder, command, words):
    before = _recorded(folder)
    status = main([*command.split(), *words.split()])
    after = _recorded(folder)
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    assert not changed
    if "--out rec/left --format png" not in words or command != "match":
        assert status == 2


def _commands():
    """Name and function of every command."""
    import stereopsis.cli as cli

    source = inspect.getsource(cli._dispatch)
    commands = re.findall(r"(app|evaluation)\.command\((?:name=\"(\w+)\"\)\()?guarded\((\w+)\.(\w+)\)", source)
    for app, name, module, function in commands:
        package = "stereopsis.cli.evaluate" if app == "evaluation" else "stereopsis.cli"
        found = getattr(import_module(f"{package}.{module}"), function)
        words = name or function.replace("_", "-")
        yield f"evaluate {words}" if app == "evaluation" else words, found
    assert source.count(".command(") == source.count("guarded(") + 1  # the nested app


def test_every_command_with_an_output_is_tried():
    writing = set()
    for name, function in _commands():
        outputs = {*OUTPUTS, *MORE_OUTPUTS.get(function.__name__, ())}
        if outputs & set(inspect.signature(function).parameters):
            writing.add(name)
    assert writing == set(CASES) | WITHOUT_INPUT


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_do_not_hide_an_input(folder, link, capsys):
    link(folder / "left.png", folder / "other.png")
    before = _recorded(folder)
    assert main(["match", "left.png", "right.png", "--model", "bm", "--out", "other.png"]) == 2
    assert "the same file as the input left.png" in capsys.readouterr().err
    assert _recorded(folder) == before


def test_an_output_in_a_folder_of_inputs_can_be_written_again(folder):
    words = ["match", "rec", "--model", "bm", "--out", "rec/disparity", "--preview", "rec/colours"]
    assert main(words) == 0
    assert main([*words, "--overwrite"]) == 0
    assert (folder / "rec/disparity/0.pfm").is_file()


def test_python_writes_where_it_is_told(folder):
    """Only commands protect their inputs; a program may replace its own files."""
    write_image("left.png", np.zeros((4, 4, 3), np.uint8))
    assert Path("left.png").stat().st_size < 200
