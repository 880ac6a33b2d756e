"""Exported graphs: standard operators, any size, the same numbers; and what refuses to be exported."""

import json

import pytest
import torch
from torch.nn import functional as F
from views import shifted_pair

import stereopsis
from stereopsis.cli import main
from stereopsis.data.patterns import pattern, pattern_pair
from stereopsis.export import ParityError, export_model
from stereopsis.export.graphs import PIXELS, RELATIVE, Placement, Rule, plan_of
from stereopsis.export.parity import compare, runtime_values, torch_values, verify
from stereopsis.export.runtimes import convert_to_openvino, open_session
from stereopsis.io import read_disparity, write_image
from stereopsis.matching.hitnet import HITNet, HITNetConfig
from stereopsis.ops.kernel_average import kernel_average_portable, kernel_average_reference
from stereopsis.ops.portable import portable, standard_operators
from stereopsis.ops.propagation import propagate, propagate_reference
from stereopsis.ops.tile_match import tile_match, tile_match_reference
from stereopsis.ops.tile_warp import tile_warp_cost, tile_warp_cost_reference
from stereopsis.zoo import get_entry
from stereopsis.zoo.registry import ModelEntry

TINY = HITNetConfig(
    max_disparity=22,
    feature_channels=(4, 4, 8),
    tile_channels=4,
    propagation_channels=8,
    propagation_blocks=1,
    refine_channels=(8, 8, 4),
    refine_dilations=((1,), (3,), (1,)),
)


def _needs(*packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed; it is in the extra 'export'")


# --- operators in the form that other runtimes know


@pytest.mark.parametrize("max_disparity", [1, 4, 13, 40])
@pytest.mark.parametrize("spread", [0, 3])  # 0: all costs are equal
def test_tile_match(max_disparity, spread):
    generator = torch.Generator().manual_seed(max_disparity)
    left = torch.randint(-spread, spread + 1, (2, 3, 4, 9), generator=generator).float()
    right = torch.randint(-spread, spread + 1, (2, 3, 4, 36), generator=generator).float()
    with standard_operators():
        found = tile_match(left, right, max_disparity)
    assert torch.equal(found, tile_match_reference(left, right, max_disparity))


def test_tile_warp_cost():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 2, 5, 8, 16, generator=generator)
    disparity = 9 * torch.randn(2, 1, 8, 16, generator=generator)
    disparity[0, 0, 0, :3] = torch.tensor([1e12, -1e12, 4.0])
    with standard_operators():
        found = tile_warp_cost(left, right, disparity)
    assert torch.allclose(found, tile_warp_cost_reference(left, right, disparity), atol=1e-4)


@pytest.mark.parametrize("zeros_outside", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_kernel_average(zeros_outside, residual, holes):
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.randn(2, 1, 9, 11, generator=generator), torch.rand(2, 4, 9, 11, generator=generator)
    shifts = 3 * torch.randn(2, 8, 9, 11, generator=generator)  # many beyond the window or the image
    valid = torch.rand(2, 1, 9, 11, generator=generator) > 0.3 if holes else None
    options = {"radius": 3, "valid": valid, "residual": residual, "zeros_outside": zeros_outside}
    found = kernel_average_portable(values.nan_to_num(), weights, shifts, **options)
    expected = kernel_average_reference(values, weights, shifts, **options)
    # a sample that barely touches a known pixel divides by almost nothing
    steady = expected[1] > 1e-3
    assert torch.allclose(found[0][steady], expected[0][steady], atol=2e-4)
    assert torch.allclose(found[1], expected[1], atol=1e-5)


def test_propagation():
    generator = torch.Generator().manual_seed(0)
    x, gates = torch.randn(2, 3, 7, 6, generator=generator), torch.randn(2, 3, 3, 7, 6, generator=generator)
    with standard_operators():
        found = propagate(x, gates, normalize=True)
    assert torch.allclose(found, propagate_reference(x, gates, normalize=True), atol=1e-5)
    assert not portable()


def test_dkn_in_layers_with_holes():
    model = get_entry("dkn_x8").build().eval()
    x = pattern(13, 18, channels=1)
    with torch.no_grad():
        expected = model.depth_stream(x)
        with standard_operators():
            found = model.depth_stream(x)
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max())


