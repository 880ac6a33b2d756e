"""The proof that a graph is still the model: both run on the same images, and their outputs compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from stereopsis.export.graphs import Graph, Plan, Rule
from stereopsis.export.runtimes import Session


@dataclass(frozen=True)
class Check:
    """One output at one size.

    Attributes:
        graph: name of the part.
        size: of the image, as "WxH".
        largest, mean: differences from torch, in the output's unit, or as multiples of torch's largest magnitude.
        above: share of values that differ by more than the limit.
        limit, share: what the rule allows.
        relative: which of the two units.
    """

    graph: str
    output: str
    size: str
    largest: float
    mean: float
    above: float
    limit: float
    share: float
    relative: bool

    @property
    def passed(self) -> bool:
        return self.above <= self.share

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def compare(graph: str, output: str, size: str, ours: Tensor, theirs: Tensor, rule: Rule) -> Check:
    """What is not finite on one side alone, or of another shape, differs by infinity; JSON is given 1e30 for it."""
    if ours.shape != theirs.shape:
        largest = mean = 1e30
        above = 1.0
    else:
        ours, theirs = ours.double(), theirs.double()
        difference = (ours - theirs).abs()
        same = (ours == theirs) | (ours.isnan() & theirs.isnan())
        difference = torch.where(same, 0.0, difference.nan_to_num(1e30, 1e30)).clamp(max=1e30)
        if rule.relative:
            difference = difference / ours.abs().nan_to_num(0.0, 0.0).max().clamp(min=1e-30)
        largest, mean = difference.max().item(), difference.mean().item()
        above = (difference > rule.limit).double().mean().item()
    return Check(graph, output, size, largest, mean, above, rule.limit, rule.share, rule.relative)


@torch.no_grad()
def torch_values(graphs: Sequence[Graph], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that flows between the graphs, computed by torch, its kernels in C included."""
    values = dict(inputs)
    for graph in graphs:
        outputs = graph.module(*(values[name] for name in graph.inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        values |= dict(zip(graph.outputs, outputs, strict=True))
    return values


def runtime_values(
    graphs: Sequence[Graph], sessions: Sequence[Session], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same by a runtime: what a graph gave is what the next one gets."""
    values = dict(inputs)
    for graph, session in zip(graphs, sessions, strict=True):
        values |= session({name: values[name] for name in graph.inputs})
    return values


def verify(plan: Plan, sessions: Sequence[Session], sizes: Sequence[tuple[int, int, int]]) -> list[Check]:
    """Each output at each of these heights and widths, on images of these seeds."""
    checks = []
    for height, width, seed in sizes:
        inputs = plan.example(height, width, seed)
        ours, theirs = torch_values(plan.graphs, inputs), runtime_values(plan.graphs, sessions, inputs)
        checks += [
            compare(graph.name, output, f"{width}x{height}", ours[output], theirs[output], rule)
            for graph in plan.graphs
            for output, rule in graph.outputs.items()
        ]
    return checks
