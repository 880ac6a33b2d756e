"""What is done with each frame of a sequence, in three steps that may overlap from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stereopsis.io.frames import Frame


@dataclass(frozen=True)
class Outcome:
    """What became of a frame.

    Attributes:
        name: of the frame.
        result: what :meth:`Job.write` gave; None where the frame was done already, or failed.
        error: why it failed.
    """

    name: str
    result: Any = None
    error: Exception | None = None

    @property
    def skipped(self) -> bool:
        """Whether it was done already."""
        return self.result is None and self.error is None


class Job:
    """Work on frames. It is sent to other processes before it is opened, so what cannot be sent is made in `open`.

    A step that raises ValueError or OSError fails its frame alone; any other error ends the run.

    Attributes:
        in_order: whether `compute` and `write` must see the frames in order, one after the other.
        device: where `compute` works; a cluster gives a GPU to each process of a job on "cuda".
    """

    in_order: bool = False
    device: str = "cpu"

    def open(self) -> None:
        """Load what the work needs; called once a process."""

    def close(self) -> None:
        """Release what `open` took, after the last frame."""

    def is_done(self, frame: Frame) -> bool:
        """Whether the results of a frame are there already, whole and of the same work."""
        return False

    def passed(self, frame: Frame) -> None:
        """Told of a frame that is done already, in order with `compute`; only where the job is `in_order`."""

    def kept(self, frame: Frame) -> None:
        """Told of the same, in order with `write`."""

    def read(self, frame: Frame) -> Any:
        """The frame's images; several frames are read at once."""
        return frame.read()

    def compute(self, frame: Frame, images: Any) -> Any:
        """The work itself; one frame at a time, in order."""
        raise NotImplementedError

    def write(self, frame: Frame, found: Any) -> Any:
        """Write the results, whole or not at all, and tell of them; several frames at once unless `in_order`."""
        raise NotImplementedError
