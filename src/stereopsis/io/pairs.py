"""Finds stereo pairs on disk: two files, two folders, two globs, or one folder in a known layout."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stereopsis.io.images import IMAGE_SUFFIXES
from stereopsis.io.partners import (
    LETTERS,
    NAMED,
    NOT_A_VIEW,
    TOKENS,
    left_out,
    natural,
    numbered_views,
    partners,
    swapped,
    without_token,
)
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
    ("left", "right"), ("Left", "Right"), ("L", "R"), ("l", "r"), ("image_2", "image_3"),
    ("image_02/data", "image_03/data"), ("image_02", "image_03"), ("colored_0", "colored_1"), ("image_0", "image_1"),
    ("image_00/data", "image_01/data"), ("image_00", "image_01"), ("cam0/data", "cam1/data"), ("cam0", "cam1"),
    ("mav0/cam0/data", "mav0/cam1/data"), ("mav0/cam0", "mav0/cam1"), ("infra1", "infra2"), ("cam_0", "cam_1"),
    ("left_images", "right_images"), ("left_raw", "right_raw"), ("left_rect", "right_rect"),
)  # fmt: skip
FILES = (("im0", "im1"), ("left", "right"), ("view1", "view5"), ("im2", "im6"), ("image_left", "image_right"))
LAYOUTS = "left/right, cam0/cam1, infra1/infra2, image_2/image_3, im0/im1, view1/view5, *_L/*_R or *left*/*right*"


def find_pairs(left: str | Path, right: str | Path | None = None, tolerance: float = TOLERANCE) -> list[PairPaths]:
    """The pairs that one or two arguments name, in natural order (``2`` before ``10``).

    The folders of two EuRoC cameras (``cam0`` and ``cam1``, or ``data`` in them, with a ``data.csv`` each) are paired
    by time stamp, and a warning says how many images have no partner.

    Args:
        left: a file, a folder or a glob of left views; without ``right`` a folder in a known layout: sub-folders
            ``left``/``right`` or ``image_2``/``image_3``, files ``im0``/``im1``, ``view1``/``view5``, ``*_L``/``*_R``
            or the like, or sub-folders that each hold one such scene.
        right: the same of right views. Files are paired by name (:func:`~stereopsis.io.partners.partners`); a warning
            names those without a partner, which are left out.
        tolerance: seconds that two images of a pair may be apart if tables or their names state times.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a folder without images, different counts of images whose names do not agree, a folder in no known
            layout, or a damaged table.
    """
    if right is None:
        return _in_layout(Path(left), tolerance)
    table, other = _table(Path(left)), _table(Path(right))
    if table is not None and other is not None:
        return [PairPaths(first.stem, first, second) for first, second in pair_tables(table, other, tolerance)]
    lefts, rights = list_files(left), list_files(right)
    pairs = partners(lefts, rights, tolerance, (left, right))
    names = unique_names([first for first, _ in pairs])
    return [PairPaths(name, first, second) for name, (first, second) in zip(names, pairs, strict=True)]


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
        for scene in sorted((p for p in folder.iterdir() if p.is_dir()), key=natural):
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
    for sub in sorted((p for p in folder.iterdir() if p.is_dir() and not NOT_A_VIEW.search(p.name)), key=natural):
        for token in TOKENS:
            name = swapped(sub.name, token)
            if name is not None and sub.with_name(name).is_dir():
                return find_pairs(sub, sub.with_name(name), tolerance)
    return _among_files(folder)


def _among_files(folder: Path) -> list[PairPaths]:
    listed = _listing(folder)
    views = {path.stem: path for path in listed if not NOT_A_VIEW.search(path.stem)}
    for left, right in FILES:
        if left in views and right in views:
            return [PairPaths(folder.name, views[left], views[right])]
    found: dict[str, str] = {}
    for token in (*TOKENS, *LETTERS):
        for stem in views:
            partner = swapped(stem, token)
            if partner in views and not {stem, partner} & {*found, *found.values()}:
                found[stem] = partner
    found = found or dict(numbered_views(list(views)))
    if not found:
        return []
    pairs = [PairPaths(without_token(a, 0) or folder.name, views[a], views[b]) for a, b in found.items()]
    if len({pair.name for pair in pairs}) < len(pairs):
        pairs = [PairPaths(pair.left.stem, pair.left, pair.right) for pair in pairs]
    used = {path for pair in pairs for path in (pair.left, pair.right)}
    maps = {path for path in listed if NOT_A_VIEW.search(path.stem)}
    left_out(set(views.values()) - used, set(), (folder, folder))
    if maps:
        names = ", ".join(path.name for path in sorted(maps, key=natural)[:NAMED])
        warnings.warn(
            f"{len(maps)} images of {folder} are not views by their names and were left out: {names}.", stacklevel=4
        )
    return sorted(pairs, key=lambda pair: natural(pair.left))


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
        files = sorted((p for p in found if p.is_file()), key=natural)
        if not files:
            raise ValueError(f"No file matches {source}; correct the pattern.")
        return files
    raise FileNotFoundError(f"{path} does not exist; name an existing {kind} or folder.")


def _listing(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    # Hidden files are what systems and unfinished writers leave.
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted(found, key=natural)


def unique_names(paths: Iterable[Path]) -> list[str]:
    """What results are called after: the stems, with folder and suffix where two are alike."""
    paths = list(paths)
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{path.parent.name}_{path.name}".replace(".", "_") for path in paths]
