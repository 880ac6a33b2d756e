"""Names of models and how they are loaded."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import stereopsis
from stereopsis.zoo import ModelCard, get_entry, list_models, load, register, registry, save_weights


@dataclass(frozen=True)
class _Config:
    width: int = 4
    strides: tuple[int, ...] = (1, 2)


def _linear() -> nn.Module:
    return nn.Linear(_Config().width, 2)


@pytest.fixture
def dummies(monkeypatch: pytest.MonkeyPatch):
    """A registry of its own, with one model of each kind."""
    monkeypatch.setattr(registry, "_entries", {})
    monkeypatch.setattr(registry, "MODEL_MODULES", ())
    common = {"family": "matching", "build": _linear, "config": _Config()}
    register("linear.scenes", architecture="linear", description="", weights_file="absent.safetensors", **common)
    register("linear.eth3d", architecture="linear", description="", official=True, **common)
    register("linear.untrained", architecture="linear", description="", **common)
    register("plain", family="matching", architecture="plain", build=nn.Identity, description="", needs_weights=False)


def test_classical_models_are_listed_and_load_without_weights():
    assert {"bm", "sgbm", "sgbm-hh"} <= set(list_models(family="matching"))
    assert list_models("sgbm*") == ["sgbm", "sgbm-hh"]
    assert not stereopsis.load("sgbm").training


def test_listing_filters_by_pattern_and_family(dummies):
    assert list_models("linear*") == ["linear.eth3d", "linear.scenes", "linear.untrained"]
    assert list_models(family="compression") == []
    with pytest.raises(ValueError, match="family 'stereo' is unknown; use one of matching"):
        list_models(family="stereo")


def test_unknown_name_offers_close_ones(dummies):
    with pytest.raises(ValueError, match=r"no model named 'linear.scene'; did you mean linear.scenes"):
        get_entry("linear.scene")
    with pytest.raises(ValueError, match=r"'zzz'; choose one of linear.eth3d, "):
        get_entry("zzz")


def test_a_name_is_registered_once(dummies):
    with pytest.raises(ValueError, match="'plain' is registered twice"):
        register("plain", family="matching", architecture="", build=nn.Identity, description="")


def test_entries_are_frozen(dummies):
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_entry("plain").name = "other"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("linear.eth3d", "stereopsis import CHECKPOINT --architecture linear.eth3d --out FILE.safetensors"),
        ("linear.untrained", "no shipped weights; train it or pass"),
    ],
)
def test_a_tag_without_weights_says_how_to_get_them(dummies, name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_missing_shipped_file_is_named(dummies):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors are missing; reinstall"):
        load("linear.scenes")


def test_given_weights_are_loaded_in_the_wanted_dtype(dummies, tmp_path):
    source = _linear()
    card = ModelCard("linear", config=get_entry("linear.eth3d").config_dict(), model="linear.eth3d")
    path = save_weights(tmp_path / "w.safetensors", source, card, storage="float32")
    model = load("linear.eth3d", weights=path, dtype=torch.bfloat16)
    assert not model.training
    assert model.weight.dtype == torch.bfloat16
    assert torch.equal(load("linear.eth3d", weights=path).weight, source.weight)


def test_a_model_may_choose_what_to_compute_in_lower_precision(dummies):
    class Mixed(nn.Linear):
        compute_dtype = torch.float32

    register(
        "mixed", family="matching", architecture="", build=lambda: Mixed(2, 2), description="", needs_weights=False
    )
    model = load("mixed", dtype=torch.bfloat16)
    assert (model.compute_dtype, model.weight.dtype) == (torch.bfloat16, torch.float32)


def test_weights_for_a_classical_method_are_refused(dummies):
    with pytest.raises(ValueError, match="plain is a classical method and has no weights"):
        load("plain", weights="w.safetensors")


def test_unusable_device_is_one_sentence(dummies):
    with pytest.raises(ValueError, match=r"device 'nonsense' cannot be used here .* choose 'cpu'"):
        load("plain", device="nonsense")
