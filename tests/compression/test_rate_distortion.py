"""MS-SSIM and the losses."""

import pytest
import torch

from stereopsis.compression.losses import LAMBDA_MIN, LUMA, MS_SSIM_WEIGHT, ms_ssim, rate_distortion_loss, weigh_luma
from stereopsis.compression.single import Reconstruction


def _pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, height // 8, width // 8, generator=generator)
    a = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("size", [(192, 208), (177, 243)])
def test_against_torchmetrics(size):
    oracle = pytest.importorskip("torchmetrics.functional.image")
    a, b = _pair(*size)
    expected = oracle.multiscale_structural_similarity_index_measure(a, b, data_range=1.0)
    assert ms_ssim(a, b).mean().item() == pytest.approx(expected.item(), abs=2e-3)


def test_known_values():
    a, _ = _pair(176, 176)
    assert ms_ssim(a, a).tolist() == pytest.approx([1.0, 1.0])
    # a constant offset changes the luminance of the coarsest scale alone
    flat = torch.full((1, 1, 176, 176), 0.5)
    luminance = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert ms_ssim(flat, flat + 0.1).item() == pytest.approx(luminance**0.1333, abs=1e-4)


def test_sides_too_small():
    with pytest.raises(ValueError, match="175x300; MS-SSIM needs sides of 176"):
        ms_ssim(torch.rand(1, 3, 300, 175), torch.rand(1, 3, 300, 175))


def test_loss_of_similarity():
    a, b = _pair(176, 176)
    output = Reconstruction(b, torch.full((2,), 1000.0), torch.zeros(2))
    found = rate_distortion_loss(output, a, 1.0, "ms-ssim")
    expected = 1000 / 176**2 + LAMBDA_MIN * MS_SSIM_WEIGHT * (1 - ms_ssim(b, a))
    assert torch.allclose(found.loss, expected)
    assert found.bpp.tolist() == pytest.approx([1000 / 176**2] * 2)


def test_luma_weighs_brightness_against_colour():
    a, _ = _pair(16, 16)
    grey = torch.full((1, 3, 1, 1), 0.1)
    blind = torch.tensor([LUMA[1], -LUMA[0], 0.0]).view(1, 3, 1, 1)  # leaves luma as it is
    for error, factor in ((grey, 3.0), (blind, 1 / 3)):
        output = Reconstruction(a + error, torch.zeros(2), torch.zeros(2))
        plain, weighed = (rate_distortion_loss(output, a, 4.0, luma=luma).distortion for luma in (1.0, 3.0))
        assert plain.tolist() == pytest.approx([255**2 * error.square().mean().item()] * 2, rel=1e-4)
        assert weighed.tolist() == pytest.approx((plain * factor).tolist(), rel=1e-4)
    assert weigh_luma(a, 1.0) is a
    with pytest.raises(ValueError, match="luma is 2, but MS-SSIM looks at all channels alike"):
        rate_distortion_loss(output, a, 4.0, "ms-ssim", luma=2.0)
