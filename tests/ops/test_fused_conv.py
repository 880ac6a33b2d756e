"""A convolution with its activation: one pass or two, the same numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stereopsis.ops import fused_conv
from stereopsis.ops.fused_conv import conv_leaky

SHAPES = [(16, 16, 3, 1, 1), (16, 24, 4, 2, 1), (32, 32, 3, 1, 3), (40, 32, 1, 1, 1), (3, 16, 3, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("c_in", "c_out", "kernel", "stride", "dilation"), SHAPES)
def test_the_same_in_one_pass(c_in, c_out, kernel, stride, dilation, dtype):
    torch.manual_seed(0)
    padding = dilation * (kernel // 2) if stride == 1 else 1
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation)
    x = torch.randn(2, c_in, 48, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = F.leaky_relu(conv(x), 0.2)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            found = conv_leaky(x, conv, 0.2)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    # bfloat16 has 8 bits
    tolerance = 1e-5 if dtype == torch.float32 else 0.02 * expected.abs().max().item()
    assert torch.allclose(found.float(), expected, atol=tolerance)


def test_gradients_and_what_cannot_fuse(monkeypatch):
    conv, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 8, 8)
    conv_leaky(x, conv, 0.2).sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    with torch.no_grad():
        fused = conv_leaky(x, conv, 0.2)
        monkeypatch.setattr(fused_conv, "_fuses", lambda dtype: False)
        assert torch.allclose(conv_leaky(x, conv, 0.2), fused, atol=1e-5)
