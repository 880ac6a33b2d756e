"""Pairs on disk and in memory, and the search for them by templates of paths."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from stereopsis.data.datasets.coding import Coding, differs
from stereopsis.io import read_depth, read_image
from stereopsis.types import StereoCalibration


@dataclass(frozen=True)
class StereoItem:
    """A pair on disk; what the set does not have is None or empty.

    Attributes:
        id: the set's name and the left view's path below the root, without its suffix.
        left, right: the images.
        disparity, disparity_right: ground truth of each view.
        noc: masks that together say which pixels of the left view the right one sees too.
        foreground: a map of the left view that is 0 on the background, any other value on objects.
        calibration: the rig's file, or the rig where it is the same throughout the set.
        coding: how these files are to be read.
    """

    id: str
    left: Path
    right: Path
    disparity: Path | None = None
    disparity_right: Path | None = None
    noc: tuple[Path, ...] = ()
    foreground: Path | None = None
    calibration: Path | StereoCalibration | None = None
    coding: Coding = Coding()  # noqa: RUF009  (frozen)


@dataclass(frozen=True)
class StereoSample:
    """A pair in memory; what the set does not have is None.

    Attributes:
        id: as in :class:`StereoItem`.
        left, right: RGB in [0, 1].
        disparity: pixels, 0 where not valid; None in splits whose truth is withheld.
        valid: where the disparity is known.
        disparity_right, valid_right: the same of the right view.
        noc: where the disparity is known and the right view sees the point too.
        foreground: where an object stands before the background.
        calibration: the rig.
    """

    id: str
    left: Float[Tensor, "3 h w"]
    right: Float[Tensor, "3 h w"]
    disparity: Float[Tensor, "1 h w"] | None = None
    valid: Bool[Tensor, "1 h w"] | None = None
    disparity_right: Float[Tensor, "1 h w"] | None = None
    valid_right: Bool[Tensor, "1 h w"] | None = None
    noc: Bool[Tensor, "1 h w"] | None = None
    foreground: Bool[Tensor, "1 h w"] | None = None
    calibration: StereoCalibration | None = None


@dataclass(frozen=True)
class RgbdItem:
    """A colour image and its depth on disk."""

    id: str
    image: Path
    depth: Path


@dataclass(frozen=True)
class RgbdSample:
    """A colour image and its depth in memory.

    Attributes:
        id: as in :class:`RgbdItem`.
        image: RGB in [0, 1].
        depth: metres, 0 where not valid.
        valid: where the depth is known.
    """

    id: str
    image: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "1 h w"]
    valid: Bool[Tensor, "1 h w"]


class StereoDataset(Dataset[StereoSample]):
    """Pairs that are read when they are asked for; ``items`` lists their files."""

    def __init__(self, items: Iterable[StereoItem]) -> None:
        self.items = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> StereoSample:
        """Reads one pair.

        Raises:
            ValueError: a file cannot be read, or the truth and its image differ in size.
        """
        item, coding = self.items[index], self.items[index].coding
        left = read_image(item.left)

        def fitting(path: Path, values: Tensor) -> Tensor:
            _check_size(path, values, item.left, left)
            return values

        found: dict[str, Any] = {"left": left, "right": fitting(item.right, read_image(item.right))}
        for side, path in (("", item.disparity), ("_right", item.disparity_right)):
            if path is not None:
                values, valid = coding.disparity(path)
                found |= {f"disparity{side}": fitting(path, values), f"valid{side}": valid}
        if item.noc and item.disparity is not None:
            seen = [fitting(path, coding.visible(path)) for path in item.noc]
            found["noc"] = torch.stack([found["valid"], *seen]).all(0)
        if item.foreground is not None:
            found["foreground"] = fitting(item.foreground, differs(item.foreground, 0))
        rig = coding.calibration(item.calibration) if isinstance(item.calibration, Path) else item.calibration
        return StereoSample(item.id, **found, calibration=rig)


class RgbdDataset(Dataset[RgbdSample]):
    """Colour images with depth that are read when they are asked for; ``items`` lists their files."""

    def __init__(self, items: Iterable[RgbdItem]) -> None:
        self.items = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> RgbdSample:
        """Reads one image and its depth; errors as in :class:`StereoDataset`."""
        item = self.items[index]
        image, (depth, valid) = read_image(item.image), read_depth(item.depth)
        _check_size(item.depth, depth, item.image, image)
        return RgbdSample(item.id, image, depth, valid)


def collate(samples: Sequence[StereoSample] | Sequence[RgbdSample]) -> dict[str, Any]:
    """A batch for ``DataLoader(..., collate_fn=collate)``: the fields that every sample has.

    Returns:
        Tensors stacked along a new first axis; ``id`` and ``calibration`` as lists.

    Raises:
        RuntimeError: the samples differ in size, so they must be cropped first.
    """
    columns = {field.name: [getattr(sample, field.name) for sample in samples] for field in fields(samples[0])}
    return {
        name: torch.stack(column) if isinstance(column[0], Tensor) else column
        for name, column in columns.items()
        if all(value is not None for value in column)
    }


def _check_size(path: Path, values: Tensor, image_path: Path, image: Tensor) -> None:
    (height, width), (rows, columns) = image.shape[-2:], values.shape[-2:]
    if (rows, columns) != (height, width):
        raise ValueError(
            f"{path} is {columns}x{rows} and {image_path} is {width}x{height}; they must have one size, so take both "
            "from the same release."
        )


@dataclass(frozen=True)
class Files:
    """Where a set keeps the files of a pair: paths below ``folder`` with ``{field}`` where they differ.

    ``left``, ``right`` and ``disparity`` must be there, the rest may be. Of several names for the disparity the first
    that exists counts.
    """

    folder: str
    left: str
    right: str
    disparity: tuple[str, ...] = ()
    disparity_right: str = ""
    noc: tuple[str, ...] = ()
    foreground: str = ""
    calibration: str | StereoCalibration = ""

    def within(self, template: str) -> str:
        """A template below ``folder`` as one below the root."""
        return posixpath.join(self.folder, template)


def find_stereo(
    name: str, root: str | Path, split: str, splits: Mapping[str, Sequence[Files]], coding: Coding | None = None
) -> StereoDataset:
    """The pairs of one split: those that match any of its layouts.

    Raises:
        FileNotFoundError: no such folder, or a left view without its right view or its disparity.
        ValueError: an unknown split, or no pair in any of its layouts.
    """
    one_of("split", split, tuple(splits), name)
    layouts = [files.within(files.left) for files in splits[split]]
    root = existing(name, root, layouts)
    items = [
        _item(name, root, left, files, parts, coding or Coding())
        for files, layout in zip(splits[split], layouts, strict=True)
        for left, parts in find_files(root, layout)
    ]
    if not items:
        raise ValueError(not_found(name, root, split, layouts))
    return StereoDataset(items)


def _item(name: str, root: Path, left: Path, files: Files, parts: dict[str, str], coding: Coding) -> StereoItem:
    def present(*templates: str) -> list[Path]:
        paths = [root / files.within(template).format(**parts) for template in templates if template]
        return [path for path in paths if path.is_file()]

    for kind, templates in (("right view", (files.right,)), ("disparity", files.disparity)):
        if templates and not present(*templates):
            missing = root / files.within(templates[0]).format(**parts)
            raise FileNotFoundError(f"{missing}, the {kind} of {left}, does not exist; unpack all of {name}.")
    noc, rig = present(*files.noc), files.calibration
    return StereoItem(
        id=item_id(name, root, left),
        left=left,
        right=present(files.right)[0],
        disparity=next(iter(present(*files.disparity)), None),
        disparity_right=next(iter(present(files.disparity_right)), None),
        noc=tuple(noc) if len(noc) == len(files.noc) else (),
        foreground=next(iter(present(files.foreground)), None),
        calibration=next(iter(present(rig)), None) if isinstance(rig, str) else rig,
        coding=coding,
    )


def find_files(root: Path, template: str) -> list[tuple[Path, dict[str, str]]]:
    """The files that match a template, in order, with what stands for its fields; hidden files do not count."""
    pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/.][^/]*)", re.escape(template)))
    found = []
    for path in sorted(root.glob(re.sub(r"\{\w+\}", "*", template))):
        match = pattern.fullmatch(path.relative_to(root).as_posix())
        if match:
            found.append((path, match.groupdict()))
    return found


def item_id(name: str, root: Path, left: Path) -> str:
    return f"{name}/{left.relative_to(root).with_suffix('').as_posix()}"


def one_of(option: str, value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise ValueError(f"{option} is {value!r}; {name} has {', '.join(allowed)}.")


def existing(name: str, root: str | Path, layouts: Sequence[str]) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; name the one of {name} that holds {' or '.join(layouts)}.")
    return root


def not_found(name: str, root: Path, split: str, layouts: Sequence[str]) -> str:
    return f"{root} holds no {split} images of {name}; they must be at {' or '.join(layouts)} below it."
