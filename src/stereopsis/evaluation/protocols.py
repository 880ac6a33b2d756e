"""What the public tables report, and how each counts: over which pixels, what becomes of gaps, how pairs are averaged.

The numbers come from one function, :func:`~stereopsis.evaluation.metrics.region_metrics`; a protocol is data. What a
table's own server does beyond that is said in each protocol's ``note``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stereopsis.evaluation.metrics import region_metrics, regions
from stereopsis.geometry.holes import fill_from_background
from stereopsis.types import Disparity

# As KITTI's programs mark a pixel without a value, so that it is wrong by the truth and one more.
DEVKIT_INVALID = -1.0


@dataclass(frozen=True)
class Column:
    """One number of a table.

    Attributes:
        title: as the table writes it, with the unit.
        metric: a key of :func:`~stereopsis.evaluation.metrics.region_metrics`.
        region: a key of :func:`~stereopsis.evaluation.metrics.regions`.
    """

    title: str
    metric: str
    region: str = "all"

    @property
    def key(self) -> str:
        return f"{self.metric}_{self.region}"

    def text(self, value: float | None) -> str:
        """The value as a table shows it: two decimals in the unit of the title, a dash where there is none."""
        if value is None:
            return "-"
        return f"{100 * value if self.metric == 'density' else value:.2f}"


@dataclass(frozen=True)
class Protocol:
    """What one public table reports.

    Attributes:
        name: in the registry and on the command line.
        title: of the table.
        columns: its numbers.
        gaps: pixels without a prediction are ``left out``; or ``counted`` (bad-x is a percentage of every known pixel,
            gaps are no errors but stand in ``invalid``); or ``filled`` from the background as KITTI's programs do it.
        average: every pair has the same weight (``pairs``), or every pixel of every pair (``pixels``).
        source: the program or paper that defines it.
        note: what differs here from the server of the table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    gaps: Literal["left out", "counted", "filled"]
    source: str
    average: Literal["pairs", "pixels"] = "pairs"
    note: str = ""


