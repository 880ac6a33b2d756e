"""The viewer's page in a real browser: what is on the screen, pixel by pixel."""

from contextlib import contextmanager
from io import BytesIO
from threading import Thread

import numpy as np
import pytest
import torch
from browser import opened_page  # noqa: F401
from PIL import Image
from views import shifted_pair

import stereopsis
from stereopsis.apps.viewer import Extras, ViewServer, open_source, write_page
from stereopsis.apps.viewer.pages import FrameCache
from stereopsis.io import write_disparity, write_image


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """Three pairs with planes of 7, 11 and 15 px, their truth, and the middle pair's file cut short in a copy."""
    folder = tmp_path_factory.mktemp("sequence")
    for name in ("left", "right", "truth"):
        (folder / name).mkdir()
    for number, shift in enumerate((7, 11, 15)):
        for name, view in zip(("left", "right"), shifted_pair(shift), strict=True):
            write_image(folder / name / f"{number}.png", view)
        write_disparity(folder / "truth" / f"{number}.pfm", np.full((96, 160), shift, np.float32))
    (folder / "calib.txt").write_text(
        "cam0=[200 0 80; 0 200 48; 0 0 1]\ncam1=[200 0 80; 0 200 48; 0 0 1]\nbaseline=100\nwidth=160\nheight=96\n"
    )
    return folder


@contextmanager
def served(source):
    with ViewServer(FrameCache(source)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.url
        server.shutdown()


def pairs(folder, **options):
    extras = Extras(truth=folder / "truth", max_disparity=32, **options)
    return open_source(folder, matcher=lambda: stereopsis.load("sgbm"), codec=stereopsis.load, extras=extras)


def show(page, url):
    page.goto(url)
    page.wait_for_selector("body[data-state=ready][data-drawn]")


def pixels(locator) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(locator.screenshot())).convert("RGB")).astype(float)


def values_at(page, key, x=100, y=50) -> str:
    """What the head says while the pointer is on this pixel of the map."""
    box = page.locator(f"#picture-{key} .stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] * (x + 0.5) / 160, box["y"] + box["height"] * (y + 0.5) / 96)
    return page.locator("#values").text_content()


def test_sequence_in_a_browser(sequence, tmp_path, opened_page):  # noqa: F811
    with served(pairs(sequence)) as url, opened_page() as page:
        show(page, url)
        captions = page.locator("figcaption b").all_text_contents()
        expected = [
            "Left view",
            "Right view",
            "Disparity",
            "Confidence",
            "Depth, near is bright",
            "Error",
            "Ground truth",
        ]
        assert captions == ["Points", *expected]
        assert page.locator("#place").text_content() == "1 of 3: 0"
        assert "160 x 96 px" in page.locator("#facts").text_content()
        words = values_at(page, "disparity").split()
        assert words[:4] == ["x", "100,", "y", "50"]
        assert float(words[words.index("disparity") + 1]) == pytest.approx(7, abs=0.3)
        assert float(words[words.index("depth") + 1]) == pytest.approx(200 * 0.1 / 7, rel=0.05)
        assert float(words[words.index("truth") + 1]) == 7
        left, right = (page.locator(f"#picture-{side} i").bounding_box() for side in ("left", "right"))
        stage = page.locator("#picture-left .stage").bounding_box()
        other = page.locator("#picture-right .stage").bounding_box()
        moved = (left["x"] - stage["x"]) - (right["x"] - other["x"])
        assert moved * 160 / stage["width"] == pytest.approx(7, abs=0.5)

        error = pixels(page.locator("#picture-error img"))
        assert np.median(error[..., 2] - error[..., 0]) > 50  # blue is right
        canvas = page.locator("#canvas")
        before = pixels(canvas)
        background = np.array((16, 20, 28))
        assert (np.abs(before - background).max(axis=2) > 20).mean() > 0.1  # points are drawn
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 320, box["y"] + 230, steps=4)
        page.mouse.up()
        page.wait_for_timeout(300)
        assert np.abs(pixels(canvas) - before).mean() > 2  # and turn
        page.locator("#reset").click()

        page.locator("#slider").fill("2")
        page.wait_for_selector('body[data-state=ready][data-frame="2"]')
        words = values_at(page, "disparity").split()
        assert float(words[words.index("disparity") + 1]) == pytest.approx(15, abs=0.3)
        assert page.locator("#place").text_content() == "3 of 3: 2"
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector('body[data-state=ready][data-frame="1"]')
        page.screenshot(path=tmp_path / "page.png")
        assert len(np.unique(np.asarray(Image.open(tmp_path / "page.png")).reshape(-1, 4)[:, :3], axis=0)) > 1000


def test_a_frame_that_cannot_be_read(sequence, tmp_path, opened_page):  # noqa: F811
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(sequence, folder)
    (folder / "right" / "1.png").write_bytes((folder / "right" / "1.png").read_bytes()[:500])
    with served(pairs(folder)) as url, opened_page() as page:
        show(page, url)
        page.locator("#slider").fill("1")
        page.wait_for_selector('body[data-state=ready][data-frame="1"]')
        assert "1.png cannot be read as an image" in page.locator("#sentence").text_content()
        page.locator("#slider").fill("2")
        page.wait_for_selector('body[data-state=ready][data-frame="2"]')
        assert page.locator("#sentence").is_hidden()
        assert page.locator("figure").count() == 7


def test_one_file_without_a_server(sequence, tmp_path, opened_page):  # noqa: F811
    size = write_page(tmp_path / "page.html", FrameCache(pairs(sequence)))
    assert size == (tmp_path / "page.html").stat().st_size
    with opened_page() as page:
        show(page, (tmp_path / "page.html").as_uri())
        assert page.locator("figure").count() == 7
        page.locator("#slider").fill("1")
        page.wait_for_selector('body[data-state=ready][data-frame="1"]')
        words = values_at(page, "disparity").split()
        assert float(words[words.index("disparity") + 1]) == pytest.approx(11, abs=0.3)


def test_an_image_without_disparity(tmp_path, opened_page):  # noqa: F811
    """A codec of one view: nothing to match, and so neither a map nor points."""
    from stereopsis.compression.codec import PairCodec

    codec = stereopsis.load("hyperprior.photos")
    assert isinstance(codec, PairCodec)
    view = torch.from_numpy(shifted_pair(7)[0]).permute(2, 0, 1)[None].float() / 255
    (tmp_path / "image.stz").write_bytes(codec.compress(view, 2))
    source = open_source(tmp_path / "image.stz", matcher=lambda: None, codec=lambda name: codec)
    with served(source) as url, opened_page() as page:
        page.goto(url)
        page.wait_for_selector("body[data-state=ready]")
        assert page.locator("figure").count() == 1
        assert page.locator("#points").is_hidden()
        assert "one view, so no disparity" in page.locator("#facts").text_content()
