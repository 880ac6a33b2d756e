"""The queue of runs: its file, and runs that survive being killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stereopsis.training.queue import Queue, RunState, planned, read_queue, state_of, summary
from stereopsis.training.recipes import RECIPES, recipe_from
from stereopsis.training.worker import _bank

TINY = """
[[run]]
recipe = "hitnet.smoke"
name = "tiny"
steps = 24
save_seconds = 0.2
options = { evaluate_every = 8, bf16 = false, ema = 0.9, warmup = 4, "phases.0.scene.width" = 64 }
"""


def _write(folder, text):
    path = folder / "queue.toml"
    path.write_text(text)
    return path


# --- the file


def test_a_run_is_its_recipe_with_other_values(tmp_path):
    [run] = read_queue(_write(tmp_path, TINY))
    recipe = planned(run)
    assert recipe.steps == 24
    assert recipe.evaluate_every == 8
    assert recipe.phases[0].scene.width == 64
    assert recipe.learning_rate == RECIPES["hitnet.smoke"].learning_rate


def test_on_a_gpu_batches_and_rates_grow(tmp_path):
    text = TINY + "cuda = { batch = 4, learning_rate = 2.0, steps = 0.5 }\n"
    [run] = read_queue(_write(tmp_path, text))
    on_cpu, on_gpu = planned(run), planned(run, "cuda")
    assert on_gpu.phases[0].batch == 4 * on_cpu.phases[0].batch
    assert on_gpu.learning_rate == 2 * on_cpu.learning_rate
    assert on_gpu.steps == 12


def test_a_manifest_is_found_from_the_file(tmp_path):
    [run] = read_queue(_write(tmp_path, TINY + 'validation = "sub/manifest.json"\n'))
    assert run.validation == tmp_path / "sub" / "manifest.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no runs"),
        ("[[run", "is not TOML"),
        ("[[run]]\nhours = 1", "run 1 of .* has no recipe"),
        ('[[run]]\nrecipe = "none"', "unknown recipe 'none'"),
        ('[[run]]\nrecipe = "hitnet.smoke"\nhour = 1', "unknown field hour"),
        ('[[run]]\nrecipe = "hitnet.smoke"\nhours = -1.0', "below 0"),
        ('[[run]]\nrecipe = "hitnet.smoke"\noptions = { speed = 1 }', "there is no 'speed'"),
        ('[[run]]\nrecipe = "hitnet.smoke"\n' * 2, "two runs named hitnet.smoke"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read_queue(_write(tmp_path, text))
    assert "\n" not in str(error.value).strip()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml does not exist"):
        read_queue(tmp_path / "nothing.toml")


# --- states


def test_what_remains_follows_from_the_speed():
    assert summary(RunState("a")) == "not started"
    state = RunState("a", step=50, steps=150, seconds=3600, start=2.0, best=(1.5, 40))
    assert state.remaining_hours == pytest.approx(2)
    assert not state.finished
    text = summary(state)
    assert text.startswith("step 50 of 150, 1.00 h, best score 1.5000 (initial weights 2.0000) at step 40")
    assert text.endswith("2.00 h remain")
    assert RunState("a", step=150, steps=150, seconds=1).finished


# --- runs


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """The file of drawn textures that a queue's folder gets with its first run."""
    folder = tmp_path_factory.mktemp("textures")
    _bank(folder)
    return folder / "textures.pt"


@pytest.fixture
def out(tmp_path, textures):
    """A folder for runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "textures.pt").symlink_to(textures)
    return folder


def _work(queue, out, seconds=None):
    """The queue in a process of its own."""
    words = [sys.executable, "-m", "stereopsis", "train", "--queue", str(queue), "--out", str(out), "--threads", "1"]
    words += [] if seconds is None else ["--minutes", str(seconds / 60)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, textures):
    """The folder of a queue that ran to its end in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "runs").mkdir()
    (folder / "runs" / "textures.pt").symlink_to(textures)
    process = _work(_write(folder, TINY), folder / "runs")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "step 24 of 24" in output
    return folder / "runs"


def test_a_finished_run_has_its_best_weights_with_their_card(undisturbed):
    from stereopsis.zoo import load
    from stereopsis.zoo.weights import read_card

    run = undisturbed / "tiny"
    lines = [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24]
    best = min(lines, key=lambda line: line["score"])
    assert state_of(run).best == (best["score"], best["step"])
    weights = run / "tiny.safetensors"
    assert read_card(weights).metrics["validation"]["score"] == best["score"]
    assert load("hitnet.scenes", weights=weights).training is False
    assert recipe_from(json.loads((run / "run.json").read_text())["recipe"]).steps == 24
    # the validation's scenes are none of the run's
    assert all(line["epe"] > 0 for line in lines)


