"""What a run writes of its course: a log, curves for TensorBoard, and validation results with pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from stereopsis.io import write_image

if TYPE_CHECKING:
    from stereopsis.training.validation import Validation


class Monitor:
    """Write into a run's folder.

    Args:
        out: gets ``log.jsonl``, ``tensorboard/`` and, with a validation, ``evaluation.jsonl`` and ``pictures/``.
        step: of the checkpoint that the run starts from; lines of earlier logs that lie behind it are removed.
        validation: what :meth:`validate` measures.
    """

    def __init__(self, out: Path, step: int = 0, validation: Validation | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.validation = out, validation
        self.log_file, self.evaluation_file = out / "log.jsonl", out / "evaluation.jsonl"
        for file in (self.log_file, self.evaluation_file):
            _cut(file, step)  # what came after the checkpoint is done again
        self.log_file.touch()
        self.board = SummaryWriter(str(out / "tensorboard"))

    def log(self, step: int, seconds: float, means: Mapping[str, float], rate: float) -> None:
        """Add a line to the log and a point to each curve."""
        with self.log_file.open("a") as log:
            log.write(json.dumps({"step": step, "seconds": round(seconds, 1), **means}) + "\n")
        for name, value in means.items():
            self.board.add_scalar(f"training/{name}", value, step)
        self.board.add_scalar("training/learning_rate", rate, step)

    def validate(self, step: int, seconds: float, cpu_seconds: float, model: nn.Module) -> dict[str, float]:
        """Validate a model and write the results and pictures.

        Returns:
            What the validation returned.
        """
        if self.validation is None:
            return {}
        training = model.training
        model.eval()
        values = self.validation(model)
        times = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
        with self.evaluation_file.open("a") as log:
            log.write(json.dumps({"step": step, **times, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"evaluation/{name}", value, step)
        folder = self.out / "pictures"
        for number, (name, picture) in enumerate(self.validation.pictures(model)):
            folder.mkdir(exist_ok=True)
            write_image(folder / f"{number}-{step:07d}.png", picture)
            self.board.add_image(f"pairs/{name}", picture, step, dataformats="HWC")
        self.board.flush()
        model.train(training)
        return values

    def close(self) -> None:
        """Close the files of TensorBoard."""
        self.board.close()


def _cut(file: Path, step: int) -> None:
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # the last line of a run that was killed while writing
            break
    file.write_text("".join(kept))
