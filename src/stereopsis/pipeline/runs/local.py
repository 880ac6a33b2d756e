"""One machine: frames are read ahead, computed one after the other, and written behind.

::

    frames --(a thread)--> [read: 3 threads] --queue--> compute (caller's thread) --> [write: 2 threads] --> outcomes
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stereopsis.io.frames import Frame
from stereopsis.pipeline.runs.job import Job, Outcome

# Frames in memory: each waits at most here, here, or in the caller's hands.
AHEAD, BEHIND = 4, 4
READERS, WRITERS = 3, 2
PATIENCE = 0.1  # s until a blocked thread looks whether the run was given up

_Read = tuple[Frame, "Future[Any] | None"]


def run(frames: Iterable[Frame], job: Job) -> Iterator[Outcome]:
    """See :func:`stereopsis.pipeline.runs.run`."""
    try:
        job.open()
        yield from _run(frames, job)
    finally:
        job.close()


def _run(frames: Iterable[Frame], job: Job) -> Iterator[Outcome]:
    given_up = threading.Event()
    read: queue.Queue[_Read | BaseException | None] = queue.Queue(AHEAD)
    readers = ThreadPoolExecutor(READERS, "read")
    writers = ThreadPoolExecutor(1 if job.in_order else WRITERS, "write")
    feeder = threading.Thread(target=_feed, args=(frames, job, read, readers, given_up), name="frames", daemon=True)
    feeder.start()
    written: deque[tuple[Frame, Outcome | Future[Any]]] = deque()
    try:
        while True:
            # what is written already is handed on before the next frame is waited for
            while written and (len(written) > BEHIND or _is_ready(written[0][1])):
                yield _outcome(*written.popleft())
            item = read.get()
            if item is None or isinstance(item, BaseException):
                break
            written.append((item[0], _computed(job, *item, writers)))
        while written:
            yield _outcome(*written.popleft())
        if isinstance(item, BaseException):
            raise item
    finally:
        given_up.set()
        readers.shutdown(wait=True, cancel_futures=True)
        writers.shutdown(wait=True)
        feeder.join()


def _feed(
    frames: Iterable[Frame],
    job: Job,
    read: queue.Queue[_Read | BaseException | None],
    readers: ThreadPoolExecutor,
    given_up: threading.Event,
) -> None:
    """Passes on the frames with what will be their images, then None or what ended them."""
    last: BaseException | None = None
    try:
        for frame in frames:
            done = job.is_done(frame)
            if given_up.is_set():
                return
            _put(read, (frame, None if done else readers.submit(job.read, frame)), given_up)
            del frame
    except BaseException as error:
        last = error
    _put(read, last, given_up)


def _put(read: queue.Queue[Any], item: Any, given_up: threading.Event) -> None:
    while not given_up.is_set():
        try:
            read.put(item, timeout=PATIENCE)
            return
        except queue.Full:
            continue


def _computed(job: Job, frame: Frame, images: Future[Any] | None, writers: ThreadPoolExecutor) -> Outcome | Future[Any]:
    if images is None:
        if not job.in_order:
            return Outcome(frame.name)
        job.passed(frame)
        return writers.submit(job.kept, frame)
    try:
        found = job.compute(frame, images.result())
    except (ValueError, OSError) as error:
        return Outcome(frame.name, error=error)
    return writers.submit(job.write, frame, found)


def _is_ready(result: Outcome | Future[Any]) -> bool:
    return isinstance(result, Outcome) or result.done()


def _outcome(frame: Frame, result: Outcome | Future[Any]) -> Outcome:
    if isinstance(result, Outcome):
        return result
    try:
        return Outcome(frame.name, result.result())
    except (ValueError, OSError) as error:
        return Outcome(frame.name, error=error)
