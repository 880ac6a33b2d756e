"""The photo bank: photographs under free licences, gathered from packages of Debian, npm and PyPI.

The table ``photo_table.json`` lists the package, path, author, licence and SHA-256 of each photograph.
:func:`gather` downloads the packages without installing them and stores each photograph as an array of bytes that
training maps into memory. One photograph in ten is held out for validation, chosen by its SHA-256, so that a photograph
keeps its side when the table grows.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from stereopsis.io.atomic import atomic_write, atomic_write_text

TABLE = Path(__file__).with_name("photo_table.json")
MANIFEST = "manifest.json"
LICENCES = ("CC0", "public domain", "CC BY", "MIT", "Apache", "zlib", "BSD")
VARIABLE = "STEREOPSIS_PHOTOS"
HELD_OUT_OF = 10  # one photograph of so many is held out
BLOCKS = 1.3  # steps across the borders of JPEG's blocks, relative to other steps, that show
SOFT = 1.5  # detail in gray levels that a sharp photograph exceeds in a tenth of its area
LARGEST = 200_000_000  # pixels of a photograph; PIL warns of fewer

Split = Literal["train", "validation"]
Fetch = Callable[[str, Path], Path]


@dataclass(frozen=True)
class Source:
    """A row of the table.

    Attributes:
        ecosystem: ``debian``, ``npm`` or ``pypi``.
        package: name in the ecosystem.
        path: of the file inside the unpacked package.
        author: as the package states it.
        licence: as the package states it; one of :data:`LICENCES`, with a version.
        sha256: of the file.
    """

    ecosystem: str
    package: str
    path: str
    author: str
    licence: str
    sha256: str

    @property
    def split(self) -> Split:
        """The side of the photograph; depends on the SHA-256 only."""
        return "train" if int(self.sha256[-8:], 16) % HELD_OUT_OF else "validation"


@dataclass(frozen=True)
class Photo:
    """A photograph of the bank.

    Attributes:
        file: an array (height, width, 3), uint8 RGB, in NumPy's format.
        source: where the photograph comes from.
        width, height: in pixels, as stored.
        halved: True if it is stored at half its size.
    """

    file: Path
    source: Source
    width: int
    height: int
    halved: bool

    @property
    def megapixels(self) -> float:
        """Stored pixels in millions."""
        return self.width * self.height / 1e6

    def pixels(self) -> np.ndarray:
        """Return the array (height, width, 3), uint8, mapped into memory; writes to it stay private."""
        return np.load(self.file, mmap_mode="c", allow_pickle=False)


def photo_folder() -> Path:
    """Return the folder of the bank: ``STEREOPSIS_PHOTOS``, or ``stereopsis/photos`` in the user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stereopsis" / "photos"


