"""The training loop: schedule, phases, and runs that survive an interruption."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from stereopsis.data.scenes import SceneConfig, render
from stereopsis.data.textures import make_bank
from stereopsis.matching.hitnet import HITNet, HITNetConfig
from stereopsis.training import loop
from stereopsis.training.loop import SceneStream, rate_share, train
from stereopsis.training.recipes import RECIPES, Phase, Recipe

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


# --- schedule and stream


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
        assert phase.scene.max_disparity < phase.max_disparity
        assert phase.steps % 2 == 0  # a scene and its mirror image


def test_two_steps_share_a_scene_and_its_mirror_image(bank):
    stream = SceneStream(TINY, bank)
    (left0, _, truth0), (_, right1, truth1), (left2, _, truth2) = (stream(step) for step in range(3))
    assert left0.shape == right1.shape == (1, 3, 64, 64)
    assert not torch.equal(truth0.disparity, truth1.disparity)
    scenes = render(TINY.seed, 1, bank, SCENE)
    assert torch.equal(scenes.disparity, truth0.disparity)
    assert torch.equal(scenes.disparity_right.flip(-1), truth1.disparity)
    assert torch.equal(scenes.mirrored().slant, truth1.slant)
    assert torch.equal(scenes.mirrored().visible, truth1.visible)
    assert not torch.equal(truth2.disparity, truth0.disparity)
    assert not torch.equal(left2, left0)


@pytest.mark.parametrize("step", range(9))
def test_a_batch_depends_on_its_step_alone(bank, step):
    """Whether the steps before it were run or not, at a change of phase in the middle of a scene's pair too."""
    stream = SceneStream(TINY, bank)
    for earlier in range(step):
        stream(earlier)
    left, right, truth = stream(step)
    fresh_left, fresh_right, fresh_truth = SceneStream(TINY, bank)(step)
    assert left.shape[0] == TINY.phase_at(step).batch
    assert left.shape[3] == TINY.phase_at(step).scene.width
    assert torch.equal(left, fresh_left)
    assert torch.equal(right, fresh_right)
    for name, value in vars(truth).items():
        assert torch.equal(value, getattr(fresh_truth, name)), name
