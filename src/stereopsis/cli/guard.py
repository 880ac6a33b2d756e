"""What holds for every command: no output replaces an input."""

from __future__ import annotations

import functools
import glob
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

OUTPUTS = ("out", "preview", "report")
MORE_OUTPUTS = {"match": ("confidence",), "photos": ("sheet",)}  # "confidence" is an input of other commands


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that raises a ReplacesInputError before any work if an output is an input.

    Every argument that names an existing file or folder and is not an output is an input; while the command runs, no
    writer of the package replaces it.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from stereopsis.io.protect import protected

        given = inspect.signature(command).bind(*arguments, **options).arguments
        outputs = list(_outputs(command.__name__, given))
        with protected(_inputs(command.__name__, given), outputs, _foreign(outputs)):
            return command(*arguments, **options)

    return run


def _foreign(outputs: list[Path]) -> Iterator[Path]:
    """A sensor's depth in a folder of outputs, which bears the name of ours."""
    from stereopsis.io.depth import written_here

    for folder in outputs:
        path = folder / "depth.png"
        if path.is_file() and not written_here(path):
            yield path


def _is_output(command: str, name: str) -> bool:
    return name in OUTPUTS or name in MORE_OUTPUTS.get(command, ())


def _outputs(command: str, given: Mapping[str, Any]) -> Iterator[Path]:
    for name, value in given.items():
        if _is_output(command, name) and isinstance(value, str | Path):
            yield Path(value)
            if command == "calibrate":  # written beside the rig
                yield Path(value).with_name(f"{Path(value).stem}_coverage.png")


def _inputs(command: str, given: Mapping[str, Any]) -> Iterator[Path]:
    for name, value in given.items():
        if _is_output(command, name):
            continue
        for text in value if isinstance(value, tuple | list) else [value]:
            if isinstance(text, str) and glob.has_magic(text):
                yield from map(Path, glob.glob(text, recursive=True))  # noqa: PTH207  (absolute patterns too)
            elif isinstance(text, str | Path):
                yield Path(text)
