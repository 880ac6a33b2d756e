"""How many bits depth needs, over the KITTI and Middlebury pairs: curves, and the rates that cost 1 point of bad-2.

``depth_rate.py --data MANIFEST [--every N] [CODEC ...]`` measures the named codecs, one after the other, writes
``results/depth_rate.json`` after every pair, and does not measure again what stands there; ``--anew`` forgets the named
codecs first (name all of them where a matcher has changed). A codec is an anchor of ``stereopsis evaluate
compression``, a registered name or NAME=WEIGHTS; ``all`` stands for CODECS below. At the end, or without any codec, it
draws ``docs/pictures/depth_rate.png`` and writes the table of ``docs/depth_rate.md``, of the pairs that all have.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pictures import save_small
from readme_table import data_set

import stereopsis
from stereopsis.data.manifests import read_manifest
from stereopsis.evaluation.codecs import ANCHORS
from stereopsis.evaluation.depth_rate import (
    MEASURES,
    common_pairs,
    evaluate_depth_rate,
    mean_curve,
    needed_rates,
    open_coder,
    rate_text,
    uncoded_error,
)
from stereopsis.io import atomic_write_text
from stereopsis.ops.memory import keep_large_blocks

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "depth_rate.json"
PICTURE = ROOT / "docs" / "pictures" / "depth_rate.png"
PAGE = ROOT / "docs" / "depth_rate.md"
START, END = "<!-- rates for depth: benchmarks/depth_rate.py -->", "<!-- end of rates for depth -->"
SETS = ("KITTI", "Middlebury")
RISES = (1.0, 5.0)  # points of bad-2
CODECS = ("jpeg", "webp", "avif", "hevc-stereo", "hyperprior.photos", "dsic.scenes", "ffca.scenes", "ffca.depth")
MATCHERS = ("hitnet.scenes", "anynet.scenes", "sgbm-hh")
QUALITIES = (3, 5, 7, 8)  # of our codecs, whose first ones are of no use for depth
DEPTH_QUALITIES = (1, 2, 3, 4, 6, 8)  # of those that were trained for it
TITLES = {"epe": "EPE, px", "bad2": "bad-2, %", "d1": "D1, %"}

Result = dict[str, Any]


def read() -> Result | None:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else None


def write(result: Result) -> None:
    atomic_write_text(RESULTS, json.dumps(result, allow_nan=False, separators=(",", ":")) + "\n")


def measure(words: list[str], data: Path, every: int, anew: bool) -> None:
    """One codec after the other, so that what is stopped has whole curves of the first ones."""
    pairs = [pair for pair in read_manifest(data) if data_set(pair.group) in SETS][::every]
    matchers = {name: stereopsis.load(name) for name in MATCHERS}
    if anew:
        forget([word.partition("=")[0] for word in words])
    for word in words:
        qualities = DEPTH_QUALITIES if ".depth" in word.partition("=")[0] else QUALITIES
        coder = open_coder(word, qualities)
        evaluate_depth_rate(
            [coder],
            pairs,
            matchers,
            known=read(),
            save=write,
            progress=lambda done, count, _, name=coder.name: print(f"{name}: {done} of {count}", flush=True),
        )


def forget(names: list[str]) -> None:
    """Take codecs out of the results, and with the last one the results."""
    result = read()
    if result is None:
        return
    result["codecs"] = {name: entry for name, entry in result["codecs"].items() if name not in names}
    if result["codecs"]:
        write(result)
    else:
        RESULTS.unlink()


def sets_of(result: Result) -> dict[str, list[str]]:
    """The measured pairs of each data set."""
    ids = common_pairs(result)
    sets = {name: [i for i in ids if data_set(i.split("/")[0]) == name] for name in SETS}
    return {name: members for name, members in sets.items() if members}


def tables(result: Result) -> str:
    """Rates at which bad-2 has risen by so many points, and what the uncoded pairs have, in Markdown."""
    sets = sets_of(result)
    heads = [f"{name}, `{matcher}`" for name in sets for matcher in result["matchers"]]
    lines = []
    for rise in RISES:
        lines += [f"| bad-2 + {rise:g} | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
        found = {name: needed_rates(result, ids, rise=rise) for name, ids in sets.items()}
        for codec in result["codecs"]:
            cells = [rate_text(found[name][matcher][codec]) for name in sets for matcher in result["matchers"]]
            lines.append(f"| `{codec}` | {' | '.join(cells)} |")
        if rise == RISES[0]:
            errors = [uncoded_error(result, ids, m, "bad2") for ids in sets.values() for m in result["matchers"]]
            lines.append(f"| bad-2 of the uncoded pairs, % | {' | '.join(f'{error:.2f}' for error in errors)} |")
        lines.append("")
    counts = " and ".join(f"{len(ids)} of {name}" for name, ids in sets.items())
    return "\n".join([*lines, f"Pairs: {counts}."])


def insert(document: str, text: str) -> str:
    """The document with ``text`` between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    if START not in document or END not in document:
        raise ValueError(f"the document lacks the line {START!r} or {END!r}; put both back.")
    before, rest = document.split(START, 1)
    return f"{before}{START}\n{text}\n{END}{rest.split(END, 1)[1]}"


def draw(result: Result) -> None:
    """A column for each data set and matcher, a row for each measure; dotted, what the uncoded pairs have."""
    import matplotlib.pyplot as plt

    sets = sets_of(result)
    columns = [(name, ids, matcher) for name, ids in sets.items() for matcher in result["matchers"]]
    figure, axes = plt.subplots(
        len(MEASURES), len(columns), figsize=(2.6 * len(columns), 7), layout="constrained", squeeze=False, sharex=True
    )
    colors = plt.get_cmap("Dark2").colors
    for row, measure_ in zip(axes, MEASURES, strict=True):
        for axis, (name, ids, matcher) in zip(row, columns, strict=True):
            base = uncoded_error(result, ids, matcher, measure_)
            for number, codec in enumerate(result["codecs"]):
                x, y = zip(*mean_curve(result, codec, ids, matcher, measure_), strict=True)
                style = {"linestyle": "--", "linewidth": 1} if codec in ANCHORS else {"linewidth": 1.6}
                axis.plot(x, y, label=codec, color=colors[number % len(colors)], **style)
            axis.axhline(base, color="black", linestyle=":", linewidth=1, label="not coded")
            axis.set(xscale="log", xlim=(0.15, 3.5), ylim=(0.9 * base, 3 * base))
            axis.set_xticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"], minor=False)
            axis.tick_params(labelsize=7)
            axis.minorticks_off()
            if measure_ == MEASURES[0]:
                axis.set_title(f"{name}, {matcher}", fontsize=9)
            if measure_ == MEASURES[-1]:
                axis.set_xlabel("bits a pixel", fontsize=8)
        row[0].set_ylabel(TITLES[measure_], fontsize=9)
    axes[0][0].legend(fontsize=6)
    save_small(figure, PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--anew", action="store_true")
    options = parser.parse_args()
    keep_large_blocks()
    if options.codecs:
        if options.data is None:
            parser.error("name the manifest of the pairs with --data")
        words = [name for word in options.codecs for name in (CODECS if word == "all" else [word])]
        measure(words, options.data, options.every, options.anew)
    result = read()
    if result is None:
        parser.error(f"there is no {RESULTS.name} yet; name codecs to measure")
    print(tables(result))
    atomic_write_text(PAGE, insert(PAGE.read_text(encoding="utf-8"), tables(result)))
    draw(result)


if __name__ == "__main__":
    main()
