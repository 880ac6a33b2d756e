"""The training loop: schedule, phases, and runs that survive an interruption."""

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from stereopsis.compression.single import Reconstruction
from stereopsis.data.scenes import SceneConfig
from stereopsis.data.sensors import SensorConfig
from stereopsis.data.textures import make_bank
from stereopsis.matching.anynet import AnyNet
from stereopsis.matching.hitnet import HITNet, HITNetConfig
from stereopsis.matching.losses import AnyNetLossConfig
from stereopsis.training import loop
from stereopsis.training.compression import rate_and_distortion
from stereopsis.training.loop import rate_share, train
from stereopsis.training.publish import publish
from stereopsis.training.recipes import RECIPES, CodecLossConfig, DKNLossConfig, Phase, Recipe, recipe_from, with_steps
from stereopsis.training.upsampling import LEAST, USUAL, DKNObjective, GuidedBatch, RealGuidedStream
from stereopsis.types import Depth, StereoPair
from stereopsis.upsampling.dkn import DKN, DKNConfig
from stereopsis.zoo import load
from stereopsis.zoo.registry import get_entry

SCENE = SceneConfig(height=64, width=64, max_disparity=20.0, surfaces=(1, 2))
TINY = Recipe(
    name="tiny",
    model="hitnet.scenes",
    phases=(Phase(5, 1, 24, SCENE), Phase(4, 2, 32, replace(SCENE, width=128, max_disparity=28.0))),
    warmup=3,
    bf16=False,
)
NETWORK = HITNetConfig(max_disparity=32, feature_channels=(8, 8, 8, 8, 8), refine_channels=(8, 8, 8))


@pytest.fixture(scope="module")
def bank():
    return make_bank(photo_crops=0, drawn=3)


@pytest.fixture(autouse=True)
def every_step_is_logged(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)


def _network():
    torch.manual_seed(0)
    return HITNet(NETWORK)


def _log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class _PowerCutError(Exception):
    pass


def _cut_after(step):
    def progress(done, steps, means):
        if done == step:
            raise _PowerCutError

    return progress


@pytest.fixture(scope="module")
def whole_run(bank, tmp_path_factory):
    """An uninterrupted run: its folder and its network."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        model = _network()
        means = train(TINY, model, folder, bank=bank)
    return folder, model, means


@pytest.mark.parametrize("cut", [4, 5, 6, 9])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, bank, whole_run, cut):
    """Interrupted within a scene's pair of steps, at a change of phase, and in the last step."""
    with pytest.raises(_PowerCutError):
        train(TINY, _network(), tmp_path, bank=bank, progress=_cut_after(cut))
    torch.manual_seed(1234)  # the state of the machine is another
    torch.rand(7)
    model = HITNet(NETWORK)  # whose weights the checkpoint replaces
    means = train(TINY, model, tmp_path, bank=bank, resume=True)

    folder, expected, expected_means = whole_run
    assert _log(tmp_path) == _log(folder)
    assert means == expected_means
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    ours, theirs = (torch.load(path / "checkpoint.pt", weights_only=True)["optimizers"] for path in (tmp_path, folder))
    for our, their, average in zip(ours, theirs, ("momentum", "exp_avg"), strict=True):
        assert our["state"].keys() == their["state"].keys()
        assert all(torch.equal(our["state"][key][average], their["state"][key][average]) for key in our["state"])


def test_logged_means_survive_an_interruption_between_two_lines(tmp_path, bank, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 3)  # checkpoints at 2, 4, 6, 8
    means = train(TINY, _network(), tmp_path / "whole", bank=bank)
    original = loop._step
    calls = []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise _PowerCutError
        return original(*arguments)

    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(_PowerCutError):
        train(TINY, _network(), tmp_path / "cut", bank=bank)
    resumed = train(TINY, _network(), tmp_path / "cut", bank=bank, resume=True)
    assert [line["step"] for line in _log(tmp_path / "cut")] == [3, 6, 9]
    assert _log(tmp_path / "cut") == _log(tmp_path / "whole")
    assert resumed == means


