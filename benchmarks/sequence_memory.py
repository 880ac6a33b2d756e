"""A long sequence through ``stereopsis match``: memory, kill -9 and a second run, and a cluster that loses a worker.

``python benchmarks/sequence_memory.py`` makes the pairs, runs the command as a process of its own, watches its memory
in /proc (Linux), and adds what it found to ``benchmarks/results/sequence_memory.json``. Parts: ``memory`` (one run to
the end), ``kill`` (killed in the middle and run again), ``ray`` (two workers, one killed in the middle) and ``network``
(memory again, with a network).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 96, 64
PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY = 0.05  # s between two looks


def make_pairs(folder: Path, count: int) -> Path:
    """Folders left and right; planes 3 to 12 px away, each of another texture."""
    import cv2

    rng = np.random.default_rng(0)
    for side in ("left", "right"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shift = 3 + number % 10
        small = rng.integers(0, 256, (HEIGHT // 2, (WIDTH + shift) // 2 + 1, 3), np.uint8)
        scene = cv2.resize(small, (2 * small.shape[1], HEIGHT), interpolation=cv2.INTER_CUBIC)
        for side, start in (("left", 0), ("right", shift)):
            cv2.imwrite(str(folder / side / f"{number:06d}.png"), scene[:, start : start + WIDTH])
    return folder


def command(pairs: Path, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "stereopsis", "match", str(pairs), "--out", str(out), *words]


def resident(pid: int) -> int:
    """Bytes of a process in memory, 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def written(out: Path) -> int:
    return sum(1 for _ in out.glob("[!.]*.pfm"))


class Watched:
    """A running command, its memory by how many maps were there, and an act at some number of them."""

    def __init__(self, words: list[str]) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(words, stdout=self.output, stderr=self.log)
        self.samples: list[tuple[int, int]] = []
        self.start = time.perf_counter()

    def until(self, out: Path, count: int) -> None:
        """Watch until so many maps are there, or the process ends."""
        while self.process.poll() is None:
            done = written(out)
            self.samples.append((done, resident(self.process.pid)))
            if done >= count:
                return
            time.sleep(EVERY)

    def end(self) -> str:
        """What the process printed, after it ended well."""
        self.process.wait()
        self.seconds = time.perf_counter() - self.start
        self.log.seek(0)
        self.output.seek(0)
        if self.process.returncode:
            raise SystemExit(f"The command failed: {self.log.read().decode()[-2000:]}")
        return self.output.read().decode()

    def halves(self, count: int) -> dict[str, float]:
        """Highest memory in MB while the first and the second half of the maps were written."""
        first = max(size for done, size in self.samples if 0 < done <= count // 2)
        second = max(size for done, size in self.samples if done > count // 2)
        return {
            "first_half_mb": round(first / 1e6, 1),
            "second_half_mb": round(second / 1e6, 1),
            "second_over_first": round(second / first, 4),
        }

    def curve(self, count: int) -> list[float]:
        """Highest memory in MB within each tenth of the maps."""
        tenths: list[list[int]] = [[] for _ in range(10)]
        for done, size in self.samples:
            if 0 < done < count:
                tenths[10 * done // count].append(size)
        return [round(max(sizes) / 1e6, 1) for sizes in tenths if sizes]


def digest(out: Path) -> str:
    """Of all maps, their names and bytes."""
    total = hashlib.sha256()
    for path in sorted(out.glob("[!.]*.pfm")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def memory(pairs: Path, out: Path, count: int, words: list[str]) -> dict[str, Any]:
    run = Watched(command(pairs, out, *words))
    run.until(out, count + 1)
    assert len(run.end().splitlines()) == written(out) == count
    found = {"pairs": count, "seconds": round(run.seconds, 1), "samples": len(run.samples)} | run.halves(count)
    return found | {"mb_by_tenths": run.curve(count)}


def kill(pairs: Path, out: Path, count: int, words: list[str]) -> dict[str, Any]:
    """Kill -9 in the middle, and run again."""
    run = Watched(command(pairs, out, *words))
    run.until(out, count // 2)
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*.pfm")}
    halves_left = len(list(out.glob(".*.tmp")))
    found = json.loads(Watched(command(pairs, out, *words, "--json")).end())
    names = Counter([row["name"] for row in found["pairs"]] + [Path(name).stem for name in before])
    return {
        "pairs": count,
        "done_when_killed": len(before),
        "halves_of_files_left": halves_left,
        "skipped_by_second_run": found["skipped"],
        "done_by_second_run": len(found["pairs"]),
        "lost": count - len(names),
        "done_twice": sum(times - 1 for times in names.values()),
        "changed_by_second_run": sum((out / name).stat().st_mtime_ns != then for name, then in before.items()),
        "halves_of_files_at_the_end": len(list(out.glob(".*.tmp"))),
        "sha256": digest(out),
    }


def workers_of(pid: int) -> list[int]:
    """Ray's actors below a process."""
    parents: dict[int, int] = {}
    actors = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if title.startswith(b"ray::_Worker"):
            actors.append(int(entry.name))

    def below(child: int) -> bool:
        while child in parents and child > 1:
            child = parents[child]
            if child == pid:
                return True
        return False

    return [actor for actor in actors if below(actor)]


def ray(pairs: Path, out: Path, count: int, words: list[str]) -> dict[str, Any]:
    """Two workers, one of which is killed in the middle."""
    run = Watched(command(pairs, out, *words, "--json", "--engine", "ray", "--workers", "2"))
    run.until(out, count // 2)
    workers = workers_of(run.process.pid)
    os.kill(workers[0], signal.SIGKILL)
    at = written(out)
    run.until(out, count + 1)
    found = json.loads(run.end())
    names = Counter(row["name"] for row in found["pairs"])
    return {
        "pairs": count,
        "workers": len(workers),
        "done_when_a_worker_was_killed": at,
        "lost": count - written(out),
        "told": len(found["pairs"]),
        "written_by_the_killed_worker_untold": found["skipped"],
        "told_twice": sum(times - 1 for times in names.values()),
        "failed": len(found["failed"]),
        "halves_of_files_at_the_end": len(list(out.glob(".*.tmp"))),
        "seconds": round(run.seconds, 1),
        "sha256": digest(out),
    } | {f"driver_{key}": value for key, value in run.halves(count).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["memory", "kill", "ray", "network"])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--network-count", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/sequence_memory.json")
    options = parser.parse_args()
    small = ["--model", "sgbm", "--max-disparity", "16"]
    result: dict[str, Any] = {"size": f"{WIDTH}x{HEIGHT}"}
    if options.out.is_file():
        result = json.loads(options.out.read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = make_pairs(folder / "pairs", options.count)
        for part in options.parts:
            out = folder / part
            if part == "network":
                few = make_pairs(folder / "few", options.network_count)
                words = ["--model", "hitnet.scenes", "--max-disparity", "32"]
                result[part] = {"model": words[1]} | memory(few, out, options.network_count, words)
            else:
                work = {"memory": memory, "kill": kill, "ray": ray}[part]
                result[part] = {"model": "sgbm"} | work(pairs, out, options.count, small)
            print(json.dumps({part: result[part]}, indent=1), flush=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    checks = [result[part]["second_over_first"] <= 1.05 for part in ("memory", "network") if part in result] + [
        result[part]["lost"] == 0 for part in ("kill", "ray") if part in result
    ]
    sys.exit(not all(checks))


if __name__ == "__main__":
    main()
