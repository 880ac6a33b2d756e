"""The page: served to this machine frame by frame, or written into one file."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from stereopsis.apps.viewer.frames import CONFIDENCE_COLORS, DISPARITY_COLORS, color_bar, parts_of
from stereopsis.apps.viewer.sources import Source
from stereopsis.io import atomic_write_text
from stereopsis.visualization import ERROR_COLORS

PAGE = Path(__file__).with_name("page.html")
PARTS_MARK = "<!-- parts -->"
KEPT_FRAMES = 8
LOOPBACK = ("127.0.0.1", "localhost", "::1")
IDLE = 30  # seconds after which a silent connection is closed
# The page may run its own script and show its own pictures, and nothing else.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' blob: data:; " \
    "connect-src 'self'"  # fmt: skip
PART = re.compile(r"/(\d{1,9})/([a-z]+)")


class FrameCache:
    """The parts of frames, the last few kept; one frame is made at a time.

    Args:
        source: of the frames.
        kept: how many frames stay in memory.
    """

    def __init__(self, source: Source, kept: int = KEPT_FRAMES) -> None:
        self.source, self._kept = source, kept
        self._parts: OrderedDict[int, dict[str, bytes]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, number: int) -> dict[str, bytes]:
        """A frame's parts; ``meta`` alone, with a sentence, where its files cannot be used."""
        with self._lock:
            if number not in self._parts:
                try:
                    self._parts[number] = self.make(number)
                except (ValueError, OSError) as error:
                    meta = {"name": self.source.names[number], "sentence": str(error)}
                    self._parts[number] = {"meta": json.dumps(meta).encode()}
                while len(self._parts) > self._kept:
                    self._parts.popitem(last=False)
            self._parts.move_to_end(number)
            return self._parts[number]

    def make(self, number: int) -> dict[str, bytes]:
        """A frame's parts, not kept; errors as of :meth:`~stereopsis.apps.viewer.sources.Source.read`."""
        return parts_of(self.source.read(number), self.source.scale)

    def keep(self, number: int, parts: dict[str, bytes]) -> None:
        """Take parts that were made elsewhere."""
        with self._lock:
            self._parts[number] = parts


class ViewServer(ThreadingHTTPServer):
    """Serves the page and its parts until it is shut down.

    Args:
        frames: what it shows.
        host: address to listen at; on a loopback address, requests under any other name are refused.
        port: 0 for any free one.

    Raises:
        OSError: the address cannot be used.
    """

    daemon_threads = True
    # Otherwise a second viewer could take the port of a running one.
    allow_reuse_port = False

    def __init__(self, frames: FrameCache, host: str = "127.0.0.1", port: int = 0) -> None:
        self.frames = frames
        self.local = host in LOOPBACK
        if ":" in host:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name in ("0.0.0.0", "::"):
            name = "127.0.0.1"
        return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"

    def answer(self, path: str) -> tuple[bytes, str] | None:
        """Content and type under a path, None where there is none."""
        if path == "/":
            return PAGE.read_bytes(), "text/html; charset=utf-8"
        if path == "/view":
            return json.dumps(_view(self.frames.source)).encode(), "application/json"
        if path in (f"/colors/{name}" for name in (DISPARITY_COLORS, CONFIDENCE_COLORS)):
            return color_bar(path.rpartition("/")[2]), "image/png"
        found = PART.fullmatch(path)
        if found is None or int(found[1]) >= len(self.frames.source):
            return None
        content = self.frames(int(found[1])).get(found[2])
        return None if content is None else (content, _type_of(content, found[2]))

    def handle_error(self, request: Any, client_address: Any) -> None:
        import sys

        # A browser that leaves in the middle of an answer is no error.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE

    def do_GET(self) -> None:
        host = re.sub(r":\d+$", "", self.headers.get("Host", "")).strip("[]")
        if self.server.local and host not in LOOPBACK:
            # Another site's name that leads here would let that site read the page.
            self.send_error(HTTPStatus.FORBIDDEN, "the viewer answers under 127.0.0.1 and localhost alone")
            return
        found = self.server.answer(self.path.partition("?")[0])
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        content, kind = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the commands write what matters."""


def write_page(
    path: str | Path, frames: FrameCache, track: Callable[[range], Iterable[int]] = lambda numbers: numbers
) -> int:
    """One HTML file that holds all frames and works without a server and without a network.

    Args:
        path: the file.
        frames: what it shows; where a frame cannot be read the page says so.
        track: goes through the numbers of the frames, for a progress bar.

    Returns:
        Its size in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    parts = {"/view": json.dumps(_view(frames.source)).encode()}
    for name in (DISPARITY_COLORS, CONFIDENCE_COLORS):
        parts[f"/colors/{name}"] = color_bar(name)
    for number in track(range(len(frames.source))):
        for key, content in frames(number).items():
            parts[f"/{number}/{key}"] = content
    embedded = {name: base64.b64encode(gzip.compress(content, 6)).decode() for name, content in parts.items()}
    script = f'<script id="parts" type="application/json">{json.dumps(embedded)}</script>'
    text = PAGE.read_text(encoding="utf-8").replace(PARTS_MARK, script)
    atomic_write_text(path, text)
    return len(text.encode())


def _view(source: Source) -> dict[str, Any]:
    return {
        "title": source.title,
        "names": source.names,
        "errorColors": [f"rgb{color}" for _, color in ERROR_COLORS],
    }


def _type_of(content: bytes, name: str) -> str:
    if name == "meta":
        return "application/json"
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp" if content[8:12] == b"WEBP" else "application/octet-stream"
