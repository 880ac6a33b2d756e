"""Enlargement: kernels against references."""

import math

import pytest
import torch

from stereopsis.ops import native
from stereopsis.ops.enlarge import enlarge, enlarge_reference, finished_map, finished_map_reference


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((24, 78), (384, 1248)),
        ((3, 5), (6, 10)),
        ((7, 9), (3, 4)),
        ((1, 1), (4, 5)),
        ((5, 3), (1, 1)),
        ((6, 8), (6, 8)),
    ],
)
def test_the_kernel_equals_the_reference(kernels, threads, small, large, based, align_corners):
    x = torch.randn(2, 3, *small)
    base = torch.randn(2, 3, *large) if based else None
    assert native.usable(x)
    options = {"base": base, "align_corners": align_corners}
    found, expected = (operator(x, large, **options) for operator in (enlarge, enlarge_reference))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-4)


def test_gradients():
    x, base = (torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True) for size in ((2, 3), (4, 6)))
    assert torch.autograd.gradcheck(lambda x, base: enlarge(x, (4, 6), base=base), (x, base))
    assert enlarge(x.float(), (4, 6)).requires_grad


@pytest.mark.parametrize(("corner", "size"), [((0, 0), (16, 48)), ((3, 0), (13, 40)), ((0, 7), (15, 41))])
def test_finished_maps(kernels, threads, corner, size):
    disparity, confidence = 5 * torch.randn(2, 1, 16, 48), torch.rand(2, 1, 4, 12)
    disparity[0, 0, 5, 9], disparity[0, 0, 6, 10], disparity[1, 0, 7, 11] = math.nan, math.inf, -math.inf
    arguments = disparity, confidence, corner, size
    found, expected = finished_map(*arguments), finished_map_reference(*arguments)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[1].dtype == torch.bool
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=1e-5)
    assert (~found[1]).sum() == 3
    assert found[0].min() == 0
