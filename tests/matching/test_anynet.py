"""AnyNet: its size, its parts, its deadline, and parity with the authors' network."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from stereopsis.matching.anynet import (
    C1,
    C2,
    C4,
    C6,
    OFFICIAL,
    AnyNet,
    AnyNetEstimate,
)
from stereopsis.matching.deadline import ARITHMETIC, StageCosts
from stereopsis.ops import native
from stereopsis.ops.canvas import Canvas
from stereopsis.types import Disparity
from stereopsis.zoo import get_entry
from stereopsis.zoo.importers import import_anynet

CONV = replace(C1, refiner="conv")
PLAIN = Canvas((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _network(config=C1, seed=0, **options):
    torch.manual_seed(seed)
    return AnyNet(config, **options).eval()


def _pair(*shape, seed=1):
    """A random view and the same 5 pixels on."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.rand(*shape[:-1], shape[-1] + 5, generator=generator)
    return wide[..., :-5].contiguous(), wide[..., 5:].contiguous()


def _doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- size and interface


def _parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_of_the_published_network():
    assert _parameters(AnyNet()) == _parameters(AnyNet(OFFICIAL)) == 43_269
    assert _parameters(AnyNet(replace(C1, refiner=None))) == 34_629
    model = AnyNet()
    assert _parameters(model.features) == 1_983
    assert [_parameters(stage) for stage in model.regularize] == [28_674, 1_986, 1_986]
    assert _parameters(model.refine) == 8_640


@pytest.mark.parametrize(("config", "channels"), [(C1, 1), (C2, 2), (C4, 4), (C6, 6)])
def test_widths_of_the_features(config, channels):
    maps = list(_network(config).features([torch.rand(1, 3, 32, 48)], PLAIN))
    assert [tuple(m.shape[1:]) for m in maps] == [(8 * channels, 2, 3), (4 * channels, 4, 6), (2 * channels, 8, 12)]


def test_registered_names_build_what_they_say():
    assert get_entry("anynet").config == C1
    assert get_entry("anynet_c4").config == C4
    official = get_entry("anynet.official")
    assert official.config == OFFICIAL
    assert official.official
    assert _parameters(official.build()) == 43_269


@pytest.mark.parametrize("config", [C1, CONV, OFFICIAL, replace(C2, refiner=None)])
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (48, 64), (31, 100)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_one_or_three_channels(config, size, channels):
    model = _network(config)
    with torch.inference_mode():
        maps = list(model.stages(*_pair(2, channels, *size)))
    assert len(maps) == config.stages
    for result in maps:
        assert isinstance(result, Disparity)
        for value, dtype in (
            (result.disparity, torch.float32),
            (result.confidence, torch.float32),
            (result.valid, torch.bool),
        ):
            assert value.shape == (2, 1, *size)
            assert value.dtype == dtype
        assert result.valid.all()
        assert result.disparity.isfinite().all()
        assert result.disparity.min() >= 0
        assert result.confidence.min() >= 0
        assert result.confidence.max() <= 1


def test_a_call_gives_the_last_stage():
    model = _network()
    left, right = _pair(1, 3, 40, 70)
    with torch.inference_mode():
        *_, last = model.stages(left, right)
        found = model(left, right)
    assert torch.equal(found.disparity, last.disparity)
    assert torch.equal(found.confidence, last.confidence)


def test_grey_views_are_the_same_as_three_equal_channels():
    model = _network()
    left, right = _pair(1, 1, 48, 64)
    with torch.inference_mode():
        grey, colour = model(left, right), model(left.expand(-1, 3, -1, -1), right.expand(-1, 3, -1, -1))
    assert torch.equal(grey.disparity, colour.disparity)


@pytest.mark.parametrize("config", [C1, OFFICIAL], ids=["edge", "mean"])
def test_padding_does_not_move_the_image(config):
    """The crop of a padded map is where the image was: a view and its padded self agree."""
    model = _network(config)
    left, right = _pair(1, 3, 40, 90)
    if config.padding == "edge":
        views = [F.pad(view, (6, 0, 0, 8), "replicate") for view in (left, right)]
        inner = (..., slice(40), slice(6, None))
    else:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        views = [F.pad(view - mean, (0, 6, 8, 0)) + mean for view in (left, right)]
        inner = (..., slice(8, None), slice(90))
    with torch.inference_mode():
        found, padded = model(left, right), model(*views)
    torch.testing.assert_close(found.disparity, padded.disparity[inner], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.confidence, padded.confidence[inner], rtol=0, atol=1e-4)