def test_the_log_tells_every_step(whole_run):
    folder, _, means = whole_run
    log = _log(folder)
    assert [line["step"] for line in log] == list(range(1, 10))
    names = {"initialization", "propagation", "slant", "confidence", "loss", "epe", "bad3", "matched", "gradient"}
    for line in log:
        assert line.keys() == names | {"step"}
        assert all(value >= 0 for value in line.values())
        parts = ("initialization", "propagation", "slant", "confidence")
        assert line["loss"] == pytest.approx(sum(line[name] for name in parts), rel=1e-4)
    assert means == {key: value for key, value in log[-1].items() if key != "step"}


def test_the_checkpoint_holds_what_a_card_needs(whole_run):
    state = torch.load(whole_run[0] / "checkpoint.pt", weights_only=True)
    assert state["step"] == TINY.steps
    assert state["seconds"] > 0
    assert state["recipe"]["name"] == "tiny"
    assert state["model"].keys() == whole_run[1].state_dict().keys()
    assert not list(whole_run[0].glob("*.partial"))


def test_resuming_a_finished_run_changes_nothing(tmp_path, bank, whole_run):
    recipe = replace(TINY, phases=TINY.phases[:1])
    train(recipe, _network(), tmp_path, bank=bank)
    log, content = _log(tmp_path), (tmp_path / "checkpoint.pt").read_bytes()
    model = HITNet(NETWORK)
    assert train(recipe, model, tmp_path, bank=bank, resume=True)
    assert _log(tmp_path) == log
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


def test_a_new_run_in_an_old_folder_begins_a_new_log(tmp_path, bank):
    recipe = replace(TINY, phases=(Phase(2, 1, 24, SCENE),))
    for _ in range(2):
        train(recipe, _network(), tmp_path, bank=bank)
    assert [line["step"] for line in _log(tmp_path)] == [1, 2]


def test_another_seed_is_another_run(tmp_path, bank, whole_run):
    recipe = replace(TINY, seed=TINY.seed + 100, phases=TINY.phases[:1])
    train(recipe, _network(), tmp_path, bank=bank)
    assert _log(tmp_path)[0]["loss"] != _log(whole_run[0])[0]["loss"]


def test_nothing_to_resume_is_said_in_one_sentence(tmp_path, bank):
    with pytest.raises(FileNotFoundError, match="nothing to resume") as error:
        train(TINY, _network(), tmp_path / "new", bank=bank, resume=True)
    message = str(error.value)
    assert "checkpoint.pt" in message
    assert message.endswith(".")
    assert "\n" not in message


def test_steps_with_infinite_gradients_are_skipped(tmp_path, bank, caplog):
    model = _network()
    with torch.no_grad():
        model.features.stem[0].bias[0] = float("nan")
    before = model.features.stem[0].weight.clone()
    train(replace(TINY, phases=(Phase(1, 1, 24, SCENE),)), model, tmp_path, bank=bank)
    assert torch.equal(model.features.stem[0].weight, before)
    assert "step skipped" in caplog.text


def test_bfloat16_training_runs_and_keeps_float32_weights(tmp_path, bank):
    model = _network()
    means = train(replace(TINY, bf16=True, phases=(Phase(2, 1, 24, SCENE),)), model, tmp_path, bank=bank)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert means["loss"] < float("inf")


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, bank, whole_run):
    recipe = replace(TINY, phases=TINY.phases[:1])
    train(recipe, _network(), tmp_path, bank=bank)
    with pytest.raises(ValueError, match="made with another learning_rate") as error:
        train(replace(recipe, learning_rate=0.5), _network(), tmp_path, bank=bank, resume=True)
    assert str(error.value).endswith(".")


def test_curves_are_written_for_tensorboard(whole_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole_run[0] / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("training/loss")]
    assert losses == pytest.approx([line["loss"] for line in _log(whole_run[0])], rel=1e-6)


# --- the moving average


