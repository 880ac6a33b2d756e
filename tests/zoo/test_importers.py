"""The importer of the authors' HITNet: a protocol buffer reader, a renaming, and what neither accepts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stereopsis.matching.hitnet import ETH3D, SF, HITNet
from stereopsis.zoo.importers import hitnet_state, import_hitnet, read_frozen_graph

# --- a writer for the few messages a frozen graph is made of


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def _field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor_proto(array: np.ndarray, dtype: int = 1) -> bytes:
    shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
    return _field(1, dtype) + _field(2, shape) + _field(4, array.tobytes())


def _node(name: str, operation: str, **attributes: bytes) -> bytes:
    body = _field(1, name.encode()) + _field(2, operation.encode()) + _field(3, b"some/input")
    for key, value in attributes.items():
        body += _field(5, _field(1, key.encode()) + _field(2, value))
    return _field(1, body)


def _constant(name: str, array: np.ndarray, dtype: int = 1) -> bytes:
    return _node(name, "Const", dtype=_field(6, dtype), value=_field(8, _tensor_proto(array, dtype)))


def _raw_constant(shape: bytes, content: bytes) -> bytes:
    return _node("a", "Const", value=_field(8, _field(1, 1) + _field(2, shape) + _field(4, content)))


def _graph(tensors: dict[str, np.ndarray]) -> bytes:
    nodes = [_node("image", "Placeholder", shape=_field(7, b""))]
    nodes += [_constant(name, array) for name, array in tensors.items()]
    nodes += [_constant("split/axis", np.array(3, "<i4"), dtype=3), _node("add", "AddV2")]
    versions = _field(4, _field(1, 1987))
    return b"".join(nodes) + versions


def _official_names() -> dict[str, str]:
    """Scope of the published graph to our module, from research notes, section 6 (level 0 is the coarsest there)."""
    names = {"fe_shared/conv_down_1_0": "features.stem.0"}
    for n in range(4):
        names[f"fe_shared/conv_down_{n}"] = f"features.down.{n}.0.0"
        names[f"fe_shared/conv_down_1_{n + 1}"] = f"features.down.{n}.1.0"
        names[f"fe_shared/conv_upsample_{n}"] = f"features.up.{n}.0"
        for layer in range(3):
            names[f"fe_shared/conv_up_{layer}_{n}"] = f"features.merge.{n}.{layer}.0"
    names["fe_shared/conv_up_1_4"], names["fe_shared/conv_up_2_4"] = "features.bottom.0.0", "features.bottom.1.0"
    for level in range(5):
        ours = 4 - level
        names[f"level{level}/shared/conv_reduce"] = f"initialize.{ours}.reduce"
        names[f"level{level}/shared/conv_embedding"] = f"initialize.{ours}.embedding.0"
        names[f"level{level}/init_to_prop/conv_hyp"] = f"initialize.{ours}.descriptor.0"
        names[f"level{level}/shared/prop_warp/conv2d_neighborsX_1"] = f"propagate.{ours}.cost.0"
        names[f"level{level}/shared/prop/conv1"] = f"propagate.{ours}.conv.0"
        names[f"level{level}/shared/prop/convn"] = f"propagate.{ours}.update"
        for block in range(2):
            names[f"level{level}/shared/prop/resblock{block}/conv1"] = f"propagate.{ours}.blocks.{block}.conv1.0"
            names[f"level{level}/shared/prop/resblock{block}/conv2"] = f"propagate.{ours}.blocks.{block}.conv2"
    for step, blocks in enumerate((4, 4, 2)):
        names[f"shared/refinement_l{step}/conv1x1"] = f"refine.{step}.reduce.0"
        names[f"shared/refinement_l{step}/refiner/conv1"] = f"refine.{step}.conv.0"
        names[f"shared/refinement_l{step}/refiner/convn"] = f"refine.{step}.update"
        for block in range(blocks):
            scope = f"shared/refinement_l{step}/refiner/resblock{block}"
            names[f"{scope}/conv1"] = f"refine.{step}.blocks.{block}.conv1.0"
            names[f"{scope}/conv2"] = f"refine.{step}.blocks.{block}.conv2"
    return names


def _official_tensors(model: HITNet) -> dict[str, np.ndarray]:
    """A model's weights as the published graph stores them, with something that is no weight."""
    state = model.state_dict()
    tensors = {"truediv/y": np.array([255.0], "<f4"), "level0/shared/prop/scale": np.ones((2, 2), "<f4")}
    for theirs, ours in _official_names().items():
        kernel = state[f"{ours}.weight"].numpy().transpose(2, 3, 1, 0)  # (out, in, h, w) to (h, w, in, out)
        tensors[f"{theirs}/kernel"] = np.ascontiguousarray(kernel)
        tensors[f"{theirs}/bias"] = state[f"{ours}.bias"].numpy()
    return tensors


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = HITNet(ETH3D)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data)
    return model


@pytest.fixture(scope="module")
def checkpoints(model, tmp_path_factory):
    """The same made-up weights as a frozen graph and as an archive."""
    folder = tmp_path_factory.mktemp("official")
    tensors = _official_tensors(model)
    (folder / "eth3d.pb").write_bytes(_graph(tensors))
    np.savez(folder / "eth3d.npz", **tensors)
    return folder


