"""A cluster: whole frames are spread over Ray actors, and those of an actor that dies go to another one."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stereopsis.io.frames import Frame
from stereopsis.pipeline.runs.job import Job, Outcome

if TYPE_CHECKING:
    from ray import ObjectRef

BUSY = 2  # frames that an actor has at a time, so that it never waits for the next one
WINDOW = 4  # frames an actor that may be begun and not handed on yet, because an earlier one is slow
ATTEMPTS = 3  # a frame that takes so many actors with it fails


@dataclass(frozen=True)
class _Answer:
    """What an actor makes of a frame; errors travel as text, because not every error can be sent."""

    result: Any = None
    failed: str = ""  # the frame's error
    refused: str = ""  # the job cannot be opened


class _Worker:
    """An actor: opens the job at its first frame."""

    def __init__(self, job: Job) -> None:
        self._job, self._is_open = job, False

    def work(self, frame: Frame, is_new: bool) -> _Answer:
        """The three steps of the job, as they are on one machine."""
        job = self._job
        try:
            if not self._is_open:
                job.open()
                self._is_open = True
        except (ValueError, OSError, ImportError) as error:
            return _Answer(refused=str(error))
        try:
            # the actor before may have died after it had written
            if not is_new and job.is_done(frame):
                return _Answer()
            return _Answer(job.write(frame, job.compute(frame, job.read(frame))))
        except (ValueError, OSError) as error:
            return _Answer(failed=str(error))


@dataclass
class _Begun:
    place: int
    frame: Frame
    attempts: int = 0  # actors that died over it
    is_new: bool = True


def run(frames: Iterable[Frame], job: Job, workers: int | None = None) -> Iterator[Outcome]:
    """See :func:`stereopsis.pipeline.runs.run`; without a running cluster one is started on this machine."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--engine ray needs {error.name}; install it with: pip install 'stereopsis[ray]'", name=error.name
        ) from None
    return _run(ray, frames, job, workers)


def _run(ray: Any, frames: Iterable[Frame], job: Job, workers: int | None) -> Iterator[Outcome]:
    own = not ray.is_initialized()
    # Ray tells of workers that died on stdout, where results belong.
    with redirect_stdout(sys.stderr):
        if own:
            _connect(ray, workers)
        try:
            yield from _Pool(ray, job, workers).run(frames)
        finally:
            if own:
                ray.shutdown()


def _connect(ray: Any, workers: int | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
    else:
        ray.init(num_cpus=max(workers or 0, os.cpu_count() or 1), include_dashboard=False, **options)


class _Pool:
    """Actors with their frames.

    Args:
        ray: the module.
        job: what they do.
        workers: how many; as many as there are GPUs for a job on a GPU, else CPUs.
    """

    def __init__(self, ray: Any, job: Job, workers: int | None) -> None:
        self._ray, self._original, self._job = ray, job, ray.put(job)
        kind = "GPU" if job.device.startswith("cuda") else "CPU"
        self._needs = {"num_gpus": 1, "num_cpus": 1} if kind == "GPU" else {"num_cpus": 1}
        room = int(ray.cluster_resources().get(kind, 0))
        if room < (workers or 1):
            raise ValueError(f"--workers is {workers or 1} and the cluster has {room} {kind}s; give at most as many.")
        self._count = workers or room
        self._actors: list[Any] = []
        self._running: dict[ObjectRef[Any], tuple[_Begun, Any]] = {}

    def run(self, frames: Iterable[Frame]) -> Iterator[Outcome]:
        """The outcomes, in order."""
        try:
            yield from self._ordered(frames)
        finally:
            for actor in self._actors:
                self._ray.kill(actor)

    def _ordered(self, frames: Iterable[Frame]) -> Iterator[Outcome]:
        source, is_over, ended = iter(frames), False, None
        again: deque[_Begun] = deque()
        ready: dict[int, Outcome] = {}
        begun = handed = 0
        while True:
            while handed in ready:
                yield ready.pop(handed)
                handed += 1
            while len(self._running) < BUSY * self._count:
                if again:
                    self._start(again.popleft())
                elif not is_over and begun - handed < WINDOW * self._count:
                    try:
                        frame = next(source)
                    except StopIteration:
                        is_over = True
                    except ValueError as error:
                        is_over, ended = True, error
                    else:
                        if self._original.is_done(frame):
                            ready[begun] = Outcome(frame.name)
                        else:
                            self._start(_Begun(begun, frame))
                        begun += 1
                else:
                    break
            if not self._running:
                if handed in ready or not is_over:
                    continue
                if ended is not None:
                    raise ended
                return
            self._collect(ready, again)

    def _actor(self) -> Any:
        return self._ray.remote(_Worker).options(**self._needs).remote(self._job)

    def _start(self, begun: _Begun) -> None:
        busy = [id(actor) for _, actor in self._running.values()]
        if len(self._actors) < self._count and all(id(actor) in busy for actor in self._actors):
            self._actors.append(self._actor())
        actor = min(self._actors, key=lambda actor: busy.count(id(actor)))
        reference = actor.work.remote(begun.frame, begun.is_new)
        self._running[reference] = begun, actor

    def _collect(self, ready: dict[int, Outcome], again: deque[_Begun]) -> None:
        """Wait for a frame; where its actor has died, take what that one has left."""
        references, _ = self._ray.wait(list(self._running), num_returns=1)
        actor = self._running[references[0]][1]
        if self._take(references[0], ready):
            return
        self._actors = [other for other in self._actors if other is not actor]
        # It died over the first frame that it has not answered; the others were not begun.
        guilty = True
        for reference in [key for key, (_, owner) in self._running.items() if owner is actor]:
            if self._take(reference, ready):
                continue
            begun, _ = self._running.pop(reference)
            begun.is_new = False
            begun.attempts += guilty
            guilty = False
            if begun.attempts < ATTEMPTS:
                again.append(begun)
            else:
                error = ValueError(f"{begun.attempts} workers died over it, for want of memory perhaps; try it alone.")
                ready[begun.place] = Outcome(begun.frame.name, error=error)

    def _take(self, reference: ObjectRef[Any], ready: dict[int, Outcome]) -> bool:
        """Sort a frame's answer into what is ready; False where its actor has died."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError:
            return False
        begun, _ = self._running.pop(reference)
        if answer.refused:
            raise ValueError(answer.refused)
        error = ValueError(answer.failed) if answer.failed else None
        ready[begun.place] = Outcome(begun.frame.name, answer.result, error)
        return True
