"""The endpoints. A bad request is answered by a 4xx and ``{"detail": SENTENCE}``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from stereopsis import __version__
from stereopsis.apps.server.admission import Admission
from stereopsis.apps.server.limits import LARGEST_DISPARITY, Limits, TooLarge, check_map, check_picture
from stereopsis.apps.server.metrics import Metrics
from stereopsis.apps.server.worker import DepthFormat, MapFormat, Result, Upload, Worker
from stereopsis.compression.codec import QUALITIES, SideView
from stereopsis.zoo import get_entry, list_models

MATCHER, UPSAMPLER, CODEC = "hitnet.scenes", "fdkn.any", "hyperprior.photos"
PATHS = frozenset({"/match", "/depth", "/upsample", "/compress", "/decompress"})
OTHER_PATHS = frozenset({"/", "/health", "/metrics", "/models", "/openapi.json"})
MAX_CALIBRATION = 2**20  # bytes
ORIGIN = re.compile(r"\*$|https?://[^/\s]+$")
SUFFIX = re.compile(r"\.[a-z0-9]{1,5}$")
TYPES = {
    ".png": "image/png",
    ".pfm": "application/octet-stream",
    ".npy": "application/octet-stream",
    ".npz": "application/octet-stream",
    ".ply": "application/octet-stream",
    ".stz": "application/octet-stream",
    ".zip": "application/zip",
}
DESCRIPTION = """Depth from a stereo camera. Files are sent as fields of `multipart/form-data`; the answer is a file,
and the header `Stereopsis-Summary` holds numbers about it as JSON. A request that cannot be answered gets a 4xx with
one sentence in `detail`; one that finds the queue full a 503 with `Retry-After`; one that takes too long a 504."""

MaxDisparity = Annotated[
    int | None,
    Form(ge=1, le=LARGEST_DISPARITY, description="Largest disparity searched, in pixels; the model's own if left out."),
]
Check = Annotated[
    float | None,
    Form(ge=0, description="Match the right view too, and mark as invalid what differs by more than this many pixels."),
]
Fill = Annotated[bool, Form(description="Fill holes from the neighbours in the row.")]
Unit = Annotated[
    str | None,
    Form(description="Unit of the calibration's baseline: m, cm, mm, in, or metres; the format's own if left out."),
]
KittiPair = Annotated[
    Literal["colour", "grey"] | None, Form(description="Pair of a KITTI file; chosen by the views if left out.")
]
Lens = Annotated[
    Literal["pinhole", "fisheye"] | None, Form(description="Lens of raw cameras; the file's own if left out.")
]
Fov = Annotated[
    float | None,
    Form(gt=0, lt=180, description="Horizontal field of view that raw views are rectified to, in degrees."),
]
Matcher = Annotated[str, Form(description="A matcher, see `/models`.")]


class Problem(BaseModel):
    """Why a request was refused, in one sentence."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "The body is not well-formed.",
        408: "The body did not arrive in time.",
        413: "Too many bytes or pixels.",
        415: "The body is no `multipart/form-data`.",
        422: "The files or fields cannot be used.",
        503: "Too many requests are waiting; `Retry-After` says in how many seconds to try again.",
        504: "The work took too long.",
    }.items()
}


