"""Small synthetic views for tests that need no data."""

import numpy as np


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of several scales (H, W, 3), uint8: both SIFT and block matching find points in it."""
    import cv2

    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for scale in (1, 2, 4, 8, 16):
        noise = rng.random((height // scale + 2, width // scale + 2, 3), dtype=np.float32)
        total += scale**0.5 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = total.min(), total.max()
    return (20 + 200 * (total - low) / (high - low)).astype(np.uint8)


def shifted_pair(shift: int = 11, height: int = 96, width: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A plane of constant disparity ``shift``, in pixels; negative for exchanged views."""
    extra = abs(shift)
    scene = texture(height, width + extra, seed)
    near, far = scene[:, :width], scene[:, extra:]
    return (near, far) if shift >= 0 else (far, near)