def read_table(path: str | Path = TABLE) -> list[Source]:
    """Return the rows of a table.

    Raises:
        ValueError: a licence is none of :data:`LICENCES`, or two rows have the same SHA-256.
    """
    packages = json.loads(Path(path).read_text("utf-8"))
    rows = [
        Source(package["ecosystem"], package["package"], f"{package['folder']}/{name}", author, licence, sha256)
        for package in packages
        for name, author, licence, sha256 in package["photos"]
    ]
    for row in rows:
        if not row.licence.startswith(LICENCES) or row.licence.startswith(("CC BY-", "CC BY SA")):
            raise ValueError(f"{row.path} is under {row.licence}; allowed are {', '.join(LICENCES)}.")
    twice = [sha256 for sha256, count in Counter(row.sha256 for row in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{path} lists the file with SHA-256 {twice[0]} twice; remove one of the rows.")
    return rows


def read_photos(folder: str | Path | None = None, split: Split | None = None) -> list[Photo]:
    """Return the photographs of a bank, none if there is no bank.

    Args:
        folder: of the bank, :func:`photo_folder` if not given.
        split: only those for training or for validation.

    Raises:
        ValueError: the manifest cannot be read, or lists a file that does not exist.
    """
    folder = photo_folder() if folder is None else Path(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return []
    try:
        rows = json.loads(manifest.read_text("utf-8"))["photos"]
        photos = [
            Photo(
                folder / row["file"],
                Source(**{name: row[name] for name in Source.__dataclass_fields__}),
                row["width"],
                row["height"],
                row["halved"],
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{manifest} is no manifest of photographs; delete it and gather them again.") from error
    lost = [photo.file for photo in photos if not photo.file.is_file()]
    if lost:
        raise ValueError(f"{manifest} lists {lost[0].name}, which does not exist; delete it and gather them again.")
    return [photo for photo in photos if split in (None, photo.source.split)]


def credit(photos: Sequence[Photo]) -> str:
    """Return one phrase with the number of photographs by licence, and their authors."""
    licences = Counter(photo.source.licence for photo in photos)
    authors = sorted({photo.source.author for photo in photos}, key=str.casefold)
    counts = ", ".join(f"{count} {licence}" for licence, count in sorted(licences.items()))
    return f"{len(photos)} photographs of the photo bank ({counts}; authors: {', '.join(authors)})"


def gather(
    out: str | Path,
    rows: Iterable[Source] | None = None,
    *,
    report: Callable[[str], None] = lambda sentence: None,
    fetch: Fetch | None = None,
) -> list[str]:
    """Download the packages of a table and store their photographs; what the folder already has is kept.

    The manifest is replaced after each package, so an interrupted call leaves a smaller bank and the next call goes
    on with the packages that are missing.

    Args:
        out: folder of the bank; created if missing.
        rows: of the table, :func:`read_table` if not given.
        report: called with one sentence per package.
        fetch: called with ``"ecosystem:package"`` and an empty folder, returns the archive it downloaded there.

    Returns:
        One sentence for each package or file that could not be had.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rows = list(read_table() if rows is None else rows)
    for stale in out.glob(".gather-*"):  # of a call that was killed
        shutil.rmtree(stale, ignore_errors=True)
    before = _readable(out)
    kept = {row.sha256: before[row.sha256] for row in rows if row.sha256 in before}
    problems: list[str] = []
    packages = dict.fromkeys((row.ecosystem, row.package) for row in rows)
    for number, (ecosystem, package) in enumerate(packages, 1):
        wanted = [row for row in rows if (row.ecosystem, row.package) == (ecosystem, package)]
        missing = [row for row in wanted if row.sha256 not in kept]
        if missing:
            report(f"{number} of {len(packages)}: {package} ({ecosystem}), {len(missing)} photographs")
            found, sentences = _from_package(missing, out, fetch or download)
            kept |= {photo.source.sha256: photo for photo in found}
            problems += sentences
        _write_manifest(out, [kept[row.sha256] for row in rows if row.sha256 in kept])
    names = {photo.file for photo in kept.values()}
    for photo in before.values():  # no longer in the table
        if photo.file not in names:
            photo.file.unlink(missing_ok=True)
    return problems


def _readable(out: Path) -> dict[str, Photo]:
    try:
        return {photo.source.sha256: photo for photo in read_photos(out)}
    except ValueError:  # they are gathered again
        return {}


def _write_manifest(out: Path, photos: Sequence[Photo]) -> None:
    rows = [
        {"file": photo.file.name, **asdict(photo.source), "split": photo.source.split}
        | {"width": photo.width, "height": photo.height, "halved": photo.halved}
        for photo in photos
    ]
    atomic_write_text(out / MANIFEST, json.dumps({"photos": rows}, indent=1, ensure_ascii=False) + "\n")


def _from_package(rows: Sequence[Source], out: Path, fetch: Fetch) -> tuple[list[Photo], list[str]]:
    """Return the photographs of one package, and a sentence for each that could not be had."""
    package = rows[0].package
    photos, problems = [], []
    with tempfile.TemporaryDirectory(prefix=".gather-", dir=out) as work:
        try:
            archive = fetch(f"{rows[0].ecosystem}:{package}", Path(work))
            files = dict(_members(archive, {row.path for row in rows}))
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            return [], [f"{package} ({rows[0].ecosystem}) cannot be had: {' '.join(str(error).split())}"]
        for row in rows:
            content = files.pop(row.path, None)
            if content is None:
                problems.append(f"{package} does not contain {row.path}; it was left out.")
            elif hashlib.sha256(content).hexdigest() != row.sha256:
                problems.append(f"{row.path} of {package} differs from the file in the table; it was left out.")
            else:
                photos.append(_store(row, content, out))
    return photos, problems


def _store(row: Source, content: bytes, out: Path) -> Photo:
    pixels = decode(content)
    halved = needs_half(pixels)
    if halved:
        pixels = halve(pixels)
    file = out / f"{row.sha256[:16]}.npy"
    with atomic_write(file) as stream:
        np.save(stream, pixels, allow_pickle=False)
    return Photo(file, row, pixels.shape[1], pixels.shape[0], halved)


def decode(content: bytes) -> np.ndarray:
    """Return the pixels (h, w, 3), uint8, of a file in a format of Pillow.

    Raises:
        ValueError: it has more than :data:`LARGEST` pixels.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > LARGEST:
            raise ValueError(f"a photograph has {image.width} x {image.height} pixels; at most {LARGEST} are read.")
        return np.asarray(image.convert("RGB"))


def halve(pixels: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels, (h // 2, w // 2, 3)."""
    return np.asarray(Image.fromarray(pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]).reduce(2))


def needs_half(pixels: np.ndarray) -> bool:
    """Return whether JPEG's blocks or softness show at full size.

    Blocks show if steps across every eighth column and row exceed the others by :data:`BLOCKS`. A photograph is soft if
    no tenth of its 64 x 64 tiles loses :data:`SOFT` gray levels (RMS) by halving.

    Args:
        pixels: (h, w, 3), uint8.
    """
    gray = pixels.astype(np.float32).mean(2)
    height, width = (side // 64 * 64 for side in gray.shape)
    if min(height, width) < 512:
        return False
    gray = gray[:height, :width]
    ratios = []
    for part in (gray, gray.T):
        steps = np.abs(np.diff(part, axis=1)).mean(0)
        border = np.arange(steps.size) % 8 == 7
        ratios.append(steps[border].mean() / max(steps[~border].mean(), 1e-6))
    low = gray.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    detail = gray - low.repeat(2, 0).repeat(2, 1)
    tiles = np.square(detail).reshape(height // 64, 64, width // 64, 64).mean((1, 3))
    return bool(np.mean(ratios) > BLOCKS or np.sqrt(np.percentile(tiles, 90)) < SOFT)


def download(package: str, folder: Path) -> Path:
    """Download the archive of a package into an empty folder with its ecosystem's own client.

    Args:
        package: ``"debian:NAME"``, ``"npm:NAME"`` or ``"pypi:NAME"``.

    Returns:
        The archive.

    Raises:
        ValueError: the ecosystem is unknown, or the client failed.
        OSError: the client is not installed.
    """
    ecosystem, _, name = package.partition(":")
    commands = {
        "debian": ["apt-get", "download", name],
        "npm": ["npm", "pack", "--silent", name],
        "pypi": [shutil.which("pip") or "pip", "download", "--quiet", "--no-deps", name],
    }
    if ecosystem not in commands:
        raise ValueError(f"the ecosystem {ecosystem!r} is none of {', '.join(commands)}.")
    command = commands[ecosystem]
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        lines = done.stderr.strip().splitlines()
        raise ValueError(lines[-1] if lines else f"{command[0]} downloaded no package.")
    return files[0]


def _members(archive: Path, paths: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files of a Debian package, a wheel or a tar archive; nothing else is unpacked."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for path in paths & set(bundle.namelist()):
                yield path, bundle.read(path)
    elif archive.suffix == ".deb":
        with (
            subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as bundle,
        ):
            yield from _of_tar(bundle, paths)
    else:
        with tarfile.open(archive) as bundle:
            yield from _of_tar(bundle, paths)


def _of_tar(bundle: tarfile.TarFile, paths: set[str]) -> Iterator[tuple[str, bytes]]:
    for member in bundle:
        path = str(PurePosixPath(member.name))
        if path in paths and member.isfile():
            file = bundle.extractfile(member)
            if file is not None:
                yield path, file.read()
