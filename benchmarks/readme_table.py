"""Write the README's accuracy table from ``benchmarks/results/matching_*.json``, between two marker lines.

Each of those files is what ``stereopsis evaluate matching --data MANIFEST --model NAME [--fill] --out FILE`` wrote.
``--check`` writes nothing and exits with 1 where the README differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- matching table: benchmarks/readme_table.py -->", "<!-- end of matching table -->"
COLUMNS = {"epe": "EPE px", "bad1": "bad-1 %", "bad2": "bad-2 %", "bad3": "bad-3 %", "d1": "D1 %"}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The result files, the smallest error first.

    Raises:
        ValueError: they are not measured on the same pairs.
    """
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("matching_*.json"))]
    if len({tuple(row["id"] for row in result["per_pair"]) for result in results}) > 1:
        raise ValueError(f"the files in {folder} are measured on different pairs; measure them on one manifest.")
    return sorted(results, key=lambda result: result["mean"]["epe"])


def table(results: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        f"| model | {' | '.join(COLUMNS.values())} | density % |",
        f"|---|{'--:|' * (len(COLUMNS) + 1)}",
    ]
    for result in results:
        name = f"`{result['model']}`{', holes filled' if result['fill'] else ''}"
        cells = [f"{result['mean'][key]:.2f}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * result['mean']['density']:.1f} |")
    groups = ", ".join(f"{group} ({row['pairs']})" for group, row in results[0]["groups"].items())
    return "\n".join([*lines, "", f"Mean over {results[0]['pairs']} real and rendered pairs: {groups}."])


def insert(readme: str, text: str) -> str:
    """The README with ``text`` between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    if START not in readme or END not in readme:
        raise ValueError(f"the README lacks the line {START!r} or {END!r}; put both back.")
    before, rest = readme.split(START, 1)
    return f"{before}{START}\n{text}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    results = read_results(ROOT / "benchmarks" / "results")
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = insert(old, table(results)) if results else old
    if check:
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
