"""Where the commands write: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

# Without a terminal rich assumes 80 columns and cuts tables to them.
PLAIN_WIDTH = 120
warnings_of_this_command: list[str] = []


def fail(sentence: str, status: int = 2) -> int:
    """Print one sentence on stderr and return the exit status."""
    print(f"stereopsis: {sentence}", file=sys.stderr)
    return status


def warn(sentence: str) -> None:
    """Print a warning on stderr, and keep it for :func:`show_json`."""
    warnings_of_this_command.append(sentence)
    print(f"stereopsis: warning: {sentence}", file=sys.stderr)


def note(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def show_json(value: Any) -> None:
    """Print one JSON document on stdout; an object gets a list ``warnings`` of all that were printed.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    if isinstance(value, dict):
        own = value.get("warnings", [])
        value = value | {"warnings": [*own, *(text for text in warnings_of_this_command if text not in own)]}
    print(json.dumps(value, indent=2, allow_nan=False))


def show_table(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print(table)


def new_table(*columns: str, title: str | None = None) -> Table:
    """A table whose first column is text and whose others are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with the count and the time left on stderr; it disappears at the end, and is drawn on a terminal alone."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
