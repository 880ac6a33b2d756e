"""Partners: which image of one camera belongs to which image of the other, by their names."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from stereopsis.io.stamps import Pairing

# A part of the name that says which view it is, from the clearest to the least clear.
TOKENS = (
    ("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("_L", "_R"), ("-L", "-R"), ("_l", "_r"),
    ("cam0", "cam1"), ("im0", "im1"), ("infra1", "infra2"), ("view1", "view5"),
)  # fmt: skip
LETTERS = ("L", "R"), ("l", "r")  # count at the ends of a name only, since letters stand in every word
# Parts of a name that mark a map instead of a view. Whole parts: a flowerpot is no flow.
NOT_A_VIEW = re.compile(
    r"(?<![A-Za-z])(?i:disp(?:arity|arities|map|s)?|depth(?:map|s)?|masks?|n?occ(?:lusions?|luded)?|conf(?:idence)?"
    r"|flows?|validity|valid)(?![a-z])"
)
NAMED = 3  # files of a warning


def partners(
    lefts: Sequence[Path], rights: Sequence[Path], tolerance: float, sources: tuple[object, object]
) -> list[tuple[Path, Path]]:
    """Return the pairs among the images of two cameras, in the order of the left ones.

    Names decide: whole, without the part that marks the view, by their last number, or as time stamps; whichever finds
    most pairs. Images without a partner are left out and named in a warning. If no name agrees, images are paired by
    their order, with a warning.

    Args:
        tolerance: seconds that two time stamps of a pair may be apart.
        sources: of the left and the right images, for messages.

    Raises:
        ValueError: no name agrees and there are more images on one side.
    """
    if len(lefts) == len(rights) == 1:
        return [(lefts[0], rights[0])]
    found = max(
        (
            _by_key(lefts, rights, lambda path, side: path.stem),
            _by_key(lefts, rights, lambda path, side: without_token(path.stem, side)),
            _by_key(lefts, rights, lambda path, side: _last_number(path.stem)),
            _by_time(lefts, rights, tolerance),
        ),
        key=len,
    )
    if not found:
        if len(lefts) != len(rights):
            raise ValueError(
                f"{sources[0]} holds {len(lefts)} images and {sources[1]} holds {len(rights)}, and no names agree; "
                "give the two images of a pair the same name, or remove what has no partner."
            )
        warnings.warn(
            f"no name of {sources[0]} agrees with one of {sources[1]}; the images were paired by their order "
            f"({lefts[0].name} with {rights[0].name}, and so on).",
            stacklevel=3,
        )
        return list(zip(lefts, rights, strict=True))
    left_out(set(lefts) - {left for left, _ in found}, set(rights) - {right for _, right in found}, sources)
    return found


def left_out(lefts: set[Path], rights: set[Path], sources: tuple[object, object]) -> None:
    """Warn of images without a partner."""
    for paths, source in ((lefts, sources[0]), (rights, sources[1])):
        if paths:
            names = ", ".join(path.name for path in sorted(paths, key=natural)[:NAMED])
            more = ", ..." if len(paths) > NAMED else ""
            images = "1 image" if len(paths) == 1 else f"{len(paths)} images"
            warnings.warn(
                f"{images} of {source} had no partner and {'was' if len(paths) == 1 else 'were'} left out: "
                f"{names}{more}.",
                stacklevel=4,
            )


def without_token(stem: str, side: int) -> str:
    """Return the stem without the part that marks the view: the left one for side 0, the right one for side 1."""
    for token in TOKENS:
        match = _find(stem, token[side])
        if match:
            return (stem[: match.start()] + stem[match.end() :]).strip("_-. ")
    for pair in LETTERS:
        letter = pair[side]
        if stem.endswith(letter):
            return stem[:-1].strip("_-. ")
        if re.match(rf"{letter}[^A-Za-z]", stem):
            return stem[1:].strip("_-. ")
    return stem


def swapped(stem: str, token: tuple[str, str]) -> str | None:
    """Return the right view's stem, or None if the left view's token is not in the name."""
    if len(token[0]) == 1:
        if stem.endswith(token[0]):
            return stem[:-1] + token[1]
        return token[1] + stem[1:] if re.match(rf"{token[0]}[^A-Za-z]", stem) else None
    match = _find(stem, token[0])
    return stem[: match.start()] + token[1] + stem[match.end() :] if match else None


def numbered_views(stems: Sequence[str]) -> list[tuple[str, str]]:
    """Return stems that differ in a last ``_0`` and ``_1``, for at least two scenes and if all stems end so.

    Fewer are successive frames of one camera, as ``frame_0`` and ``frame_1``.
    """
    scenes = Counter(stem[:-2] for stem in stems if stem.endswith(("_0", "_1")))
    if len(scenes) < 2 or set(scenes.values()) != {2} or sum(scenes.values()) != len(stems):
        return []
    return [(f"{scene}_0", f"{scene}_1") for scene in scenes]


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a key that sorts ``2`` before ``10``."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _find(stem: str, token: str) -> re.Match[str] | None:
    """The last place of a token; a number at its end is not a part of a longer one."""
    end = r"(?!\d)" if token[-1].isdigit() else r"(?![A-Za-z])" if token[0] in "_-" else ""
    found = list(re.finditer(re.escape(token) + end, stem))
    return found[-1] if found else None


def _by_key(
    lefts: Sequence[Path], rights: Sequence[Path], key: Callable[[Path, int], str | None]
) -> list[tuple[Path, Path]]:
    """Pairs of equal keys; nothing if two images of one camera have the same."""
    keys = [[key(path, side) for path in paths] for side, paths in enumerate((lefts, rights))]
    known = [[name for name in names if name is not None] for names in keys]
    if any(len(set(names)) < len(names) for names in known):
        return []
    others = {name: path for name, path in zip(keys[1], rights, strict=True) if name is not None}
    return [(path, others[name]) for name, path in zip(keys[0], lefts, strict=True) if name in others]


def _last_number(stem: str) -> str | None:
    found = re.search(r"(\d+)\D*$", stem)
    return str(int(found[1])) if found else None


def _by_time(lefts: Sequence[Path], rights: Sequence[Path], tolerance: float) -> list[tuple[Path, Path]]:
    times = [[_nanoseconds(path.stem) for path in paths] for paths in (lefts, rights)]
    if any(time is None for side in times for time in side):
        return []
    items = [
        (time, side, path)
        for side, paths in enumerate((lefts, rights))
        for time, path in zip(times[side], paths, strict=True)
        if time is not None
    ]
    pairing = Pairing(tolerance)
    return [(a, b) for _, a, b in pairing((side, time, path) for time, side, path in sorted(items))]


def _nanoseconds(stem: str) -> int | None:
    """A name as a time: seconds with decimals, or 13, 16 or 19 digits of milli-, micro- or nanoseconds."""
    if re.fullmatch(r"\d{9,11}\.\d{1,9}", stem):
        whole, _, part = stem.partition(".")
        return int(whole) * 10**9 + int(part.ljust(9, "0"))
    if re.fullmatch(r"\d{13}|\d{16}|\d{19}", stem):
        return int(stem) * 10 ** (19 - len(stem))
    return None
