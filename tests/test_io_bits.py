"""Views of fewer bits than their files have."""

import cv2
import numpy as np
import pytest
import torch
from views import shifted_pair

import stereopsis
from stereopsis.cli import main
from stereopsis.io.bits import bits_in_use, full_range

SHIFT = 9


def _views():
    left, right = shifted_pair(SHIFT, 64, 128)
    return (np.ascontiguousarray(view[..., 1]).astype(np.uint16) for view in (left, right))


@pytest.mark.parametrize(("bits", "factor"), [(8, 1), (10, 4), (12, 16), (14, 64)])
def test_bits_in_use_are_found(bits, factor):
    left, right = (torch.from_numpy((view * factor).astype(np.float32))[None, None] / 65535 for view in _views())
    assert bits_in_use(left, right) == bits
    with pytest.warns(UserWarning, match=f"the views use {bits} of 16 bits"):
        stretched = full_range(left, right)
    whole = torch.from_numpy(next(iter(_views())).astype(np.float32)) / 255
    assert (stretched[0][0, 0] - whole).abs().max() < 0.004


def test_dark_views_of_eight_bits_stay(recwarn):
    dark = torch.randint(0, 12, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0)).float() / 255
    assert full_range(dark, dark)[0] is dark
    assert not recwarn.list


def test_both_views_get_one_factor():
    left = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 900 / 65535
    right = left * 4
    with pytest.warns(UserWarning, match="12 of 16 bits"):
        a, b = full_range(left, right)
    assert torch.allclose(b, 4 * a)


@pytest.mark.parametrize("model", ["hitnet.scenes", "sgbm"])
@pytest.mark.parametrize("factor", [4, 16])
def test_they_match_like_the_picture_of_eight_bits(model, factor):
    left, right = _views()
    expected = stereopsis.match(left.astype(np.uint8), right.astype(np.uint8), model=model, max_disparity=32)
    with pytest.warns(UserWarning, match="of 16 bits"):
        found = stereopsis.match(left * np.uint16(factor), right * np.uint16(factor), model=model, max_disparity=32)
    both = found.valid & expected.valid
    assert both.float().mean() > 0.5
    assert (found.disparity - expected.disparity).abs()[both].mean() < 0.1


def test_commands_say_so(tmp_path, capsys, monkeypatch):
    import json

    monkeypatch.chdir(tmp_path)
    for name, view in zip(("left.png", "right.png"), _views(), strict=True):
        cv2.imwrite(name, view * 16)
    assert main(["match", "left.png", "right.png", "--model", "sgbm", "--out", "d.pfm", "--json"]) == 0
    printed = capsys.readouterr()
    assert "the views use 12 of 16 bits" in printed.err
    assert any("12 of 16 bits" in text for text in json.loads(printed.out)["warnings"])
    main(["doctor", "left.png", "right.png"])
    assert "12 of 16 bits" in capsys.readouterr().err


def test_archives_keep_the_levels_of_twelve_bits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, view in zip(("left.png", "right.png"), _views(), strict=True):
        cv2.imwrite(name, view * 16)
    words = ["compress", "left.png", "right.png", "--quality", "8", "--model", "hyperprior.photos", "--out", "a.stz"]
    assert main(words) == 0
    assert "multiplied by 16 because this codec keeps 8 bits" in capsys.readouterr().err
    assert main(["decompress", "a.stz", "--out", "back"]) == 0
    decoded = cv2.imread("back/left.png", cv2.IMREAD_GRAYSCALE)
    assert len(np.unique(decoded)) > 64
