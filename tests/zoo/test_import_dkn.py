"""The importer of the authors' DKN and FDKN checkpoints, on made-up ones under their names."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from stereopsis.upsampling.dkn import DKN, DKN_X8, FDKN_X8, OFFICIAL
from stereopsis.zoo import ModelCard, get_entry, load, save_weights
from stereopsis.zoo.importers import dkn_state, import_checkpoint, import_dkn


def _filled(config):
    torch.manual_seed(0)
    model = DKN(config)
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.normal_(value)
    return model


def _official_tensors(model):
    """A model's weights as the authors stored them."""
    layers = ["conv1", "down1", "conv2", "down2", "conv3", "conv4", "conv5"]
    if model.config.fast:
        layers = [f"layers.{i}" for i in range(6)]
    tensors = {}
    for name, value in model.state_dict().items():
        stream, _, rest = name.partition(".")
        module, _, kind = rest.rpartition(".")
        scope = {"image_stream": "ImageKernel", "depth_stream": "DepthKernel"}[stream]
        if module == "head":
            third = len(value) // 3
            tensors[f"{scope}.conv_weight.{kind}"] = value[:third]
            tensors[f"{scope}.conv_offset.{kind}"] = value[third:]
        else:
            layer, _, part = module.rpartition(".")
            number = layers.index(layer) + 1
            tensors[f"{scope}.conv{number}{'_bn' if part == '1' else ''}.{kind}"] = value
    return tensors


def _one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("config", [DKN_X8, OFFICIAL], ids=["DKN", "FDKN"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_weight_arrives_where_it_belongs(tmp_path, config, prefix):
    model = _filled(config)
    tensors = {prefix + name: value for name, value in _official_tensors(model).items()}
    torch.save(tensors, tmp_path / "FDKN_8x")
    architecture = "fdkn" if config.fast else "dkn"
    for other in (
        import_dkn(DKN(config), tmp_path / "FDKN_8x"),
        import_checkpoint(architecture, DKN(config), tmp_path / "FDKN_8x"),
    ):
        assert other.state_dict().keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_counts_of_batches_may_be_missing():
    model = _filled(OFFICIAL)
    bare = {name: value for name, value in _official_tensors(model).items() if "num_batches" not in name}
    assert dkn_state(bare, fast=True).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "config", [FDKN_X8, DKN_X8, replace(OFFICIAL, guidance=None), replace(OFFICIAL, kernel_size=5)]
)
def test_another_layout_is_refused_and_left_untouched(tmp_path, config):
    torch.save(_official_tensors(_filled(OFFICIAL)), tmp_path / "FDKN_8x")
    other = DKN(config)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="does not hold the weights of this architecture") as error:
        import_dkn(other, tmp_path / "FDKN_8x")
    _one_sentence(error)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    "lost", ["ImageKernel.conv_weight.weight", "DepthKernel.conv_offset.bias", "DepthKernel.conv2.bias"]
)
def test_a_checkpoint_must_be_whole(tmp_path, lost):
    tensors = _official_tensors(_filled(OFFICIAL))
    del tensors[lost]
    torch.save(tensors, tmp_path / "FDKN_8x")
    with pytest.raises(ValueError, match="does not hold the weights") as error:
        import_dkn(DKN(OFFICIAL), tmp_path / "FDKN_8x")
    _one_sentence(error)


def test_heads_that_do_not_fit_together_are_refused(tmp_path):
    tensors = _official_tensors(_filled(OFFICIAL))
    tensors["ImageKernel.conv_offset.weight"] = torch.zeros(288, 64, 1, 1)
    torch.save(tensors, tmp_path / "FDKN_8x")
    with pytest.raises(ValueError, match="does not hold the weights") as error:
        import_dkn(DKN(OFFICIAL), tmp_path / "FDKN_8x")
    _one_sentence(error)


class Surprise:
    """Something that a checkpoint must not be able to build."""


@pytest.mark.parametrize("content", [Surprise(), {"a": 1}, [1, 2], torch.zeros(3)])
def test_a_file_of_other_things_is_refused_in_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "other")
    with pytest.raises(ValueError) as error:
        import_dkn(DKN(OFFICIAL), tmp_path / "other")
    assert "other" in _one_sentence(error)


@pytest.mark.parametrize("content", [b"", b"some text", b"\x80\x02."])
def test_a_foreign_or_missing_file_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(ValueError, match="foreign is not a readable PyTorch checkpoint") as error:
        import_dkn(DKN(OFFICIAL), tmp_path / "foreign")
    _one_sentence(error)
    with pytest.raises(FileNotFoundError, match="nothing does not exist") as missing:
        import_dkn(DKN(OFFICIAL), tmp_path / "nothing")
    _one_sentence(missing)


def test_weights_are_for_one_scale_and_one_meaning(tmp_path):
    """The tensors of all scales have the same shapes; the card tells them apart."""
    entry = get_entry("fdkn_x4")
    card = ModelCard(entry.architecture, config=entry.config_dict(), model=entry.name)
    path = save_weights(tmp_path / "w.safetensors", entry.build(), card)
    assert load("fdkn_x4", weights=path).config.scale == 4
    for other in ("fdkn_x8", "fdkn_x16", "fdkn_x8.official", "dkn_x8"):
        with pytest.raises(ValueError, match=r"choose the model (they|these weights) were made for"):
            load(other, weights=path)
