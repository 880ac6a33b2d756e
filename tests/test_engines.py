"""One machine's engine: order, overlap, bounds, errors, and going on where a run stopped."""

import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from stereopsis.io import EarlyEndError
from stereopsis.io.frames import Frame
from stereopsis.pipeline.runs import Job, RunRecord, run
from stereopsis.pipeline.runs.archive import Archive
from stereopsis.pipeline.runs.local import AHEAD, BEHIND, READERS


def _number(value):
    if value is None:
        raise ValueError("no number")
    return value


def _frames(values):
    for index, value in enumerate(values):
        yield Frame(f"{index:03d}", Path("left"), Path("right"), partial(_number, value), index)


class _Doubling(Job):
    """Twice the number; remembers who did what."""

    def __init__(self, in_order=False, done=(), pause=0.0):
        self.in_order, self.done, self.pause = in_order, set(done), pause
        self.told, self.threads, self.inside, self.most = [], set(), 0, 0
        self.lock = threading.Lock()

    def is_done(self, frame):
        return frame.name in self.done

    def passed(self, frame):
        self.told.append(("passed", frame.index))

    def kept(self, frame):
        self.told.append(("kept", frame.index))

    def read(self, frame):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.pause)
        return frame.read()

    def compute(self, frame, images):
        self.threads.add(threading.current_thread().name)
        self.told.append(("compute", frame.index))
        time.sleep(self.pause)
        return 2 * images

    def write(self, frame, found):
        time.sleep(self.pause)
        with self.lock:
            self.inside -= 1
        self.told.append(("write", frame.index))
        return found


def test_results_come_in_order_and_one_error_does_not_end_it():
    outcomes = list(run(_frames([1, None, 3, 4]), _Doubling(done=["003"])))
    assert [outcome.name for outcome in outcomes] == ["000", "001", "002", "003"]
    assert [outcome.result for outcome in outcomes] == [2, None, 6, None]
    assert str(outcomes[1].error) == "no number"
    assert [outcome.skipped for outcome in outcomes] == [False, False, False, True]


def test_reading_computing_and_writing_overlap():
    job = _Doubling(pause=0.02)
    start = time.perf_counter()
    assert len(list(run(_frames(range(30)), job))) == 30
    assert time.perf_counter() - start < 0.8 * 3 * 30 * 0.02
    assert job.threads == {threading.current_thread().name}


def test_few_frames_are_in_memory_however_slow_the_caller_is():
    job, taken = _Doubling(), []
    for outcome in run(_frames(range(200)), job):
        time.sleep(0.0005)
        taken.append(outcome.result)
    assert taken == [2 * number for number in range(200)]
    assert job.most <= AHEAD + BEHIND + READERS + 2


def test_work_in_order_hears_of_every_frame_in_order():
    job = _Doubling(in_order=True, done=["000", "002"])
    list(run(_frames(range(4)), job))
    assert [row for row in job.told if row[0] in ("passed", "compute")] == [
        ("passed", 0),
        ("compute", 1),
        ("passed", 2),
        ("compute", 3),
    ]
    assert [row for row in job.told if row[0] in ("kept", "write")] == [
        ("kept", 0),
        ("write", 1),
        ("kept", 2),
        ("write", 3),
    ]


def test_what_ends_the_frames_comes_after_their_results():
    def ending():
        yield from _frames([1, 2])
        raise EarlyEndError("cut off")

    seen = []
    with pytest.raises(EarlyEndError, match="cut off"):
        seen.extend(outcome.result for outcome in _each(run(ending(), _Doubling()), seen))
    assert seen == [2, 4]


def _each(outcomes, seen):
    for outcome in outcomes:
        seen.append(outcome.result)
    return ()


def test_a_caller_that_leaves_stops_the_threads():
    before = threading.active_count()
    outcomes = run(_frames(range(10_000)), _Doubling())
    assert next(outcomes).result == 0
    outcomes.close()
    assert threading.active_count() == before


def test_an_error_of_another_kind_ends_the_run():
    class Broken(_Doubling):
        def compute(self, frame, images):
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        list(run(_frames([1]), Broken()))


def test_workers_are_for_a_cluster():
    with pytest.raises(ValueError, match="--workers is 2, for --engine local; leave it out"):
        run([], _Doubling(), workers=2)
    with pytest.raises(ValueError, match="--engine ray takes frames in any order"):
        run([], _Doubling(in_order=True), "ray")


# --- records


