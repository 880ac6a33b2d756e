"""A queue of training runs: a file lists them in order of worth, one command works through it at low priority.

A queue file is TOML::

    [[run]]
    recipe = "dkn_x8.scenes"
    initial = "dkn_x8.scenes"         # a model's name, a weights file, or "run:NAME" for an earlier run's best weights
    hours = 3.0                       # or steps = 8000; without either, the recipe's own number
    options = { learning_rate = 0.01 }
    validation = "rgbd/manifest.json" # relative to this file; without it, held-out scenes and photographs
    cuda = { batch = 8, learning_rate = 2 }  # factors on a GPU

Each run has a folder. It holds ``run.json`` (the recipe as it was started), the checkpoint, the logs, ``best.pt`` and
the best validated weights as safetensors with their card. A run is a process of its own that executes a copy of the
package, so that edits of the source do not disturb it. A run that was ended at any moment is resumed from its
checkpoint, which is at most a minute old, and ends as it would have without the interruption.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import stereopsis
from stereopsis.io.atomic import atomic_write_text
from stereopsis.training.recipes import RECIPES, Recipe, override, recipe_from, with_steps

MEASURED_STEPS = 8  # of which the rate is taken that turns hours into steps
STOP_SECONDS = 120.0  # that a run has to finish its step and to write its checkpoint
RUN_FILE = "run.json"
STATE_FILE = "state.json"  # as the loop writes it beside each checkpoint


@dataclass(frozen=True)
class QueuedRun:
    """An entry of a queue file.

    Attributes:
        recipe: name of the recipe.
        name: of the run's folder; the recipe's name if not given.
        initial: model, weights file, or ``"run:NAME"``; empty for random weights.
        hours: to be trained for, at the speed that is measured at the start; 0 for the number of steps.
        steps: optimizer steps; 0 for the recipe's own number.
        options: recipe fields with other values, e.g. ``{"phases.0.batch": 4}``.
        validation: manifest, or None for held-out scenes and photographs.
        save_seconds: between two checkpoints; what a power failure costs.
        cuda: factors for a run on a GPU: ``batch``, ``learning_rate`` and ``steps``.
    """

    recipe: str
    name: str = ""
    initial: str = ""
    hours: float = 0.0
    steps: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    validation: Path | None = None
    save_seconds: float = 45.0
    cuda: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        name: of the run.
        step, steps: done and in all; steps is 0 before the run was started.
        seconds: trained so far, wall time.
        start: score of the initial weights; None before it was measured.
        best: lowest validation score, and its step.
    """

    name: str
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    start: float | None = None
    best: tuple[float, int] | None = None

    @property
    def finished(self) -> bool:
        return 0 < self.steps <= self.step

    @property
    def remaining_hours(self) -> float | None:
        """At the speed so far; None if nothing was trained yet."""
        return None if not self.step else self.seconds / self.step * (self.steps - self.step) / 3600


