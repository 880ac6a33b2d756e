"""What the README says is true: its Python runs, its links exist, and its numbers come from the results."""

import importlib.util
import re
from pathlib import Path

import pytest

from stereopsis.calibration import write_calibration
from stereopsis.io import read_point_cloud, write_image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _script(path: str):
    spec = importlib.util.spec_from_file_location("script", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_eight_lines(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    from stereopsis.apps.demo.compute import load_pair

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    assert len([line for line in blocks[0].splitlines() if line]) == 8
    pair, *_ = load_pair()
    write_image(tmp_path / "left.png", pair.left)
    write_image(tmp_path / "right.png", pair.right)
    write_calibration(pair.calibration, tmp_path / "calib.txt")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    cloud = read_point_cloud("cloud.ply")
    assert len(cloud) > 300_000
    assert 2 < cloud.points[:, 2].median() < 5  # the motorcycle stands about 3 m away


def test_links_and_pictures():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_pictures_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "docs/pictures").iterdir()) < 700_000


def test_the_commands_of_the_table_exist(capsys):
    from stereopsis.cli import main

    commands = re.findall(r"^\| `stereopsis ([a-z]+(?:[ -][a-z]+)*)", README, re.MULTILINE)
    assert len(commands) == 22
    for command in commands:
        assert main([*command.split(), "--help"]) == 0
    options = set(re.findall(r"(--[a-z][a-z-]+)", README)) - {"--help"}
    shown = capsys.readouterr().out
    assert all(option in shown for option in options), options


def test_the_table_is_that_of_the_results():
    script = _script("benchmarks/readme_table.py")
    results = script.read_results(ROOT / "benchmarks/results")
    assert results
    assert script.insert(README, script.table(results)) == README, "run python benchmarks/readme_table.py"
    training = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert script.insert(training, script.group_table(results)) == training, "run python benchmarks/readme_table.py"


def test_the_table_refuses_results_of_different_pairs(tmp_path):
    script = _script("benchmarks/readme_table.py")
    for name in "ab":
        (tmp_path / f"matching_{name}.json").write_text(f'{{"per_pair": [{{"id": "{name}"}}], "mean": {{"epe": 1}}}}')
    with pytest.raises(ValueError, match="different pairs"):
        script.read_results(tmp_path)
    with pytest.raises(ValueError, match="lacks the line"):
        script.insert("no marker", "")