def _averaged(folder, bank, cut=None):
    recipe = replace(TINY, ema=0.8)
    model = _network()
    if cut is not None:
        with pytest.raises(_PowerCutError):
            train(recipe, model, folder, bank=bank, progress=_cut_after(cut))
        model = HITNet(NETWORK)
    train(recipe, model, folder, bank=bank, resume=cut is not None)
    return model, torch.load(folder / "checkpoint.pt", weights_only=True)


def test_the_model_ends_as_the_moving_average_of_its_course(tmp_path, bank):
    model, state = _averaged(tmp_path / "whole", bank)
    name = "features.stem.0.weight"
    assert torch.equal(model.state_dict()[name], state["ema"][name])
    assert not torch.equal(state["model"][name], state["ema"][name])
    again, resumed = _averaged(tmp_path / "cut", bank, cut=5)
    for key, value in state["ema"].items():
        assert torch.equal(resumed["ema"][key], value), key
        assert torch.equal(again.state_dict()[key], value), key


def test_anynet_is_trained_by_the_same_loop(tmp_path, bank):
    recipe = replace(TINY, model="anynet", ema=0.9, loss=AnyNetLossConfig(classification=1.0))
    torch.manual_seed(0)
    model = AnyNet()
    before = model.features.stem[0].weight.clone()
    means = train(recipe, model, tmp_path / "whole", bank=bank)
    assert {"regression", "classification", "epe1", "epe2", "epe3", "epe", "bad3"} <= means.keys()
    assert not torch.equal(model.features.stem[0].weight, before)
    torch.manual_seed(0)
    with pytest.raises(_PowerCutError):
        train(recipe, AnyNet(), tmp_path / "cut", bank=bank, progress=_cut_after(6))
    train(recipe, AnyNet(), tmp_path / "cut", bank=bank, resume=True)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["ema"] for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())  # running means too


def test_losses_of_another_network_are_refused(tmp_path, bank):
    with pytest.raises(ValueError, match="states HITNetLossConfig, but needs AnyNetLossConfig"):
        train(replace(TINY, model="anynet"), AnyNet(), tmp_path, bank=bank)


GUIDED = replace(
    TINY,
    name="guided",
    model="fdkn_x8",
    phases=(Phase(4, 2, 0, SCENE, sensor=SensorConfig((4, 4))),),
    loss=DKNLossConfig(),
    ema=0.9,
)


@pytest.mark.parametrize("fast", [True, False])
def test_upsampling_is_trained_by_the_same_loop(tmp_path, bank, fast):
    def network():
        torch.manual_seed(0)
        return DKN(DKNConfig(fast=fast, widths=(8, 8)))

    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    means = train(GUIDED, model, tmp_path / "whole", bank=bank)
    assert {"l1", "rmse", "bicubic"} <= means.keys()
    # but for biases before a normalisation, which takes them away again
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not [name for name in still if name.endswith("weight")]
    with pytest.raises(_PowerCutError):
        train(GUIDED, network(), tmp_path / "cut", bank=bank, progress=_cut_after(3))
    train(GUIDED, network(), tmp_path / "cut", bank=bank, resume=True)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["ema"] for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_bits_below_the_target_cost_nothing():
    images, quality = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((2,), 4.5)
    output = Reconstruction(images + 0.1, torch.tensor([128.0, 256.0], requires_grad=True), torch.zeros(2))
    for target, rate, costs in ((0.0, 0.75, True), (0.7, 0.75, True), (0.8, 0.8, False)):
        terms, watched = rate_and_distortion(output, images, quality, CodecLossConfig(target_bpp=target))
        assert terms["rate"].item() == pytest.approx(rate)
        assert terms["rate"].requires_grad == costs
        assert watched["bpp"].item() == pytest.approx(0.75)


