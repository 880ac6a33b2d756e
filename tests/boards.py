"""Pictures of a board, rendered through a known rig, for tests that need no data."""

from dataclasses import dataclass

import cv2
import numpy as np

from stereopsis.calibration import Board, RawCamera, StereoRig

WIDTH, HEIGHT = 480, 360
OVERSAMPLING = 2
PIXELS = 60  # of a square in the texture


def make_rig(model: str = "pinhole") -> StereoRig:
    """Two cameras 0.1 m apart that are turned against each other, with distortion."""
    focal = 420.0 if model == "pinhole" else 210.0
    distortion = [-0.21, 0.06, 0.0006, -0.0004, 0.0] if model == "pinhole" else [-0.02, 0.004, -0.001, 0.0002]
    cameras = [
        RawCamera(np.array([[f, 0, cx], [0, f * 1.002, cy], [0, 0, 1]]), np.array(distortion), model)
        for f, cx, cy in ((focal, 236.5, 182.0), (focal * 1.01, 243.0, 176.5))
    ]
    rotation, _ = cv2.Rodrigues(np.array([0.012, -0.02, 0.015]))
    return StereoRig(*cameras, rotation, np.array([-0.1, 0.002, -0.003]), WIDTH, HEIGHT)


def poses(count: int = 12, distance: float = 0.55) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where the middle of the board stands, and how it is tilted; all of it in both views."""
    generator = np.random.default_rng(4)
    found = []
    for i in range(count):
        rotation = generator.uniform(-0.45, 0.45, 3) * [1, 1, 0.5]
        side, up = np.cos(2.4 * i), np.sin(2.4 * i)
        place = [0.05 + 0.14 * distance * side, 0.12 * distance * up, distance * generator.uniform(0.9, 1.1)]
        found.append((cv2.Rodrigues(rotation)[0], np.array(place)))
    return found


@dataclass
class Studio:
    """Renders a flat picture before a rig.

    Attributes:
        rig: the cameras.
        texture: the picture (H, W), uint8.
        pixel: metres a pixel of it is wide.
    """

    rig: StereoRig
    texture: np.ndarray
    pixel: float

    def __post_init__(self) -> None:
        self.rays = [_rays(camera) for camera in (self.rig.left, self.rig.right)]

    def pair(self, rotation: np.ndarray, place: np.ndarray, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Both views (H, W) of the picture whose middle is at ``place`` before the left camera, in metres."""
        left = self._view(0, rotation, place, noise)
        return left, self._view(1, self.rig.R @ rotation, self.rig.R @ place + self.rig.T, noise)

    def _view(self, side: int, rotation: np.ndarray, place: np.ndarray, noise: float) -> np.ndarray:
        # A ray s v meets the plane where n . (s v - place) = 0.
        rays = self.rays[side]
        s = rotation[:, 2] @ place / (rays @ rotation[:, 2])
        points = (s[..., None] * rays - place) @ rotation / self.pixel
        height, width = self.texture.shape
        x, y = (points[..., i] + (extent - 1) / 2 for i, extent in enumerate((width, height)))
        sharp = cv2.remap(
            self.texture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderValue=128
        ).astype(np.float32)
        view = cv2.resize(sharp, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        view = 0.8 * cv2.GaussianBlur(view, (0, 0), 0.5) + 20
        view += np.random.default_rng(side).normal(0, noise, view.shape)
        return view.round().clip(0, 255).astype(np.uint8)


def board_studio(board: Board, rig: StereoRig) -> Studio:
    return Studio(rig, board.picture(PIXELS), board.square / PIXELS)


def _rays(camera: RawCamera) -> np.ndarray:
    """Directions (H, W, 3) of the pixels of an oversampled view."""
    y, x = np.mgrid[0 : HEIGHT * OVERSAMPLING, 0 : WIDTH * OVERSAMPLING]
    pixels = (np.stack([x, y], axis=-1).reshape(-1, 1, 2) + 0.5) / OVERSAMPLING - 0.5
    undistort = cv2.fisheye.undistortPoints if camera.model == "fisheye" else cv2.undistortPoints
    flat = undistort(pixels, camera.K, camera.distortion).reshape(*x.shape, 2)
    return np.concatenate([flat, np.ones((*x.shape, 1))], axis=-1)
