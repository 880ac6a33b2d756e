"""``stereopsis view``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from stereopsis.cli.console import note, progress_bar, show_json, warn
from stereopsis.cli.loading import load_matcher
from stereopsis.cli.options import DEFAULT_MODEL, check_max_disparity, check_suffix
from stereopsis.cli.rigs import RIG, Rig, rectified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stereopsis.apps.viewer.pages import FrameCache, ViewServer


def view(
    target: Positional[str],
    right: Positional[str | None] = None,
    calibration: Path | None = None,
    left: Path | None = None,
    confidence: Path | None = None,
    truth: Path | None = None,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    codec_weights: Path | None = None,
    max_disparity: int | None = None,
    check: float | None = None,
    device: str = "cpu",
    host: str = "127.0.0.1",
    port: int = 8437,
    no_browser: bool = False,
    out: Path | None = None,
    json: bool = False,
    rig: Rig = RIG,
) -> None:
    """Look at results in a browser: pictures, values, errors, points to turn, and a slider over a sequence.

    Args:
        target: What `demo`, `depth`, `match`, `compress` or `decompress` wrote; or a left view, or a folder or video.
        right: Right view, or a folder or video of them.
        calibration: File of the rig, for depth in metres.
        left: Left view that maps belong to, or a folder of them.
        confidence: Picture of the confidence of maps, or a folder of them.
        truth: File of the true disparity, or a folder of them, for the error.
        model: Matcher of pairs, see `stereopsis models`.
        weights: Safetensors file in place of the matcher's shipped weights.
        codec_weights: Safetensors file that a .stz file was written with, where it was not the shipped one.
        max_disparity: Largest disparity searched, in pixels; the calibration's or the model's own if not given.
        check: Match the right view too, and leave out what differs by more than this many pixels.
        device: Where to compute, e.g. cpu or cuda.
        host: Address to listen at; 0.0.0.0 shows the page to the whole network.
        port: Port to listen at; 0 for any that is free.
        no_browser: Do not open the page in a browser.
        out: Write the page as one file (.html) with all frames in it, and serve nothing.
        json: Print JSON instead of text.
        rig: How the calibration is read.
    """
    from stereopsis.apps.viewer import Extras, open_source
    from stereopsis.apps.viewer.pages import FrameCache, write_page
    from stereopsis.cli.loading import load_codec

    check_max_disparity(max_disparity)
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}; it must lie between 0 and 65535, for example 8437.")
    if out is not None:
        check_suffix(out, (".html", ".htm"), "--out")
    if calibration is not None and not calibration.exists():
        raise FileNotFoundError(f"--calibration is {calibration}, which does not exist; name the file of the rig.")
    source = open_source(
        target,
        right,
        matcher=lambda: load_matcher(model, weights, device),
        codec=lambda name: load_codec(name, codec_weights, device),
        extras=Extras(
            left=left,
            confidence=confidence,
            truth=truth,
            calibration=calibration,
            max_disparity=max_disparity,
            check=check,
            rectify=lambda first, second, file: rectified(first, second, rig.file(file), "auto"),
            rig=lambda file, width, height: rig.file(file).calibration(width, height),
        ),
    )
    frames = FrameCache(source)
    _look_at_the_first(frames)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with progress_bar() as progress:
            size = write_page(out, frames, lambda numbers: progress.track(numbers, description="drawing"))
        if json:
            show_json({"out": str(out), "bytes": size, "frames": len(source)})
        else:
            print(f"{out}  {size} bytes, {len(source)} frame{'s' if len(source) > 1 else ''}")
        return
    with _listening(frames, host, port) as server:
        if json:
            show_json({"url": server.url, "frames": len(source)})
        else:
            print(server.url)
        note("Stop with Ctrl-C.")
        _serve(server, not no_browser)


def _look_at_the_first(frames: FrameCache) -> None:
    """What cannot be shown at all is said here, and not in the page."""
    try:
        frames.keep(0, frames.make(0))
    except (ValueError, OSError) as error:
        if len(frames.source) == 1:
            raise
        warn(f"{frames.source.names[0]}: {error}")


@contextmanager
def _listening(frames: FrameCache, host: str, port: int) -> Iterator[ViewServer]:
    from stereopsis.apps.viewer.pages import ViewServer

    try:
        server = ViewServer(frames, host, port)
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened at ({error.strerror or error}); choose another port, or 0 "
            "for any that is free."
        ) from None
    with server:
        yield server


def _serve(server: ViewServer, browser: bool) -> None:
    """Until Ctrl-C or SIGTERM."""
    import signal
    import webbrowser
    from threading import Event, Thread

    stop = Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        sys.stdout.flush()
        if browser:
            webbrowser.open(server.url)
        while not stop.wait(0.5):  # a wait without end would not see signals on every system
            pass
    finally:
        server.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)