def test_relative_errors_count_in_shares_of_bicubics():
    """A network that changes nothing leaves what bicubic leaves, whatever the map's range and ratio."""
    model = DKN(DKNConfig(fast=True, widths=(8, 8)))
    for stream in (model.image_stream, model.depth_stream):
        torch.nn.init.zeros_(stream.head.weight)
        torch.nn.init.zeros_(stream.head.bias)
    truth = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = (
        torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
        * torch.tensor([0.1, 0.01])[:, None, None, None]
    )
    depth = Depth(truth + noise, torch.ones_like(truth, dtype=torch.bool))
    batch = GuidedBatch(torch.rand(2, 3, 32, 32), depth, truth)
    recipes = (replace(GUIDED, bf16=False, loss=DKNLossConfig(0.0, relative)) for relative in (False, True))
    plain, relative = (DKNObjective(model.train(), recipe)(batch, recipe.phases[0])[0] for recipe in recipes)
    errors = noise.abs().mean((1, 2, 3)) / (truth.amax((1, 2, 3)) - truth.amin((1, 2, 3)))
    assert torch.isclose(plain["l1"], errors.mean(), rtol=1e-4)
    assert torch.isclose(relative["l1"], (USUAL * errors / (errors + LEAST)).mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["hyperprior.photos", "hyperprior2.photos", "dsic.scenes", "ffca.scenes"])
def test_codecs_are_trained_by_the_same_loop_and_published_ready_to_code(tmp_path, bank, name):
    recipe = replace(GUIDED, name="codec", model=name, phases=(Phase(4, 1, 0, SCENE),), loss=CodecLossConfig())

    def network():
        torch.manual_seed(0)
        return get_entry(name).build()

    means = train(recipe, network(), tmp_path / "whole", bank=bank)
    assert {"rate", "distortion", "bpp", "bpp_z", "psnr"} <= means.keys()
    assert ("second_view" in means) == (name == "dsic.scenes")
    assert ("psnr_without_side" in means) == (name == "ffca.scenes")
    with pytest.raises(_PowerCutError):
        train(recipe, network(), tmp_path / "cut", bank=bank, progress=_cut_after(3))
    train(recipe, network(), tmp_path / "cut", bank=bank, resume=True)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["ema"] for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    publish(tmp_path / "whole" / "checkpoint.pt", tmp_path / "codec.safetensors")
    codec = load(name, weights=tmp_path / "codec.safetensors")
    view = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    coded = codec.compress(StereoPair(view, view), 4)
    assert codec.decompress(coded).left.shape == view.shape


