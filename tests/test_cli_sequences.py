"""``stereopsis match`` on videos and on folders as sequences: order, previews, filter, warm start and budgets."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from videos import cut_off, stereo_frames, write_frames

from stereopsis.cli import main
from stereopsis.io import VideoReader, read_disparity, write_image
from stereopsis.zoo import ModelCard, get_entry, save_weights

SGBM = ["--model", "sgbm", "--max-disparity", "16"]
SHIFTS = (3, 5, 7, 9)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos and folders of four pairs, 3, 5, 7 and 9 px away, good ones and broken ones."""
    root = tmp_path_factory.mktemp("sequences")
    pairs = [stereo_frames(1, shift)[0] for shift in SHIFTS]
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    write_frames(root / "left.avi", left)
    write_frames(root / "right.avi", right)
    write_frames(root / "both.avi", [np.hstack(pair) for pair in pairs])
    write_frames(root / "short.avi", right[:2])
    write_frames(root / "small.avi", [view[:, :-2] for view in right])
    cut_off(shutil.copy(root / "right.avi", root / "cut.avi"), 0.75)
    (root / "text.avi").write_text("no video")
    odd = [Image.fromarray(np.hstack(pair)[:, :-1]) for pair in pairs]
    odd[0].save(root / "odd.avi", format="GIF", save_all=True, append_images=odd[1:])
    for number, views in enumerate(zip(left, right, strict=True)):
        for side, view in zip(("left", "right"), views, strict=True):
            (root / "scene" / side).mkdir(parents=True, exist_ok=True)
            write_image(root / "scene" / side / f"{number}.png", view)
    torch.manual_seed(0)
    entry = get_entry("anynet")
    card = ModelCard(architecture=entry.architecture, config=entry.config_dict(), model=entry.name)
    save_weights(root / "anynet.safetensors", entry.build(), card)
    return root


@pytest.fixture
def inside(root, monkeypatch):
    monkeypatch.chdir(root)


def _medians(folder):
    maps = [read_disparity(path) for path in sorted(folder.glob("*.pfm"))]
    return [disparity[valid].median().item() for disparity, valid in maps]