def create_app(
    limits: Limits | None = None, device: str = "cpu", preload: tuple[str, ...] = (), cors: tuple[str, ...] = ()
) -> FastAPI:
    """The application.

    Args:
        limits: what a request may cost.
        device: where models compute.
        preload: matchers to load before the first request.
        cors: origins whose pages may send requests from a browser, for example ``http://localhost:3000``.

    Raises:
        ValueError: a model to load cannot be, or an origin that is none.
    """
    limits = limits or Limits()
    metrics = Metrics(PATHS | OTHER_PATHS)
    worker = Worker(limits, metrics, device)
    for name in preload:
        worker.model(name, get_entry(name).family)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(
        title="stereopsis",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Their pages load scripts from other machines; /openapi.json stands alone.
        docs_url=None,
        redoc_url=None,
    )
    for origin in cors:
        if not ORIGIN.match(origin):
            raise ValueError(f"the origin is {origin!r}; it must be like http://localhost:3000, or * for all.")
    app.add_middleware(Admission, paths=PATHS, limits=limits, metrics=metrics)
    if cors:  # added last, so that refusals carry its headers too
        exposed = ["Stereopsis-Summary", "Retry-After"]
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], expose_headers=exposed
        )

    async def run(path: str, work: Callable[..., Result], *arguments: Any) -> Response:
        result = await worker.run(path, lambda folder: work(folder, *arguments))
        return Response(
            result.content, media_type=TYPES[result.suffix], headers={"Stereopsis-Summary": json.dumps(result.summary)}
        )

    picture = partial(_upload, check=lambda content, suffix, name: check_picture(content, name, limits))
    numbers = partial(_upload, check=lambda content, suffix, name: check_map(content, suffix, name, limits))
    text = partial(_upload, check=_check_calibration)
    post: dict[str, Any] = {
        "dependencies": [Depends(_known_fields)], "responses": REFUSALS, "response_class": Response
    }  # fmt: skip

    @app.post("/match", **post)
    async def match(
        left: UploadFile,
        right: UploadFile,
        model: Matcher = MATCHER,
        max_disparity: MaxDisparity = None,
        check: Check = None,
        fill: Fill = False,
        format: Annotated[MapFormat, Form(description="Of the answer; `preview` is a PNG in colours.")] = "pfm",
    ) -> Response:
        """Disparity of a rectified pair, in pixels."""
        views = await picture(left, "left"), await picture(right, "right")
        return await run("/match", worker.match, *views, model, max_disparity, check, fill, format)

    @app.post("/depth", **post)
    async def depth(
        left: UploadFile,
        right: UploadFile,
        calibration: UploadFile,
        calibration_right: UploadFile | None = None,
        rectify: Annotated[Literal["auto", "yes", "no"], Form(description="Whether the views are raw.")] = "auto",
        unit: Unit = None,
        cameras: KittiPair = None,
        lens: Lens = None,
        fov: Fov = None,
        model: Matcher = MATCHER,
        max_disparity: MaxDisparity = None,
        check: Check = None,
        fill: Fill = False,
        format: Annotated[DepthFormat, Form(description="Of the answer; `ply` is a point cloud.")] = "png",
    ) -> Response:
        """Metric depth of a pair; views that the calibration says are raw are rectified first."""
        views = await picture(left, "left"), await picture(right, "right")
        rig = await text(calibration, "calibration")
        second = None if calibration_right is None else await text(calibration_right, "calibration_right")
        reading = {"unit": unit, "cameras": cameras, "lens": lens, "fov": fov}
        given = rig, second, rectify, reading, model, max_disparity, check, fill, format
        return await run("/depth", worker.depth, *views, *given)

    @app.post("/upsample", **post)
    async def upsample(
        image: UploadFile,
        depth: UploadFile,
        model: Annotated[str, Form(description="An upsampler, see `/models`.")] = UPSAMPLER,
        unit: Annotated[float | None, Form(gt=0, description="Metres per step of the depth file.")] = None,
        format: Annotated[MapFormat, Form(description="Of the answer; `preview` is a PNG in colours.")] = "png",
    ) -> Response:
        """Depth at the size of an image, with its edges."""
        guide, values = await picture(image, "image"), await numbers(depth, "depth")
        return await run("/upsample", worker.upsample, guide, values, model, unit, format)

    @app.post("/compress", **post)
    async def compress(
        left: UploadFile,
        right: UploadFile | None = None,
        calibration: UploadFile | None = None,
        unit: Unit = None,
        cameras: KittiPair = None,
        model: Annotated[str, Form(description="A codec, see `/models`.")] = CODEC,
        quality: Annotated[float, Form(ge=1, le=QUALITIES, description="1 (small) to 8 (good).")] = 4.0,
        target_bpp: Annotated[float | None, Form(gt=0, description="Bits a pixel, in place of a quality.")] = None,
    ) -> Response:
        """A pair, or an image, as a `.stz` file."""
        first = await picture(left, "left")
        second = None if right is None else await picture(right, "right")
        rig = None if calibration is None else await text(calibration, "calibration")
        reading = {"unit": unit, "cameras": cameras}
        return await run("/compress", worker.compress, first, second, rig, reading, model, quality, target_bpp)

    @app.post("/decompress", **post)
    async def decompress(
        file: UploadFile,
        index: Annotated[int, Form(ge=0, description="Which pair of a sequence.")] = 0,
        view: Annotated[Literal["left", "right"] | None, Form(description="This view alone, as PNG.")] = None,
        side: Annotated[UploadFile | None, Form(description="The other view, for FFCA-Net's images.")] = None,
        side_is: Annotated[SideView, Form(description="Which view of the rig that is.")] = "right",
    ) -> Response:
        """The views of a `.stz` file as PNG, in a ZIP with the calibration where the file holds one."""
        content = await _upload(file, "file", lambda content, suffix, name: None)
        other = None if side is None else await picture(side, "side")
        return await run("/decompress", worker.decompress, content, index, view, other, side_is)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers, without a turn of the worker."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", response_class=Response)
    async def numbers_of_the_server() -> Response:
        """Counts, times and memory, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/models")
    async def models() -> dict[str, list[str]]:
        """The models that can be asked for, by what they do."""
        return {
            family: [
                name for name in list_models(family=family)
                if get_entry(name).weights_file is not None or not get_entry(name).needs_weights
            ]
            for family in ("matching", "upsampling", "compression")
        }  # fmt: skip

    @app.get("/", include_in_schema=False)
    async def overview() -> dict[str, Any]:
        return {"name": "stereopsis", "version": __version__, "paths": sorted(PATHS | OTHER_PATHS - {"/"})}

    _say_it_in_one_sentence(app, metrics)
    return app


async def _upload(file: UploadFile, name: str, check: Callable[[bytes, str, str], None]) -> Upload:
    """A sent file under a name of ours, with the suffix of its own name, which tells readers the format."""
    found = SUFFIX.search((file.filename or "").lower())
    suffix = found[0] if found else ""
    content = await file.read()
    check(content, suffix, name)
    return Upload(f"{name}{suffix}", content)


def _check_calibration(content: bytes, suffix: str, name: str) -> None:
    if len(content) > MAX_CALIBRATION:
        raise TooLarge(f"{name} has {len(content):,} bytes, more than {MAX_CALIBRATION:,}; it must be a text file.")


async def _known_fields(request: Request) -> None:
    """Refuse fields that no endpoint reads, so that a slip of the pen is not passed over."""
    known = list(inspect.signature(request.scope["endpoint"]).parameters)
    for name in (await request.form()).keys():  # noqa: SIM118 - iterating it gives pairs in some versions
        if name not in known:
            raise ValueError(f"there is no field {name[:40]!r}; choose from {', '.join(known)}.")


def _say_it_in_one_sentence(app: FastAPI, metrics: Metrics) -> None:
    def answer(status: int, sentence: str) -> JSONResponse:
        return JSONResponse({"detail": " ".join(sentence.split())}, status)

    @app.exception_handler(RequestValidationError)
    async def bad_field(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        if first["type"] == "missing":
            return answer(422, f"{name} is missing; send it as a field of the form.")
        if "UploadFile" in first["msg"]:
            return answer(422, f"{name} is text; send it as a file.")
        reason = first["msg"][0].lower() + first["msg"][1:]
        return answer(422, f"{name} is {str(first['input'])[:40]!r}; {reason}.")

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return answer(404, f"There is no {request.url.path[:80]} here; see /openapi.json.")
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "POST")
            return answer(405, f"{request.url.path} does not take {request.method}; use {allowed}.")
        return answer(error.status_code, f"{str(error.detail).rstrip('.')}; send the form again.")

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: TooLarge) -> JSONResponse:
        metrics.refused("pixels")
        return answer(413, str(error))

    async def unusable(request: Request, error: Exception) -> JSONResponse:
        return answer(422, str(error))

    for kind in (ValueError, IndexError, ImportError):
        app.add_exception_handler(kind, unusable)

    @app.exception_handler(Exception)
    async def our_fault(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "The server made a mistake, which is in its log; it is not the request's fault.")
