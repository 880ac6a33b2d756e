"""What a run shows of itself: a log, curves for TensorBoard, and from time to time how it does on real pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stereopsis.evaluation.benchmarks import BenchmarkPair, evaluate_matching, read_truth
from stereopsis.io import read_image, write_image
from stereopsis.visualization import colorize, side_by_side


class Monitor:
    """Writes into a run's folder.

    Args:
        out: gets ``log.jsonl``, ``tensorboard/`` and, with pairs, ``evaluation.jsonl`` and ``pictures/``.
        keep: lines of an earlier log that still hold.
        pairs: what :meth:`evaluate` measures on.
        pictures: how many of them are drawn.
    """

    def __init__(self, out: Path, keep: int = 0, pairs: Sequence[BenchmarkPair] = (), pictures: int = 4) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.pairs, self.pictures = out, pairs, pictures
        self.log_file = out / "log.jsonl"
        lines = self.log_file.read_text().splitlines(keepends=True) if self.log_file.is_file() else []
        self.log_file.write_text("".join(lines[:keep]))  # what came after the checkpoint is done again
        self.board = SummaryWriter(str(out / "tensorboard"))

    def log(self, step: int, seconds: float, means: Mapping[str, float], rate: float) -> None:
        with self.log_file.open("a") as log:
            log.write(json.dumps({"step": step, "seconds": round(seconds, 1), **means}) + "\n")
        for name, value in means.items():
            self.board.add_scalar(f"training/{name}", value, step)
        self.board.add_scalar("training/learning_rate", rate, step)

    def evaluate(self, step: int, model: nn.Module) -> dict[str, Any]:
        """Means over the pairs, on file and on the board; pictures of the first ones."""
        training = model.training
        model.eval()
        result = evaluate_matching(model, self.pairs, device=next(model.parameters()).device)
        with (self.out / "evaluation.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, **result["mean"]}) + "\n")
        for name, value in result["mean"].items():
            if value is not None:
                self.board.add_scalar(f"evaluation/{name}", value, step)
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        for number, pair in enumerate(self.pairs[: self.pictures]):
            picture = self._picture(model, pair)
            write_image(folder / f"{number}-{step:07d}.png", picture)
            self.board.add_image(f"pairs/{pair.id}", picture, step, dataformats="HWC")
        self.board.flush()
        model.train(training)
        return result["mean"]

    @torch.inference_mode()
    def _picture(self, model: nn.Module, pair: BenchmarkPair) -> Any:
        device = next(model.parameters()).device
        left, right = (read_image(path)[None].to(device) for path in (pair.left, pair.right))
        truth, known = read_truth(pair)
        top = truth[known].max().item() if known.any() else None
        found = model(left, right).disparity.cpu()
        return side_by_side(left.cpu(), colorize(found, vmin=0, vmax=top), colorize(truth, known, vmin=0, vmax=top))

    def close(self) -> None:
        self.board.close()
