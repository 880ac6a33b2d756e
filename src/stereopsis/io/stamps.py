"""Messages and files of two cameras, paired by their time stamps."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TOLERANCE = 0.010  # s; cameras that are triggered together differ by less, and 50 frames a second by more
# A partner that is further behind in the recording is given up, so that memory has a bound.
MOST_WAITING = 100


class Pairing:
    """Pairs what comes from two sides in the order of time, each item used once.

    The oldest items of both sides are a pair where they are no further apart than the tolerance, and the one after the
    older is not nearer; else the older one has no partner.

    Args:
        tolerance: seconds.

    Attributes:
        unpaired: how many items had no partner until now.

    Raises:
        ValueError: a tolerance below 0.
    """

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"The tolerance is {tolerance:g} s; it must be at least 0, for example {TOLERANCE:g}.")
        self._limit = round(tolerance * 1e9)
        self.unpaired = 0

    def __call__(self, items: Iterable[tuple[int, int, T]]) -> Iterator[tuple[int, T, T]]:
        """The pairs.

        Args:
            items: side (0 for the left one, 1 for the right one), time in ns and content; in order on each side.

        Returns:
            Time of the left item in ns, and both contents.
        """
        waiting: tuple[deque[tuple[int, T]], deque[tuple[int, T]]] = (deque(), deque())
        for side, time, item in items:
            waiting[side].append((time, item))
            while waiting[0] and waiting[1]:
                (left, first), (right, second) = waiting[0][0], waiting[1][0]
                older = waiting[left > right]
                apart = abs(left - right)
                nearer = len(older) > 1 and abs(older[1][0] - max(left, right)) < apart
                if apart <= self._limit and not nearer:
                    waiting[0].popleft()
                    waiting[1].popleft()
                    yield left, first, second
                else:
                    older.popleft()
                    self.unpaired += 1
            if len(waiting[side]) > MOST_WAITING:
                waiting[side].popleft()
                self.unpaired += 1
        self.unpaired += len(waiting[0]) + len(waiting[1])


def pair_tables(left: Path, right: Path, tolerance: float = TOLERANCE) -> list[tuple[Path, Path]]:
    """The files that two tables list for the same time: EuRoC's ``data.csv`` (ns) or TUM's ``rgb.txt`` (s).

    Args:
        left, right: the tables; files are named relative to them, or to the folder ``data`` beside them. Rows whose
            file is not there are passed over, since parts of recordings come with the whole table.
        tolerance: seconds that two files of a pair may be apart.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: a line that is no time and file, or no pair at all.
    """
    rows = [(time, side, file) for side, table in enumerate((left, right)) for time, file in _read_table(table)]
    pairing = Pairing(tolerance)
    pairs = [(first, second) for _, first, second in pairing((side, time, file) for time, side, file in sorted(rows))]
    if not pairs:
        raise ValueError(
            f"No image of {left} has a partner in {right} within {1000 * tolerance:g} ms; allow more with --sync-ms."
        )
    if pairing.unpaired:
        warnings.warn(
            f"{pairing.unpaired} images of {left} and {right} have no partner within {1000 * tolerance:g} ms and were "
            "left out.",
            stacklevel=2,
        )
    return pairs


def _read_table(path: Path) -> Iterator[tuple[int, Path]]:
    folder = path.parent / "data" if (path.parent / "data").is_dir() else path.parent
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text; copy it again.") from None
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            time = int(words[0]) if words[0].isdecimal() else round(Decimal(words[0]) * 10**9)
            file = folder / words[1]
        except (ArithmeticError, IndexError, ValueError):
            raise ValueError(f"{path}, line {number} is {line!r}; it must be a time and a file, so mend it.") from None
        if file.is_file():
            yield time, file
