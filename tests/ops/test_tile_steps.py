"""HITNet's tile operators as steps of a program, against the operators in torch on the same bfloat16 numbers."""

import pytest
import torch
from torch.nn import functional as F

from stereopsis.ops import bf16_conv, tile_steps
from stereopsis.ops.program import Program
from stereopsis.ops.tile_match import matching_cost, tile_match_reference
from stereopsis.ops.tile_plane import expand_plane, split_tiles
from stereopsis.ops.tile_warp import tile_warp_cost_reference

pytestmark = pytest.mark.skipif(
    bf16_conv.kernel() is None, reason="no arithmetic of bfloat16: not built, switched off, or not in this CPU"
)


@pytest.fixture
def program():
    torch.manual_seed(0)
    return Program(margin=4)


def _filled(x, values):
    x.view.copy_(values)
    return x


@pytest.mark.parametrize("channels", [8, 16, 24, 32, 40])
@pytest.mark.parametrize("reach", [3, 40, 1e9])
def test_warp_cost(program, threads, channels, reach):
    batch, height, width = 2, 3, 7
    left, right = (_filled(m, torch.randn(m.view.shape)) for m in (program.map(batch, 12, 28, channels) for _ in "lr"))
    hypotheses = program.map(batch, height, width, 16, exact=True)
    hypotheses.view.copy_(torch.randn(hypotheses.view.shape))
    hypotheses.view[:, 0] *= reach
    out = tile_steps.warp_cost(program, left, right, hypotheses)
    program()
    disparity = expand_plane(hypotheses.view[:, :3], 4)
    expected = tile_warp_cost_reference(left.view.float(), right.view.float(), disparity)
    torch.testing.assert_close(out.view.float(), expected, rtol=2**-8, atol=2e-2)


@pytest.mark.parametrize("candidates", [1, 5, 40, 90])
@pytest.mark.parametrize("channels", [16, 6])
def test_match(program, threads, channels, candidates):
    """Whole numbers, whose sums are exact in any order."""
    left = program.map(2, 3, 18, channels, exact=True)
    right = program.map(2, 3, 72, channels, exact=True)
    for x in (left, right):
        x.view.copy_(torch.randint(-4, 5, x.view.shape))
    hypotheses = _filled(program.map(2, 3, 18, 16, exact=True), torch.tensor(7.0))
    costs = tile_steps.match(program, left, right, candidates, hypotheses)
    program()
    expected = tile_match_reference(left.view, right.view, candidates)
    assert torch.equal(hypotheses.view[:, :1], expected)
    assert torch.equal(hypotheses.view[:, 1:3], torch.zeros(2, 2, 3, 18))
    assert (hypotheses.view[:, 3:] == 7).all()
    assert torch.equal(costs.view.float(), matching_cost(left.view, right.view, expected))


def test_split(program):
    coarse = _filled(program.map(2, 3, 5, 16, exact=True), torch.randn(2, 16, 3, 5))
    exact, d = (program.map(2, 6, 10, channels, exact=True) for channels in (16, 1))
    whole = program.map(2, 6, 10, 64)
    tile_steps.split(program, coarse, step=2, scale=2, out=whole.part(32, 16), exact=exact)
    rough = program.map(2, 6, 10, 16)
    tile_steps.split(program, coarse, step=0.5, scale=1, out=rough, d=d)
    program()
    expected = split_tiles(coarse.view, step=2, scale=2)
    torch.testing.assert_close(exact.view, expected)
    assert torch.equal(whole.view[:, 32:48], exact.view.bfloat16())
    assert (whole.view[:, :32] == 0).all()
    assert (whole.view[:, 48:] == 0).all()
    torch.testing.assert_close(d.view, split_tiles(coarse.view, step=0.5, scale=1)[:, :1])
    assert torch.equal(rough.view[:, :1], d.view.bfloat16())


def test_narrow_rounds_as_torch_does(program):
    values = torch.randn(1, 16, 4, 9)
    values[0, :4, 0, 0] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("inf"), float("nan")])  # ties, and what is none
    exact = _filled(program.map(1, 4, 9, 16, exact=True), values)
    out = program.map(1, 4, 9, 16)
    tile_steps.narrow(program, exact, out)
    program()
    torch.testing.assert_close(out.view, values.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("highest", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_choose(program, number, highest):
    hypotheses = [_filled(program.map(2, 3, 5, 16, exact=True), torch.randn(2, 16, 3, 5)) for _ in range(number)]
    updates = _filled(program.map(2, 3, 5, 17 * number, exact=True), torch.randn(2, 17 * number, 3, 5))
    out, w = tile_steps.choose(program, hypotheses, updates, highest=highest)
    program()
    *deltas, ws = updates.view.split([16] * number + [number], dim=1)
    moved = [h.view + delta for h, delta in zip(hypotheses, deltas, strict=True)]
    best = ws.max(1, keepdim=True) if highest else ws.min(1, keepdim=True)
    assert torch.equal(w.view, best.values)
    assert torch.equal(out.view, torch.where(best.indices == 0, moved[0], moved[-1]))


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_read(program, channels, grey):
    images, out = torch.rand(2, channels, 5, 9), program.map(2, 8, 16, 4)
    call = tile_steps.read(program, (2, channels, 5, 9), out, grey=grey)
    call.put(0, images)
    program()
    pad = (0, 7, 0, 3)
    padded = F.pad(images, pad, value=0.5) if grey else F.pad(images, pad, mode="replicate")
    torch.testing.assert_close(out.view[:, :channels].float(), 2 * padded - 1, rtol=2**-8, atol=1e-6)
    assert (out.view[:, channels:] == 0).all()


@pytest.mark.parametrize("highest", [True, False])
def test_finish(program, highest):
    d, w = torch.randn(2, 1, 8, 16), torch.randn(2, 1, 2, 4)
    d[0, 0, 0, 3], d[1, 0, 2, 4] = float("nan"), float("inf")
    maps = [_filled(program.map(*x.movedim(1, -1).shape, exact=True), x) for x in (d, w)]
    call = tile_steps.finish(program, *maps, (7, 13), highest=highest)
    disparity, confidence = torch.empty(2, 1, 7, 13), torch.empty(2, 1, 7, 13)
    valid = torch.empty(2, 1, 7, 13, dtype=torch.bool)
    for place, out in enumerate((disparity, valid, confidence), start=2):
        call.put(place, out)
    program()
    inner = d[..., :7, :13]
    assert torch.equal(valid, inner.isfinite())
    assert torch.equal(disparity, torch.where(valid, inner.clamp(min=0), 0.0))
    sure = torch.sigmoid(4 * ((w if highest else -w) - 0.5))
    expected = torch.where(valid, F.interpolate(sure, scale_factor=4)[..., :7, :13], 0.0)
    torch.testing.assert_close(confidence, expected, rtol=0, atol=1e-6)
