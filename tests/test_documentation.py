"""What the documents say is true: their Python runs, their commands are understood, what they link to is there.

Python runs in a folder with small inputs under the names that the documents use. Commands are parsed by the program's
own parser, without being carried out, and the models and recipes in them must exist.
"""

import functools
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import write_frames
from views import shifted_pair, texture

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)

PROGRAMS = {"stereopsis", "python", "pip", "make", "accelerate", "curl", "git", "cd", "."}
HEIGHT, WIDTH, SHIFT = 96, 160, 11


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, *languages: str) -> list[str]:
    return [block for language, block in BLOCK.findall(text_of(name)) if language in languages]


def shell_blocks(name: str) -> list[str]:
    plain = [block for block in blocks(name, "") if re.match(r"\S+", block) and block.split()[0] in PROGRAMS]
    return blocks(name, "sh", "bash", "shell", "console") + plain


# Python

PYTHON = [(name, number) for name in NAMES for number in range(len(blocks(name, "python")))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files that the documents name: a pair, its calibration, depth, videos, a raw rig and a data set."""
    from stereopsis.calibration import RawCamera, StereoRig, write_calibration, write_rig
    from stereopsis.io import write_depth, write_image
    from stereopsis.types import StereoCalibration

    folder = tmp_path_factory.mktemp("documents")
    left, right = shifted_pair(SHIFT, HEIGHT, WIDTH)
    views = {"left": left, "right": right, "image": left, "flash": left, "dark": left // 4, "scores": left[..., 0]}
    for name, view in views.items():
        write_image(folder / f"{name}.png", view)
    ramp = torch.linspace(1, 3, WIDTH).expand(1, HEIGHT, WIDTH)
    write_depth(folder / "depth.png", ramp, torch.ones_like(ramp, dtype=torch.bool))
    middle = {"cx": WIDTH / 2, "cy": HEIGHT / 2, "width": WIDTH, "height": HEIGHT}
    rig = StereoCalibration(fx=150.0, fy=150.0, cx_right=WIDTH / 2, baseline=0.1, **middle)
    write_calibration(rig, folder / "calib.txt")
    camera = RawCamera(np.array([[150.0, 0, WIDTH / 2], [0, 150, HEIGHT / 2], [0, 0, 1]]), np.zeros(5), "pinhole")
    raw = StereoRig(camera, camera, np.eye(3), np.array([-0.1, 0, 0]), WIDTH, HEIGHT)
    write_rig(raw, folder / "rig.yaml")
    for name in ("left", "right"):
        write_frames(folder / f"{name}.mp4", [views[name]] * 2, codec="mp4v")
    for name in ("image_2/000000_10.png", "image_3/000000_10.png"):
        path = folder / "data/kitti/training" / name
        path.parent.mkdir(parents=True)
        write_image(path, texture(HEIGHT, WIDTH))
    from PIL import Image

    truth = folder / "data/kitti/training/disp_occ_0/000000_10.png"
    truth.parent.mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 256 * SHIFT, np.uint16)).save(truth)
    return folder


@pytest.mark.parametrize(("name", "number"), PYTHON)
def test_python(name, number, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(blocks(name, "python")[number], name, "exec"), {})


# Commands


def lines(block: str) -> Iterator[list[str]]:
    """The words of each command of a block, continued lines joined and comments left out."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def words_of_stereopsis(words: list[str]) -> list[str] | None:
    """What comes after the program's name, also where a launcher or ``python -m`` starts it."""
    if Path(words[0]).name == "stereopsis":
        return words[1:]
    return words[words.index("stereopsis") + 1 :] if "stereopsis" in words and "-m" in words else None


@pytest.fixture
def parsed(monkeypatch) -> list[dict]:
    """Replaces what every command does by writing down its arguments here; the parser stays the program's own."""
    from tyro.extras import SubcommandApp

    calls: list[dict] = []
    register = SubcommandApp.command

    def stand_in(target):
        if isinstance(target, SubcommandApp):
            return target

        @functools.wraps(target)
        def record(*args, **kwargs):
            calls.append(inspect.signature(target).bind(*args, **kwargs).arguments)

        return record

    def command(app, target=None, **options):
        if target is None:
            return lambda target: register(app, stand_in(target), **options)
        return register(app, stand_in(target), **options)

    monkeypatch.setattr(SubcommandApp, "command", command)
    return calls


def check_names(arguments: dict) -> None:
    """The models and recipes of a parsed command exist."""
    from stereopsis.evaluation.codecs import ANCHORS
    from stereopsis.training.recipes import RECIPES
    from stereopsis.zoo import list_models

    known = set(list_models())
    for option in ("model", "codec", "upsample", "architecture"):
        assert arguments.get(option) is None or arguments[option] in known, arguments[option]
    for option in ("models", "codecs"):
        if isinstance(arguments.get(option), str):
            assert set(arguments[option].split(",")) <= known | set(ANCHORS), arguments[option]
    assert not arguments.get("recipe") or arguments["recipe"][0] in RECIPES, arguments["recipe"]


@pytest.mark.parametrize("name", [name for name in NAMES if shell_blocks(name)])
def test_commands(name, parsed, capsys):
    from stereopsis.cli import main

    for words in (words for block in shell_blocks(name) for words in lines(block)):
        command = words_of_stereopsis(words)
        if command is None:
            check_other(words)
            continue
        before = len(parsed)
        assert main(command) == 0, (words, capsys.readouterr().err)
        if command not in (["--version"], ["--help"]):
            assert len(parsed) == before + 1, words
            check_names(parsed[-1])


def check_other(words: list[str]) -> None:
    """What is not the program itself: scripts, targets of the Makefile and extras must be there."""
    assert words[0] in PROGRAMS, words
    if words[:2] == ["python", "-c"]:
        compile(words[2], "the command", "exec")
    elif words[0] == "python" and words[1] != "-m":
        assert (ROOT / words[1]).is_file(), words
    if words[0] == "make":
        assert f"\n{words[1]}:" in text_of("Makefile"), words
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
        named = re.search(r"\[([\w,-]+)\]", words[-1])
        assert named is None or set(named[1].split(",")) <= set(extras), words


def test_mistakes_are_found(parsed, capsys):
    from stereopsis.cli import main

    assert main(["match", "left.png", "right.png", "--out", "d.pfm", "--model", "hitnet.nowhere"]) == 0
    with pytest.raises(AssertionError, match="nowhere"):
        check_names(parsed[-1])
    for words in (["match", "left.png", "--outt", "d.pfm"], ["mach", "left.png"], ["match", "left.png"]):
        assert main(words) == 2
    assert len(parsed) == 1
    for words in (
        ["make", "coffee"],
        ["python", "benchmarks/absent.py"],
        ["pip", "install", ".[absent]"],
        ["sterepsis"],
    ):
        with pytest.raises(AssertionError):
            check_other(words)


def test_commands_inside_sentences(parsed, capsys):
    """They may leave arguments out, but not name commands or options that are not there."""
    from stereopsis.cli import main

    helps: dict[tuple[str, ...], str] = {}
    for name in NAMES:
        for span in SPAN.findall(BLOCK.sub("", text_of(name))):
            words = span.split()
            if words[0] != "stereopsis" or len(words) == 1 or words[1].startswith("-"):
                continue
            command = tuple(words[1:3] if words[1] == "evaluate" else words[1:2])
            if command not in helps:
                assert main([*command, "--help"]) == 0, (name, span)
                helps[command] = capsys.readouterr().out
            for option in re.findall(r"--[a-z][a-z-]*", span):
                assert option in helps[command], (name, span)


# Links, and names of the code


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = HEADING.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", head).strip().lower() for head in heads)
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("name", NAMES)
def test_links(name):
    for link in LINK.findall(BLOCK.sub("", text_of(name))):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_names_in_the_column_code_are_defined():
    """On the site they lead to the line that defines them, so each must mean one thing."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    found = 0
    for page in ("hitnet", "anynet", "dkn", "hyperprior", "dsic", "ffca"):
        text = text_of(f"docs/{page}.md")
        for start, end in hooks.code_cells(text):
            for match in hooks.SPAN.finditer(text[start:end]):
                place = hooks.find(match[1], hooks.links(text))
                assert place or hasattr(torch.nn.functional, match[1]), (page, match[0])
                found += place is not None
    assert found > 50


def test_every_page_is_in_the_navigation():
    navigation = text_of("mkdocs.yml").partition("\nnav:\n")[2]
    for path in PAGES[2:]:
        assert f": {path.name}\n" in navigation, path.name


def test_one_version():
    import yaml

    import stereopsis

    citation = yaml.safe_load(text_of("CITATION.cff"))
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert citation["version"] == project["version"] == stereopsis.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"