def read_queue(path: Path) -> list[QueuedRun]:
    """Read a queue file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML, without runs, or a run has an unknown field, recipe or option.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The queue file {path} does not exist; write one, e.g. with a [[run]] and its recipe.")
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("run", [])
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML ({error}); write a [[run]] for each run.") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} lists no runs; write a [[run]] with a recipe for each.")
    runs = [_entry(path, number, entry) for number, entry in enumerate(entries, 1)]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path} lists two runs named {twice}; give one of them another name.")
    return runs


def _entry(path: Path, number: int, entry: Any) -> QueuedRun:
    known = QueuedRun.__dataclass_fields__
    if not isinstance(entry, dict) or "recipe" not in entry:
        raise ValueError(f"run {number} of {path} has no recipe; choose one of {', '.join(RECIPES)}.")
    if unknown := entry.keys() - known.keys():
        raise ValueError(f"run {number} of {path} has the unknown field {min(unknown)}; choose of {', '.join(known)}.")
    if entry["recipe"] not in RECIPES:
        raise ValueError(
            f"run {number} of {path} has the unknown recipe {entry['recipe']!r}; choose one of {', '.join(RECIPES)}."
        )
    run = QueuedRun(**{"name": entry["recipe"], **entry})
    if run.hours < 0 or run.steps < 0:
        raise ValueError(f"run {number} of {path} has hours or steps below 0; give positive numbers.")
    if run.validation is not None:
        run = replace(run, validation=(path.parent / run.validation).resolve())
    planned(run)
    return run


def planned(run: QueuedRun, device: str = "cpu") -> Recipe:
    """Return the recipe of a run with its options, its steps and, on a GPU, its factors.

    Raises:
        ValueError: an option is unknown or has a value of another type.
    """
    words = [word for name, value in run.options.items() for word in (name, str(value))]
    recipe = override(RECIPES[run.recipe], words)
    if run.steps:
        recipe = with_steps(recipe, run.steps)
    if device == "cpu" or not run.cuda:
        return recipe
    batch, rate = run.cuda.get("batch", 1.0), run.cuda.get("learning_rate", 1.0)
    phases = tuple(replace(phase, batch=max(round(phase.batch * batch), 1)) for phase in recipe.phases)
    recipe = replace(
        recipe,
        phases=phases,
        learning_rate=recipe.learning_rate * rate,
        vector_learning_rate=recipe.vector_learning_rate * rate,
    )
    return with_steps(recipe, round(recipe.steps * run.cuda["steps"])) if "steps" in run.cuda else recipe


def state_of(folder: Path) -> RunState:
    """Return how far the run of a folder is, from its files."""
    state = RunState(folder.name)
    with suppress(OSError, ValueError, KeyError):
        recipe = recipe_from(json.loads((folder / RUN_FILE).read_text())["recipe"])
        state = replace(state, steps=recipe.steps)
    with suppress(OSError, ValueError, KeyError):
        state = replace(state, start=json.loads((folder / "initial.json").read_text())["score"])
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads((folder / STATE_FILE).read_text())
        best = None if kept["best"] is None else tuple(kept["best"])
        state = replace(state, step=kept["step"], seconds=kept["seconds"], best=best)
    return state


class Queue:
    """Work through a queue file.

    Args:
        path: the queue file; read again before each run, so that it can be edited meanwhile.
        out: folder of all runs.
        device: "cpu" or "cuda".
        minutes: after which everything is stopped and saved; None for no limit.
        threads: of each run on the CPU.
        nice: priority of the runs, 0 to 19; 19 is the lowest.
        parallel: runs at a time.
        note: called with each line of the log.
    """

    def __init__(
        self,
        path: Path,
        out: Path,
        *,
        device: str = "cpu",
        minutes: float | None = None,
        threads: int = 1,
        nice: int = 10,
        parallel: int = 1,
        note: Callable[[str], None] = print,
    ) -> None:
        self.path, self.out, self.device = path, out, device
        self.threads, self.nice, self.parallel = threads, nice, parallel
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._note, self._stop = note, False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._failed: set[str] = set()
        self._refused = ""
        self._started_at: dict[str, int] = {}  # step at which a run was last started

    def work(self) -> list[RunState]:
        """Run what remains, in order, and return the states of all runs.

        SIGTERM and SIGINT stop the runs after their current step.

        Raises:
            ValueError: another process works on the folder, or the queue file is not valid.
        """
        runs = read_queue(self.path)
        self.out.mkdir(parents=True, exist_ok=True)
        with _locked(self.out), self._signals():
            self._code = _snapshot(self.out)
            while True:
                self._reap()
                runs = self._read_again(runs)
                if self._stopping():
                    break
                waiting = [run for run in runs if self._ready(run, runs)]
                if not waiting and not self._processes:
                    break
                for run in waiting[: self.parallel - len(self._processes)]:
                    self._start(run)
                time.sleep(0.2)
            self._end(runs)
        return [state_of(self.out / run.name) for run in runs]

    def states(self) -> list[RunState]:
        """Return the states of all runs, in the order of the file."""
        return [state_of(self.out / run.name) for run in read_queue(self.path)]

    def log(self, text: str) -> None:
        """Add a line to ``queue.log``."""
        with (self.out / "queue.log").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._note(text)

    def _read_again(self, before: list[QueuedRun]) -> list[QueuedRun]:
        """The runs of the file as it is now, or those of before while an edit makes no sense to this version."""
        try:
            return read_queue(self.path)
        except (ValueError, OSError) as error:
            if str(error) != self._refused:
                self.log(f"the queue file is not used as it is now: {error}")
            self._refused = str(error)
            return before

    def _ready(self, run: QueuedRun, runs: list[QueuedRun]) -> bool:
        if run.name in self._processes or run.name in self._failed or state_of(self.out / run.name).finished:
            return False
        source = run.initial.removeprefix("run:")
        if source == run.initial:
            return True
        return source not in {other.name for other in runs} or state_of(self.out / source).finished

    def _start(self, run: QueuedRun) -> None:
        folder = self.out / run.name
        folder.mkdir(exist_ok=True)
        if not (folder / RUN_FILE).is_file():
            initial = run.initial
            if initial.startswith("run:"):
                source = initial.removeprefix("run:")
                initial = str((self.out / source / f"{source}.safetensors").resolve())
            plan = {
                "recipe": asdict(planned(run, self.device)),
                "initial": initial,
                "hours": run.hours,
                "save_seconds": run.save_seconds,
                "validation": None if run.validation is None else str(run.validation),
            }
            atomic_write_text(folder / RUN_FILE, json.dumps(plan, indent=1) + "\n")
        environment = os.environ | {
            "PYTHONPATH": str(self._code),
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(self.threads),
        }
        words = [sys.executable, "-P", "-m", "stereopsis.training.worker", str(folder.resolve())]
        words += ["--device", self.device, "--nice", str(self.nice), "--parent", str(os.getpid())]
        with (folder / "output.log").open("ab") as output:
            self._processes[run.name] = subprocess.Popen(words, stdout=output, stderr=output, env=environment)
        self._started_at[run.name] = state_of(folder).step
        self.log(f"{run.name}: started at step {state_of(folder).step}")

    def _reap(self) -> None:
        for name, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            del self._processes[name]
            state = state_of(self.out / name)
            if state.finished:
                self.log(f"{name}: finished, {summary(state)}")
            elif self._stop:
                continue
            elif process.returncode < 0 and state.step > self._started_at[name]:
                self.log(f"{name}: ended by signal {-process.returncode}; it will be resumed")
            else:
                self._failed.add(name)
                self.log(f"{name}: failed with exit status {process.returncode}, see {self.out / name / 'output.log'}")

    def _stopping(self) -> bool:
        return self._stop or (self.deadline is not None and time.monotonic() > self.deadline)

    def _end(self, runs: list[QueuedRun]) -> None:
        self._stop = True
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
        self._reap()
        for state in (state_of(self.out / run.name) for run in runs):
            self.log(f"{state.name}: {summary(state)}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(number: int, frame: Any) -> None:
            self._stop = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def summary(state: RunState) -> str:
    """Return one line on a run: steps, hours, scores and what remains."""
    if not state.step:
        return "not started"
    text = f"step {state.step} of {state.steps}, {state.seconds / 3600:.2f} h"
    if state.best is not None:
        start = "" if state.start is None else f" (initial weights {state.start:.4f})"
        text += f", best score {state.best[0]:.4f}{start} at step {state.best[1]}"
    if not state.finished and state.remaining_hours is not None:
        text += f", {state.remaining_hours:.2f} h remain"
    return text


def _snapshot(out: Path) -> Path:
    """A copy of the package that no edit changes; replaces the one of an earlier session."""
    source, target = Path(stereopsis.__file__).parent, out / "code"
    partial = out / f".code.{os.getpid()}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, partial / "stereopsis", ignore=shutil.ignore_patterns("__pycache__"))
    partial.rename(target)
    return target.resolve()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when the process ends, however it ends."""
    with (out / "lock").open("a+") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except OSError:
            file.seek(0)
            raise ValueError(f"{out} is in use by process {file.read().strip()}; stop it, or choose another.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
