"""The endpoints: what they answer, and how they refuse."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import urllib.request
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from views import shifted_pair

import stereopsis
from stereopsis.io import read_depth, read_disparity, read_point_cloud

pytest.importorskip("fastapi", reason="needs pip install 'stereopsis[serve]'")
pytest.importorskip("multipart", reason="needs pip install 'stereopsis[serve]'")
testclient = pytest.importorskip("starlette.testclient", reason="needs pip install 'stereopsis[serve]' and its client")

CALIB = "cam0=[200 0 80; 0 200 48; 0 0 1]\ncam1=[200 0 80; 0 200 48; 0 0 1]\nbaseline=100\nwidth=160\nheight=96\n"


def png(array) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def npy(array) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces a picture of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def npz_bomb() -> bytes:
    """A small .npz file that unpacks to 2 GB."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("depth.npy", "w") as file:
        file.write(npy(np.zeros((1, 1), np.float32))[:-4].replace(b"(1, 1)", b"(9, 9)"))
        for _ in range(100):
            file.write(bytes(2**20))
    return content.getvalue()


LEFT, RIGHT = (png(view) for view in shifted_pair(11))
NARROW = png(shifted_pair(3)[0][:, 1:])
PAIR = {"left": ("l.png", LEFT), "right": ("r.png", RIGHT)}
SMALL_DEPTH = png((np.full((24, 40), 2000)).astype(np.uint16))


@pytest.fixture(scope="module")
def client():
    from stereopsis.apps.server.app import create_app
    from stereopsis.apps.server.limits import Limits

    with testclient.TestClient(create_app(Limits(body=300_000, pixels=40_000, models=2))) as client:
        yield client


@pytest.fixture(scope="module")
def stz(client) -> bytes:
    answer = client.post("/compress", files={**PAIR, "calibration": ("c.txt", CALIB.encode())}, data={"quality": "6"})
    assert answer.status_code == 200, answer.text
    return answer.content


def summary_of(answer) -> dict:
    assert answer.status_code == 200, answer.text
    return json.loads(answer.headers["Stereopsis-Summary"])


@pytest.mark.parametrize("format", ["pfm", "png", "npy", "npz"])
def test_match(client, tmp_path, format):
    answer = client.post("/match", files=PAIR, data={"model": "sgbm", "max_disparity": "32", "format": format})
    summary = summary_of(answer)
    assert (summary["model"], summary["width"], summary["height"]) == ("sgbm", 160, 96)
    assert summary["disparity"]["median"] == pytest.approx(11, abs=0.1)
    (tmp_path / f"d.{format}").write_bytes(answer.content)
    values, valid = read_disparity(tmp_path / f"d.{format}")
    assert values[valid].median() == pytest.approx(11, abs=0.1)


def test_match_by_a_network_in_colours(client):
    answer = client.post("/match", files=PAIR, data={"format": "preview", "check": "1", "fill": "true"})
    assert summary_of(answer)["model"] == "hitnet.scenes"
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (160, 96)


def test_depth(client, tmp_path):
    files = {**PAIR, "calibration": ("calib.txt", CALIB.encode())}
    options = {"model": "sgbm", "max_disparity": "32"}
    answer = client.post("/depth", files=files, data=options)
    assert summary_of(answer)["depth"]["median"] == pytest.approx(200 * 0.1 / 11, rel=0.02)
    (tmp_path / "d.png").write_bytes(answer.content)
    values, valid = read_depth(tmp_path / "d.png")
    assert values[valid].median() == pytest.approx(200 * 0.1 / 11, rel=0.02)
    answer = client.post("/depth", files=files, data={**options, "format": "ply"})
    summary_of(answer)
    (tmp_path / "c.ply").write_bytes(answer.content)
    assert len(read_point_cloud(tmp_path / "c.ply")) > 5000


