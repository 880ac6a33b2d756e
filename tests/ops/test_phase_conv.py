"""Convolutions over phases against those over pixels."""

import pytest
import torch
from torch.nn import functional as F

from stereopsis.ops.phase_conv import phase_kernel, unshuffled


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


def test_the_kernel_unshuffles_as_torch_does(kernels, threads):
    first, second = torch.randn(2, 3, 6, 10), torch.randn(3, 6, 2, 10).permute(2, 0, 1, 3)
    found = unshuffled([first, second])
    assert torch.equal(found, F.pixel_unshuffle(torch.cat([first, second]), 2))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_gradients_pass_through_the_phases():
    image = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unshuffled([x, 2 * x]), image)
    image = torch.randn(1, 2, 4, 6, requires_grad=True)
    assert torch.autograd.grad(unshuffled([image]).sum(), image)[0].eq(1).all()
