"""Finds stereo pairs on disk: two files, two folders, two globs, or one folder in a known layout."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stereopsis.io.images import IMAGE_SUFFIXES
from stereopsis.io.stamps import TOLERANCE, pair_tables


@dataclass(frozen=True)
class PairPaths:
    """One pair on disk.

    Attributes:
        name: what results of this pair are called after; unique among the pairs found together.
        left, right: the files.
    """

    name: str
    left: Path
    right: Path


FOLDERS = (
    ("left", "right"), ("Left", "Right"), ("image_2", "image_3"), ("image_02/data", "image_03/data"),
    ("image_02", "image_03"), ("colored_0", "colored_1"), ("image_0", "image_1"), ("image_00/data", "image_01/data"),
    ("cam0/data", "cam1/data"), ("mav0/cam0/data", "mav0/cam1/data"), ("left_images", "right_images"),
)  # fmt: skip
FILES = (("im0", "im1"), ("left", "right"), ("view1", "view5"), ("im2", "im6"), ("image_left", "image_right"))
# A part of the name that says which view it is, from the clearest to the least clear.
TOKENS = (
    ("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("_L", "_R"), ("-L", "-R"), ("_l", "_r"),
    ("cam0", "cam1"), ("im0", "im1"), ("view1", "view5"), ("L", "R"), ("_0", "_1"),
)  # fmt: skip
NOT_A_VIEW = re.compile(r"disp|depth|mask|occ|conf|flow", re.IGNORECASE)
LAYOUTS = "im0/im1, left/right, view1/view5, image_2/image_3, *_L/*_R or *left*/*right*"


def find_pairs(left: str | Path, right: str | Path | None = None, tolerance: float = TOLERANCE) -> list[PairPaths]:
    """The pairs that one or two arguments name, in natural order (``2`` before ``10``).

    The folders of two EuRoC cameras (``cam0`` and ``cam1``, or ``data`` in them, with a ``data.csv`` each) are paired
    by time stamp, and a warning says how many images have no partner.

    Args:
        left: a file, a folder or a glob of left views; without ``right`` a folder in a known layout: sub-folders
            ``left``/``right`` or ``image_2``/``image_3``, files ``im0``/``im1``, ``view1``/``view5``, ``*_L``/``*_R``
            or the like, or sub-folders that each hold one such scene.
        right: the same of right views. Files are matched by name where the names agree (apart from the part that says
            left or right), else by order.
        tolerance: seconds that two images of a pair may be apart, where tables tell their times.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a folder without images, different counts, a folder in no known layout, or a damaged table.
    """
    if right is None:
        return _in_layout(Path(left), tolerance)
    table, other = _table(Path(left)), _table(Path(right))
    if table is not None and other is not None:
        return [PairPaths(first.stem, first, second) for first, second in pair_tables(table, other, tolerance)]
    lefts, rights = list_files(left), list_files(right)
    if len(lefts) != len(rights):
        raise ValueError(
            f"{left} holds {len(lefts)} images and {right} holds {len(rights)}; "
            "each left view needs one right view, so remove what has no partner."
        )
    rights = (
        _matched([p.stem for p in lefts], {p.stem: p for p in rights})
        or _matched([_key(p.stem, 0) for p in lefts], {_key(p.stem, 1): p for p in rights})
        or rights
    )
    return [PairPaths(name, a, b) for name, a, b in zip(unique_names(lefts), lefts, rights, strict=True)]


def _table(folder: Path) -> Path | None:
    """EuRoC's list of a camera's images, given its folder or that of the images; None where there is none."""
    for table in (folder / "data.csv", *([folder.parent / "data.csv"] if folder.name == "data" else [])):
        if table.is_file():
            return table
    return None


def _in_layout(folder: Path, tolerance: float) -> list[PairPaths]:
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; name an existing folder of pairs.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name the right view too, or a folder of pairs.")
    pairs = _scene(folder, tolerance)
    if not pairs:
        for scene in sorted((p for p in folder.iterdir() if p.is_dir()), key=_natural):
            found = _scene(scene, tolerance)
            alone = len(found) == 1
            pairs += [PairPaths(scene.name if alone else f"{scene.name}_{p.name}", p.left, p.right) for p in found]
    if not pairs:
        raise ValueError(f"{folder} holds no stereo pair in a known layout ({LAYOUTS}); name two folders or two files.")
    return pairs


def _scene(folder: Path, tolerance: float) -> list[PairPaths]:
    """The pairs of one folder: of its two sub-folders of views, else of its files; none if it is in no known layout."""
    for left, right in FOLDERS:
        if (folder / left).is_dir() and (folder / right).is_dir():
            return find_pairs(folder / left, folder / right, tolerance)
    for sub in sorted((p for p in folder.iterdir() if p.is_dir() and not NOT_A_VIEW.search(p.name)), key=_natural):
        partner = sub.with_name(sub.name.replace("left", "right"))
        if partner != sub and partner.is_dir():
            return find_pairs(sub, partner, tolerance)
    return _among_files(folder)


def _among_files(folder: Path) -> list[PairPaths]:
    images = {path.name: path for path in _listing(folder) if not NOT_A_VIEW.search(path.stem)}
    stems = {Path(name).stem: path for name, path in images.items()}
    for left, right in FILES:
        if left in stems and right in stems:
            return [PairPaths(folder.name, stems[left], stems[right])]
    pairs: list[PairPaths] = []
    used: set[Path] = set()
    for left, right in TOKENS:
        for stem, path in stems.items():
            partner = _swap(stem, left, right)
            if path in used or partner is None or partner not in stems or stems[partner] in used:
                continue
            used |= {path, stems[partner]}
            pairs.append(PairPaths(_key(stem, 0) or folder.name, path, stems[partner]))
    names = [pair.name for pair in pairs]
    if len(set(names)) != len(names):
        pairs = [PairPaths(pair.left.stem, pair.left, pair.right) for pair in pairs]
    return sorted(pairs, key=lambda pair: _natural(pair.left))


def _swap(stem: str, left: str, right: str) -> str | None:
    """The right view's stem; one-letter tokens count at the end alone, since letters stand in every word."""
    if len(left) == 1 or left == "_0":
        return stem[: -len(left)] + right if stem.endswith(left) else None
    return right.join(stem.rsplit(left, 1)) if left in stem else None


