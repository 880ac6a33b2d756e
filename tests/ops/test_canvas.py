"""What a network reads of an image: the kernels against torch's own steps."""

import pytest
import torch
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.canvas import Canvas

CANVAS = {"mean": (0.4, 0.5, 0.6), "deviation": (0.2, 0.3, 0.25)}
SIDES = ("top", "left", "bottom", "right")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("outputs", [1, 4, 11])
@pytest.mark.parametrize(
    ("size", "sides"),
    [((6, 10), (0, 0, 0, 0)), ((5, 7), (0, 9, 11, 0)), ((50, 37), (3, 2, 1, 9)), ((1, 1), (1, 0, 0, 1))],
)
def test_convolutions_of_drawn_images(kernels, threads, channels, repeat, outputs, size, sides):
    canvas = Canvas(**CANVAS, **dict(zip(SIDES, sides, strict=True)), repeat=repeat)
    images = torch.rand(2, channels, *size), torch.rand(*size, channels, 2).permute(3, 2, 0, 1)
    kernel, bias = torch.randn(outputs, 3, 3, 3), torch.randn(outputs)
    assert native.usable(*images, kernel, bias)
    drawn = torch.cat([canvas.draw(image) for image in images])
    assert drawn.shape[1:] == (3, size[0] + sides[0] + sides[2], size[1] + sides[1] + sides[3])
    expected = F.conv2d(drawn, kernel, bias, padding=1)
    torch.testing.assert_close(canvas.convolved(images, kernel, bias), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("factor", [2, 4])
def test_reduced_images(kernels, threads, channels, repeat, factor):
    canvas = Canvas(**CANVAS, top=3, left=1, bottom=0, right=2, repeat=repeat)
    image = torch.rand(2, channels, 13, 37)
    expected = F.interpolate(canvas.draw(image), scale_factor=1 / factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(canvas.reduced(image, factor), expected, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through():
    image = torch.rand(1, 3, 4, 6, requires_grad=True)
    kernel = torch.zeros(1, 3, 3, 3)
    kernel[..., 1, 1] = 1
    expected = (1 / torch.tensor(CANVAS["deviation"])).view(1, 3, 1, 1).expand_as(image)
    for result, share in (
        (Canvas(**CANVAS).convolved([image], kernel, torch.zeros(1)), 1),
        (Canvas(**CANVAS).reduced(image, 2), 0.25),
    ):
        torch.testing.assert_close(torch.autograd.grad(result.sum(), image)[0], share * expected)
