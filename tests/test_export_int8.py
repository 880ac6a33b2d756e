"""Convolutions in 8 bits: which ones, what they cost, and when nothing is written."""

import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import stereopsis
from stereopsis.cli import main
from stereopsis.data.patterns import pattern_pair
from stereopsis.data.textures import make_bank
from stereopsis.export import CostError, export_model, int8
from stereopsis.export.graphs import HITNET_EXACT, plan_of
from stereopsis.export.int8 import Cost, cost_of, layers, quantise, scenes
from stereopsis.export.matcher import GraphMatcher
from stereopsis.export.onnx import write_onnx
from stereopsis.export.parity import torch_values
from stereopsis.matching.hitnet import HITNet, HITNetConfig
from stereopsis.types import Disparity
from stereopsis.zoo.registry import ModelEntry

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason=f"{package} is not installed; it is in the extra 'export'")

TINY = HITNetConfig(
    max_disparity=22,
    feature_channels=(4, 4, 8),
    tile_channels=4,
    propagation_channels=8,
    propagation_blocks=1,
    refine_channels=(8, 8, 4),
    refine_dilations=((1,), (3,), (1,)),
)


@pytest.fixture(scope="module", autouse=True)
def _few_scenes():
    """Drawn textures alone, and few scenes."""
    patch = pytest.MonkeyPatch()
    bank = make_bank(drawn=3, photo_crops=0)
    patch.setattr(int8, "_bank", lambda: bank)
    for name in ("CALIBRATION", "TEST"):
        patch.setattr(f"stereopsis.export.{name}", getattr(int8, name)[:2])
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = HITNet(TINY).eval()
    return ModelEntry("hitnet.tiny", "matching", "hitnet", lambda: HITNet(TINY), "small", TINY), model


@pytest.fixture
def traced_once(graph, monkeypatch):
    """Exports of the small model take the graph that is there, as tracing is slow."""
    monkeypatch.setattr(
        "stereopsis.export.write_onnx", lambda part, values, path, **options: shutil.copyfile(graph[2], path)
    )


@pytest.fixture(scope="module")
def graph(tiny, tmp_path_factory):
    """The graph in float32, and the inputs that it was traced with."""
    plan = plan_of(*tiny)
    inputs = plan.example(64, 96, 0)
    path = tmp_path_factory.mktemp("int8") / "tiny.onnx"
    write_onnx(plan.graphs[0], torch_values(plan.graphs, inputs), path, multiple=16, dynamic=False)
    return plan.graphs[0], inputs, path


def test_layers(graph, tiny):
    named = set(layers(graph[2]).values())
    convolutions = {name for name, module in tiny[1].named_modules() if isinstance(module, nn.Conv2d)}
    assert convolutions <= named


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_convolutions_alone_are_in_8_bits(graph, tmp_path, format):
    import onnx

    part, inputs, source = graph
    quantise(source, tmp_path / "q.onnx", part, [inputs], HITNET_EXACT, format)
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    made = {output: node for node in nodes for output in node.output}
    users = {user.op_type for user in nodes for name in user.input if name in made and "Dequant" in made[name].op_type}
    assert "Conv" in users
    assert not users & {"GatherElements", "Gather", "Unsqueeze", "Sub", "Scan", "Floor"}
    names = layers(source)
    assert sum(not re.search(HITNET_EXACT, layer) for layer in names.values()) > 10
    for node in nodes:
        if node.op_type == "Conv":
            weight = made.get(node.input[1])
            in_8_bits = weight is not None and weight.op_type == "DequantizeLinear"
            layer = names.get(node.name)  # None of what is no layer of the model
            assert in_8_bits == (layer is not None and not re.search(HITNET_EXACT, layer)), layer
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.usefixtures("traced_once")
def test_a_graph_in_8_bits(tiny, tmp_path, monkeypatch, format):
    monkeypatch.setattr(int8, "LARGEST_COST", float("inf"))  # an untrained network says anything
    entry, model = tiny
    done = export_model(entry, model, tmp_path / "out", format=format, size=(64, 96), dtype="int8")
    description = json.loads(done.description.read_text())
    assert description["dtype"] == "int8"
    assert description["float32_layers"] == HITNET_EXACT
    (cost,) = done.costs
    assert description["costs"] == [cost.as_dict()]
    assert (cost.data, cost.pairs) == ("rendered scenes", 2)
    assert cost.difference > 0
    assert all(check.passed for check in done.checks)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {path.name for path in done.files}
    assert not list((tmp_path / "out").glob("*.int8"))
    matcher = GraphMatcher(done.description, "onnxruntime" if format == "onnx" else "openvino")
    views = pattern_pair(60, 90)
    found = stereopsis.match(*views, model=matcher).disparity
    difference = (found - stereopsis.match(*views, model=model).disparity).abs()
    assert 0 < difference.median() < 2


@pytest.mark.usefixtures("traced_once")
def test_too_much_is_not_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "LARGEST_COST", -1e6)
    with pytest.raises(CostError, match=r"hitnet\.tiny in 8 bits is off by .* px on rendered scenes, .* nothing"):
        export_model(*tiny, tmp_path / "out", size=(64, 96), dtype="int8")
    assert not (tmp_path / "out").exists()


class _Off(nn.Module):
    def __init__(self, truth, by):
        super().__init__()
        self.map, self.by = truth, by

    def forward(self, left, right, max_disparity=None):
        values = self.map + self.by
        return Disparity(values, values > 0, torch.ones_like(values))


def test_costs_are_means_over_pairs():
    ((views, (truth, visible)),) = scenes([1], (64, 96), 32)
    assert truth.max() <= 32
    assert views[0].shape == (1, 3, 64, 96)
    near = torch.zeros_like(visible)
    near[..., :8, :8] = True
    pairs = [(views, (truth, torch.ones_like(visible))), (views, (truth + 4.0 * ~near, near))]
    cost = cost_of("here", _Off(truth, 0.25), _Off(truth, -0.5), iter(pairs), 32)
    assert cost == Cost("here", 2, pytest.approx(0.25), pytest.approx(0.5), pytest.approx(0.75))
    assert cost.passed
    assert not replace(cost, epe_int8=1.3).passed
    with pytest.raises(ValueError, match="nowhere holds no pairs"):
        cost_of("nowhere", _Off(truth, 0), _Off(truth, 0), iter([]), 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["anynet.scenes", "--dtype", "int8"], "anynet.scenes cannot be exported in 8 bits; HITNet can"),
        (["hitnet.scenes", "--data", "m.json"], "m.json is for the cost of int8 in graphs of any size"),
        (["hitnet.scenes", "--data", "m.json", "--dtype", "int8"], "in graphs of any size; ask for both"),
        (["hitnet.scenes", "--data", "no.json", "--dtype", "int8", "--dynamic"], "there is no manifest no.json"),
    ],
)
def test_bad_options(tmp_path, capsys, options, message):
    assert main(["export", *options, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
