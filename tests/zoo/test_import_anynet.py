"""The importer of the authors' AnyNet checkpoints, on made-up ones under their names."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from stereopsis.matching.anynet import C1, C4, OFFICIAL, AnyNet
from stereopsis.pipeline.match import match
from stereopsis.zoo import ModelCard, get_entry, load, save_weights
from stereopsis.zoo.importers import anynet_state, import_anynet, import_checkpoint


def _official_names() -> dict[str, str]:
    """Module of the published network to ours."""
    names = {"feature_extraction.block0.0.0": "features.stem.0"}
    blocks = {"feature_extraction.block0.0.1": "features.stem.1"}
    for layer in (1, 2):
        blocks[f"feature_extraction.block0.1.{layer}"] = f"features.down.0.{layer}"
        blocks[f"feature_extraction.blocks.0.{layer}"] = f"features.down.1.{layer}"
        blocks[f"feature_extraction.blocks.1.{layer}"] = f"features.down.2.{layer}"
        for scale in (0, 1):
            theirs = f"feature_extraction.upblocks.{scale}.conv.{layer - 1}"
            blocks[theirs] = f"features.up.{scale}.{layer - 1}"
    for stage in range(3):
        for layer in range(6):
            blocks[f"volume_postprocess.{stage}.{layer}"] = f"regularize.{stage}.{layer}"
    for theirs, ours in blocks.items():
        for part in (0, 2):  # normalisation and convolution
            names[f"{theirs}.{part}"] = f"{ours}.{part}"
    for layer in (0, 2, 4, 6):
        names[f"refine_spn.0.{layer}"] = f"refine.guidance.{layer}"
    names |= {"refine_spn.1": "refine.lift", "refine_spn.2": "refine.project"}
    return names


def _official_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights as the authors stored them: in DataParallel, and without the counts of batches."""
    theirs = {ours: name for name, ours in _official_names().items()}
    tensors = {}
    for name, value in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            tensors[f"module.{theirs[module]}.{kind}"] = value
    return tensors


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = AnyNet(OFFICIAL)
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.normal_(value)
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "anynet.tar"
    torch.save({"epoch": 299, "state_dict": _official_tensors(model), "optimizer": {}}, path)
    return path


def _one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_every_weight_arrives_where_it_belongs(model, checkpoint):
    assert len(_official_tensors(model)) == 153
    for other in (import_anynet(AnyNet(OFFICIAL), checkpoint), import_checkpoint("anynet", AnyNet(), checkpoint)):
        assert other.state_dict().keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_names_without_the_prefix_are_known_too(model):
    bare = {name.removeprefix("module."): value for name, value in _official_tensors(model).items()}
    assert anynet_state(bare).keys() == model.state_dict().keys()


@pytest.mark.parametrize("config", [C4, replace(C1, refiner=None), replace(C1, refiner="conv")])
def test_another_layout_is_refused_and_left_untouched(checkpoint, config):
    other = AnyNet(config)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="does not hold the weights of this architecture") as error:
        import_anynet(other, checkpoint)
    _one_sentence(error)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_checkpoint_must_fit_exactly(model, tmp_path, change):
    tensors = _official_tensors(model)
    if change == "missing":
        del tensors["module.refine_spn.2.weight"]
    elif change == "unknown":
        tensors["module.refine_spn.3.weight"] = torch.zeros(1)
    else:
        tensors["module.refine_spn.2.weight"] = torch.zeros(1, 4, 3, 3)
    torch.save({"state_dict": tensors}, tmp_path / "other.tar")
    with pytest.raises(ValueError, match="refine") as error:
        import_anynet(AnyNet(OFFICIAL), tmp_path / "other.tar")
    _one_sentence(error)


class Surprise:
    """Something that a checkpoint must not be able to build."""


@pytest.mark.parametrize("content", [b"", b"some text", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x02.", b"PK\x03\x04"])
def test_a_foreign_file_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "foreign.tar").write_bytes(content)
    with pytest.raises(ValueError) as error:
        import_anynet(AnyNet(OFFICIAL), tmp_path / "foreign.tar")
    assert "foreign.tar" in _one_sentence(error)


@pytest.mark.parametrize(
    "content",
    [Surprise(), {"state_dict": Surprise()}, {"weights": {}}, {"state_dict": {"a": 1}}, [1, 2], {"state_dict": 3}],
    ids=["object", "object inside", "no state_dict", "numbers", "list", "number"],
)
def test_a_file_of_other_things_is_refused_in_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "other.tar")
    with pytest.raises(ValueError) as error:
        import_anynet(AnyNet(OFFICIAL), tmp_path / "other.tar")
    assert "other.tar" in _one_sentence(error)


def test_a_truncated_checkpoint_is_refused(checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    for part in (0.1, 0.5, 0.99):
        (tmp_path / "cut.tar").write_bytes(content[: int(part * len(content))])
        with pytest.raises(ValueError) as error:
            import_anynet(AnyNet(OFFICIAL), tmp_path / "cut.tar")
        assert "cut.tar" in _one_sentence(error)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.tar does not exist") as error:
        import_anynet(AnyNet(OFFICIAL), tmp_path / "nothing.tar")
    _one_sentence(error)


def test_an_architecture_without_an_importer_is_named(tmp_path):
    with pytest.raises(ValueError, match="no importer for sgbm; anynet, dkn, fdkn and hitnet have one") as error:
        import_checkpoint("sgbm", nn.Identity(), tmp_path / "x")
    _one_sentence(error)


def test_imported_weights_match_through_the_pipeline(model, checkpoint, tmp_path):
    entry = get_entry("anynet.official")
    card = ModelCard(entry.architecture, config=entry.config_dict(), model=entry.name)
    imported = import_checkpoint(entry.architecture, entry.build(), checkpoint)
    path = save_weights(tmp_path / "w.safetensors", imported, card, storage="float32")
    left, right = torch.rand(1, 3, 40, 70), torch.rand(1, 3, 40, 70)
    found = match(left, right, model="anynet.official", weights=path)
    with torch.inference_mode():
        assert torch.equal(found.disparity, model.eval()(left, right).disparity)
    assert match(left, right, model="anynet.official", weights=path, max_disparity=64, check=1.0).valid.shape[2] == 40
    with pytest.raises(ValueError, match="choose the model these weights were made for"):
        load("anynet", weights=path)
