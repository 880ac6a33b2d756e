"""Small videos for tests, written by OpenCV itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from views import shifted_pair


def stereo_frames(count: int, shift: int = 5, height: int = 48, width: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (H, W, 3), uint8, of a plane ``shift`` px away, each of another texture."""
    return [shifted_pair(shift, height, width, seed) for seed in range(count)]


def write_frames(path: Path, frames: Sequence[np.ndarray], codec: str = "MJPG", fps: float = 12) -> Path:
    """A video of RGB frames of even size."""
    import cv2

    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def cut_off(path: Path, share: float) -> Path:
    """Leaves this share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path
