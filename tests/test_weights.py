"""Weights files: round trip, checksums and everything that can be wrong with one."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stereopsis.zoo import (
    ModelCard,
    ModelEntry,
    load_into,
    read_card,
    read_weights,
    record_checksums,
    save_weights,
    verify_shipped,
    weights,
    write_card,
)

CONFIG = {"width": 4, "strides": (1, 2)}
ENTRY = ModelEntry("small.scenes", "matching", "small", nn.Identity, "", config=CONFIG)
CARD = ModelCard(
    "small", config=CONFIG, model="small.scenes", recipe={"steps": 10}, metrics={"epe": 1.5}, licence="Apache-2.0"
)


def _small(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


@pytest.fixture
def path(tmp_path):
    return save_weights(tmp_path / "small.safetensors", _small(), CARD)


@pytest.mark.parametrize(("storage", "tolerance"), [("float16", 1e-3), ("float32", 0)])
def test_round_trip(tmp_path, storage, tolerance):
    model = _small()
    path = save_weights(tmp_path / "m.safetensors", model, CARD, storage=storage)
    other = _small()
    card = load_into(other, path, ENTRY)
    assert (card.recipe, card.metrics, card.licence) == ({"steps": 10}, {"epe": 1.5}, "Apache-2.0")
    for key, value in model.state_dict().items():
        assert other.state_dict()[key].dtype == value.dtype
        torch.testing.assert_close(other.state_dict()[key], value, rtol=tolerance, atol=tolerance)


def test_float16_halves_the_file_and_integers_stay(tmp_path):
    state = {"w": torch.randn(1000), "count": torch.tensor(70_000)}
    half = save_weights(tmp_path / "h.safetensors", state, CARD)
    full = save_weights(tmp_path / "f.safetensors", state, CARD, storage="float32")
    assert full.stat().st_size - half.stat().st_size == 2000
    assert read_weights(half)[0]["count"] == 70_000


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = _small()
    first, second = (save_weights(tmp_path / f"{name}.safetensors", model, CARD) for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_tied_and_strided_tensors_are_stored(tmp_path):
    shared = torch.randn(3, 4)
    tensors, _ = read_weights(save_weights(tmp_path / "t.safetensors", {"a": shared, "b": shared.T}, CARD))
    assert torch.equal(tensors["a"], tensors["b"].T)


def test_card_can_be_read_and_replaced(path):
    before = read_weights(path)[0]
    write_card(path, replace(read_card(path), metrics={"epe": 1.2}))
    after, card = read_weights(path)
    assert card.metrics == {"epe": 1.2}
    assert card.model == "small.scenes"
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, _small(), CARD)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_values_beyond_float16_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="tensor w has values that are not finite as float16"):
        save_weights(tmp_path / "m.safetensors", {"w": torch.tensor([value])}, CARD)
    assert not list(tmp_path.iterdir())


def test_wrong_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        save_weights(tmp_path / "m.pt", _small(), CARD)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none\.safetensors; check the path"):
        read_weights(tmp_path / "none.safetensors")


def test_pickle_says_how_to_convert(tmp_path):
    torch.save(_small().state_dict(), tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"not safetensors; convert it with `stereopsis import"):
        read_weights(tmp_path / "m.pth")


@pytest.mark.parametrize("kept", [0, 5, 100, -10])
def test_truncated_file(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_weights(path)


def test_flipped_bit_in_a_tensor(path):
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="do not match the checksum in the header"):
        read_weights(path)


def test_safetensors_without_card(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="no stereopsis model card"):
        read_weights(tmp_path / "m.safetensors")


def test_another_architecture(path):
    entry = ModelEntry("large.scenes", "matching", "large", nn.Identity, "")
    with pytest.raises(ValueError, match=r"holds weights of small \(small.scenes\) but large.scenes is a large"):
        load_into(_small(), path, entry)


def test_another_configuration(path):
    entry = replace(ENTRY, name="small.wide", config=CONFIG | {"width": 8})
    with pytest.raises(ValueError, match=r"saved with width=4 \(small.scenes\) but small.wide has width=8"):
        load_into(_small(8), path, entry)


@pytest.mark.parametrize(
    ("model", "message"),
    [(_small(8), r"0.weight is \(4, 3, 3, 3\) instead of \(8, 3, 3, 3\)"), (nn.Conv2d(3, 4, 3), "lacks 2 tensors")],
)
def test_tensors_that_do_not_fit(path, model, message):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_into(model, path, replace(ENTRY, config=None))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_checksums_of_shipped_files(path):
    with pytest.raises(ValueError, match=r"checksums\.json cannot be read"):
        verify_shipped(path)
    assert record_checksums(path.parent) == {path.name: weights.file_sha256(path)}
    verify_shipped(path)
    load_into(_small(), path, ENTRY, verify=True)
    save_weights(path, _small(), CARD)
    with pytest.raises(ValueError, match="was changed or damaged"):
        verify_shipped(path)


def test_every_shipped_file_is_listed_and_intact():
    table = json.loads((weights.SHIPPED / weights.CHECKSUMS).read_text())
    assert {file.name for file in weights.SHIPPED.glob("*.safetensors")} == set(table)
    for name in table:
        verify_shipped(weights.SHIPPED / name)
        assert read_card(weights.SHIPPED / name).licence
