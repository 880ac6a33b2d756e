"""The server under many requests at a time: throughput, latency, what it answers, and how much memory it takes.

``python benchmarks/serve_load.py [--clients 200]`` starts ``stereopsis serve`` on a free port of this machine and
writes ``results/serve_load.json``. Clients are threads of this process, on the same cores as the server. Phases, each
of which waits for all its answers:

* ``few``: 8 clients at a time match a pair;
* ``many``: all clients at a time, each of them twice;
* ``bad``: the same, and every second request is wrong, in one of eight ways;
* ``large``: one pair of the largest size that the server takes;
* ``full``: another server whose queue holds 32; who is turned away tries again when the answer says so.

``peak_mb`` is the server's largest resident size until then.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

BOUNDARY = "stereopsis-load"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
FEW, SHORT_QUEUE, TRIES = 8, 32, 8
LARGEST = (2304, 1728)
TIMEOUT = 140  # seconds a client waits

Body = tuple[str, bytes, dict[str, str]]


@dataclass
class Answers:
    """Of one phase: seconds of each request, and the counts of status codes."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def picture(width: int, height: int, shift: int = 0) -> bytes:
    """A PNG of smooth noise; two of them ``shift`` apart are a pair."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4 + 2, (width + 32) // 4 + 2, 3), dtype=np.uint8)
    view = cv2.resize(noise, (width + 32, height), interpolation=cv2.INTER_CUBIC)[:, shift : shift + width]
    content = io.BytesIO()
    Image.fromarray(view).save(content, "PNG", compress_level=1)
    return content.getvalue()


def form(files: dict[str, bytes], **fields: str) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n\r\n'.encode()
        + content
        for name, content in files.items()
    ] + [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    ]
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def wrong(pair: dict[str, bytes]) -> list[Body]:
    """One of each kind of bad request."""
    left = pair["left"]
    huge = left[:16] + (60000).to_bytes(4, "big") * 2 + left[24:]
    return [
        ("/match", form({"left": left}), HEADERS),
        ("/match", form({**pair, "right": b"no picture"}), HEADERS),
        ("/match", form({**pair, "right": left[: len(left) // 2]}), HEADERS),
        ("/match", form({**pair, "right": huge}), HEADERS),
        ("/match", form(pair, model="no.such"), HEADERS),
        ("/depth", form(pair), HEADERS),
        ("/match", b"{}", {"Content-Type": "application/json"}),
        ("/match", b"", {**HEADERS, "Content-Length": str(10**10)}),
    ]


def ask(port: int, body: Body, answers: Answers, tries: int = 1) -> None:
    """One request, again after a 503 as often as told, and its place in the statistics."""
    path, content, headers = body
    start = time.perf_counter()
    for attempt in range(tries):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        try:
            connection.request("POST", path, content, headers)
            answer = connection.getresponse()
            answer.read()
            status, wait = str(answer.status), answer.getheader("Retry-After")
        except OSError as error:
            status, wait = type(error).__name__, None
        finally:
            connection.close()
        with answers.lock:
            answers.statuses[status] += 1
        if status != "503" or attempt == tries - 1:
            break
        time.sleep(float(wait or 1))
    with answers.lock:
        answers.seconds.append(time.perf_counter() - start)


def crowd(port: int, clients: int, each: int, choose: Callable[[int], Body], tries: int = 1) -> dict[str, Any]:
    """All clients at once, each with some requests after one another."""
    answers = Answers()
    ready = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        ready.wait()
        for turn in range(each):
            ask(port, choose(number * each + turn), answers, tries)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    p50, p95, p99 = (float(np.percentile(answers.seconds, q)) for q in (50, 95, 99))
    return {
        "clients": clients,
        "requests": len(answers.seconds),
        "seconds": round(seconds, 2),
        "requests_a_second": round(len(answers.seconds) / seconds, 2),
        "latency_s": {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)},
        "statuses": dict(sorted(answers.statuses.items())),
    }


def memory(process: int) -> dict[str, float]:
    """Resident size now, and the largest so far, in megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"resident_mb": round(found["VmRSS"] / 1024), "peak_mb": round(found["VmHWM"] / 1024)}


@contextmanager
def server(*options: str) -> Iterator[tuple[int, int]]:
    """Its port and process."""
    command = [sys.executable, "-m", "stereopsis", "serve", "--port", "0", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = "".join(process.stdout.readline() for _ in range(3))
        yield int(json.loads(lines)["url"].rpartition(":")[2]), process.pid
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        if status:
            raise RuntimeError(f"the server ended with {status}")
    finally:
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--size", default="320x240", help="of the pairs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve_load.json")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    pair = {"left": picture(width, height), "right": picture(width, height, 12)}
    good: Body = ("/match", form(pair), HEADERS)
    bad = wrong(pair)
    big = {"left": picture(*LARGEST), "right": picture(*LARGEST, 12)}
    phases: dict[str, Any] = {}

    def record(name: str, process: int, result: dict[str, Any]) -> None:
        phases[name] = result | memory(process)
        print(name, json.dumps(phases[name]), flush=True)

    with server() as (port, process):
        record("first", process, crowd(port, 1, 2, lambda n: good))
        record("few", process, crowd(port, FEW, 8, lambda n: good))
        record("many", process, crowd(port, options.clients, 2, lambda n: good))
        record("bad", process, crowd(port, options.clients, 2, lambda n: bad[n // 2 % len(bad)] if n % 2 else good))
        record("large", process, crowd(port, 1, 1, lambda n: ("/match", form(big), HEADERS)))
    with server("--waiting", str(SHORT_QUEUE)) as (port, process):
        record("full", process, crowd(port, options.clients, 1, lambda n: good, tries=TRIES))
    result = {
        "model": "hitnet.scenes",
        "size": options.size,
        "request_bytes": len(good[1]),
        "largest": "x".join(map(str, LARGEST)),
        "phases": phases,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
