"""A local cluster of two workers: the same results as on one machine, also when a worker is killed in the middle."""

import logging
import os
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from videos import stereo_frames

from stereopsis.cli import main
from stereopsis.io import atomic_write_text, write_image
from stereopsis.io.frames import Frame
from stereopsis.pipeline.runs import Job, cluster, run

ray = pytest.importorskip("ray", reason="ray is not installed; the extra is stereopsis[ray]")


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


class _Writing(Job):
    """A file a frame, and a line in a log each time that one is begun."""

    def __init__(self, folder):
        self.folder = folder

    def is_done(self, frame):
        return (self.folder / frame.name).is_file()

    def compute(self, frame, images):
        with (self.folder / "log").open("a") as file:
            file.write(f"{frame.name}\n")
        return images

    def write(self, frame, found):
        atomic_write_text(self.folder / frame.name, str(found))
        return {"worker": os.getpid(), "found": found}


def _value(number):
    if number == 7:
        raise ValueError("the seventh is damaged")
    return number


def _frames(count):
    for number in range(count):
        yield Frame(f"{number:03d}", Path("left"), Path("right"), partial(_value, number), number)


def test_a_worker_is_killed_and_nothing_is_lost_or_done_twice(tmp_path, capsys):
    atomic_write_text(tmp_path / "003", "done before")
    names, workers, failed = [], [], {}
    for outcome in run(_frames(60), _Writing(tmp_path), "ray", 2):
        names.append(outcome.name)
        if outcome.error is not None:
            failed[outcome.name] = str(outcome.error)
        elif not outcome.skipped:
            workers.append(outcome.result["worker"])
        if len(names) == 20:
            os.kill(workers[-1], signal.SIGKILL)
    assert names == [f"{number:03d}" for number in range(60)]
    assert failed == {"007": "the seventh is damaged"}
    assert len(set(workers)) == 3
    for number in set(range(60)) - {3, 7}:
        assert (tmp_path / f"{number:03d}").read_text() == str(number)
    begun = Counter((tmp_path / "log").read_text().split())
    assert set(begun) == {f"{number:03d}" for number in range(60)} - {"003", "007"}
    # only what the killed worker had in hand may have been begun again
    assert sum(begun.values()) <= 58 + cluster.BUSY
    assert (tmp_path / "003").read_text() == "done before"
    assert capsys.readouterr().out == ""


class _Call:
    """What an actor of :class:`_OneProcess` is asked."""

    def __init__(self, actor, arguments):
        self.actor, self.arguments, self.answer = actor, arguments, None

    def get(self):
        frame = self.arguments[0]
        if self.answer is None and not self.actor.dead:
            self.actor.dead = frame.index == self.actor.deadly
            self.answer = None if self.actor.dead else self.actor.worker.work(*self.arguments)
        if self.answer is None:
            raise ray.exceptions.RayActorError
        return self.answer


class _Actor:
    def __init__(self, worker, deadly):
        self.worker, self.deadly, self.dead, self.work = worker, deadly, False, self

    def remote(self, *arguments):
        return _Call(self, arguments)


class _OneProcess:
    """Ray's calls as the engine makes them, without processes; actors die over one frame."""

    exceptions = ray.exceptions

    def __init__(self, deadly):
        self.deadly, self.actors = deadly, []

    def put(self, job):
        return job

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, kind):
        self.kind = kind
        return self

    def options(self, num_cpus):
        assert num_cpus == 1
        return SimpleNamespace(remote=self.start)

    def start(self, job):
        self.actors.append(_Actor(self.kind(job), self.deadly))
        return self.actors[-1]

    def wait(self, calls, num_returns):
        return calls[:1], calls[1:]

    def get(self, call):
        return call.get()

    def kill(self, actor):
        actor.dead = True


def test_a_frame_that_kills_its_workers_fails_alone(tmp_path):
    local = _OneProcess(deadly=11)
    outcomes = list(cluster._Pool(local, _Writing(tmp_path), 2).run(_frames(30)))
    assert [outcome.name for outcome in outcomes] == [f"{number:03d}" for number in range(30)]
    failed = {outcome.name: str(outcome.error) for outcome in outcomes if outcome.error}
    assert failed == {
        "007": "the seventh is damaged",
        "011": "3 workers died over it, for want of memory perhaps; try it alone.",
    }
    assert len(local.actors) == 2 + cluster.ATTEMPTS
    begun = Counter((tmp_path / "log").read_text().split())
    assert set(begun.values()) == {1}
    assert len(begun) == 28


def test_more_workers_than_the_cluster_has():
    with pytest.raises(ValueError, match="--workers is 9 and the cluster has 2 CPUs; give at most as many"):
        list(run(_frames(1), _Writing(Path()), "ray", 9))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("recording")
    for number in range(6):
        for side, view in zip(("left", "right"), stereo_frames(1, 3 + number)[0], strict=True):
            (root / side).mkdir(exist_ok=True)
            write_image(root / side / f"{number}.png", view)
    path = root / "right" / "4.png"
    path.write_bytes(path.read_bytes()[:100])
    return root


def test_the_command_gives_the_same_files_as_one_machine(folders, tmp_path, capsys):
    words = ["match", str(folders), "--model", "sgbm", "--max-disparity", "16", "--preview"]
    for engine, extra in (("local", []), ("ray", ["--workers", "1"])):
        out = tmp_path / engine
        arguments = [*words, str(out), "--out", str(out), "--engine", engine, *extra]
        assert main(arguments) == 1
        assert "1 of 6 pairs failed" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "local").glob("[!.]*"))
    assert len(names) == 10
    assert names == sorted(path.name for path in (tmp_path / "ray").glob("[!.]*"))
    for name in names:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


@pytest.mark.parametrize("option", [["--smooth", "0.5"], ["--preview", "colours.avi"]])
def test_work_that_needs_its_order_is_refused(folders, tmp_path, capsys, option):
    words = ["match", str(folders), "--out", str(tmp_path / "out"), "--model", "sgbm", "--engine", "ray"]
    assert main([*words, *option]) == 2
    assert "--engine ray takes frames in any order" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