def test_a_finished_queue_does_nothing_more(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "tiny").iterdir()}
    process = _work(undisturbed.parent / "queue.toml", undisturbed)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "step 24 of 24" in output
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "tiny").iterdir()} == before


def test_ten_kills_at_random_moments_change_nothing(tmp_path, out, undisturbed):
    """Signals that can be handled and those that cannot, to the queue and to its run."""
    queue, chance = _write(tmp_path, TINY), random.Random(0)
    kills = 0
    process = _work(queue, out)
    while kills < 10 and process.poll() is None:
        time.sleep(chance.uniform(2.0, 6.0))
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        worker = _worker_of(process.pid)
        target = worker if worker is not None and chance.random() < 0.5 else process.pid
        os.kill(target, number)
        kills += 1
        if target == process.pid:
            process.communicate(timeout=60)
        elif number == signal.SIGTERM:  # a run that was told to stop is not started again by the same queue
            process.terminate()
            process.communicate(timeout=60)
        if process.poll() is not None:
            process = _work(queue, out)
    output, errors = process.communicate(timeout=240)
    if "step 24 of 24" not in output:  # the last kill left a run that had not yet advanced
        output, errors = _work(queue, out).communicate(timeout=240)
    assert "step 24 of 24" in output, errors
    assert kills >= 3
    ours, theirs = (torch.load(path / "tiny" / "checkpoint.pt", weights_only=True) for path in (out, undisturbed))
    assert all(torch.equal(value, ours["ema"][name]) for name, value in theirs["ema"].items())
    assert ours["best"] == theirs["best"]
    logs = [
        [json.loads(line) for line in (path / "tiny" / "log.jsonl").read_text().splitlines()]
        for path in (out, undisturbed)
    ]
    for line in (*logs[0], *logs[1]):
        del line["seconds"]
    assert logs[0] == logs[1]


def _worker_of(parent):
    try:
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return None
    return int(found[0]) if found else None


def test_two_queues_do_not_share_a_folder(tmp_path, out):
    queue = _write(tmp_path, TINY)
    process = _work(queue, out)
    try:
        while not (out / "lock").is_file() or not (out / "lock").read_text():
            assert process.poll() is None
            time.sleep(0.1)
        with pytest.raises(ValueError, match=f"in use by process {process.pid}"):
            Queue(queue, out).work()
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_an_edit_that_makes_no_sense_does_not_end_a_queue(tmp_path, out):
    queue, notes = _write(tmp_path, TINY.replace("steps = 24", "steps = 2")), []

    def note(text):
        notes.append(text)
        if "started" in text:
            queue.write_text("[[run]]\nrecipe = 'of another version'\n")

    [state] = Queue(queue, out, note=note).work()
    assert state.finished
    assert sum("not used as it is now" in text for text in notes) == 1


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path, out):
    broken = '[[run]]\nrecipe = "hitnet.smoke"\nname = "broken"\nsteps = 4\ninitial = "hitnet_xl"\n'
    other = TINY.replace("steps = 24", "steps = 2")
    notes = []
    states = Queue(_write(tmp_path, broken + other), out, note=notes.append).work()
    assert [state.finished for state in states] == [False, True]
    assert any("broken: failed with exit status" in note for note in notes)
    assert "hitnet_xl has no shipped weights to start from" in (tmp_path / "runs/broken/output.log").read_text()


def test_hours_become_steps_and_a_run_starts_from_another(tmp_path, out):
    text = TINY.replace("steps = 24", "steps = 2")
    text += '[[run]]\nrecipe = "hitnet.smoke"\nname = "next"\ninitial = "run:tiny"\nhours = 0.0005\n'
    text += 'options = { bf16 = false, "phases.0.scene.width" = 64 }\n'
    states = Queue(_write(tmp_path, text), out, note=lambda text: None).work()
    assert [state.finished for state in states] == [True, True]
    assert states[1].start is not None
    plan = json.loads((tmp_path / "runs/next/run.json").read_text())
    assert 2 <= plan["recipe"]["phases"][0]["steps"] < 200
    assert plan["hours"] == 0
