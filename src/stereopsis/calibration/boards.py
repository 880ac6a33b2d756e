"""Calibration boards: chessboard and ChArUco, their corners in an image, and their picture to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt8

# Nobody holds a board with squares outside these; nearly always the unit is wrong.
SMALLEST_SQUARE = 0.001
LARGEST_SQUARE = 1.0
# A window that reaches into the next corner pulls this one away, a small one has nothing to measure.
WINDOW_SHARE = 0.3
WINDOW = (2, 11)
FEWEST_CORNERS = 8
# A board is found at this size, and a larger one costs seconds; its corners are measured in all pixels.
LONGEST_SIDE = 1200


@dataclass(frozen=True, eq=False)
class Corners:
    """Corners of a board in one view.

    Attributes:
        ids: which corners of the board, ascending.
        pixels: where they are, (x, y).
    """

    ids: Int[np.ndarray, " n"]
    pixels: Float32[np.ndarray, "n 2"]

    def __len__(self) -> int:
        return len(self.ids)

    def among(self, ids: Int[np.ndarray, " m"]) -> Corners:
        """Those with these numbers."""
        kept = np.isin(self.ids, ids)
        return Corners(self.ids[kept], self.pixels[kept])


@dataclass(frozen=True)
class Board:
    """A flat board of known size.

    Attributes:
        columns, rows: inner corners of a chessboard, squares of a ChArUco board; so OpenCV counts them.
        square: side of a square in metres.
        marker: side of a marker in metres; None for a chessboard.
        dictionary: of the markers, one of :func:`dictionaries`.
        legacy: whether the top left square of a ChArUco board with an even number of rows holds a marker, as before
            OpenCV 4.6.

    Raises:
        ValueError: fewer than 3 x 3 corners, a side that no board has, or an unknown dictionary.
    """

    columns: int
    rows: int
    square: float
    marker: float | None = None
    dictionary: str = "4x4_50"
    legacy: bool = False

    def __post_init__(self) -> None:
        fewest, counted = (3, "inner corners") if self.marker is None else (4, "squares")
        if self.columns < fewest or self.rows < fewest:
            raise ValueError(
                f"The board has {self.columns}x{self.rows} {counted}; at least {fewest}x{fewest} are needed, "
                "for example 9x6."
            )
        if not SMALLEST_SQUARE <= self.square <= LARGEST_SQUARE:
            raise ValueError(
                f"The squares are {self.square:g} m wide; they must be {SMALLEST_SQUARE:g} to {LARGEST_SQUARE:g} m, "
                "so give metres, for example 0.025 for 25 mm."
            )
        if self.marker is not None and not 0 < self.marker < self.square:
            raise ValueError(
                f"The markers are {self.marker:g} m wide and the squares {self.square:g} m; a marker must be above 0 "
                "and smaller than a square, for example 0.7 of it."
            )
        if self.marker is not None and self.dictionary.lower() not in dictionaries():
            raise ValueError(f"The dictionary is {self.dictionary!r}; it must be one of {', '.join(dictionaries())}.")
        if self.marker is not None and self.columns * self.rows // 2 > (held := len(self._markers().bytesList)):
            raise ValueError(
                f"The board needs {self.columns * self.rows // 2} markers and the dictionary {self.dictionary} holds "
                f"{held}; choose a larger one, for example 4x4_250."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(columns, rows) of inner corners."""
        return (self.columns, self.rows) if self.marker is None else (self.columns - 1, self.rows - 1)

    @property
    def points(self) -> Float32[np.ndarray, "n 3"]:
        """The corners in the plane of the board, in metres, row by row."""
        columns, rows = self.shape
        y, x = np.mgrid[0:rows, 0:columns] * self.square
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1).astype(np.float32)

    def detect(self, view: UInt8[np.ndarray, "h w"]) -> Corners | None:
        """The corners in a grey view to a fraction of a pixel; None where the board is not seen.

        A chessboard must be seen whole. It looks the same upside down, so its numbers are right up to a half turn.
        """
        found = self._chessboard(view) if self.marker is None else self._charuco(view)
        return None if found is None or len(found) < FEWEST_CORNERS else found

    def picture(self, pixels: int = 100) -> UInt8[np.ndarray, "h w"]:
        """The board to print, with a margin of one square.

        Args:
            pixels: side of a square.
        """
        if self.marker is not None:
            inner = self._charuco_board().generateImage((self.columns * pixels, self.rows * pixels))
        else:
            y, x = np.mgrid[0 : self.rows + 1, 0 : self.columns + 1]
            squares = np.where((x + y) % 2 == 0, 0, 255).astype(np.uint8)
            inner = np.kron(squares, np.ones((pixels, pixels), np.uint8))
        return np.pad(inner, pixels, constant_values=255)

    def _chessboard(self, view: np.ndarray) -> Corners | None:
        cv2 = opencv()
        scale = min(1.0, LONGEST_SIDE / max(view.shape))
        small = view if scale == 1 else cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE
        found, corners = cv2.findChessboardCorners(small, self.shape, flags=flags)
        if not found:
            # Slower, and sees boards in bad light; the corners are measured the same way after either.
            flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE
            found, corners = cv2.findChessboardCornersSB(small, self.shape, flags=flags)
        if not found:
            return None
        corners = ((corners.astype(np.float32) + 0.5) / scale - 0.5).clip(0, np.array(view.shape[::-1], np.float32) - 1)
        grid = corners.reshape(self.shape[1], self.shape[0], 2)
        spacing = min(float(np.linalg.norm(np.diff(grid, axis=axis), axis=-1).min()) for axis in (0, 1))
        half = int(np.clip(round(WINDOW_SHARE * spacing), *WINDOW))
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-4)
        refined = cv2.cornerSubPix(view, corners, (half, half), (-1, -1), stop)
        return Corners(np.arange(len(refined)), refined.reshape(-1, 2))

    def _charuco(self, view: np.ndarray) -> Corners | None:
        cv2 = opencv()
        corners, ids, *_ = cv2.aruco.CharucoDetector(self._charuco_board()).detectBoard(view)
        if ids is None or len(ids) == 0:
            return None
        order = np.argsort(ids.ravel())
        return Corners(ids.ravel()[order].astype(np.int64), corners.reshape(-1, 2)[order].astype(np.float32))

    def _charuco_board(self) -> Any:
        cv2 = opencv()
        board = cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, self.marker, self._markers())
        board.setLegacyPattern(self.legacy)
        return board

    def _markers(self) -> Any:
        cv2 = opencv()
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{self.dictionary.upper()}"))


def dictionaries() -> list[str]:
    """Names of the sets of markers that OpenCV knows, for example ``4x4_50`` and ``apriltag_36h11``."""
    cv2 = opencv()
    return sorted({name[5:].lower() for name in dir(cv2.aruco) if name.startswith("DICT_")})


def shared_corners(board: Board, left: Corners, right: Corners) -> tuple[Corners, Corners]:
    """The corners that both views show, under the same numbers.

    Of the half turns of a chessboard (and quarter turns of one with as many columns as rows) the one counts in which
    the board stands alike in both views.
    """
    if board.marker is None:
        columns, rows = board.shape
        grid = right.pixels.reshape(rows, columns, 2)
        turns = [np.rot90(grid, k).reshape(-1, 2) for k in ((0, 1, 2, 3) if columns == rows else (0, 2))]
        centred = left.pixels - left.pixels.mean(0)
        right = Corners(right.ids, max(turns, key=lambda turned: float((centred * (turned - turned.mean(0))).sum())))
    ids = np.intersect1d(left.ids, right.ids)
    return left.among(ids), right.among(ids)


def opencv() -> Any:
    """OpenCV without its own types, which refuse arguments that it takes."""
    import cv2

    return cv2