@pytest.mark.parametrize("words", [["left.avi", "right.avi"], ["both.avi"]])
def test_videos(inside, tmp_path, capsys, words):
    out = tmp_path / "maps"
    assert main(["match", *words, "--out", str(out), "--confidence", str(tmp_path / "c"), *SGBM, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    result = json.loads(printed.out)
    assert result["failed"] == []
    assert [row["name"] for row in result["pairs"]] == [f"{number:06d}" for number in range(4)]
    assert {(row["left"], row["right"]) for row in result["pairs"]} == {(words[0], words[-1])}
    assert {(row["width"], row["height"]) for row in result["pairs"]} == {(64, 48)}
    assert [path.name for path in sorted(out.glob("[!.]*"))] == [f"{number:06d}.pfm" for number in range(4)]
    assert _medians(out) == pytest.approx(SHIFTS, abs=0.2)
    assert len(list((tmp_path / "c").iterdir())) == 4


def test_a_folder_of_pairs_alone(inside, tmp_path):
    assert main(["match", "scene", "--out", str(tmp_path), *SGBM]) == 0
    assert _medians(tmp_path) == pytest.approx(SHIFTS, abs=0.2)


@pytest.mark.parametrize(("words", "fps"), [(["both.avi"], 12), (["scene"], 10)])
@pytest.mark.parametrize("name", ["colours.mp4", "colours.avi"])
def test_a_preview_video(inside, tmp_path, words, fps, name):
    preview = tmp_path / "new" / name
    assert main(["match", *words, "--out", str(tmp_path / "maps"), "--preview", str(preview), *SGBM]) == 0
    assert [path.name for path in preview.parent.iterdir()] == [name]
    video = VideoReader(preview)
    assert (video.width, video.height, video.fps, video.frames) == (64, 48, fps, 4)
    assert len(list((tmp_path / "maps").glob("*.pfm"))) == 4


def _colors(folder):
    """The colour of the plane in each preview."""
    return [np.median(np.asarray(Image.open(path))[8:40, 30:60], (0, 1)) for path in sorted(folder.glob("*.png"))]


def test_the_colours_of_a_sequence_have_one_range(inside, tmp_path):
    from stereopsis.visualization import colorize

    def expected(low, high):
        pictures = [colorize(np.full((1, 1), shift, np.float32), vmin=low, vmax=high) for shift in SHIFTS]
        return [picture[0, 0] for picture in pictures]

    arguments = ["match", "scene", "--out", str(tmp_path / "maps"), *SGBM, "--preview"]
    assert main([*arguments, str(tmp_path / "given"), "--range", "0", "12"]) == 0
    arguments[3] = str(tmp_path / "video")
    assert np.allclose(_colors(tmp_path / "given"), expected(0, 12), atol=8)
    assert main(["match", "both.avi", *arguments[2:], str(tmp_path / "first")]) == 0
    # the first frame is a plane at 3 px, so everything beyond 4 px is at the end of the scale
    first = _colors(tmp_path / "first")
    assert np.allclose(first[1:], expected(0, 1)[1:], atol=8)
    # pictures that nothing says are a sequence keep a range each
    arguments[3] = str(tmp_path / "apart")
    assert main([*arguments, str(tmp_path / "each")]) == 0
    assert not np.allclose(_colors(tmp_path / "each")[1:], first[1:], atol=8)


def test_the_filter_acts_from_frame_to_frame(inside, tmp_path):
    generator = np.random.default_rng(0)
    left, right = stereo_frames(1)[0]
    noisy = [
        np.hstack(
            [np.clip(view + generator.normal(0, 6, view.shape), 0, 255).astype(np.uint8) for view in (left, right)]
        )
        for _ in range(6)
    ]
    video = write_frames(tmp_path / "still.avi", noisy)
    spread = []
    for words in ([], ["--smooth", "0.8"]):
        out = tmp_path / f"maps{len(words)}"
        assert main(["match", str(video), "--out", str(out), *SGBM, *words]) == 0
        maps = [read_disparity(path) for path in sorted(out.glob("*.pfm"))]
        everywhere = torch.stack([valid for _, valid in maps]).all(0)
        spread.append(torch.stack([disparity for disparity, _ in maps])[2:].var(0)[everywhere].mean())
    assert spread[1] < 0.6 * spread[0]


def test_budget_and_warm_start(inside, tmp_path, capsys):
    network = ["--model", "anynet", "--weights", "anynet.safetensors"]
    arguments = ["match", "both.avi", *network, "--max-disparity", "32", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "cold")]) == 0
    assert all("stage" not in row for row in json.loads(capsys.readouterr().out)["pairs"])
    assert main([*arguments, "--out", str(tmp_path / "warm"), "--warm-start", "--budget-ms", "1e6"]) == 0
    assert [row["stage"] for row in json.loads(capsys.readouterr().out)["pairs"]] == [4] * 4
    cold, warm = ([read_disparity(tmp_path / f / f"00000{n}.pfm")[0] for n in range(4)] for f in ("cold", "warm"))
    assert torch.allclose(cold[0], warm[0], atol=1e-4)
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(cold[1:], warm[1:], strict=True))
    assert main(["match", "both.avi", *network, "--out", str(tmp_path / "fast"), "--budget-ms", "1e-6"]) == 0
    assert capsys.readouterr().out.count(" s, stage 1\n") == 4