# --- graphs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small HITNet of two views of any size, exported: its entry, the model and what was written."""
    _needs("onnx", "onnxscript", "onnxruntime")
    torch.manual_seed(0)
    model = HITNet(TINY).eval()
    entry = ModelEntry("hitnet.tiny", "matching", "hitnet", lambda: HITNet(TINY), "small", TINY)
    return entry, model, export_model(entry, model, tmp_path_factory.mktemp("tiny"), dynamic=True)


def test_hitnet_is_itself_in_onnxruntime_and_openvino(tiny):
    entry, model, done = tiny
    assert {check.size for check in done.checks} == {"320x192", "256x320"}
    assert {check.output for check in done.checks} == {"disparity", "confidence"}
    assert all(check.passed for check in done.checks)
    _needs("openvino")
    plan = plan_of(entry, model)
    checks = verify(plan, [open_session("openvino", done.files[0])], [(48, 80, 1), (128, 32, 2)])
    assert all(check.passed for check in checks)
    assert checks[0].limit == 0.05
    assert checks[0].share == 0.001


def test_standard_operators_alone(tiny):
    import onnx

    graph = onnx.load(tiny[2].files[0])
    assert {(opset.domain, opset.version) for opset in graph.opset_import} == {("", 20)}
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert not graph.functions
    assert [value.name for value in graph.graph.input] == ["left", "right"]
    assert [value.name for value in graph.graph.output] == ["disparity", "confidence"]
    onnx.checker.check_model(graph)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("height", "width", "channels"), [(50, 83, 3), (64, 48, 1)])
def test_a_graph_behind_the_interface_of_the_network(tiny, runtime, height, width, channels):
    from stereopsis.export.matcher import GraphMatcher

    _needs(runtime)
    _, model, done = tiny
    views = [view[:, :channels] for view in pattern_pair(height, width, 3)]
    found = stereopsis.match(*views, model=GraphMatcher(done.description, runtime))
    expected = stereopsis.match(*views, model=model)
    assert found.disparity.shape == expected.disparity.shape == (1, 1, height, width)
    assert (found.disparity - expected.disparity).abs().max() < 1e-3
    assert (found.confidence - expected.confidence).abs().max() < 1e-3
    assert torch.equal(found.valid, expected.valid)


def test_a_graph_refuses_what_it_was_not_made_for(tiny, tmp_path):
    from stereopsis.export.matcher import GraphMatcher

    matcher = GraphMatcher(tiny[2].description, "onnxruntime")
    left, right = pattern_pair(32, 32)
    assert matcher(left, right, 22).valid.all()
    with pytest.raises(ValueError, match="searches 22 px, not 64; export it with --max-disparity 64"):
        matcher(left, right, 64)
    with pytest.raises(ValueError, match="takes one pair of one size"):
        matcher(torch.cat([left, left]), torch.cat([right, right]))
    description = json.loads(tiny[2].description.read_text())
    (tmp_path / "fixed.json").write_text(json.dumps(description | {"size": [64, 64]}))
    (tmp_path / tiny[2].files[0].name).write_bytes(tiny[2].files[0].read_bytes())
    fixed = GraphMatcher(tmp_path / "fixed.json", "onnxruntime")
    assert fixed(*pattern_pair(60, 61)).disparity.shape[-2:] == (60, 61)
    with pytest.raises(ValueError, match=r"is for 64x64 and the images are 32x32 \(padded\); export it with --dynamic"):
        fixed(left, right)
    (tmp_path / "ir.json").write_text(json.dumps(description | {"format": "openvino"}))
    with pytest.raises(ValueError, match="describes openvino graphs; run them with openvino"):
        GraphMatcher(tmp_path / "ir.json", "onnxruntime")


