"""Writing that either succeeds whole or leaves the old file (or none)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stereopsis.io.protect import check_target


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes its name only when the block ends without an error.

    The temporary file lies in the same folder, because a rename across file systems is a copy.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: ``path`` is a folder, or an input (:mod:`stereopsis.io.protect`).
        OSError: the system refuses to write; whatever stood under the name before is unharmed.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist; create it before writing {path.name}.")
    check_target(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def atomic_write_text(path: str | Path, text: str) -> None:
    """Writes ``text`` as UTF-8 whole or not at all; errors as in :func:`atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
