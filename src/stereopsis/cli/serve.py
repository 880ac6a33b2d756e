"""``stereopsis serve``."""

from __future__ import annotations

import sys

from stereopsis.cli.console import note, show_json
from stereopsis.cli.options import DEFAULT_MODEL

GRACE = 15  # seconds that running requests have after SIGTERM
SPARE = 512  # connections beside those that wait: for those that are told to come again, and for /health


def serve(
    host: str = "127.0.0.1",
    port: int = 8438,
    device: str = "cpu",
    preload: tuple[str, ...] = (DEFAULT_MODEL,),
    max_megabytes: int = 64,
    max_pixels: int = 4_000_000,
    waiting: int = 256,
    reading: int = 4,
    upload_seconds: float = 20.0,
    seconds: float = 120.0,
    models: int = 4,
    cors: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Match, depth, upsample, compress and decompress over HTTP, with limits; see docs/server.md.

    Args:
        host: Address to listen at. The server knows no users, so put a proxy that does before any other than 127.0.0.1.
        port: Port to listen at; 0 for any that is free.
        device: Where to compute, e.g. cpu or cuda.
        preload: Models to load before the first request.
        max_megabytes: Largest request, in units of 2^20 bytes.
        max_pixels: Largest image or map, in pixels.
        waiting: Requests that may wait; more get a 503.
        reading: Requests whose files are in memory at a time.
        upload_seconds: Seconds that the files of a request may take to arrive.
        seconds: Seconds that a request may wait, and then take.
        models: Models in memory at a time.
        cors: Origins whose pages may send requests from a browser, e.g. http://localhost:3000.
        json: Print JSON instead of text.
    """
    import signal
    import socket

    from stereopsis.apps.server.limits import Limits

    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}; it must lie between 0 and 65535, for example 8438.")
    limits = Limits(max_megabytes * 2**20, max_pixels, waiting, reading, upload_seconds, seconds, models)
    try:
        import uvicorn

        from stereopsis.apps.server.app import create_app
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed, which the server needs; run pip install 'stereopsis[serve]'."
        ) from error
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"--host {host} --port {port} cannot be listened at ({error.strerror or error}); choose another port, "
                "or 0 for any that is free."
            ) from None
        app = create_app(limits, device, preload, cors)
        listener.listen(1024)
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listener.getsockname()[1]}"
        if json:
            show_json({"url": url})
        else:
            print(url)
        sys.stdout.flush()
        note("Stop with Ctrl-C.")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=5,
            timeout_graceful_shutdown=GRACE,
            limit_concurrency=waiting + reading + SPARE,
        )
        # uvicorn raises the signal that stopped it again, and stopping is no failure.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