@pytest.mark.parametrize(
    ("name", "content"), [("d.png", SMALL_DEPTH), ("d.npy", npy(np.full((24, 40), 2, np.float32)))]
)
def test_upsample(client, name, content):
    files = {"image": ("i.png", LEFT), "depth": (name, content)}
    answer = client.post("/upsample", files=files, data={"model": "bicubic", "format": "npy"})
    assert summary_of(answer)["depth"]["median"] == pytest.approx(2, rel=0.01)
    assert np.load(io.BytesIO(answer.content)).shape == (96, 160)


def test_compress_and_decompress(client, stz):
    answer = client.post("/decompress", files={"file": ("a.stz", stz)})
    assert summary_of(answer)["pairs"] == 1
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["calib.txt", "left.png", "right.png"]
        left = np.asarray(Image.open(archive.open("left.png"))).astype(float)
    assert np.abs(left - shifted_pair(11)[0]).mean() < 8
    answer = client.post("/decompress", files={"file": ("a.stz", stz)}, data={"view": "left"})
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), left)
    answer = client.post("/compress", files={"left": ("l.png", LEFT)}, data={"target_bpp": "2"})
    assert summary_of(answer)["bpp"] <= 2
    answer = client.post("/decompress", files={"file": ("a.stz", answer.content)})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["image.png"]


def test_what_needs_no_turn(client):
    assert client.get("/health").json() == {"status": "ok", "version": stereopsis.__version__}
    models = client.get("/models").json()
    assert "hitnet.scenes" in models["matching"]
    assert "hitnet.eth3d" not in models["matching"]  # no weights here
    schema = client.get("/openapi.json").json()
    assert {"/match", "/depth", "/upsample", "/compress", "/decompress"} <= schema["paths"].keys()
    assert {"413", "422", "503", "504"} <= schema["paths"]["/match"]["post"]["responses"].keys()
    assert set(client.get("/").json()["paths"]) >= set(schema["paths"])
    text = client.get("/metrics").text
    assert 'stereopsis_requests_total{path="/health",status="200"} 1.0' in text
    assert "process_resident_memory_bytes" in text


