"""Bad input: one clear sentence on stderr, exit status 2, nothing on stdout and no output file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from views import shifted_pair

from stereopsis.cli import main
from stereopsis.io import write_image
from stereopsis.zoo import ModelCard, get_entry, save_weights

CALIB = "cam0=[200 0 80; 0 200 48; 0 0 1]\ncam1=[200 0 80; 0 200 48; 0 0 1]\nbaseline=100\nwidth=160\nheight=96\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files, good ones and broken ones; tests run inside it."""
    root = tmp_path_factory.mktemp("bad")
    left, right = shifted_pair(11)
    write_image(root / "left.png", left)
    write_image(root / "right.png", right)
    write_image(root / "small.png", right[:, :-1])
    (root / "truncated.png").write_bytes((root / "right.png").read_bytes()[:999])
    (root / "text.png").write_text("no picture")
    (root / "nothing.png").write_bytes(b"")
    holed = np.full((96, 160), 0.5, np.float32)
    holed[3, 4] = np.nan
    Image.fromarray(holed).save(root / "nan.tif")
    np.save(root / "nan.npy", holed)
    for name in ("empty", "one", "two", "three"):
        (root / name).mkdir()
    write_image(root / "one" / "0.png", left)
    for number in range(2):
        write_image(root / "two" / f"{number}.png", right)
        write_image(root / "three" / f"{'ab'[number]}.png", right)

    (root / "calib.txt").write_text(CALIB)
    (root / "other_size.txt").write_text(CALIB.replace("96", "200"))
    (root / "swapped.txt").write_text(CALIB.replace("baseline=100", "baseline=-100"))
    (root / "no_baseline.txt").write_text(CALIB.replace("baseline=100\n", ""))
    (root / "metres.txt").write_text(CALIB.replace("baseline=100", "baseline=0.1"))
    (root / "prose.txt").write_text("the cameras are about so far apart")

    for name, model in (("grey", "hitnet.eth3d"), ("single_scale", "hitnet_sf")):
        entry = get_entry(model)
        card = ModelCard(architecture=entry.architecture, config=entry.config_dict(), model=entry.name)
        save_weights(root / f"{name}.safetensors", entry.build(), card)
    content = (root / "single_scale.safetensors").read_bytes()
    (root / "short.safetensors").write_bytes(content[:-1000])
    (root / "flipped.safetensors").write_bytes(content[:-1000] + bytes(b ^ 1 for b in content[-1000:]))
    (root / "prose.safetensors").write_text("no weights")
    torch.save({"a": torch.zeros(3)}, root / "pickle.pt")
    save_weights(root / "foreign.safetensors", {"a": torch.zeros(3)}, ModelCard(architecture="anynet"))

    rows = {
        "no_list.json": {},
        "no_pairs.json": [],
        "lost.json": [{"id": "a", "left": "x", "right": "x", "disparity": "x"}],
    }
    for name, content in rows.items():
        (root / name).write_text(json.dumps(content))
    (root / "prose.json").write_text("[{")
    return root