def test_a_budget_for_one_pair(inside, tmp_path, capsys):
    pair = [f"scene/{side}/0.png" for side in ("left", "right")]
    network = ["--model", "anynet", "--weights", "anynet.safetensors", "--budget-ms", "1e6", "--json"]
    assert main(["match", *pair, *network, "--out", str(tmp_path / "o.pfm"), "--check", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["stage"] == 4


@pytest.mark.parametrize(
    ("words", "count", "sentence"),
    [
        (
            "left.avi short.avi",
            2,
            "short.avi ends after 2 frames and left.avi goes on; cut both to one length",
        ),
        ("left.avi cut.avi", 1, "cut.avi ends early, after 1 of 4 whole frames; record or copy it again"),
    ],
)
def test_a_video_that_ends_early_keeps_what_was_written(inside, tmp_path, capsys, words, count, sentence):
    out, preview = tmp_path / "maps", tmp_path / "colours.avi"
    arguments = ["match", *words.split(), "--out", str(out), "--preview", str(preview), *SGBM]
    assert main([*arguments, "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"stereopsis: {sentence}; what was matched before is written.\n"
    result = json.loads(printed.out)
    assert [row["name"] for row in result["pairs"]] == [f"{number:06d}" for number in range(count)]
    assert [row["name"] for row in result["failed"]] == [f"{count:06d}"]
    assert _medians(out) == pytest.approx(SHIFTS[:count], abs=0.2)
    assert len(list(VideoReader(preview))) == count
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colours.avi", "maps"]


def test_an_interruption_keeps_the_preview(inside, tmp_path, monkeypatch, capsys):
    from stereopsis.pipeline import match as matching

    calls = []

    def twice(*views, **options):
        calls.append(views)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return match(*views, **options)

    match = matching.match_images
    monkeypatch.setattr("stereopsis.pipeline.match.match_images", twice)
    preview = tmp_path / "colours.mp4"
    assert main(["match", "both.avi", "--out", str(tmp_path / "maps"), "--preview", str(preview), *SGBM]) == 130
    assert len(list(VideoReader(preview))) == len(list((tmp_path / "maps").glob("*.pfm"))) == 2


def test_a_pair_of_another_size_does_not_enter_the_video(inside, tmp_path, capsys):
    shutil.copytree("scene", tmp_path / "scene")
    for side, view in zip(("left", "right"), stereo_frames(1, width=80)[0], strict=True):
        write_image(tmp_path / "scene" / side / "1.png", view)
    preview = tmp_path / "colours.avi"
    words = [str(tmp_path / "scene"), "--out", str(tmp_path / "maps"), "--preview", str(preview)]
    assert main(["match", *words, *SGBM]) == 1
    assert f"1: The frame is 80x48 and {preview} is 64x48; a video has one size." in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.pfm")) == ["0.pfm", "2.pfm", "3.pfm"]
    assert len(list(VideoReader(preview))) == 3


CASES = [
    ("left.avi absent.avi --out OUT", "absent.avi does not exist; name an existing video"),
    ("text.avi --out OUT", "text.avi cannot be read as a video"),
    ("left.avi small.avi --out OUT", "left.avi is 64x48 and small.avi is 62x48; the two views"),
    ("odd.avi --out OUT", "odd.avi is 127 px wide; a side-by-side video must have an even width"),
    ("left.avi scene/right --out OUT", "left.avi is a video and scene/right is none; name two videos"),
    ("scene/left/0.png --out OUT", "is a file; name the right view too"),
    ("both.avi --out OUT.pfm", "--out is OUT.pfm, a file, but there are 4 pairs; name a folder"),
    ("both.avi --out OUT.mp4", "--out is OUT.mp4, a file, but there are 4 pairs; name a folder"),
    ("both.avi --out OUT --preview OUT.mkv", "a file, but there are 4 pairs; name a folder, or a video .mp4 or .avi"),
    (
        "both.avi --out OUT --preview ./both.avi",
        "The output both.avi is an input and would replace it; name another file",
    ),
    ("scene/left/0.png scene/right/0.png --out OUT.pfm --preview OUT.mp4", "its name must end in .png"),
    ("scene/left/0.png scene/right/0.png --out OUT.pfm --smooth 0.5", "--smooth acts from frame to frame"),
    ("both.avi --out OUT --smooth 1", "--smooth is 1; it must lie in [0, 1)"),
    ("both.avi --out OUT --range 9 3 --preview P", "--range is 9 3; it must be the lowest and the highest"),
    ("both.avi --out OUT --range 0 inf --preview P", "--range is 0 inf; it must be"),
    ("both.avi --out OUT --range 0 9", "--range is for the colours of --preview"),
    ("both.avi --out OUT --budget-ms 0", "--budget-ms is 0; it must be above 0, for example 20"),
    ("both.avi --out OUT --budget-ms nan", "--budget-ms is nan; it must be above 0"),
    (
        "both.avi --out OUT --budget-ms 20",
        "--budget-ms needs a model with stages, which sgbm is not; choose one of anynet",
    ),
    ("both.avi --out OUT --warm-start", "--warm-start needs a model with stages, which sgbm is not"),
    ("both.avi --out OUT --warm-start --budget-ms 9", "--budget-ms and --warm-start need a model with stages"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_one_sentence_and_no_file(root, inside, capsys, line, message):
    before = sorted(root.rglob("*"))
    assert main(["match", *line.split(), *SGBM]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("stereopsis: ")
    assert printed.err.count("\n") == 1
    assert printed.err.endswith(".\n")
    assert printed.out == ""
    assert sorted(root.rglob("*")) == before


def test_a_first_frame_that_cannot_be_matched_ends_it(root, inside, capsys, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("these views cannot be matched; take others.")

    monkeypatch.setattr("stereopsis.pipeline.match.match_images", refuse)
    before = sorted(root.rglob("*"))
    arguments = ["match", "both.avi", "--out", "OUT", "--preview", "OUT.mp4", "--model", "sgbm"]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "these views cannot be matched" in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(root.rglob("*")) == before
