"""Convolutions over phases against those over pixels."""

import pytest
import torch
from torch.nn import functional as F

from stereopsis.ops.phase_conv import Canvas, canvas_phases, phase_kernel


@pytest.mark.parametrize(("channels", "outputs"), [(3, 1), (1, 1), (2, 5)])
def test_phases_are_convolved_as_pixels_are(channels, outputs):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, 6, 10, generator=generator, dtype=torch.float64)
    kernel = torch.randn(outputs, channels, 3, 3, generator=generator, dtype=torch.float64)
    phases = phase_kernel(kernel)
    unshuffled = F.pixel_unshuffle(x, 2)
    expected = F.conv2d(x, kernel, padding=1)
    torch.testing.assert_close(F.conv2d(unshuffled, phases, padding=1), F.pixel_unshuffle(expected, 2))
    expected = F.conv2d(x, kernel, padding=1, stride=2)
    torch.testing.assert_close(F.conv2d(unshuffled, phases[::4], padding=1), expected)


def test_gradients_reach_the_kernel():
    kernel = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(phase_kernel, kernel)


CANVAS = {"mean": (0.4, 0.5, 0.6), "deviation": (0.2, 0.3, 0.25)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize(
    ("size", "sides"),
    [((6, 10), (0, 0, 0, 0)), ((5, 7), (0, 9, 11, 0)), ((5, 7), (3, 2, 0, 1)), ((1, 1), (1, 0, 0, 1))],
)
def test_the_kernel_draws_as_torch_does(kernels, threads, channels, repeat, size, sides):
    canvas = Canvas(**CANVAS, **dict(zip(("top", "left", "bottom", "right"), sides, strict=True)), repeat=repeat)
    first, second = torch.rand(2, channels, *size), torch.rand(*size, channels, 2).permute(3, 2, 0, 1)
    found = canvas_phases([first, second], canvas)
    drawn = torch.cat([canvas.draw(first), canvas.draw(second)])
    assert drawn.shape[1:] == (3, size[0] + sides[0] + sides[2], size[1] + sides[1] + sides[3])
    torch.testing.assert_close(found, F.pixel_unshuffle(drawn, 2), rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_gradients_pass_through_the_phases():
    image = torch.rand(1, 3, 4, 6, requires_grad=True)
    phases = canvas_phases([image], Canvas(**CANVAS))
    expected = (1 / torch.tensor(CANVAS["deviation"])).view(1, 3, 1, 1).expand_as(image)
    torch.testing.assert_close(torch.autograd.grad(phases.sum(), image)[0], expected)