MATCH = {"model": "sgbm"}
CUT = LEFT[: len(LEFT) // 2]
BAD = [
    ("/match", {"left": ("l.png", LEFT)}, {}, 422, "right is missing; send it as a field of the form."),
    ("/match", {"left": ("l.png", LEFT)}, {"right": "text"}, 422, "right is text; send it as a file."),
    ("/match", {**PAIR, "right": ("r.png", b"")}, MATCH, 422, "right is empty (0 bytes); send a file."),
    ("/match", {**PAIR, "right": ("r.png", b"no picture")}, MATCH, 422, "right is not a picture"),
    ("/match", {**PAIR, "right": ("r.png", CUT)}, MATCH, 422, "right.png cannot be read as an image"),
    ("/match", {**PAIR, "right": ("r.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n")}, MATCH, 422, "right is not a picture"),
    ("/match", {**PAIR, "right": ("../../r", NARROW)}, MATCH, 422, "160x96 and right is 159x96"),
    ("/match", {**PAIR, "left": ("l.png", bomb(60000, 60000))}, MATCH, 413, "left"),
    ("/match", {**PAIR, "left": ("l.png", bomb(300, 200))}, MATCH, 413, "left is 300x200, 60,000 pixels, and"),
    ("/match", {**PAIR, "left": ("l.png", bytes(400_000))}, MATCH, 413, "more than 300,000 bytes"),
    ("/match", PAIR, {"model": "hitnet.scene"}, 422, "did you mean hitnet.scenes"),
    ("/match", PAIR, {"model": "fdkn.any"}, 422, "fdkn.any does not match views; choose one of"),
    ("/match", PAIR, {"model": "hitnet.eth3d"}, 422, "has no shipped weights"),
    ("/match", PAIR, {"max_disparity": "many"}, 422, "max_disparity is 'many'; input should be a valid integer"),
    ("/match", PAIR, {"max_disparity": "0"}, 422, "max_disparity is '0'; input should be greater than or equal to 1"),
    ("/match", PAIR, {"max_disparity": "99999"}, 422, "less than or equal to 1024"),
    ("/match", PAIR, {"format": "exr"}, 422, "format is 'exr'; input should be"),
    ("/match", PAIR, {"max_disparty": "64"}, 422, "there is no field 'max_disparty'; choose from left, right"),
    ("/depth", PAIR, MATCH, 422, "calibration is missing"),
    ("/depth", {**PAIR, "calibration": ("c.txt", b"prose")}, MATCH, 422, "calibration.txt is in no known calibration"),
    ("/depth", {**PAIR, "calibration": ("c.yml", b"\xff\xfe\x00")}, MATCH, 422, "calibration.yml"),
    ("/depth", {**PAIR, "calibration": ("c.txt", CALIB.replace("96", "200").encode())}, MATCH, 422, "another shape"),
    ("/upsample", {"image": ("i.png", LEFT)}, {}, 422, "depth is missing"),
    ("/upsample", {"image": ("i.png", LEFT), "depth": ("d.npy", b"prose")}, {}, 422, "cannot be read as an array"),
    ("/upsample", {"image": ("i.png", LEFT), "depth": ("d.png", LEFT)}, {}, 422, "depth.png is a RGB picture"),
    ("/upsample", {"image": ("i.png", LEFT), "depth": ("d.png", SMALL_DEPTH)}, {"unit": "-1"}, 422, "unit is '-1'"),
    (
        "/upsample",
        {"image": ("i.png", LEFT), "depth": ("d.npy", npy(np.zeros((2, 2), np.float32)).replace(b"(2, 2)", b"(9, 9)"))},
        {}, 422, "is truncated",
    ),
    (
        "/upsample",
        {"image": ("i.png", LEFT), "depth": ("d.npy", npy(np.zeros(1)).replace(b"(1,), }     ", b"(100000,), }"))},
        {}, 413, "shrink it",
    ),
    ("/upsample", {"image": ("i.png", LEFT), "depth": ("d.npz", npz_bomb())}, {}, 413, "unpacks to more than"),
    ("/upsample", {"image": ("i.png", LEFT), "depth": ("d.npz", b"PK")}, {}, 422, "cannot be read as an .npz file"),
    ("/compress", PAIR, {"quality": "9"}, 422, "quality is '9'"),
    ("/compress", PAIR, {"target_bpp": "0.0001"}, 422, "are too few"),
    ("/compress", {"left": ("l.png", LEFT), "calibration": ("c.txt", CALIB.encode())}, {}, 422, "there is one image"),
    ("/decompress", {"file": ("a.stz", b"prose")}, {}, 422, "the file is no .stz file"),
    ("/decompress", {"file": ("a.stz", b"")}, {}, 422, "the file is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "files", "fields", "status", "sentence"), BAD, ids=range(len(BAD)))
def test_bad_requests_are_one_sentence(client, path, files, fields, status, sentence):
    answer = client.post(path, files=files, data=fields)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    detail = answer.json()["detail"]
    assert sentence in detail
    assert "\n" not in detail
    assert "/tmp" not in detail
    assert detail.endswith((".", "?"))


def test_bad_compressed_files(client, stz):
    def refused(content, **fields):
        answer = client.post("/decompress", files={"file": ("a.stz", content)}, data=fields)
        assert answer.status_code == 422, answer.text
        return answer.json()["detail"]

    for length in range(1, len(stz), len(stz) // 12):
        assert "file" in refused(stz[:length])
    for place in range(0, len(stz), len(stz) // 12):
        refused(stz[:place] + bytes([stz[place] ^ 0x55]) + stz[place + 1 :])
    assert "there is no pair 3" in refused(stz, index="3")
    side = client.post("/decompress", files={"file": ("a.stz", stz), "side": ("s.png", LEFT)})
    assert (side.status_code, "leave the side view out" in side.json()["detail"]) == (422, True)


def test_a_compressed_bomb(client):
    from stereopsis.compression.bitstream import Header, Record, Stream, pack

    content = pack(Header("hyperprior.photos", bytes(8)), [Record(2, 3, 0, 8000, 4000, (Stream(b"a", 0),) * 2)])
    answer = client.post("/decompress", files={"file": ("a.stz", content)})
    assert answer.status_code == 413
    assert "pair 0 of file.stz is 8000x4000" in answer.json()["detail"]


def test_bad_http(client):
    cases = [
        (client.post("/match", json={"left": 1}), 415, "multipart/form-data"),
        (client.post("/match", content=b"abc", headers={"content-type": "multipart/form-data"}), 400, ""),
        (client.post("/match", content=b"abc", headers={"content-type": "multipart/form-data; boundary=x"}), 400, ""),
        (client.post("/match", headers={"content-length": "x"}), 415, ""),
        (client.get("/match"), 405, "/match does not take GET; use POST."),
        (client.get("/nothing"), 404, "There is no /nothing here; see /openapi.json."),
        (client.post("/nothing", files=PAIR), 404, ""),
        (client.put("/health"), 405, ""),
    ]
    for answer, status, sentence in cases:
        assert answer.status_code == status, answer.text
        assert sentence in answer.json()["detail"]

    def parts():
        for _ in range(100):
            yield bytes(10_000)

    answer = client.post("/match", content=parts(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413  # without a stated length
    text = client.get("/metrics").text
    assert 'stereopsis_refused_total{limit="pixels"}' in text
    assert 'path="other",status="404"' in text
    assert "nothing" not in text


def test_too_little_memory_and_mistakes_of_ours(client, monkeypatch):
    def explode(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried ...")

    monkeypatch.setattr("stereopsis.pipeline.match.match_images", explode)
    answer = client.post("/match", files=PAIR, data=MATCH)
    assert (answer.status_code, "not enough memory" in answer.json()["detail"]) == (413, True)

    def wrong(*_, **__):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("stereopsis.pipeline.match.match_images", wrong)
    quiet = testclient.TestClient(client.app, raise_server_exceptions=False)
    answer = quiet.post("/match", files=PAIR, data=MATCH)
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_few_models_stay_in_memory(client):
    for model in ("bm", "sgbm", "sgbm-hh"):
        summary_of(client.post("/match", files=PAIR, data={"model": model, "max_disparity": "32"}))
    assert "stereopsis_loaded_models 2.0" in client.get("/metrics").text


def test_a_real_server_stops_at_sigterm():
    pytest.importorskip("uvicorn", reason="needs pip install 'stereopsis[serve]'")
    command = [sys.executable, "-m", "stereopsis", "serve", "--port", "0", "--preload", "bm", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = json.loads("".join(iter(running.stdout.readline, "}\n")) + "}")["url"]
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(url + "/health", timeout=10) as answer:
                    assert json.load(answer)["status"] == "ok"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        os.kill(running.pid, signal.SIGTERM)
        out, errors = running.communicate(timeout=30)
        assert (running.returncode, out) == (0, "")
        assert "Traceback" not in errors
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--host", "203.0.113.1", "--port", "0"], "cannot be listened at"),
        (["--max-pixels", "0"], "the limit pixels is 0; it must be at least 1"),
        (["--seconds", "0"], "the limit seconds is 0 s; it must be above 0"),
        (["--port", "0", "--preload", "hitnet.scene"], "did you mean hitnet.scenes"),
    ],
)
def test_bad_options(words, message, capsys):
    from stereopsis.cli import main

    assert main(["serve", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_missing_extra_is_named(monkeypatch, capsys):
    from stereopsis.cli import main

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--port", "0"]) == 2
    assert "pip install 'stereopsis[serve]'" in capsys.readouterr().err


def test_the_device_of_the_worker():
    from stereopsis.apps.server.limits import Limits
    from stereopsis.apps.server.metrics import Metrics
    from stereopsis.apps.server.worker import Worker

    worker = Worker(Limits(), Metrics(frozenset()), "cpu")
    assert next(worker.model("hitnet.scenes", "matching").parameters()).device == torch.device("cpu")
    worker.close()
