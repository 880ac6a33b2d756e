"""What a folder of results was made with, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = ".stereopsis.json"


class RunRecord:
    """The settings of a run in its folder of results, and which results belong to them.

    A result counts as done where all its files are there (each is written whole or not at all), newer than the record
    and newer than what they were made of.

    Args:
        folder: of the results; it need not exist.
        settings: everything that the results depend on, as JSON holds it.
        overwrite: start anew where the folder holds results of other settings, or of these.

    Raises:
        ValueError: the folder holds results of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(dict(settings)))
        self._since: int | None = None
        self._started = time.time_ns()
        path = folder / NAME
        if overwrite or not path.is_file():
            return
        check_settings(self.settings, _read(path), f"{folder} holds results")
        self._since = path.stat().st_mtime_ns

    def is_done(self, results: Iterable[Path], sources: Iterable[Path]) -> bool:
        """Whether all results of a frame are there, and newer than what they were made of."""
        if self._since is None:
            return False
        try:
            oldest = min(path.stat().st_mtime_ns for path in results)
            newest = max((path.stat().st_mtime_ns for path in sources), default=0)
        except OSError:
            return False
        return oldest >= max(self._since, newest)

    def begin(self) -> None:
        """Write the record, before the first result; where it is there already, nothing happens."""
        if self._since is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / NAME
            from stereopsis.io import atomic_write_text  # loads what reads images, which --help need not

            atomic_write_text(path, json.dumps(self.settings, indent=2) + "\n")
            self._since = path.stat().st_mtime_ns

    def tidy(self) -> None:
        """Remove the halves of files that a killed run has left in the folder, once this one has ended."""
        for path in self.folder.rglob(".*.tmp*"):
            with suppress(OSError):
                if path.stat().st_mtime_ns < self._started:
                    path.unlink()


def identity_of(model: str, weights: Path | None) -> str:
    """Which weights a model has, for the record of a run: the checksum of their file, or nothing without weights."""
    from stereopsis.zoo.registry import get_entry  # loads torch, which --help need not
    from stereopsis.zoo.weights import file_sha256, shipped_path

    if weights is None:
        name = get_entry(model).weights_file
        weights = None if name is None else shipped_path(name)
    return file_sha256(weights)[:16] if weights is not None and weights.is_file() else ""


def check_settings(settings: Mapping[str, Any], before: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with other settings.

    Args:
        where: the start of the sentence.

    Raises:
        ValueError: they differ; the sentence names the first difference.
    """
    for key in sorted({*settings, *before}):
        old, new = before.get(key), settings.get(key)
        if old != new:
            raise ValueError(
                f"{where} of {key} {_text(old)} and not {_text(new)}; name another --out, or start anew with "
                "--overwrite."
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged; name another --out, or start anew with --overwrite.")
    return found


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