# --- real pairs


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A manifest of two pairs."""
    import cv2
    import numpy as np

    root = tmp_path_factory.mktemp("pairs")
    (root / "stereo").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2):
        wide = cv2.resize(rng.integers(0, 255, (32, 48, 3), np.uint8), (106, 64))
        cv2.imwrite(str(root / f"left{number}.png"), wide[:, :96])
        cv2.imwrite(str(root / f"right{number}.png"), wide[:, 6:102])
        cv2.imwrite(str(root / f"truth{number}.png"), np.full((64, 96), 6 * 256, np.uint16))
        rows.append({"id": f"flat/{number}", "left": f"left{number}.png", "right": f"right{number}.png"})
        rows[-1] |= {"disparity": f"truth{number}.png", "divide_by": 256}
    (root / "stereo" / "manifest.json").write_text(json.dumps(rows))
    return root / "stereo" / "manifest.json"


def test_real_pairs_are_measured_and_drawn_as_the_run_goes_on(tmp_path, bank, measured, whole_run):
    from PIL import Image

    from stereopsis.data.manifests import read_manifest
    from stereopsis.training.validation import RealPairs

    recipe = replace(TINY, evaluate_every=4)
    model = _network()
    train(recipe, model, tmp_path, bank=bank, validation=RealPairs(read_manifest(measured)))
    lines = [json.loads(line) for line in (tmp_path / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 9]
    assert all(line["epe"] > 0 for line in lines)
    assert model.training
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [f"{pair}-{step:07d}.png" for pair in range(2) for step in (4, 8, 9)]
    with Image.open(tmp_path / "pictures" / pictures[0]) as picture:
        assert picture.height == 64
        assert picture.width > 3 * 96
    assert _log(tmp_path) == _log(whole_run[0])  # measuring changes nothing


class _Pair:
    """A plane at 6 pixels with its images, or the images alone."""

    noc = None

    def __init__(self, known):
        generator = torch.Generator().manual_seed(0)
        wide = F.interpolate(torch.rand(1, 3, 24, 40, generator=generator), (96, 166), mode="bicubic").clamp(0, 1)[0]
        self.left, self.right = wide[..., :160], wide[..., 6:]
        self.disparity = torch.full((1, 96, 160), 6.0) if known else None
        self.valid = torch.ones(1, 96, 160, dtype=torch.bool) if known else None


@pytest.mark.parametrize("known", [True, False])
def test_pairs_take_the_place_of_scenes(tmp_path, known):
    """With their truth, or by comparing the views with each other."""
    recipe = replace(TINY, phases=TINY.phases[:1])
    model = _network()
    before = model.refine[2].update.weight.clone()
    train(recipe, model, tmp_path, pairs=[_Pair(known)])
    terms = set(_log(tmp_path)[-1])
    assert ("photometric" in terms) != known
    assert ("propagation" in terms) == known
    assert all(line["loss"] < 1e4 for line in _log(tmp_path))
    assert not torch.equal(model.refine[2].update.weight, before)


def test_networks_whose_lowest_tile_wins_learn_from_colour_pairs(tmp_path):
    """The authors' grey networks: w goes to 0 where a hypothesis is right."""
    config = replace(NETWORK, in_channels=1, winner="lowest")
    recipe = replace(TINY, model="hitnet.eth3d", phases=(Phase(30, 1, 24, SCENE),), learning_rate=0.02, warmup=2)
    torch.manual_seed(0)
    model = HITNet(config)
    pair = _Pair(True)
    train(recipe, model, tmp_path, pairs=[pair])
    with torch.no_grad():
        stages = model.eval().stages(
            *(2 * model.as_input(view[None, :, :64, :128]) - 1 for view in (pair.left, pair.right))
        )
    (h, w), tile = stages.selected[-1], slice(2, -2)
    right = ((h[:, :1] - 6).abs() < 1)[..., tile, tile]
    assert right.float().mean() > 0.5
    assert w[..., tile, tile][right].mean() < 0.5