def test_only_whole_newer_results_of_the_same_settings_are_done(tmp_path):
    source, result = tmp_path / "source", tmp_path / "out" / "result"
    source.touch()
    record = RunRecord(tmp_path / "out", {"--model": "sgbm"})
    assert not (tmp_path / "out").exists()
    record.begin()
    result.touch()
    again = RunRecord(tmp_path / "out", {"--model": "sgbm"})
    assert again.is_done([result], [source])
    assert not again.is_done([result, tmp_path / "out" / "missing"], [source])
    later = time.time_ns() + 10**9
    os.utime(source, ns=(later, later))
    assert not again.is_done([result], [source])
    fresh = RunRecord(tmp_path / "out", {"--model": "sgbm"}, overwrite=True)
    assert not fresh.is_done([result], [])
    with pytest.raises(ValueError, match="holds results of --model sgbm and not bm; name another --out, or start anew"):
        RunRecord(tmp_path / "out", {"--model": "bm"})


def test_what_was_there_before_the_run_is_not_done(tmp_path):
    (tmp_path / "result").touch()
    os.utime(tmp_path / "result", ns=(1, 1))
    RunRecord(tmp_path, {}).begin()
    assert not RunRecord(tmp_path, {}).is_done([tmp_path / "result"], [])


def test_halves_of_files_are_removed(tmp_path):
    (tmp_path / ".a.pfm.0123abcd.tmp").touch()
    os.utime(tmp_path / ".a.pfm.0123abcd.tmp", ns=(1, 1))
    record = RunRecord(tmp_path, {})
    record.begin()
    (tmp_path / ".b.pfm.0123abcd.tmp").touch()
    record.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.pfm.0123abcd.tmp", ".stereopsis.json"]


# --- archives


def _record(number):
    from stereopsis.compression.bitstream import Record, Stream

    return Record(2, 3, 0, 8, 8, (Stream(bytes([number]) * 50, number),))


def _archive(path, count, settings=None, **options):
    """An archive that was left after so many pairs, the third of which failed."""
    from stereopsis.compression.bitstream import Header

    archive = Archive(path, settings or {"quality": 4}, append=False, **options)
    for number in range(count):
        name = f"{number:03d}"
        if name in archive.names:
            continue
        if number == 2:
            archive.fail(name, "bad")
        else:
            archive.add(Header("codec", bytes(8)), _record(number), {"name": name})
    return archive


def _payloads(path):
    from stereopsis.compression.bitstream import Reader

    with path.open("rb") as file:
        reader = Reader(file)
        return [reader.record(number).streams[0].payload[0] for number in range(len(reader))]


@pytest.mark.parametrize("damage", ["none", "file", "journal", "both"])
def test_an_archive_goes_on_where_it_was_left(tmp_path, damage):
    out = tmp_path / "a.stz"
    left = _archive(out, 5)
    left._file.close()  # as a killed process leaves it
    part, journal = tmp_path / ".a.stz.part", tmp_path / ".a.stz.journal"
    if damage in ("file", "both"):
        part.write_bytes(part.read_bytes()[:-20])
    if damage in ("journal", "both"):
        journal.write_bytes(journal.read_bytes()[:-70])
    assert not out.exists()
    archive = _archive(out, 7)
    assert [row["name"] for row in archive.rows] == ["000", "001", "003", "004", "005", "006"]
    assert archive.failed == [{"name": "002", "error": "bad"}]
    size = archive.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.stz"]
    assert out.stat().st_size == size
    assert _payloads(out) == [0, 1, 3, 4, 5, 6]


def test_an_archive_of_other_settings_is_not_gone_on_with(tmp_path):
    out = tmp_path / "a.stz"
    _archive(out, 2)._file.close()
    with pytest.raises(ValueError, match="was interrupted; it was of quality 4 and not 5; name another --out"):
        _archive(out, 4, {"quality": 5})
    archive = _archive(out, 4, {"quality": 5}, overwrite=True)
    archive.finish()
    assert _payloads(out) == [0, 1, 3]


def test_an_archive_that_is_not_resumable_leaves_nothing(tmp_path):
    archive = _archive(tmp_path / "a.stz", 2, resumable=False)
    archive.give_up()
    assert list(tmp_path.iterdir()) == []


def test_appending_goes_on_too(tmp_path):
    from stereopsis.compression.bitstream import Header

    out = tmp_path / "a.stz"
    _archive(out, 2).finish()
    for numbers in ([5], [5, 6]):
        archive = Archive(out, {}, append=True)
        for number in numbers:
            if str(number) not in archive.names:
                archive.add(Header("codec", bytes(8)), _record(number), {"name": str(number)})
        if numbers == [5]:
            archive._file.close()
    archive.finish()
    assert _payloads(out) == [0, 1, 5, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["a.stz"]
