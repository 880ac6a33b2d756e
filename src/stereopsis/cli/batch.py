"""What the commands that take sequences share: their options, the run over all frames, and how it is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from stereopsis.cli.console import fail, note, progress_bar

if TYPE_CHECKING:
    from stereopsis.io.frames import DepthFrames, Frames
    from stereopsis.pipeline.runs import Job, Outcome
    from stereopsis.pipeline.runs.decompress import Records

NOTE_EVERY = 30.0  # s, where no bar is drawn


@dataclass(frozen=True)
class RunOptions:
    """Options of the commands that work on many frames.

    Args:
        overwrite: Do again what an earlier run has done; without it a run goes on where the one before stopped.
        engine: Where frames are worked on: this machine, or a cluster by Ray (extra "ray").
        workers: Processes of the cluster; as many as it has GPUs or else CPUs if not given.
    """

    overwrite: bool = False
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None


@dataclass(frozen=True)
class SequenceOptions(RunOptions):
    """Options of the commands that take sequences.

    Args:
        topics: Topics of a bag, of the left and the right view (or image and depth); found by their names if not given.
        sync_ms: How far two images of a pair may be apart, where time stamps pair them.
    """

    topics: tuple[str, str] | None = None
    sync_ms: float = 10.0


# The options stand among those of the command, without a name before them.
Sequence = Annotated[SequenceOptions, arg(name="")]
SEQUENCE = SequenceOptions()
Run = Annotated[RunOptions, arg(name="")]
RUN = RunOptions()


@dataclass
class Summary:
    """What became of a sequence.

    Attributes:
        results: what the job gave for each frame that was done, in order.
        failed: name and error of the others.
        skipped: how many were there already.
        ended: why the sequence ends early, else empty.
    """

    results: list[Any] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: int = 0
    ended: str = ""

    @property
    def count(self) -> int:
        return len(self.results) + len(self.failed) + self.skipped

    def status(self, verb: str) -> int:
        """The exit status, after a sentence on what failed.

        Args:
            verb: what was done, as "matched".
        """
        if self.ended:
            return fail(f"{self.ended.rstrip('.')}; what was {verb} before is written.", 1)
        if self.failed:
            return fail(f"{len(self.failed)} of {self.count} pairs failed; the others are written.", 1)
        return 0


def run_sequence(
    frames: Frames | DepthFrames | Records,
    job: Job,
    options: RunOptions,
    doing: str,
    *,
    strict: Callable[[Summary], bool] = lambda _: False,
    keep: Callable[[Any], Any] = lambda result: result,
    failing: Callable[[str, str], object] = lambda name, error: None,
) -> Summary:
    """Run a job over all frames with a bar, and report what fails.

    Args:
        doing: said beside the bar, as "matching".
        strict: whether an error now ends the run instead of being counted.
        keep: what is kept of a result.
        failing: told the name and the error of a frame that fails.

    Raises:
        ValueError, OSError: as of :func:`stereopsis.pipeline.runs.run`; an early end of a video where nothing was done.
    """
    from stereopsis.io import EarlyEndError
    from stereopsis.io.protect import ReplacesInputError
    from stereopsis.pipeline.runs import run

    summary = Summary()
    record = getattr(job, "record", None)
    outcomes = run(frames, job, options.engine, options.workers)
    if record is not None and options.engine != "local":
        record.begin()  # else each process would write its own
    with progress_bar() as progress:
        try:
            for outcome in progress.track(_told(outcomes, frames.count, doing), total=frames.count, description=doing):
                if outcome.skipped:
                    summary.skipped += 1
                elif outcome.error is None:
                    summary.results.append(keep(outcome.result))
                elif strict(summary) or isinstance(outcome.error, ReplacesInputError):
                    raise outcome.error
                else:
                    summary.failed.append({"name": outcome.name, "error": str(outcome.error)})
                    failing(outcome.name, str(outcome.error))
                    sentence = f"stereopsis: {outcome.name}: {outcome.error}"
                    progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        except EarlyEndError as error:
            if not summary.results and not summary.skipped:
                raise
            summary.ended = str(error)
            summary.failed.append({"name": f"{summary.count:06d}", "error": summary.ended})
    if record is not None:
        record.tidy()
    if summary.skipped:
        note(
            f"{summary.skipped} of {summary.count} were done by an earlier run and are left as they are; "
            "--overwrite does them again"
        )
    return summary


def settings_of(command: str, sources: Iterable[str | Path | None], options: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a run depend on; values that are not given are left out."""
    named = {"sources": [str(Path(source).resolve()) for source in sources if source is not None]}
    given = {_label(name): _plain(value) for name, value in options.items() if value is not None}
    return {"command": command} | named | given


def _label(name: str) -> str:
    """The option's name on the command line; what is no option keeps its words."""
    return name if " " in name else f"--{name.replace('_', '-')}"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value


def _told(outcomes: Iterable[Outcome], count: int | None, doing: str) -> Iterable[Outcome]:
    """Lines on stderr instead of the bar, now and then, where no terminal shows one."""
    start = last = time.monotonic()
    done = 0
    for number, outcome in enumerate(outcomes, 1):
        yield outcome
        done += not outcome.skipped
        now = time.monotonic()
        if now - last >= NOTE_EVERY and not sys.stderr.isatty():
            last = now
            left = "" if count is None or not done else f", {(now - start) / done * (count - number):.0f} s left"
            note(f"{doing}: {number} of {count or 'many'}{left}")
