"""What the README says is true: its Python runs, its links exist, and its numbers come from the results."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from stereopsis.calibration import write_calibration
from stereopsis.io import read_point_cloud, write_image

ROOT = Path(__file__).resolve().parents[1]
MATCHERS = ("hitnet.scenes", "anynet.scenes")
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


def test_every_command_is_in_the_readme_and_on_its_page(capsys):
    from stereopsis.cli import main

    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `stereopsis ([a-z]+(?:[ -][a-z]+)*)", page, re.MULTILINE)
    main(["--help"])
    commands = re.findall(r"• ([a-z]+)", capsys.readouterr().out)
    assert len(commands) > 20
    assert {command.split()[0] for command in described} == set(commands)
    listed = README[README.index("## Commands") : README.index("## Limits")]
    assert set(commands) <= set(re.findall(r"`([a-z]+)`", listed))
    for command in described:
        assert main([*command.split(), "--help"]) == 0
    options = set(re.findall(r"(--[a-z][a-z-]+)", page + README)) - {"--help"}
    shown = capsys.readouterr().out
    assert all(option in shown for option in options), options


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_figures_of_the_text_are_those_of_the_results():
    """What the README states beside the table, read from the files that the named commands wrote."""
    results = ROOT / "benchmarks/results"
    speed = json.loads((results / "hitnet_speed.json").read_text())["results"][0]
    assert speed["size"] == "640x480"
    assert f"runs in {speed['ms']['bfloat16']:.0f} ms at 640x480" in README
    assert f"directions: {speed['ms']['sgbm-hh']:.0f} ms" in README
    assert f"takes {speed['ms']['float32']:.0f} ms" in README
    means = {name: json.loads((results / f"matching_{name}.json").read_text())["mean"] for name in MATCHERS}
    for name, mean in means.items():
        assert f"EPE {mean['epe']:.2f} px, bad-3 {mean['bad3']:.1f} %" in README, name
    assert f"an EPE of {means['hitnet.scenes']['epe']:.2f} px on 41 pairs" in README
    sgbm = json.loads((results / "matching_sgbm-hh.json").read_text())["mean"]
    assert f"OpenCV SGBM: {sgbm['epe']:.2f} px" in README
    upsampling = json.loads((results / "upsampling_accuracy.json").read_text())
    cases = {(model["model"], case["scale"]): case for model in upsampling for case in model["cases"][:1]}
    fdkn = [cases[f"fdkn_x{scale}.scenes", scale] for scale in (4, 8, 16)]
    assert "RMSE " + ", ".join(f"{case['rmse']:.2f}" for case in fdkn) in README
    assert f"RMSE {cases['dkn_x8.scenes', 8]['rmse']:.2f}" in README
    assert f"is {100 * fdkn[1]['rmse_ratio']:.0f} % of that of bicubic" in README
    latency = json.loads((results / "upsampling_speed.json").read_text())["models"]
    assert f"| {latency['dkn_x8']['bfloat16']['ms']:.0f} ms at 640x480 |" in README
    assert f"| {latency['fdkn_x8']['bfloat16']['ms']:.0f} ms at 640x480 |" in README


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
