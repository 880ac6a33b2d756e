"""``stereopsis restore`` and ``stereopsis smooth``."""

import pytest
import torch
from views import texture

from stereopsis.cli import main
from stereopsis.io import read_image, write_image
from stereopsis.upsampling.restoration import remove_texture, restore
from stereopsis.zoo import load

FILTER = ["--model", "guided-filter"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A guide in colour and in grey, a noisy image, and broken files; tests run inside it."""
    monkeypatch.chdir(tmp_path)
    image = torch.from_numpy(texture(40, 60).copy()).permute(2, 0, 1) / 255
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    write_image("guide.png", image)
    write_image("grey.png", image[:1])
    write_image("noisy.png", image / 2 + 0.05 * noise)
    write_image("small.png", image[:, :-1])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("guide", ["guide.png", "grey.png"])
@pytest.mark.parametrize("image", ["noisy.png", "grey.png"])
def test_restore(folder, capsys, guide, image):
    assert main(["restore", guide, image, "--out", "new/o.png", *FILTER]) == 0
    assert capsys.readouterr().out == "new/o.png\n"
    expected = restore(load("guided-filter"), *(read_image(path, None)[None] for path in (guide, image)))
    torch.testing.assert_close(read_image("new/o.png", None), expected[0], rtol=0, atol=0.5001 / 255)


def test_smooth(folder):
    results = []
    for n in (1, 2):
        assert main(["smooth", "guide.png", "--out", "o.jpg", "--iterations", str(n), *FILTER]) == 0
        assert main(["smooth", "guide.png", "--out", "o.png", "--iterations", str(n), *FILTER]) == 0
        results.append(read_image("o.png"))
        expected = remove_texture(load("guided-filter"), read_image("guide.png")[None], n)
        torch.testing.assert_close(results[-1], expected[0], rtol=0, atol=0.5001 / 255)
    assert results[1].var() < results[0].var()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("restore guide.png small.png --out o.png", "guide.png is 60x40 and small.png is 60x39; both must show"),
        ("restore guide.png absent.png --out o.png", "absent.png"),
        ("restore guide.png text.png --out o.png", "text.png cannot be read as an image"),
        ("restore guide.png noisy.png --out o.txt", "must end in .png"),
        ("restore guide.png noisy.png --out o.png --model hitnet.scenes", "hitnet.scenes does not upsample"),
        ("smooth guide.png --out o.png --iterations 0 --model guided-filter", "iterations is 0; it must be at least 1"),
        ("smooth text.png --out o.png", "text.png cannot be read as an image"),
    ],
)
def test_one_sentence_and_no_file(folder, capsys, line, message):
    before = sorted(folder.rglob("*"))
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(folder.rglob("*")) == before
