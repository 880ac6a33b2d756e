"""Fast feature fusion: what FFCA-Net's decoder makes of the features of two views (section 3.2 and 6.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.compression.layers import FAST, IGDN, SLOPE, conv


class ShuffleBlock(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1, beside a plain 1 x 1 (Zhang, ShuffleNet, 2018)."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c_in, c_in, 1, groups=groups)
        self.shuffle = nn.ChannelShuffle(groups)
        self.depthwise = nn.Conv2d(c_in, c_in, 3, 1, 1, groups=c_in)
        self.expand = nn.Conv2d(c_in, c_out, 1, groups=groups)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        inner = self.shuffle(F.leaky_relu(self.reduce(x), SLOPE)).contiguous(memory_format=FAST)
        return F.leaky_relu(self.skip(x) + self.expand(self.depthwise(inner)), SLOPE)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first, self.second, self.skip = conv(c_in, c_out, 3, 1), conv(c_out, c_out, 3, 1), conv(c_in, c_out, 1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return F.leaky_relu(self.second(F.leaky_relu(self.first(x), SLOPE)), SLOPE) + self.skip(x)


class ResidualUpsample(nn.Module):
    """Twice the size, with a convolution and IGDN beside a sub-pixel convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.enlarge, self.skip = (conv(c_in, 4 * c_out, 3, 1) for _ in range(2))
        self.inner, self.norm = conv(c_out, c_out, 3, 1), IGDN(c_out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        inner = self.inner(F.leaky_relu(F.pixel_shuffle(self.enlarge(x), 2), SLOPE))
        return self.norm(inner) + F.pixel_shuffle(self.skip(x), 2)


class FeatureFusion(nn.Module):
    """FFF: from 1/16 upwards, what the features of both views add to the base picture.

    Args:
        features: channels of each view's features at 1/2, 1/4, 1/8 and 1/16.
        widths: channels inside at these scales.
        groups: of the 1 x 1 convolutions of its shuffle blocks.
        head: channels at full size; 0 for none.
        fast: with shuffle blocks; without, its blocks are those of Huang et al. (2023), which the paper compares with.
    """

    def __init__(
        self,
        features: tuple[int, int, int, int],
        widths: tuple[int, int, int, int],
        groups: int = 2,
        head: int = 0,
        fast: bool = True,
    ) -> None:
        super().__init__()
        full = head or 3
        before = (*widths[:3], 0)  # channels that arrive from below
        self.blocks, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            c_in, c_up = 2 * features[level] + before[level], widths[level - 1] if level else full
            if fast:
                self.blocks.append(ShuffleBlock(c_in, width, groups))
            else:
                self.blocks.append(ResidualBlock(c_in, width))
            if fast or not level:
                self.enlarge.append(nn.Sequential(conv(width, 4 * c_up, 3, 1), nn.PixelShuffle(2)))
            else:
                self.enlarge.append(ResidualUpsample(width, c_up))
        self.head: nn.Module = nn.Identity()
        last: list[nn.Module] = [self.enlarge[0]]
        if head and fast:
            self.head = conv(head, 3, 3, 1)
            last = [self.head]
        elif head:
            self.head = block = ResidualBlock(head, 3)
            last = [block.second, block.skip]
        for layer in last:  # an untrained network adds nothing to the base picture
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, h_x: list[Float[Tensor, "b _ _ _"]], h_y: list[Float[Tensor, "b _ _ _"]]
    ) -> Float[Tensor, "b 3 h w"]:
        x: Tensor | None = None
        for level in (3, 2, 1, 0):
            parts = [part.to(h_y[level].dtype) for part in (h_x[level], h_y[level], x) if part is not None]
            x = self.enlarge[level](self.blocks[level](torch.cat(parts, 1).contiguous(memory_format=FAST)))
        assert x is not None
        return self.head(x)