def test_max_disparity_sets_the_candidates_of_the_first_stage():
    model = _network()
    left, right = _pair(1, 3, 32, 192)
    seen = []
    handle = model.regularize[0].register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    with torch.inference_mode():
        for asked in (None, 192, 64, 65, 1, 10**9):  # none lies beyond the view
            next(model.stages(left, right, asked))
    handle.remove()
    assert seen == [12, 12, 4, 5, 1, 12]


@pytest.mark.parametrize("way", ["call", "stages", "budget"])
@pytest.mark.parametrize(
    ("left", "right", "arguments", "words"),
    [
        ((1, 3, 20, 30), (1, 3, 20, 31), {}, "left is 30x20 and right is 31x20"),
        ((1, 3, 20, 30), (1, 1, 20, 30), {}, "(1, 1, 20, 30)"),
        ((1, 2, 20, 30), (1, 2, 20, 30), {}, "2 channels"),
        ((1, 3, 15, 30), (1, 3, 15, 30), {}, "30x15"),
        ((1, 3, 30, 15), (1, 3, 30, 15), {}, "at least 16x16"),
        ((1, 3, 20, 30), (1, 3, 20, 30), {"max_disparity": 0}, "max_disparity is 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(way, left, right, arguments, words):
    model = _network()
    ask = model.stages if way == "stages" else model  # stages refuse at the call, not at the first map
    if way == "budget":
        arguments = {**arguments, "budget": 1.0}
    with pytest.raises(ValueError) as error:
        ask(torch.rand(left), torch.rand(right), **arguments)
    message = str(error.value)
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("budget", [0, -0.02, float("nan")])
def test_a_budget_that_is_not_positive_is_refused_in_one_sentence(budget):
    with pytest.raises(ValueError, match=r"^budget is .*above 0.*\.$"):
        _network()(*_pair(1, 3, 32, 32), budget=budget)


def test_values_that_are_not_finite_come_out_as_invalid():
    left, right = _pair(1, 3, 160, 160)
    left[0, 0, 10, 150] = float("nan")
    with torch.inference_mode():
        for result in _network().stages(left, right):
            assert not result.valid.all()
            assert result.disparity[~result.valid].eq(0).all()
            assert result.disparity.isfinite().all()
            assert ((result.confidence >= 0) & (result.confidence <= 1)).all()


def test_compute_dtype_is_that_of_torchs_convolutions(monkeypatch):
    model = _network()
    left, right = _pair(1, 3, 48, 64)
    with torch.inference_mode():
        expected = model(left, right).disparity
        model.compute_dtype = torch.bfloat16
        if native.library() is not None:  # the kernels keep to float32, and lose nothing
            assert torch.equal(model(left, right).disparity, expected)
        monkeypatch.setattr(native, "library", lambda: None)
        seen = []
        handle = model.features.stem[1].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        maps = list(model.stages(left, right))
        handle.remove()
    assert seen == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")  # nothing leaks between the stages
    assert all(value.dtype == torch.float32 for m in maps for value in (m.disparity, m.confidence))
    assert (maps[-1].disparity - expected).abs().median() < 2


@pytest.mark.parametrize("config", [C1, C4, CONV, OFFICIAL], ids=["c1", "c4", "conv", "official"])
def test_the_kernels_compute_what_torch_does(config, monkeypatch):
    model = _network(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):  # as after a training
            for values in (module.running_mean, module.weight.data, module.bias.data):
                nn.init.normal_(values)
            nn.init.uniform_(module.running_var, 0.5, 2)
    views = _pair(2, 3, 40, 90)
    with torch.inference_mode():
        found = list(model.stages(*views))
        monkeypatch.setattr(native, "library", lambda: None)
        for ours, theirs in zip(found, model.stages(*views), strict=True):
            torch.testing.assert_close(ours.disparity, theirs.disparity, rtol=0, atol=2e-2)
            torch.testing.assert_close(ours.confidence, theirs.confidence, rtol=0, atol=1e-3)
            assert torch.equal(ours.valid, theirs.valid)


def test_a_call_with_gradients_has_them():
    model = _network()
    model(*_pair(1, 3, 32, 48)).disparity.sum().backward()
    assert model.features.stem[0].weight.grad.isfinite().all()


# --- cost volumes


def test_mirrored_residuals_are_those_of_the_authors():
    """They compare at d - s where s is added: the same volume, with its candidates reversed."""
    volumes = []
    for config in (C1, replace(C1, mirrored_residual=True)):
        model = _network(config)
        model.regularize[1].register_forward_pre_hook(lambda module, given: volumes.append(given[0]))
        with torch.inference_mode():
            stages = model.stages(*_pair(1, 3, 48, 64), max_disparity=16)  # from 0, so that partners are inside
            next(stages), next(stages)
    assert torch.equal(volumes[0], volumes[1].flip(1))
    assert not torch.equal(volumes[0], volumes[1])


# --- refinement


@pytest.mark.parametrize("config", [C1, CONV], ids=["spn", "conv"])
def test_every_parameter_learns(config):
    model = _network(config).train()
    if config.refiner == "conv":
        nn.init.normal_(model.refine.update.weight)  # the correction starts at 0, which stops the layers before it
    views = _pair(2, 3, 64, 96)
    sum((estimate.disparity - 20).abs().mean() for estimate in model.estimates(*views)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    without = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert not {name for name in without if name.startswith("re")}, without


def test_the_convolutional_refiner_starts_as_the_identity():
    with torch.inference_mode():
        *_, third, fourth = _network(CONV).stages(*_pair(1, 3, 48, 64))
    assert torch.equal(third.disparity, fourth.disparity)


def test_the_convolutional_refiner_can_be_exported():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = _network(CONV)

        def forward(self, left, right):
            return self.model(left, right).disparity

    views = _pair(1, 3, 32, 48)
    with torch.no_grad():
        program = torch.export.export(Map().eval(), views)
        torch.testing.assert_close(program.module()(*views), Map().eval()(*views), rtol=0, atol=1e-3)


# --- confidence


def test_confidence_is_the_probability_around_the_estimate():
    peak = torch.zeros(1, 12, 1, 1)
    peak[:, 5] = 1
    torn = torch.zeros(1, 12, 1, 1)
    torn[:, (0, 11)] = 0.5
    even = torch.full((1, 12, 1, 1), 1 / 12)
    values = [AnyNetEstimate(torch.zeros(1, 1, 16, 16), p).confidence().item() for p in (peak, even, torn)]
    assert values == pytest.approx([1, 3 / 12, 0])  # around 5.5: 5 and 6 whole, 4 and 7 half


# --- the stages, one at a time


def _count_calls(model):
    calls = []
    parts = {f"stage {number}": module for number, module in enumerate(model.regularize, 1)}
    parts |= {"stage 4": model.refine, "up 1": model.features.up[0][0], "up 2": model.features.up[1][0]}
    for name, module in parts.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def test_a_stage_is_computed_when_it_is_asked_for():
    model = _network()
    calls = _count_calls(model)
    with torch.inference_mode():
        stages = model.stages(*_pair(1, 3, 48, 64))
        assert isinstance(stages, Iterator)
        assert calls == []
        next(stages)
        assert calls == ["stage 1"]
        next(stages)
        assert calls == ["stage 1", "up 1", "stage 2"]
        next(stages)
        assert calls == ["stage 1", "up 1", "stage 2", "up 2", "stage 3"]
        next(stages)
        assert calls == ["stage 1", "up 1", "stage 2", "up 2", "stage 3", "stage 4"]
        with pytest.raises(StopIteration):
            next(stages)


# --- the deadline


class Machine:
    """A clock that moves only when a stage runs, by what the stage is set to cost."""

    def __init__(self, costs, config=C1):
        self.now, self.costs, self.ran = 100.0, list(costs), []
        self.model = _network(config, clock=lambda: self.now)
        stages = [*self.model.regularize, self.model.refine]
        for stage, module in enumerate(stages):
            module.register_forward_hook(lambda *_, stage=stage: self._run(stage))
        self.views = _pair(1, 3, 32, 48)

    def _run(self, stage):
        self.now += self.costs[stage]
        self.ran.append(stage + 1)

    def __call__(self, budget, views=None):
        """How many stages ran, and the seconds they took."""
        self.ran.clear()
        start = self.now
        with torch.inference_mode():
            self.result = self.model(*(views or self.views), budget=budget)
        assert self.ran == list(range(1, len(self.ran) + 1))
        return len(self.ran), self.now - start


COSTS = (0.010, 0.002, 0.006, 0.003)


@pytest.mark.parametrize(
    ("budget", "stages"),
    [(0.001, 1), (0.0119, 1), (0.0121, 2), (0.0179, 2), (0.0181, 3), (0.0209, 3), (0.0211, 4), (1.0, 4), (math.inf, 4)],
)
def test_the_best_stage_that_fits_is_returned(budget, stages):
    machine = Machine(COSTS)
    for _ in range(2):
        assert machine(math.inf)[0] == 4
    for _ in range(5):
        ran, seconds = machine(budget)
        assert ran == stages
        assert seconds <= budget or ran == 1
    with torch.inference_mode():
        expected = list(machine.model.stages(*machine.views))[stages - 1]
    assert torch.equal(machine.result.disparity, expected.disparity)


def test_an_unknown_stage_is_judged_by_its_arithmetic():
    first = 0.010
    up_to = [first * sum(ARITHMETIC[: stage + 1]) for stage in range(4)]
    for stage in range(1, 4):
        costs = [first * share for share in ARITHMETIC]
        assert Machine(costs)(up_to[stage] - 1e-6)[0] == stage
        assert Machine(costs)(up_to[stage] + 1e-6)[0] == stage + 1


def test_a_stage_that_costs_more_than_its_arithmetic_is_left_out_once_known():
    machine = Machine((0.010, 0.001, 0.050, 0.003))
    counts = [machine(0.020)[0] for _ in range(200)]
    assert counts[0] == 3  # tried in good faith
    assert sum(count > 2 for count in counts) <= 2
    assert set(counts[100:]) == {2}


def test_a_slow_first_call_does_not_lock_a_stage_out():
    machine = Machine([20 * cost for cost in COSTS])
    machine(math.inf)
    machine.costs = list(COSTS)
    assert machine(0.025)[0] < 4
    assert [machine(0.025)[0] for _ in range(200)][-1] == 4


def test_one_stall_does_not_lock_a_stage_out():
    machine = Machine(COSTS)
    for _ in range(10):
        machine(0.025)
    machine.costs[2] = 0.100
    assert machine(0.025)[1] > 0.100
    machine.costs[2] = COSTS[2]
    counts = [machine(0.025)[0] for _ in range(40)]
    assert counts[-1] == 4


def test_a_machine_that_gets_slower_is_noticed():
    machine = Machine(COSTS)
    for _ in range(10):
        machine(0.025)
    machine.costs = [2 * cost for cost in COSTS]
    late = [machine(0.025)[1] > 0.025 for _ in range(200)]
    assert sum(late) <= 4
    assert not any(late[100:])


def test_every_size_has_its_own_costs():
    machine = Machine(COSTS)
    for _ in range(3):
        machine(math.inf)
    machine.costs = [10 * cost for cost in COSTS]
    other = _pair(1, 3, 64, 48)
    for _ in range(3):
        machine(math.inf, other)
    assert machine(0.050, other)[0] == 1
    machine.costs = list(COSTS)
    assert machine(0.025)[0] == 4


def test_three_stages_without_a_refiner():
    model = _network(replace(C1, refiner=None))
    views = _pair(1, 3, 32, 48)
    with torch.inference_mode():
        *_, last = model.stages(*views)
        assert torch.equal(model(*views, budget=math.inf).disparity, last.disparity)


def test_expectations_lie_between_the_fastest_and_the_slowest_run():
    generator = torch.Generator().manual_seed(0)
    seconds = (0.010 + 0.004 * torch.rand(200, generator=generator)).tolist()
    costs = StageCosts(4)
    assert costs.expected(2) == 0
    for value in seconds:
        costs.measured(0, value)
    assert sorted(seconds)[100] < costs.expected(0) < max(seconds)
    for _ in range(500):
        costs.skipped(0)
    assert costs.expected(0) == min(seconds[1:])


def test_calls_end_in_time_though_runs_differ():
    """Each run up to a third slower than the fastest, one in fifty three times as slow: the others must fit."""
    generator = torch.Generator().manual_seed(0)
    for budget in (0.020, 0.024, 0.028):
        machine, late = Machine(COSTS), 0
        for call in range(400):
            noise = 1 + torch.rand(4, generator=generator) / 3
            machine.costs = [cost * slower for cost, slower in zip(COSTS, noise.tolist(), strict=True)]
            stalled = call % 50 == 49
            if stalled:
                machine.costs[2] *= 3
            late += machine(budget)[1] > 1.1 * budget and not stalled
        assert late <= 2


def test_the_stage_that_answered_is_told():
    machine = Machine(COSTS)
    counts = [(machine(budget)[0], machine.result.stage) for budget in (math.inf, math.inf, 0.011, 0.020)]
    assert all(count == stage for count, stage in counts)
    assert len({stage for _, stage in counts}) > 1


# --- sequences


@pytest.mark.parametrize("size", [(48, 64), (45, 70)])
def test_a_previous_map_that_matches_better_is_built_upon(size):
    """The first stage of an untrained network is far off the truth, from which a residual of 0 costs nothing."""
    model = _network()
    left, right = _pair(1, 3, *size)  # shifted by 5
    truth = torch.full((1, 1, *size), 5.0)
    known = torch.ones_like(truth, dtype=torch.bool)
    known[..., : size[0] // 2, :] = False
    previous = Disparity(torch.where(known, truth, 900.0), known, known.float())
    seen = []
    model.regularize[1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.inference_mode():
        model(left, right), model(left, right, previous=previous)
        again = model(left, right, previous=Disparity(truth, ~known & known, truth))
        assert torch.equal(again.disparity, model(left, right).disparity)
    cold, warm = (volume.amin(1)[..., 2:-2] for volume in seen[:2])
    assert warm[:, cold.shape[1] // 2 :].mean() < cold[:, cold.shape[1] // 2 :].mean()
    torch.testing.assert_close(warm[:, : size[0] // 16 - 1], cold[:, : size[0] // 16 - 1])


def test_a_previous_map_of_another_size_is_refused():
    views, other = _pair(1, 3, 32, 48), torch.zeros(1, 1, 32, 40)
    with pytest.raises(ValueError, match="previous map is 40x32 and the views are 48x32"):
        _network()(*views, previous=Disparity(other, other > 0, other))


# --- parity with the authors' weights


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data("weights/anynet/golden_kitti2015_cones_crop128x256.npz")) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def official(shared_data):
    return import_anynet(AnyNet(OFFICIAL), shared_data("weights/anynet/anynet_kitti2015.tar")).eval()


def _golden_views(golden):
    return [golden[f"{side}_rgb"].permute(2, 0, 1)[None].float() / 255 for side in ("left", "right")]


def test_features_equal_the_authors(official, golden):
    view = _golden_views(golden)[0]
    with torch.inference_mode():
        features = list(official.features([view], official._canvas(view)))
    for found, name in zip(features, ("feat_1_16", "feat_1_8", "feat_1_4"), strict=True):
        torch.testing.assert_close(found[0], golden[name], rtol=0, atol=1e-4)


def test_all_four_stages_equal_the_authors(official, golden):
    with torch.inference_mode():
        maps = list(official.stages(*_golden_views(golden)))
    assert len(maps) == 4
    for number, found in enumerate(maps, 1):
        error = (found.disparity[0, 0] - golden[f"stage{number}"]).abs()
        assert error.mean() < 1e-3, number
        assert error.max() < 0.02, number
        assert found.valid.all()


@pytest.mark.parametrize("change", [{"mirrored_residual": False}, {"unet_align_corners": False}])
def test_parity_would_notice_other_semantics(official, golden, change):
    other = AnyNet(replace(OFFICIAL, **change)).eval()
    other.load_state_dict(official.state_dict())
    with torch.inference_mode():
        found = other(*_golden_views(golden)).disparity[0, 0]
    assert (found - golden["stage4"]).abs().mean() > 0.02


def _rgb(path):
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), np.float32) / 255).permute(2, 0, 1)[None]


def test_official_weights_reach_their_known_errors_on_kitti_2012(shared_data):
    folder = shared_data("data/stereo/kitti2012")
    model = import_anynet(AnyNet(OFFICIAL), shared_data("weights/anynet/anynet_kitti2012.tar")).eval()
    views = [_rgb(folder / f"colored_{camera}/000070_10.png") for camera in (0, 1)]
    truth = torch.from_numpy(np.asarray(Image.open(folder / "disp_occ/000070_10.png")).astype(np.float32) / 256)
    known = truth > 0
    with torch.inference_mode():
        maps = list(model.stages(*views))
    wrong = [(found.disparity[0, 0] - truth).abs()[known] > 3 for found in maps]
    assert [100 * w.float().mean().item() for w in wrong] == pytest.approx([10.0, 7.6, 5.9, 5.8], abs=0.2)
    for found, w in zip(maps, wrong, strict=True):  # confidence says where they are
        confidence = found.confidence[0, 0][known]
        sure = confidence > confidence.median()
        assert w[sure].float().mean() < 0.5 * w[~sure].float().mean()


@pytest.mark.parametrize("name", ["sceneflow", "kitti2012", "kitti2015"])
def test_every_official_checkpoint_fits(shared_data, name):
    model = import_anynet(AnyNet(OFFICIAL), shared_data(f"weights/anynet/anynet_{name}.tar"))
    assert all(value.isfinite().all() for value in model.state_dict().values())
