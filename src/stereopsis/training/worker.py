"""One run of a queue, in a process of its own: ``python -m stereopsis.training.worker FOLDER``.

:mod:`stereopsis.training.queue` starts it. It ends after the current step when it gets SIGTERM or SIGINT, and when the
process that started it has ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from stereopsis.data import textures
from stereopsis.data.photos import read_photos
from stereopsis.data.textures import TextureBank, installed_photos, make_bank
from stereopsis.io.atomic import atomic_write, atomic_write_text
from stereopsis.ops.memory import keep_large_blocks
from stereopsis.training import loop
from stereopsis.training.initial import start_from
from stereopsis.training.publish import publish
from stereopsis.training.queue import MEASURED_STEPS, RUN_FILE
from stereopsis.training.recipes import recipe_from, with_steps
from stereopsis.training.validation import Validation, make_validation
from stereopsis.zoo.registry import get_entry


class Worker:
    """Start or resume the run of a folder and train it to its end.

    Args:
        folder: holds ``run.json``.
        device: "cpu" or "cuda".
        parent: process that this one must not outlive; 0 for none.
    """

    def __init__(self, folder: Path, device: str, parent: int = 0) -> None:
        self.folder, self.device, self.parent = folder, device, parent
        self.plan: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
        self.recipe = recipe_from(self.plan["recipe"])
        self._stopped = False
        self._published: int | None = None

    def run(self) -> int:
        """Train; return 0 at the end of the run and 3 if it was stopped before."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        resume = (self.folder / "checkpoint.pt").is_file()
        torch.manual_seed(self.recipe.seed)
        model = get_entry(self.recipe.model).build()
        self.bank = _bank(self.folder.parent)
        manifest = self.plan["validation"]
        validation = make_validation(self.recipe, None if manifest is None else Path(manifest), self.bank)
        if not resume:
            self._begin(model, validation)
        try:
            loop.train(
                self.recipe,
                model,
                self.folder,
                device=self.device,
                resume=resume,
                bank=self.bank,
                validation=validation,
                progress=self._progress,
                stop=self._should_stop,
                save_seconds=self.plan["save_seconds"],
            )
        except loop.Stopped as stopped:
            self._publish()
            print(stopped)
            return 3
        self._publish()
        return 0

    def _begin(self, model: nn.Module, validation: Validation) -> None:
        """Give a new run its initial weights, its number of steps, and the score to be beaten."""
        if self.plan["initial"]:
            start_from(model, self.plan["initial"], get_entry(self.recipe.model))
            values = validation(model.to(self.device).eval())
            atomic_write_text(self.folder / "initial.json", json.dumps(values) + "\n")
        elif hasattr(methods := import_module(f"stereopsis.training.{get_entry(self.recipe.model).family}"), "begin"):
            methods.begin(model, self.recipe)
        if self.plan["hours"]:
            steps = round(3600 * self.plan["hours"] * self._steps_per_second())
            self.recipe = with_steps(self.recipe, max(steps, 2))
            self.plan |= {"recipe": asdict(self.recipe), "hours": 0}
            atomic_write_text(self.folder / RUN_FILE, json.dumps(self.plan, indent=1) + "\n")

    def _steps_per_second(self) -> float:
        """Measured on steps of a copy, spread over the phases."""
        rates = []
        for phase in dict.fromkeys(self.recipe.phases):
            recipe = replace(self.recipe, phases=(replace(phase, steps=MEASURED_STEPS),))
            times: list[float] = []
            with TemporaryDirectory() as folder:
                loop.train(
                    recipe,
                    get_entry(recipe.model).build(),
                    Path(folder),
                    device=self.device,
                    bank=self.bank,
                    stop=lambda times=times: bool(times.append(time.monotonic())),  # type: ignore[misc]
                )
            half = MEASURED_STEPS // 2
            rates.append((half, times[-1] - times[-1 - half], self._share(phase)))
        return 1 / sum(share * seconds / steps for steps, seconds, share in rates)

    def _share(self, phase: Any) -> float:
        return sum(part.steps for part in self.recipe.phases if part == phase) / self.recipe.steps

    def _progress(self, step: int, steps: int, means: dict[str, float]) -> None:
        self._publish()

    def _publish(self) -> None:
        """Publish the best weights if they are new."""
        best = self.folder / "best.pt"
        changed = best.stat().st_mtime_ns if best.is_file() else None
        if changed in (None, self._published):
            return
        values = torch.load(best, map_location="cpu", weights_only=True)["validation"]
        initial = self.plan["initial"]
        notes = f"Started from {Path(initial).name}." if initial else ""
        weights = self.folder / f"{self.folder.name}.safetensors"
        publish(best, weights, metrics={"validation": values}, notes=notes)
        self._published = changed

    def _stop(self, number: int, frame: Any) -> None:
        self._stopped = True

    def _should_stop(self) -> bool:
        return self._stopped or (self.parent > 0 and os.getppid() != self.parent)


def _bank(folder: Path) -> TextureBank:
    """The textures of all runs, kept in the queue's folder, because drawing them takes longer than many a step."""
    made_from = [(str(path), path.stat().st_size) for path in installed_photos()]
    made_from += [(photo.source.sha256, photo.width) for photo in read_photos(split="train")]
    key = hashlib.sha256((str(made_from) + Path(textures.__file__).read_text()).encode()).hexdigest()
    file = folder / "textures.pt"
    with suppress(OSError, RuntimeError, KeyError, pickle.UnpicklingError):
        kept = torch.load(file, weights_only=True)
        if kept["key"] == key:
            return TextureBank(kept["texels"], tuple(kept["sources"]))
    bank = make_bank()
    with atomic_write(file) as partial:
        torch.save({"key": key, "texels": bank.texels, "sources": list(bank.sources)}, partial)
    return bank


def main() -> int:
    """Run the worker from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--parent", type=int, default=0)
    words = parser.parse_args()
    with suppress(OSError, AttributeError):  # not permitted, or not on this system
        os.nice(words.nice)
    keep_large_blocks()
    return Worker(words.folder, words.device, words.parent).run()


if __name__ == "__main__":
    sys.exit(main())
