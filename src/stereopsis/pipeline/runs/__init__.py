"""Runs the same work over all frames of a sequence: on this machine with threads, or on a cluster with Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from stereopsis.pipeline.runs.job import Job, Outcome
from stereopsis.pipeline.runs.record import RunRecord

if TYPE_CHECKING:
    from stereopsis.io.frames import Frame

__all__ = ["Engine", "Job", "Outcome", "RunRecord", "run"]

Engine = Literal["local", "ray"]


def run(frames: Iterable[Frame], job: Job, engine: Engine = "local", workers: int | None = None) -> Iterator[Outcome]:
    """What became of each frame, in the order of the frames.

    Frames that are done already are left out; one that cannot be read or worked on has its error, and the others are
    done.

    Args:
        frames: read ahead by a few, so that a sequence of any length fits into memory.
        job: what is done with each.
        engine: ``local`` reads, computes and writes at the same time on this machine; ``ray`` spreads whole frames over
            a cluster.
        workers: processes of the cluster; as many as it has GPUs or else CPUs if not given.

    Raises:
        ModuleNotFoundError: ``ray`` without its extra.
        ValueError: workers without a cluster or fewer than 1, or a job that needs its frames in order on a cluster;
            and while iterating, what iterating the frames and opening the job raise.
    """
    if workers is not None and (engine == "local" or workers < 1):
        remedy = "leave it out" if engine == "local" else "give at least 1"
        raise ValueError(f"--workers is {workers}, for --engine {engine}; {remedy}.")
    if engine == "local":
        from stereopsis.pipeline.runs import local

        return local.run(frames, job)
    if job.in_order:
        raise ValueError("--engine ray takes frames in any order, which this work does not allow; use --engine local.")
    from stereopsis.pipeline.runs import cluster

    return cluster.run(frames, job, workers)