PAIR = "left.png right.png"
CASES = [
    # missing files
    ("match left.png absent.png --out OUT.pfm", "absent.png does not exist"),
    ("match absent.png right.png --out OUT.pfm", "absent.png does not exist"),
    ("match left.png *.gif --out OUT", "No file matches *.gif"),
    (f"match {PAIR} --out OUT.pfm --weights absent.safetensors", "no weights file absent.safetensors"),
    (f"depth {PAIR} --calibration absent.txt --out OUT", "absent.txt"),
    ("doctor left.png absent.png", "absent.png does not exist"),
    ("evaluate matching --data absent.json --model sgbm --out OUT.json", "there is no manifest absent.json"),
    ("evaluate matching --data lost.json --model sgbm --out OUT.json", "does not exist"),
    ("import absent.pb --architecture hitnet.eth3d --out OUT.safetensors", "absent.pb does not exist"),
    # different sizes
    ("match left.png small.png --out OUT.pfm", "left.png is 160x96 and small.png is 159x96"),
    ("depth left.png small.png --calibration calib.txt --out OUT", "must have the same size"),
    ("doctor left.png small.png", "must have the same size"),
    # unreadable images
    ("match left.png truncated.png --out OUT.pfm", "truncated.png cannot be read as an image"),
    ("match text.png right.png --out OUT.pfm", "text.png cannot be read as an image (not a picture)"),
    ("match left.png nothing.png --out OUT.pfm", "nothing.png is empty (0 bytes)"),
    ("depth left.png truncated.png --calibration calib.txt --out OUT", "truncated.png cannot be read"),
    ("doctor truncated.png right.png", "truncated.png cannot be read"),
    # NaN
    ("match nan.tif right.png --out OUT.pfm", "nan.tif holds values that are not finite (NaN or inf)"),
    ("match left.png nan.npy --out OUT.pfm", "nan.npy cannot be read as an image"),
    ("doctor left.png nan.tif", "NaN"),
    # calibration
    (f"depth {PAIR} --calibration other_size.txt --out OUT", "160x200 px and the images are 160x96"),
    (f"depth {PAIR} --calibration swapped.txt --out OUT", "baseline is -"),
    (f"depth {PAIR} --calibration no_baseline.txt --out OUT", "has no line baseline="),
    (f"depth {PAIR} --calibration metres.txt --out OUT", "baseline"),
    (f"depth {PAIR} --calibration prose.txt --out OUT", "no known calibration format"),
    (f"depth {PAIR} --calibration left.png --out OUT", "left.png"),
    (f"doctor {PAIR} --calibration other_size.txt", "another shape"),
    # limits
    (f"match {PAIR} --out OUT.pfm --max-disparity 0", "--max-disparity is 0; it must be at least 1"),
    (f"depth {PAIR} --calibration calib.txt --out OUT --max-disparity 0", "--max-disparity is 0"),
    (f"doctor {PAIR} --max-disparity=-3", "--max-disparity is -3"),
    ("evaluate matching --data no_pairs.json --model sgbm --max-disparity 0", "--max-disparity is 0"),
    ("scenes --out OUT --count 0", "--count is 0; it must lie between 1 and 64"),
    # folders
    ("match empty empty --out OUT", "empty holds no image"),
    ("match one three --out OUT", "one holds 1 images and three holds 2, and no names agree"),
    ("match one one --out OUT.pfm", "a file, but there are 1 pairs; name a folder"),
    ("match one one --out calib.txt", "--out is calib.txt, which is a file"),
    (f"depth {PAIR} --calibration calib.txt --out calib.txt", "The output calib.txt is an input"),
    (f"match {PAIR} --out one", "--out is one; its name must end in .pfm, .png, .npy"),
    (f"match {PAIR} --out OUT.exr", "must end in .pfm, .png, .npy"),
    (f"match {PAIR} --out OUT.png --preview OUT.png", "name one file twice"),
    (f"match {PAIR} --out OUT.png --confidence OUT.pfm", "--confidence is OUT.pfm; its name must end in .png"),
    # models and weights
    (f"match {PAIR} --out OUT.pfm --model hitnet.scene", "did you mean hitnet.scenes"),
    (f"match {PAIR} --out OUT.pfm --model hitnet.eth3d", "stereopsis import"),
    (f"match {PAIR} --out OUT.pfm --model sgbm --weights foreign.safetensors", "has no weights"),
    (
        f"match {PAIR} --out OUT.pfm --weights single_scale.safetensors",
        "weights of hitnet_sf (hitnet_sf) but hitnet.scenes",
    ),
    (f"match {PAIR} --out OUT.pfm --weights grey.safetensors", "choose the model these weights were made for"),
    (f"match {PAIR} --out OUT.pfm --weights foreign.safetensors", "weights of anynet"),
    (f"match {PAIR} --out OUT.pfm --weights short.safetensors", "is not a readable safetensors file"),
    (f"match {PAIR} --out OUT.pfm --weights flipped.safetensors", "is not a readable safetensors file"),
    (f"match {PAIR} --out OUT.pfm --weights prose.safetensors", "is not a readable safetensors file"),
    (f"match {PAIR} --out OUT.pfm --weights pickle.pt", "is a torch or pickle checkpoint"),
    (f"match {PAIR} --out OUT.pfm --device nowhere", "device 'nowhere' cannot be used here"),
    (f"match {PAIR} --out OUT.pfm --device nowhere --model sgbm", "device 'nowhere' cannot be used here"),
    ("import left.png --architecture hitnet.eth3d --out OUT.safetensors", "is not a whole frozen TensorFlow graph"),
    ("import left.png --architecture sgbm --out OUT.safetensors", "There is no importer for sgbm"),
    ("import left.png --architecture hitnet.eth3d --out OUT.pt", "must end in .safetensors"),
    ("train nothing --out OUT", "There is no recipe 'nothing'; choose one of hitnet.scenes"),
    ("train hitnet.smoke --out OUT --resume", "there is nothing to resume"),
    ("train hitnet.smoke warmup --out OUT", "'warmup' has no value"),
    ("train hitnet.smoke speed 3 --out OUT", "there is no 'speed' in speed; choose one of name"),
    ("train hitnet.smoke warmup soon --out OUT", "warmup is 'soon'; give a value like 20"),
    ("train hitnet.smoke --out OUT --pairs nowhere", "nowhere"),
    ("train hitnet.smoke --out OUT --pairs one --dataset moon", "must be one of sceneflow"),
    ("train hitnet.smoke --out OUT --evaluate no_pairs.json", "holds no pairs"),
    ("train hitnet.smoke --out OUT --initial foreign.safetensors", "weights of anynet"),
    # manifests
    ("evaluate matching --data prose.json --model sgbm --out OUT.json", "is not JSON"),
    ("evaluate matching --data no_list.json --model sgbm --out OUT.json", "holds no pairs"),
    ("evaluate matching --data no_pairs.json --model sgbm --out OUT.json", "holds no pairs"),
    ("evaluate matching --data no_pairs.json --model sgbm --out one", "--out is one, which is a folder"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_one_sentence_and_no_file(folder, monkeypatch, capsys, line, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("stereopsis: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(".\n") or printed.err.endswith("?\n")
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    ["match left.png right.png", "match left.png right.png --out a.pfm --bogus", "nothing", "match --max-disparity x"],
)
def test_options_the_parser_refuses(folder, monkeypatch, capsys, line):
    monkeypatch.chdir(folder)
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err


def test_a_folder_that_cannot_be_made(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["match", "left.png", "right.png", "--out", "calib.txt/a/o.pfm", "--model", "bm"]) == 2
    assert capsys.readouterr().err.startswith("stereopsis: ")


def test_too_little_memory(folder, monkeypatch, capsys):
    def explode(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried ...")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("stereopsis.pipeline.match.match_images", explode)
    assert main(["match", "left.png", "right.png", "--out", "OUT.pfm", "--model", "bm"]) == 2
    assert "not enough memory for images of this size" in capsys.readouterr().err


def test_errors_of_ours_keep_their_traceback(folder, monkeypatch):
    def explode(*_, **__):
        raise RuntimeError("shape mismatch")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("stereopsis.pipeline.match.match_images", explode)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main(["match", "left.png", "right.png", "--out", "OUT.pfm", "--model", "bm"])


def test_an_interruption(folder, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(folder)
    monkeypatch.setattr("stereopsis.pipeline.match.match_images", interrupt)
    assert main(["match", "left.png", "right.png", "--out", "OUT.pfm", "--model", "bm"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (folder / "OUT.pfm").exists()