def _noc_and_all(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    """Each of (title, metric, unit) for non-occluded pixels, then each for all."""
    return tuple(
        Column(f"{title} {region} {unit}", metric, region) for region in ("noc", "all") for title, metric, unit in rows
    )


_ROBUST = (
    *((f"bad {limit:.1f}", f"bad{limit:g}", "%") for limit in (0.5, 1, 2, 4)),
    ("avgerr", "epe", "px"),
    ("rms", "rms", "px"),
    *((f"A{q}", f"a{q}", "px") for q in (50, 90, 95, 99)),
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="sceneflow",
            title="SceneFlow (FlyingThings3D, Driving, Monkaa)",
            columns=(
                *(
                    Column(f"{title}{where} {unit}", metric, region)
                    for region, where in (("below192", ", d < 192"), ("all", ""))
                    for title, metric, unit in (
                        ("EPE", "epe", "px"),
                        ("bad 1.0", "bad1", "%"),
                        ("bad 3.0", "bad3", "%"),
                    )
                ),
                Column("density %", "density"),
            ),
            gaps="left out",
            source="N. Mayer et al., CVPR 2016; the limit: J.-R. Chang and Y.-S. Chen (PSMNet), CVPR 2018, and later",
            note="Most papers leave out truth of 192 px and more, some count every pixel; both stand here.",
        ),
        Protocol(
            name="kitti2012",
            title="KITTI stereo 2012",
            columns=(
                *(
                    Column(f"Out-{region.capitalize()} {limit} px %", f"bad{limit}", region)
                    for limit in (2, 3, 4, 5)
                    for region in ("noc", "all")
                ),
                Column("Avg-Noc px", "epe", "noc"),
                Column("Avg-All px", "epe", "all"),
                Column("density %", "density"),
            ),
            gaps="filled",
            source="development kit of the 2012 benchmark, evaluate_stereo.cpp; A. Geiger et al., CVPR 2012",
            note="The truth must be disp_occ and `noc` disp_noc.",
        ),
        Protocol(
            name="kitti2015",
            title="KITTI stereo 2015",
            columns=(
                *(
                    Column(f"D1-{part} {region} %", "d1", f"{prefix}{part}" if part != "all" else region)
                    for region, prefix in (("noc", "noc_"), ("all", ""))
                    for part in ("bg", "fg", "all")
                ),
                Column("density %", "density"),
            ),
            gaps="filled",
            average="pixels",
            source="development kit of the 2015 benchmark, evaluate_scene_flow.cpp; M. Menze and A. Geiger, CVPR 2015",
            note="The truth must be disp_occ_0, `noc` disp_noc_0 and `objects` obj_map.",
        ),
        Protocol(
            name="eth3d",
            title="ETH3D low-resolution two-view",
            columns=(
                *_noc_and_all(*_ROBUST),
                Column("coverage noc %", "density", "noc"),
                Column("coverage all %", "density", "all"),
            ),
            gaps="left out",
            source="ETH3D/two-view-evaluation, main.cc; T. Schoeps et al., CVPR 2017",
            note="`noc` must be mask0nocc.png.",
        ),
        Protocol(
            name="middlebury",
            title="Middlebury stereo evaluation v3",
            columns=_noc_and_all(*_ROBUST, ("invalid", "invalid", "%")),
            gaps="counted",
            source="MiddEval3 SDK, evaldisp.cpp; D. Scharstein et al., GCPR 2014",
            note="`noc` must be mask0nocc.png. The site clips disparities to the range of each scene, measures at full "
            "resolution and gives some scenes half the weight; here nothing is clipped, the size is that of the truth, "
            "and all pairs weigh the same.",
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def fill_background(disparity: Disparity) -> Disparity:
    """Fill gaps as the programs of both KITTI benchmarks do before they measure (``interpolateBackground``).

    A gap takes the lower of its left and right neighbours in the row, or the one there is; rows without a value above
    the first or below the last row with one take that row. A row without a value between two others stays as it is.

    Args:
        disparity: maps ``(B, 1, H, W)``, in pixels.
    """
    filled = fill_from_background(disparity)
    row = torch.arange(filled.valid.shape[-2], device=filled.valid.device)
    present = filled.valid.any(dim=-1)
    first = torch.where(present, row, row[-1]).amin(dim=-1, keepdim=True)
    last = torch.where(present, row, 0).amax(dim=-1, keepdim=True)
    source = torch.minimum(torch.maximum(row, first), last)[..., None].expand(filled.valid.shape)
    return replace(filled, disparity=filled.disparity.gather(-2, source), valid=filled.valid.gather(-2, source))


def measure(
    protocol: Protocol,
    prediction: Disparity,
    truth: Float[Tensor, "1 1 h w"],
    known: Bool[Tensor, "1 1 h w"],
    noc: Bool[Tensor, "1 1 h w"] | None = None,
    foreground: Bool[Tensor, "1 1 h w"] | None = None,
) -> dict[str, Any]:
    """One pair by one protocol.

    Args:
        prediction: disparity in pixels, with its gaps.
        truth: pixels.
        known: where the truth is known.
        noc, foreground: as in :func:`~stereopsis.evaluation.metrics.regions`.

    Returns:
        ``{"values": {column key: number}, "pixels": {region: number of pixels}}``, ready for JSON; densities are
        fractions. A value is None where it cannot be measured: the mask it needs is not given, the region is empty, or
        nothing of it is predicted.

    Raises:
        ValueError: the shapes differ, or a valid disparity is not finite.
    """
    answered, covered = prediction.disparity, prediction.valid
    if protocol.gaps == "filled":
        filled = fill_background(prediction)
        answered = torch.where(filled.valid, filled.disparity, DEVKIT_INVALID)
        covered = torch.ones_like(filled.valid)
    parts = regions(truth, known, noc, foreground)
    used = {column.region: parts[column.region] for column in protocol.columns if column.region in parts}
    measured = {name: region_metrics(answered, truth, region, covered) for name, region in used.items()}
    for name, region in used.items():
        found = measured[name]
        if protocol.gaps == "filled":  # of the prediction itself, before it was filled
            pixels = found["pixels"]
            found["density"] = int((region & prediction.valid).sum()) / pixels if pixels else math.nan
        elif protocol.gaps == "counted":
            share = found["density"]
            found |= {key: value * share if share else 0.0 for key, value in found.items() if key.startswith("bad")}
    values = {column.key: measured.get(column.region, {}).get(column.metric, math.nan) for column in protocol.columns}
    return {
        "values": {key: value if math.isfinite(value) else None for key, value in values.items()},
        "pixels": {name: found["pixels"] for name, found in measured.items()},
    }


def summarise(protocol: Protocol, measurements: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average what :func:`measure` returned over pairs.

    Returns:
        ``{"mean": {column key: number}, "pairs": {column key: number}}``: the mean of the pairs where the column could
        be measured (None where there is no such pair), and how many these are.
    """
    measurements = list(measurements)
    mean: dict[str, float | None] = {}
    pairs: dict[str, int] = {}
    for column in protocol.columns:
        cells = [
            (row["values"][column.key], row["pixels"][column.region] if protocol.average == "pixels" else 1)
            for row in measurements
            if row["values"][column.key] is not None
        ]
        pairs[column.key] = len(cells)
        mean[column.key] = (
            fmean([value for value, _ in cells], weights=[weight for _, weight in cells]) if cells else None
        )
    return {"mean": mean, "pairs": pairs}
