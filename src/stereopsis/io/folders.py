"""Writing a folder's files that are there together or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stereopsis.io.protect import check_target


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside ``path``, whose files move there only when the block ends without an error.

    Args:
        path: made where it is missing; files of the same names are replaced, others stay.

    Raises:
        ValueError: ``path`` is a file, or a file of the same name in it is an input (:mod:`stereopsis.io.protect`).
        OSError: the system refuses to write; what stood in the folder before is unharmed.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder.")
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        if not path.exists():
            temporary.replace(path)
            return
        files = sorted(temporary.iterdir())
        for file in files:
            check_target(path / file.name)
        for file in files:
            file.replace(path / file.name)
        temporary.rmdir()
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
