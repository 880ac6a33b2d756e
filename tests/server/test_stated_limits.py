"""What a calibration states is limited as what a request states, warnings reach the answer, and CORS is an option."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from stereopsis.apps.server.app import create_app
from stereopsis.apps.server.worker import Worker

CALIB = "cam0=[50 0 24; 0 50 16; 0 0 1]\ncam1=[50 0 24; 0 50 16; 0 0 1]\ndoffs=0\nbaseline=100\nwidth=48\nheight=32\n"


def picture(shift=0):
    import io

    file, values = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (32, 64), np.uint8)
    Image.fromarray(values[:, shift : shift + 48]).save(file, format="PNG")
    return file.getvalue()


PAIR = {"left": ("l.png", picture()), "right": ("r.png", picture(4))}


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(cors=("http://localhost:3000",))) as client:
        yield client


@pytest.mark.parametrize("ndisp", [1025, 10**9])
def test_a_calibration_cannot_ask_for_more_than_a_request(client, ndisp):
    files = PAIR | {"calibration": ("calib.txt", f"{CALIB}ndisp={ndisp}\n".encode())}
    answer = client.post("/depth", files=files, data={"model": "sgbm"})
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith(f"calibration.txt states ndisp={ndisp} and the limit is 1024")
    assert client.post("/depth", files=files, data={"model": "sgbm", "max_disparity": 32}).status_code == 200
    assert client.get("/health").json()["status"] == "ok"


def test_warnings_reach_the_summary(client, monkeypatch):
    whole = Worker.match

    def doubtful(*arguments):
        warnings.warn("the pair is doubtful", stacklevel=1)
        return whole(*arguments)

    monkeypatch.setattr(Worker, "match", doubtful)
    with TestClient(create_app()) as other:
        answer = other.post("/match", files=PAIR, data={"model": "sgbm"})
    assert json.loads(answer.headers["Stereopsis-Summary"])["warnings"] == ["the pair is doubtful"]


def test_cors_is_an_option(client):
    asked = {"Origin": "http://localhost:3000"}
    assert client.get("/health", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]
    assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "http://other"}).headers
    with TestClient(create_app()) as closed:
        assert "access-control-allow-origin" not in closed.get("/health", headers=asked).headers
    with pytest.raises(ValueError, match="the origin is 'localhost'"):
        create_app(cors=("localhost",))
