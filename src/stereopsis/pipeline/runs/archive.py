"""A ``.stz`` file that grows pair by pair, with a journal beside it from which a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from stereopsis.compression.bitstream import Header, Reader, Record, Writer
from stereopsis.io.protect import check_target
from stereopsis.pipeline.runs.record import check_settings


class Archive:
    """The file of one run. It takes its name when it is whole; pairs that are appended to a file are so in place.

    After every pair the journal gets a line, in the order of the pairs; what is in the file but not in the journal, or
    the other way round, is forgotten when a run goes on.

    Args:
        out: the file.
        settings: everything that its pairs depend on, as JSON holds it.
        append: add to a file that is there.
        overwrite: start anew where an earlier run was interrupted.
        resumable: keep a journal; without it nothing is left of a run that was interrupted.

    Attributes:
        rows: what was told of each pair of this and the interrupted run, in order.
        failed: name and error of the frames that were left out.
        header: of the file, None where it has none yet.

    Raises:
        FileNotFoundError: no file to append to.
        ValueError: an interrupted run of other settings, or a damaged file to append to.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], *, append: bool, overwrite: bool = False, resumable: bool = True
    ) -> None:
        if append and not out.is_file():
            raise FileNotFoundError(f"there is no file {out} to append to; leave --append out.")
        self.out, self._append = out, append
        self._part = out if append else out.with_name(f".{out.name}.part")
        self._log = out.with_name(f".{out.name}.journal") if resumable else None
        self._settings = json.loads(json.dumps(dict(settings)))
        self._file: BinaryIO | None = None
        self._writer: Writer | None = None
        self.header: Header | None = None
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._base = 0
        check_target(out)
        if overwrite or not self._resume():
            if not append and not overwrite and out.exists():
                raise ValueError(
                    f"{out} exists already and would be replaced; allow it to be overwritten, append to it, or name "
                    "another file."
                )
            self._start()

    @property
    def names(self) -> set[str]:
        """Of the frames that need not be done again."""
        return {str(row["name"]) for row in (*self.rows, *self.failed)}

    def add(self, header: Header, record: Record, row: Mapping[str, Any]) -> None:
        """Append a pair; the header is that of a new file."""
        if self._writer is None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("r+b" if self._append else "w+b")
            self._writer = Writer(self._file, None if self._append else header)
            self.header = self._writer.header
            self._note({"settings": self._settings, "base": self._base}, "w")
            for line in self.failed:
                self._note({"failed": line})
        assert self._file is not None
        self._writer.add(record)
        self._file.flush()
        self.rows.append(dict(row))
        self._note({"row": row})

    def fail(self, name: str, error: str) -> None:
        """Note a frame that is left out."""
        self.failed.append({"name": name, "error": error})
        if self._writer is not None:
            self._note({"failed": self.failed[-1]})

    def finish(self) -> int:
        """Close the file and give it its name; the bytes that it has."""
        assert self._file is not None
        assert self._writer is not None
        self._writer.close()
        size = self._file.tell()
        self._file.close()
        if not self._append:
            self._part.replace(self.out)
        self._forget()
        return size

    def give_up(self) -> None:
        """After an error: what can be gone on with stays, anything else is removed."""
        if self._file is not None:
            self._file.close()
        if not self._append and (self._log is None or not self.rows):
            with suppress(OSError):
                self._part.unlink()
        if not self.rows:
            self._forget()

    def _start(self) -> None:
        """A new run, whose file is opened with its first pair."""
        if self._append:
            with self.out.open("rb") as file:
                reader = Reader(file)
            self.header, self._base = reader.header, len(reader.offsets)

    def _resume(self) -> bool:
        if self._log is None or not self._log.is_file() or not self._part.is_file():
            return False
        lines = _lines(self._log)
        if not lines or "settings" not in lines[0]:
            return False
        check_settings(self._settings, lines[0]["settings"], f"an earlier run on {self.out} was interrupted; it was")
        file = self._part.open("r+b")
        try:
            reader = Reader(file)
        except ValueError:  # not even its first pair is whole
            file.close()
            return False
        self._base = int(lines[0]["base"])
        whole = len(reader.offsets) - self._base
        kept: list[dict[str, Any]] = [lines[0]]
        for line in lines[1:]:
            if "row" in line:
                if len(self.rows) == whole:
                    break
                self.rows.append(line["row"])
            else:
                self.failed.append(line["failed"])
            kept.append(line)
        if whole < 0 or (not self.rows and not self._append):
            file.close()
            self.rows, self.failed = [], []
            return False
        if len(self.rows) < whole:
            file.truncate(reader.offsets[self._base + len(self.rows)])
        self._file, self._writer = file, Writer(file, None)
        self.header = reader.header
        self._log.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        return True

    def _note(self, line: Mapping[str, Any], mode: str = "a") -> None:
        if self._log is not None:
            with self._log.open(mode, encoding="utf-8") as journal:
                journal.write(json.dumps(line) + "\n")

    def _forget(self) -> None:
        if self._log is not None:
            with suppress(OSError):
                self._log.unlink()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last one may have been cut off."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
