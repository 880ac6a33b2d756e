"""The mean of several runs' weights."""

import pytest
import torch

from stereopsis.training.publish import average
from stereopsis.zoo import ModelCard, read_weights, save_weights


def _file(folder, name, state, **card):
    return save_weights(folder / f"{name}.safetensors", state, ModelCard("hitnet", **card), storage="float32")


def test_mean_under_the_last_card(tmp_path):
    one = _file(tmp_path, "one", {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(1)}, recipe={"name": "first"})
    two = _file(tmp_path, "two", {"a": torch.tensor([3.0, 0.0]), "b": torch.ones(1)}, recipe={"name": "second"})
    average([one, two], tmp_path / "mean.safetensors", metrics={"epe": 1.0}, training_time="2 min", notes="a mean")
    state, card = read_weights(tmp_path / "mean.safetensors")
    assert torch.equal(state["a"], torch.tensor([2.0, 1.0]))
    assert torch.equal(state["b"], torch.tensor([0.5]))
    assert (card.recipe["name"], card.metrics, card.training_time) == ("second", {"epe": 1.0}, "2 min")


def test_what_has_no_mean_is_refused(tmp_path):
    one = _file(tmp_path, "one", {"a": torch.ones(2)}, config={"width": 1})
    two = _file(tmp_path, "two", {"a": torch.ones(2)}, config={"width": 2})
    whole = _file(tmp_path, "whole", {"a": torch.ones(2, dtype=torch.int8)}, config={"width": 1})
    for files, reason in (([], "no weights"), ([one, two], "not weights of one network"), ([whole], "whole numbers")):
        with pytest.raises(ValueError, match=reason):
            average(files, tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()