class _Depth:
    """An image with a map that has a hole."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.image = F.interpolate(torch.rand(1, 3, 24, 24, generator=generator), (96, 96), mode="bicubic").clamp(0, 1)[
            0
        ]
        self.depth = 1 + self.image[:1]
        self.valid = torch.ones(1, 96, 96, dtype=torch.bool)
        self.valid[:, 40:50, 40:50] = False
        self.depth[~self.valid] = 0


@pytest.mark.parametrize("items", [[_Depth()], [_Pair(True)]])
def test_upsampling_learns_from_images_with_depth_and_from_pairs_with_disparity(tmp_path, items):
    means = train(GUIDED, DKN(DKNConfig(fast=True, widths=(8, 8))), tmp_path, pairs=items)
    assert 0 < means["rmse"] < 255


def test_what_fills_a_hole_of_the_truth_does_not_count(tmp_path):
    stream = RealGuidedStream(
        replace(GUIDED, phases=(Phase(1, 1, 0, replace(SCENE, height=96, width=96), sensor=SensorConfig((4, 4))),)),
        [_Depth()],
        "cpu",
    )
    batch = stream(0)
    assert batch.known is not None
    assert (~batch.known).sum() == 100
    assert batch.depth.valid.all()  # the sensor's map has no hole there
    model = DKN(DKNConfig(fast=True, widths=(8, 8))).train()
    recipe = replace(GUIDED, bf16=False)
    terms = [
        DKNObjective(model, recipe)(part, recipe.phases[0])[0]["l1"]
        for part in (batch, replace(batch, truth=torch.where(batch.known, batch.truth, batch.truth.mean())))
    ]
    assert torch.equal(*terms)


def test_upsampling_without_any_depth_is_refused(tmp_path):
    item = _Depth()
    item.valid = torch.zeros_like(item.valid)
    with pytest.raises(ValueError, match="has no known depth"):
        train(GUIDED, DKN(DKNConfig(fast=True, widths=(8, 8))), tmp_path, pairs=[item])


@pytest.mark.parametrize("name", ["hyperprior.photos", "dsic.scenes", "ffca.scenes"])
def test_codecs_learn_from_real_pairs(tmp_path, name):
    recipe = replace(GUIDED, name="codec", model=name, phases=(Phase(2, 1, 0, SCENE),), loss=CodecLossConfig())
    means = train(recipe, get_entry(name).build(), tmp_path, pairs=[_Pair(False)])
    assert means["bpp"] > 0


# --- several processes


def test_two_processes_train_one_model(tmp_path):
    """Each with scenes of its own; one log, one checkpoint, one weights file."""
    words = ["-m", "stereopsis", "train", "hitnet.smoke", "phases.0.steps", "20", "bf16", "False"]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    run = subprocess.run([*launch, *words, "--out", str(tmp_path / "run"), "--json"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout)["steps"] == 20  # printed once
    assert [line["step"] for line in _log(tmp_path / "run")] == [20]
    assert (tmp_path / "run" / "hitnet.smoke.safetensors").is_file()
    assert not list((tmp_path / "run").glob(".*.tmp"))


# --- schedule


def test_milestones_replace_the_cosine():
    recipe = replace(TINY, milestones=((4, 0.2), (8, 0.04)))
    shares = [rate_share(recipe, step) for step in range(9)]
    assert shares[3:] == pytest.approx([1, 0.2, 0.2, 0.2, 0.2, 0.04])


def test_a_run_of_another_length_keeps_its_shares_and_turns():
    longer = with_steps(TINY, 90)
    assert [phase.steps for phase in longer.phases] == [50, 40]
    first, second = (replace(phase, steps=4) for phase in TINY.phases)
    turns = replace(TINY, phases=(first, second) * 2)
    assert [phase.steps for phase in with_steps(turns, 18).phases] == [4, 4, 4, 4, 2]
    assert with_steps(turns, 18).phases[4].scene == first.scene
    assert with_steps(replace(TINY, milestones=((3, 0.5),)), 90).milestones == ((30, 0.5),)
    with pytest.raises(ValueError, match="at least 2"):
        with_steps(TINY, 1)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_json(name):
    values = json.loads(json.dumps(asdict(RECIPES[name])))
    assert recipe_from(values) == RECIPES[name]
    del values["optimizer"], values["milestones"]  # of a version before these fields
    defaults = {field.name: field.default for field in fields(Recipe)}
    assert recipe_from(values) == replace(RECIPES[name], **{key: defaults[key] for key in ("optimizer", "milestones")})
    with pytest.raises(ValueError, match="unknown field colour"):
        recipe_from(values | {"colour": 1})


def test_the_learning_rate_warms_up_and_falls_to_a_fiftieth():
    recipe = RECIPES["hitnet.scenes"]
    rates = [rate_share(recipe, step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(1 / recipe.warmup)
    assert rates[recipe.warmup - 1] == max(rates) == pytest.approx(1)
    assert all(a < b for a, b in pairwise(rates[: recipe.warmup]))
    assert all(a >= b for a, b in pairwise(rates[recipe.warmup :]))
    assert rates[-1] == pytest.approx(1 / 50, rel=1e-3)
    middle = (recipe.warmup + recipe.steps) // 2
    assert rates[middle] == pytest.approx(0.51, rel=1e-2)
    assert rate_share(recipe, 10 * recipe.steps) == pytest.approx(1 / 50)


def test_phases_follow_one_another():
    assert TINY.steps == 9
    assert [TINY.phase_at(step).batch for step in range(9)] == [1] * 5 + [2] * 4
    with pytest.raises(ValueError, match="step 9 lies beyond the 9 steps of tiny") as error:
        TINY.phase_at(9)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_fit_the_network(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    for phase in recipe.phases:
        assert phase.scene.height % 64 == 0
        assert phase.scene.width % 64 == 0
        family = get_entry(recipe.model).family
        assert (phase.sensor is None) == (family != "upsampling")
        assert family != "matching" or phase.scene.max_disparity < phase.max_disparity
        assert phase.steps % 2 == 0  # a scene and its mirror image