def _matched(keys: list[str], rights: dict[str, Path]) -> list[Path] | None:
    """The right views in the order of the left keys, if the keys name each of them once."""
    if len(set(keys)) != len(keys) or set(keys) != rights.keys():
        return None
    return [rights[key] for key in keys]


def _key(stem: str, side: int) -> str:
    """The stem without the part that says which view it is (the left one for side 0, the right one for side 1)."""
    for token in TOKENS[:-2]:
        if token[side] in stem:
            return "".join(stem.rsplit(token[side], 1)).strip("_-. ")
    return stem[:-1].strip("_-. ") if stem.endswith("LR"[side]) else stem


def list_files(source: str | Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, kind: str = "image") -> list[Path]:
    """The files that a name, a folder or a glob stands for, in natural order.

    Args:
        suffixes: of the files of a folder that count.
        kind: what errors call such a file.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: none is found.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = _listing(path, suffixes)
        if not files:
            raise ValueError(f"{path} holds no {kind} ({', '.join(suffixes)}); name a folder that does.")
        return files
    if glob.has_magic(str(source)):
        # Not Path.glob, which refuses absolute patterns.
        found = [Path(p) for p in glob.glob(str(source), recursive=True)]  # noqa: PTH207
        files = sorted((p for p in found if p.is_file()), key=_natural)
        if not files:
            raise ValueError(f"No file matches {source}; correct the pattern.")
        return files
    raise FileNotFoundError(f"{path} does not exist; name an existing {kind} or folder.")


def _listing(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    # Hidden files are what systems and unfinished writers leave.
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted(found, key=_natural)


def unique_names(paths: Iterable[Path]) -> list[str]:
    """What results are called after: the stems, with folder and suffix where two are alike."""
    paths = list(paths)
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{path.parent.name}_{path.name}".replace(".", "_") for path in paths]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]
