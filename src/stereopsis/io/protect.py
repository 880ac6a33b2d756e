"""Inputs are never replaced: within :func:`protected` every writer of the package refuses to write onto one of them.

Files are compared by device and inode. So a link, another spelling of the path, or other cases of its letters on a file
system that ignores them, are the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Identity = tuple[int, int]
_inputs: dict[Identity, Path] = {}
_foreign: set[Identity] = set()
_blocks = 0  # of :func:`protected` that are open


class ReplacesInputError(ValueError):
    """An output would replace an input."""


@contextmanager
def protected(
    inputs: Iterable[str | Path], outputs: Iterable[Path] = (), foreign: Iterable[Path] = ()
) -> Iterator[None]:
    """Protect files, and all files in folders, until the block ends.

    Args:
        inputs: files and folders; what does not exist is passed over.
        outputs: files and folders that may be written again, even if they lie in a folder of the inputs.
        foreign: files of other programs in a folder of outputs, protected too.

    Raises:
        ReplacesInputError: an output is an input.
    """
    outputs = list(outputs)
    others = set(_foreign)
    found: dict[Identity, Path] = {}
    for source in map(Path, inputs):
        identity = _identity(source)
        for output in outputs:
            if identity is not None and _identity(output) == identity:
                raise ReplacesInputError(_sentence(output, source))
        if source.is_dir():
            found |= _inside(source, outputs)
        elif identity is not None:
            found[identity] = source
    global _blocks
    before = dict(_inputs)
    _inputs.update(found)
    _foreign.update(identity for path in foreign if (identity := _identity(path)) is not None)
    _blocks += 1
    try:
        yield
    finally:
        _blocks -= 1
        _foreign.clear()
        _foreign.update(others)
        _inputs.clear()
        _inputs.update(before)


def add_inputs(paths: Iterable[Path]) -> None:
    """Protect files that were found to be inputs, even in a folder of outputs; nothing outside :func:`protected`."""
    if _blocks:
        _inputs.update({identity: path for path in paths if (identity := _identity(path)) is not None})


def check_target(path: Path) -> None:
    """Refuse to write a file that is protected; every writer calls this before it opens a file.

    Raises:
        ReplacesInputError: it is.
    """
    if not (_inputs or _foreign):
        return
    identity = _identity(path)
    if identity in _foreign:
        raise ReplacesInputError(f"{path} was written by another program and would be replaced; name another folder.")
    if identity is not None and (source := _inputs.get(identity)) is not None:
        raise ReplacesInputError(_sentence(path, source))


def _sentence(output: Path, source: Path) -> str:
    kind = "folder" if source.is_dir() else "file"
    same = "an input" if str(output) == str(source) else f"the same {kind} as the input {source}"
    return f"The output {output} is {same} and would replace it; name another {kind}."


def _inside(folder: Path, outputs: list[Path]) -> dict[Identity, Path]:
    spared = {identity for output in outputs if (identity := _identity(output)) is not None}
    found: dict[Identity, Path] = {}
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [name for name in folders if _identity(here / name) not in spared]
        for name in names:
            identity = _identity(here / name)
            if identity is not None and identity not in spared:
                found[identity] = here / name
    return found


def _identity(path: Path) -> Identity | None:
    with suppress(OSError, ValueError):  # it does not exist, or cannot be a path
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
