"""Turns, deadlines and bodies, with an application that does nothing but take its time."""

import asyncio
import json
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="needs pip install 'stereopsis[serve]'")

from stereopsis.apps.server.admission import Admission
from stereopsis.apps.server.limits import Limits
from stereopsis.apps.server.metrics import Metrics

HEADERS = [(b"content-type", b"multipart/form-data; boundary=x")]


class Slow:
    """Reads the body, works for some seconds and answers; counts how many did so at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.inside, self.most, self.done = seconds, 0, 0, 0

    async def __call__(self, scope, receive, send):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            while (await receive()).get("more_body"):
                pass
            await asyncio.sleep(self.seconds)
        finally:
            self.inside -= 1
        self.done += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


async def ask(admission, chunks=(b"abc",), pause=0.0, headers=HEADERS, leave=False):
    """Status, sentence and headers of a request whose body comes in these chunks."""
    sent, waiting = [], list(chunks)

    async def receive():
        await asyncio.sleep(pause)
        if not waiting and leave:
            return {"type": "http.disconnect"}
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or leave}

    async def send(message):
        sent.append(message)

    await admission({"type": "http", "method": "POST", "path": "/work", "headers": headers}, receive, send)
    if not sent:
        return None, "", {}
    content = b"".join(message.get("body", b"") for message in sent)
    sentence = json.loads(content)["detail"] if content.startswith(b"{") else content.decode()
    return sent[0]["status"], sentence, dict(sent[0]["headers"])


def admission_of(app, **limits):
    metrics = Metrics(frozenset({"/work"}))
    return Admission(app, frozenset({"/work"}), Limits(**limits), metrics), metrics


def test_a_few_at_a_time_and_the_rest_in_order():
    app = Slow(0.02)
    admission, metrics = admission_of(app, waiting=20, reading=3)

    async def crowd():
        return await asyncio.gather(*(ask(admission) for _ in range(20)))

    assert [status for status, *_ in asyncio.run(crowd())] == [200] * 20
    assert (app.most, app.done) == (3, 20)
    text = metrics.text().decode()
    assert 'stereopsis_requests_total{path="/work",status="200"} 20.0' in text
    assert "stereopsis_waiting_requests 0.0" in text
    assert "stereopsis_running_requests 0.0" in text


def test_a_full_queue():
    app = Slow(0.1)
    admission, metrics = admission_of(app, waiting=2, reading=1)

    async def crowd():
        return await asyncio.gather(*(ask(admission) for _ in range(8)))

    answers = asyncio.run(crowd())
    assert sorted(status for status, *_ in answers) == [200] * 3 + [503] * 5
    refused = next(answer for answer in answers if answer[0] == 503)
    assert refused[1] == "2 requests are waiting already, the limit; try again later."
    assert int(refused[2][b"retry-after"]) >= 1
    assert 'stereopsis_refused_total{limit="waiting"} 5.0' in metrics.text().decode()


def test_work_that_takes_too_long_and_those_behind_it():
    app = Slow(5)
    admission, _ = admission_of(app, seconds=0.1, reading=1)

    async def crowd():
        return await asyncio.gather(ask(admission), ask(admission))

    first, second = asyncio.run(crowd())
    assert first[:2] == (504, "The work took more than 0.1 s, the limit; send smaller images.")
    assert second[0] in (503, 504)
    assert (app.inside, app.done) == (0, 0)


def test_a_body_that_comes_too_slowly():
    app = Slow(0)
    admission, metrics = admission_of(app, upload=0.05)
    status, sentence, _ = asyncio.run(ask(admission, [b"a"] * 50, pause=0.01))
    assert (status, sentence) == (408, "The body did not arrive within 0.05 s; send it faster, or less of it.")
    assert app.done == 0
    assert 'stereopsis_refused_total{limit="upload"} 1.0' in metrics.text().decode()
    assert asyncio.run(ask(admission))[0] == 200  # the turn is free again


def test_a_body_that_is_too_long():
    app = Slow(0)
    admission, _ = admission_of(app, body=2000)
    assert asyncio.run(ask(admission, [bytes(700)] * 2))[0] == 200
    assert asyncio.run(ask(admission, [bytes(700)] * 4))[0] == 413
    stated = [*HEADERS, (b"content-length", b"2001")]
    assert asyncio.run(ask(admission, [], headers=stated))[0] == 413  # nothing of it was read
    assert asyncio.run(ask(admission, [], headers=[*HEADERS, (b"content-length", b"-1")]))[0] == 400
    assert app.done == 1


def test_a_client_that_leaves():
    app = Slow(0)
    admission, metrics = admission_of(app)
    assert asyncio.run(ask(admission, [b"a"], leave=True))[0] is None
    assert app.done == 0
    assert 'status="499"' in metrics.text().decode()
    assert asyncio.run(ask(admission))[0] == 200


def test_a_mistake_of_ours_frees_the_turn():
    async def broken(scope, receive, send):
        raise RuntimeError("ours")

    admission, metrics = admission_of(broken, reading=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ours"):
            asyncio.run(ask(admission))
    assert 'status="500"} 2.0' in metrics.text().decode()


def test_figures_of_the_page_are_measured():
    """docs/server.md says what benchmarks/serve_load.py wrote."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/server.md").read_text(encoding="utf-8")
    measured = json.loads((root / "benchmarks/results/serve_load.json").read_text())
    for name, phase in measured["phases"].items():
        answers = ", ".join(f"{count} x {status}" for status, count in phase["statuses"].items())
        latency = f"{phase['latency_s']['p50']:g} | {phase['latency_s']['p99']:g}"
        row = f"| {phase['requests_a_second']:g} | {latency} | {answers} | {phase['peak_mb']:g} |"
        assert row in page, name
    assert f"{measured['request_bytes']:,} bytes" in page
    assert measured["phases"]["many"]["statuses"] == {"200": 400}
