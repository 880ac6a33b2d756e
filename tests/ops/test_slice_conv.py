"""The 2-D form of a 3-D convolution against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from stereopsis.ops.slice_conv import BANDED, slice_conv


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("c", "o"), [(1, 4), (4, 4), (3, 1)])
@pytest.mark.parametrize("k", [1, 2, 3, BANDED, BANDED + 1, 12])
@pytest.mark.parametrize("b", [1, 2])
def test_values_and_gradients_are_those_of_conv3d(b, k, c, o, bias):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(b, c, k, 4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(o, c, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(o, generator=generator, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [x, kernel, shift][: 3 if bias else 2]
    results = []
    for out in (slice_conv(x, kernel, shift), F.conv3d(x, kernel, shift, padding=1)):
        assert out.shape == (b, o, k, 4, 6)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_another_kernel_is_refused():
    with pytest.raises(ValueError, match="only 3 x 3 x 3"):
        slice_conv(torch.randn(1, 2, 4, 5, 5), torch.randn(2, 2, 1, 3, 3))
