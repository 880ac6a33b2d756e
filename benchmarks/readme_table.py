"""Write the accuracy tables from ``benchmarks/results/matching_*.json``, each between two marker lines of a document.

The README gets the mean over all pairs, docs/training.md that of each data set.

Each of those files was written by ``stereopsis evaluate matching --data MANIFEST --model NAME --out FILE``, some with
``--fill``, or with ``--check 2 --fill``.
``--check`` writes nothing and exits with 1 where a document differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A data set is the groups whose names begin so.
DATA_SETS = {
    "KITTI": ("kitti",),
    "Middlebury": ("mb", "tsukuba"),
    "Aloe": ("aloe",),
    "FlyingThings3D": ("sttr",),
}
START, END = "<!-- matching table: benchmarks/readme_table.py -->", "<!-- end of matching table -->"
COLUMNS = {"epe": "EPE px", "bad1": "bad-1 %", "bad2": "bad-2 %", "bad3": "bad-3 %", "d1": "D1 %"}


def data_set(group: str) -> str:
    """The data set that a group of pairs belongs to."""
    return next(name for name, starts in DATA_SETS.items() if group.startswith(starts))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The result files, the smallest error first.

    Raises:
        ValueError: they are not measured on the same pairs.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("matching_*.json"))]
    if len({tuple(row["id"] for row in result["per_pair"]) for result in results}) > 1:
        raise ValueError(f"the files in {folder} are measured on different pairs; measure them on one manifest.")
    return sorted(results, key=lambda result: result["mean"]["epe"])


def name_of(result: dict[str, Any]) -> str:
    """The model, and what was done to its maps."""
    done = [text for text, asked in (("checked", result.get("check")), ("holes filled", result["fill"])) if asked]
    return ", ".join([f"`{result['model']}`", *done])


def table(results: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        f"| model | {' | '.join(COLUMNS.values())} | density % |",
        f"|---|{'--:|' * (len(COLUMNS) + 1)}",
    ]
    for result in results:
        cells = [f"{result['mean'][key]:.2f}" for key in COLUMNS]
        lines.append(f"| {name_of(result)} | {' | '.join(cells)} | {100 * result['mean']['density']:.1f} |")
    groups = ", ".join(f"{group} ({row['pairs']})" for group, row in results[0]["groups"].items())
    return "\n".join([*lines, "", f"Mean over {results[0]['pairs']} real and rendered pairs: {groups}."])


def group_table(results: list[dict[str, Any]]) -> str:
    """EPE, bad-2 and bad-3 of each data set in Markdown."""
    sets: dict[str, list[int]] = {name: [] for name in DATA_SETS}
    for index, row in enumerate(results[0]["per_pair"]):
        sets[data_set(row["id"].split("/")[0])].append(index)
    lines = [
        f"| EPE px / bad-2 % / bad-3 % | {' | '.join(f'{name} ({len(pairs)})' for name, pairs in sets.items())} |",
        f"|---|{'--:|' * len(sets)}",
    ]
    for result in results:
        cells = []
        for pairs in sets.values():
            rows = [result["per_pair"][index] for index in pairs]
            cells.append(" / ".join(f"{fmean(row[key] for row in rows):.2f}" for key in ("epe", "bad2", "bad3")))
        lines.append(f"| {name_of(result)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def insert(document: str, text: str) -> str:
    """The document with ``text`` between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    if START not in document or END not in document:
        raise ValueError(f"the document lacks the line {START!r} or {END!r}; put both back.")
    before, rest = document.split(START, 1)
    return f"{before}{START}\n{text}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    results = read_results(ROOT / "benchmarks" / "results")
    differs = False
    for name, make in (("README.md", table), ("docs/training.md", group_table)):
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = insert(old, make(results)) if results else old
        differs |= new != old
        if not check:
            path.write_text(new, encoding="utf-8")
    return int(check and differs)


if __name__ == "__main__":
    sys.exit(main())
