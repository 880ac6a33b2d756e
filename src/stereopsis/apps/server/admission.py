"""Who may come in: a bounded number of requests wait, a few have their body in memory, and all have a deadline.

A request that waits has not been read, so that it costs a connection and no memory of its size. It is written as plain
ASGI, because frameworks read the body before anything of theirs is asked.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

from stereopsis.apps.server.limits import Limits
from stereopsis.apps.server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

USUAL_SECONDS = 0.5  # of a request, before the first was answered
BODY_LIMITS = {408: "upload", 413: "body"}
LEFT = 499  # what servers count where the client left before the answer


class Refused(Exception):
    """A request that is answered without its work being done."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


class Admission:
    """ASGI middleware in front of everything that computes; other requests pass.

    Args:
        app: what is behind it.
        paths: under which a ``POST`` computes.
        limits: of the server.
        metrics: where it counts.
    """

    def __init__(self, app: App, paths: frozenset[str], limits: Limits, metrics: Metrics) -> None:
        self.app, self.paths, self.limits, self.metrics = app, paths, limits, metrics
        self._turns = asyncio.Semaphore(limits.reading)
        self._waiting = 0
        self._usual = USUAL_SECONDS

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = perf_counter()
        answered: list[int] = []

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.append(message["status"])
            await send(message)

        try:
            if scope["method"] == "POST" and scope["path"] in self.paths:
                await self._admit(scope, receive, counted, answered)
            else:
                await self.app(scope, receive, counted)
        except Refused as refused:
            if not answered and refused.status != LEFT:
                await _answer(refused, counted)
        except Exception:
            if not answered:
                answered.append(500)
            raise
        finally:
            self.metrics.answered(scope["path"], answered[0] if answered else LEFT, perf_counter() - start)

    async def _admit(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, answered: list[int]) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_headers(headers)
        await self._wait()
        start = perf_counter()
        self.metrics.running.inc()
        body = _Body(receive, self.limits)

        async def unless_refused(message: Message) -> None:
            # A framework answers what it takes for a broken body with a sentence of its own.
            if body.refused is None:
                await send(message)

        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, body, unless_refused)
            self._usual += 0.2 * (perf_counter() - start - self._usual)
        except TimeoutError:
            if answered:
                raise
            self.metrics.refused("seconds")
            raise Refused(
                504, f"The work took more than {self.limits.seconds:g} s, the limit; send smaller images."
            ) from None
        except Exception:
            if body.refused is None:
                raise
        finally:
            self.metrics.running.dec()
            self._turns.release()
        if body.refused is not None:
            if body.refused.status in BODY_LIMITS:
                self.metrics.refused(BODY_LIMITS[body.refused.status])
            raise body.refused

    def _check_headers(self, headers: dict[str, str]) -> None:
        if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refused(415, "The body must be multipart/form-data; send files as form fields, as curl -F does.")
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise Refused(400, f"Content-Length is {length[:20]!r}; it must be a number of bytes.")
        if int(length) > self.limits.body:
            self.metrics.refused("body")
            raise Refused(413, _too_many_bytes(self.limits))

    async def _wait(self) -> None:
        """Until a turn is free.

        Raises:
            Refused: too many wait already, or the wait was too long.
        """
        if self._turns.locked() and self._waiting >= self.limits.waiting:
            self.metrics.refused("waiting")
            raise Refused(
                503, f"{self._waiting} requests are waiting already, the limit; try again later.", self._retry_after()
            )
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self._turns.acquire()
        except TimeoutError:
            self.metrics.refused("seconds")
            raise Refused(
                503, f"No turn came within {self.limits.seconds:g} s; try again later.", self._retry_after()
            ) from None
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    def _retry_after(self) -> int:
        """Seconds until those that wait now are through."""
        return max(1, math.ceil(self._usual * (self._waiting + 1) / self.limits.reading))


class _Body:
    """``receive`` that ends a body which is too long or too slow, and remembers why."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.refused: Refused | None = None
        self._receive, self._limits = receive, limits
        self._bytes, self._end, self._whole = 0, perf_counter() + limits.upload, False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(self._end - perf_counter(), 0)):
                message = await self._receive()
        except TimeoutError:
            raise self._refuse(
                408, f"The body did not arrive within {self._limits.upload:g} s; send it faster, or less of it."
            ) from None
        if message["type"] == "http.disconnect":
            raise self._refuse(LEFT, "The client left.")
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limits.body:
            raise self._refuse(413, _too_many_bytes(self._limits))
        return message

    def _refuse(self, status: int, sentence: str) -> Refused:
        self.refused = Refused(status, sentence)
        return self.refused


def _too_many_bytes(limits: Limits) -> str:
    return f"The body has more than {limits.body:,} bytes, the limit; send smaller files."


async def _answer(refused: Refused, send: Send) -> None:
    content = json.dumps({"detail": refused.sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    # The rest of the body is not read, so the connection is of no more use.
    headers.append((b"connection", b"close"))
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