def _one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- reading a graph


def test_float_constants_are_read_by_name(tmp_path):
    tensors = {
        "a/kernel": np.arange(24, dtype="<f4").reshape(2, 3, 4),
        "a/bias": np.array([1.5, -2.25], "<f4"),
        "scope/ünïcode": np.zeros((1, 0, 3), "<f4"),
    }
    (tmp_path / "g.pb").write_bytes(_graph(tensors))
    found = read_frozen_graph(tmp_path / "g.pb")
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_other_wire_types_are_passed_over(tmp_path):
    fixed = _varint(9 << 3 | 1) + bytes(8) + _varint(10 << 3 | 5) + bytes(4) + _field(11, 2**60)
    path = tmp_path / "g.pb"
    path.write_bytes(fixed + _constant("a", np.ones(3, "<f4")) + fixed)
    assert list(read_frozen_graph(path)) == ["a"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a graph at all, but some text",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(64),
        b"\xff" * 64,
        _node("add", "AddV2"),  # no constants
        _constant("a", np.array(3, "<i4"), dtype=3),  # none of float
        _field(1, _field(1, 2**70) + _field(2, b"Const")),  # a name that is a number
        _raw_constant(_field(2, _field(1, 5)), bytes(8)),
        _raw_constant(_field(2, _field(1, 2**64 - 1)), bytes(8)),
        _raw_constant(b"", bytes(7)),
        _field(1, _field(1, b"\xff\xfe") + _field(2, b"Const")),
    ],
    ids=[
        "empty", "text", "picture", "zeros", "ones", "no constants", "integers only", "number as name",
        "shape too large", "negative size", "odd bytes", "broken name",
    ],
)  # fmt: skip
def test_a_foreign_file_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "foreign.pb"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_frozen_graph(path)
    assert "foreign.pb" in _one_sentence(error)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_graph_is_refused_in_one_sentence(checkpoints, tmp_path, part):
    content = (checkpoints / "eth3d.pb").read_bytes()
    path = tmp_path / "cut.pb"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError) as error:
        import_hitnet(HITNet(ETH3D), path)
    assert "cut.pb" in _one_sentence(error)


SMALL_GRAPH = _graph({"a/kernel": np.arange(8, dtype="<f4").reshape(2, 4), "a/bias": np.ones(2, "<f4")})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(SMALL_GRAPH)), where=st.integers(0, len(SMALL_GRAPH) - 1), value=st.integers(0, 255))
def test_damage_gives_a_sentence_or_tensors_but_nothing_else(tmp_path, cut, where, value):
    damaged = bytearray(SMALL_GRAPH)
    damaged[where] = value
    path = tmp_path / "damaged.pb"
    path.write_bytes(damaged[:cut])
    try:
        tensors = read_frozen_graph(path)
    except ValueError as error:
        assert "damaged.pb" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(array.dtype == np.float32 for array in tensors.values())


# --- weights under our names


@pytest.mark.parametrize("name", ["eth3d.pb", "eth3d.npz"])
def test_every_weight_arrives_where_it_belongs(model, checkpoints, name):
    other = import_hitnet(HITNet(ETH3D), checkpoints / name)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_the_state_holds_every_tensor_once(model):
    state = hitnet_state(_official_tensors(model))
    assert len(state) == 212
    assert state.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (replace(ETH3D, in_channels=3), "features.stem.0.weight"),
        (SF, "tensors differ"),
        (replace(ETH3D, refine_channels=(32, 32, 32)), "refine.2"),
        (replace(ETH3D, feature_channels=(16, 16, 24, 24, 32, 32)), "tensors differ"),
    ],
    ids=["colour", "single-scale", "wider", "six scales"],
)
def test_another_architecture_is_refused_and_left_untouched(checkpoints, config, what):
    model = HITNet(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="architecture") as error:
        import_hitnet(model, checkpoints / "eth3d.pb")
    assert what in _one_sentence(error)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pb does not exist") as error:
        import_hitnet(HITNet(ETH3D), tmp_path / "nothing.pb")
    _one_sentence(error)
    with pytest.raises(FileNotFoundError):
        import_hitnet(HITNet(ETH3D), tmp_path)  # a folder


def test_a_damaged_archive_is_refused(checkpoints, tmp_path):
    content = (checkpoints / "eth3d.npz").read_bytes()
    for name, damaged in (("half.npz", content[: len(content) // 2]), ("text.npz", b"text"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError) as error:
            import_hitnet(HITNet(ETH3D), tmp_path / name)
        assert name in _one_sentence(error)


@pytest.mark.parametrize("kernel", [np.ones((3, 3), "<f4"), np.array("text"), np.ones((3, 3, 1, 16), complex)])
def test_an_archive_of_other_things_is_refused(checkpoints, tmp_path, kernel):
    with np.load(checkpoints / "eth3d.npz") as archive:
        tensors = dict(archive)
    path = tmp_path / "other.npz"
    np.savez(path, **{**tensors, "fe_shared/conv_down_1_0/kernel": kernel})
    with pytest.raises(ValueError) as error:
        import_hitnet(HITNet(ETH3D), path)
    assert "other.npz" in _one_sentence(error)
