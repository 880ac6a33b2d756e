"""Exported matchers behind the interface of the networks, so that whatever takes a network takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stereopsis.export.graphs import Placement
from stereopsis.export.runtimes import RUNTIMES, Runtime, open_session
from stereopsis.types import Disparity


class GraphMatcher(nn.Module):
    """A matcher that runs in another runtime: pads, runs the graphs one after the other, and crops.

    Args:
        description: the JSON file that :func:`~stereopsis.export.export_model` wrote beside the graphs.
        runtime: "onnxruntime", or "openvino", which reads both formats.

    Raises:
        FileNotFoundError: the description or a graph is not there.
        ModuleNotFoundError: the runtime is not installed.
        ValueError: it is no description of a matcher, or the runtime cannot read its format.
    """

    def __init__(self, description: str | Path, runtime: Runtime) -> None:
        super().__init__()
        path = Path(description)
        options = _read(path)
        if runtime == "onnxruntime" and options["format"] != "onnx":
            raise ValueError(f"{path} describes {options['format']} graphs; run them with {RUNTIMES['openvino']}.")
        self.model: str = options["model"]
        self.max_disparity: int = options["max_disparity"]
        self.size: tuple[int, int] | None = None if options["size"] is None else tuple(options["size"])
        padding = options["padding"]
        fill = None if padding["fill"] is None else tuple(padding["fill"])
        self.placement = Placement(options["multiple"], padding["columns"], padding["rows"], fill)
        self._graphs = [
            (graph["inputs"], open_session(runtime, path.parent / graph["file"])) for graph in options["graphs"]
        ]

    @torch.no_grad()
    def forward(
        self, left: Float[Tensor, "1 c h w"], right: Float[Tensor, "1 c h w"], max_disparity: int | None = None
    ) -> Disparity:
        """Matches a rectified pair; as the network's own ``forward``, on the CPU.

        Raises:
            ValueError: views of different size, more than one pair, a size that graphs of one size do not take, or a
                range other than that of the graphs.
        """
        if left.shape != right.shape or left.shape[0] != 1 or left.shape[1] not in (1, 3):
            raise ValueError(
                f"left is {tuple(left.shape)} and right is {tuple(right.shape)}; "
                "an exported graph takes one pair of one size, with 1 or 3 channels."
            )
        if max_disparity not in (None, self.max_disparity):
            raise ValueError(
                f"the graph of {self.model} searches {self.max_disparity} px, not {max_disparity}; "
                f"export it with --max-disparity {max_disparity}."
            )
        views = [self.placement.place(view.cpu().float().expand(-1, 3, -1, -1)) for view in (left, right)]
        placed = (views[0].shape[-1], views[0].shape[-2])
        if self.size not in (None, placed):
            sizes = " and the images are ".join(f"{w}x{h}" for w, h in (self.size or placed, placed))
            raise ValueError(f"the graph of {self.model} is for {sizes} (padded); export it with --dynamic.")
        values: dict[str, Tensor] = dict(zip(("left", "right"), views, strict=True))
        maps: dict[str, Tensor] = {}
        for inputs, session in self._graphs:
            outputs = session({name: values[name] for name in inputs})
            values |= outputs
            # of several stages the last one that gives it
            maps |= {name.partition("_")[0]: value for name, value in outputs.items()}
        disparity, confidence = (
            self.placement.crop(maps[name], left.shape[-2:]) for name in ("disparity", "confidence")
        )
        valid = disparity.isfinite()
        disparity = torch.where(valid, disparity.clamp(min=0), 0.0)
        return Disparity(disparity, valid, torch.where(valid, confidence.nan_to_num(0.0), 0.0).clamp(0, 1))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no description {path}; give the .json file that `stereopsis export` wrote.")
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        matcher = options["family"] == "matching" and options["graphs"] and options["multiple"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not describe exported graphs; give the .json file that `stereopsis export` wrote."
        ) from error
    if not matcher:
        raise ValueError(f"{path} describes {options['model']}, which does not match views; give that of a matcher.")
    return dict(options)