def test_the_match_command_runs_a_graph(tiny, tmp_path, capsys):
    for name, view in zip(("left", "right"), shifted_pair(11), strict=True):
        write_image(tmp_path / f"{name}.png", view)
    pair = [str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    arguments = ["match", *pair, "--out", str(tmp_path / "o.npy"), "--graph", str(tiny[2].description)]
    assert main([*arguments, "--runtime", "onnxruntime", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "hitnet.tiny"
    expected = stereopsis.match(*pair, model=tiny[1]).disparity[0]
    assert torch.allclose(read_disparity(tmp_path / "o.npy")[0], expected, atol=1e-3)


def test_weights_in_half_precision(tiny, tmp_path):
    from stereopsis.export.onnx import store_half

    entry, model, done = tiny
    path = tmp_path / "half.onnx"
    path.write_bytes(done.files[0].read_bytes())
    store_half(path)
    import onnx

    stored = {t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) == 4}
    assert stored == {onnx.TensorProto.FLOAT16}
    for parameter in (rounded := HITNet(TINY).eval()).parameters():
        parameter.requires_grad_(False)
    rounded.load_state_dict({k: v.half().float() if v.dim() > 1 else v for k, v in model.state_dict().items()})
    assert all(c.passed for c in verify(plan_of(entry, rounded), [open_session("onnxruntime", path)], [(64, 96, 1)]))


def test_anynets_propagation_scans_any_width(tmp_path):
    _needs("onnx", "onnxscript", "onnxruntime", "openvino")
    from stereopsis.export.onnx import write_onnx

    plan = plan_of(get_entry("anynet.scenes"), stereopsis.load("anynet.scenes"))
    assert [graph.name for graph in plan.graphs] == ["stage1", "stage2", "stage3", "stage4"]
    values = torch_values(plan.graphs, plan.example(48, 64, 0))
    path = tmp_path / "stage4.onnx"
    write_onnx(plan.graphs[3], values, path, multiple=plan.placement.multiple, dynamic=True)
    convert_to_openvino(path, tmp_path / "stage4.xml")
    for runtime, file in (("onnxruntime", path), ("openvino", tmp_path / "stage4.xml")):
        session = open_session(runtime, file)
        for height, width in ((64, 112), (96, 48)):
            values = torch_values(plan.graphs, plan.example(height, width, 1))
            found = runtime_values(plan.graphs[3:], [session], values)["disparity_4"]
            assert compare("stage4", "disparity_4", "", values["disparity_4"], found, PIXELS).passed


def test_fdkn_with_holes(tmp_path):
    _needs("onnx", "onnxscript", "onnxruntime")
    entry = get_entry("fdkn_x8.scenes")
    done = export_model(entry, stereopsis.load(entry.name), tmp_path, size=(46, 63))
    assert [path.name for path in done.files] == ["fdkn_x8.scenes.onnx"]
    assert {(check.size, check.limit, check.relative) for check in done.checks} == {("64x48", 1e-3, True)}
    assert max(check.largest for check in done.checks) < 1e-3


def test_the_graph_of_dkn_is_its_forward():
    model = stereopsis.load("fdkn_x8.scenes")
    plan = plan_of(get_entry("fdkn_x8.scenes"), model)
    inputs = plan.example(32, 48, 0)
    values = torch_values(plan.graphs, inputs)
    whole = torch.ones_like(inputs["known"])
    refined, _ = plan.graphs[0].module(inputs["image"], inputs["depth"], whole)
    with torch.no_grad():
        expected = model(inputs["image"], inputs["depth"])
    assert torch.allclose(refined, expected.depth, atol=1e-4)
    assert values["valid"].min() >= 0
    assert not torch.allclose(values["refined"], refined)


def test_the_transforms_of_the_codec(tmp_path, capsys):
    _needs("onnx", "onnxscript", "onnxruntime")
    arguments = ["export", "hyperprior.photos", "--out", str(tmp_path / "new"), "--size", "100x64", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    names = [f"hyperprior.photos{part}" for part in (".json", ".g_a.onnx", ".h_a.onnx", ".h_s.onnx", ".g_s.onnx")]
    assert [path.rpartition("/")[2] for path in result["files"]] == names
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    assert {check["size"] for check in result["checks"]} == {"128x64"}
    assert all(check["passed"] for check in result["checks"])
    with pytest.raises(ValueError, match="does not match views"):
        stereopsis.export.matcher.GraphMatcher(tmp_path / "new" / "hyperprior.photos.json", "onnxruntime")


# --- judging, and refusing


def test_differences():
    ours = torch.tensor([0.0, 10.0, 20.0, 30.0])
    check = compare("g", "o", "1x4", ours, ours + torch.tensor([0.0, 0.04, 0.06, 0.0]), Rule(0.05, share=0.25))
    assert check.passed
    assert (check.largest, check.above) == (pytest.approx(0.06, rel=1e-4), 0.25)
    assert not compare("g", "o", "1x4", ours, ours + 1, PIXELS).passed
    assert compare("g", "o", "1x4", ours, ours + 0.02, RELATIVE).passed
    assert not compare("g", "o", "1x4", ours, ours + 0.04, RELATIVE).passed
    assert not compare("g", "o", "1x4", ours, torch.tensor([0.0, float("nan"), 20, 30]), Rule(0.05, share=0.1)).passed
    assert not compare("g", "o", "1x4", ours, ours[:3], PIXELS).passed
    nan = torch.full((3,), float("nan"))
    assert compare("g", "o", "1x3", nan, nan, PIXELS).largest == 0


def test_padding_and_cropping():
    image = pattern(5, 6)
    for placement, pad in (
        (Placement(4, "left", "bottom"), (2, 0, 0, 3)),
        (Placement(4, "right", "top"), (0, 2, 3, 0)),
    ):
        placed = placement.place(image)
        assert torch.equal(placed, F.pad(image, pad, "replicate"))
        assert torch.equal(placement.crop(placed, image.shape[-2:]), image)
    filled = Placement(4, fill=(0.1, 0.2, 0.3)).place(image)
    assert torch.allclose(filled[0, :, 7, 7], torch.tensor([0.1, 0.2, 0.3]))
    assert torch.allclose(filled[..., :5, :6], image)


def test_a_graph_that_differs_is_not_left_behind(tmp_path, monkeypatch, capsys):
    _needs("onnx", "onnxscript", "onnxruntime")
    entry = get_entry("hyperprior.photos")
    plan = plan_of(entry, stereopsis.load(entry.name))
    right = torch_values(plan.graphs, plan.example(64, 64, 0))
    outputs = {graph.name: next(iter(graph.outputs)) for graph in plan.graphs}

    def wrong(runtime, path):
        output = outputs[path.suffixes[-2][1:]]
        return lambda inputs: {output: torch.zeros_like(right[output])}

    monkeypatch.setattr("stereopsis.export.write_onnx", lambda graph, inputs, path, **_: path.touch())
    monkeypatch.setattr("stereopsis.export.open_session", wrong)
    with pytest.raises(ParityError, match=r"differs from torch by up to 1, above 0.001 in .* nothing was written"):
        export_model(entry, stereopsis.load(entry.name), tmp_path / "out", size=(64, 64))
    arguments = ["export", "hyperprior.photos", "--out", str(tmp_path / "out"), "--size", "64x64"]
    assert main(arguments) == 1
    assert "differs from torch" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 1
    assert not any(check["passed"] for check in json.loads(capsys.readouterr().out)["checks"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra(tmp_path, monkeypatch, capsys, package):
    from importlib import import_module

    def absent(name):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return import_module(name)

    monkeypatch.setattr("stereopsis.export.runtimes.import_module", absent)
    assert main(["export", "anynet.scenes", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("stereopsis: ")
    assert printed.endswith("run pip install 'stereopsis[export]'.\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("export sgbm --out OUT", "sgbm is a classical method and has no graph"),
        ("export hitnet.scene --out OUT", "did you mean hitnet.scenes"),
        ("export dkn_x8 --out OUT", "has no shipped weights"),
        ("export anynet.scenes --out OUT --size 640", "--size is '640'; give width and height"),
        ("export anynet.scenes --out OUT --size 0x48", "--size is '0x48'"),
        ("export anynet.scenes --out OUT --max-disparity 0", "--max-disparity is 0"),
        ("export fdkn_x8.scenes --out OUT --max-disparity 64", "searches no disparities"),
        ("export anynet.scenes --out left.png", "--out is left.png, which is a file"),
        ("match left.png left.png --out OUT.pfm --graph a.json", "give --runtime onnxruntime or openvino too"),
        ("match left.png left.png --out OUT.pfm --runtime openvino --graph a.json", "There is no description a.json"),
        ("match left.png left.png --out OUT.pfm --runtime openvino --graph prose.json", "does not describe exported"),
        ("match left.png left.png --out OUT.pfm --runtime openvino --dtype bfloat16", "--dtype bfloat16 is for torch"),
        ("match left.png left.png --out OUT.pfm --runtime openvino --device cuda", "--device cuda is for torch"),
        (
            "match left.png left.png --out OUT.pfm --runtime openvino --graph a.json --weights b.safetensors",
            "--weights and --graph exclude each other",
        ),
        ("match left.png left.png --out OUT.pfm --runtime onnxruntime --model sgbm", "cannot be exported"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, line, message):
    _needs("onnx", "onnxscript", "onnxruntime", "openvino")
    monkeypatch.chdir(tmp_path)
    write_image("left.png", shifted_pair()[0])
    (tmp_path / "prose.json").write_text("[1]")
    before = sorted(tmp_path.rglob("*"))
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("stereopsis: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before
