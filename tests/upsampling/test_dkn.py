"""DKN and FDKN: their size, their passes, holes, and parity with the authors' network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from stereopsis.ops import native
from stereopsis.ops.kernel_average import kernel_average
from stereopsis.types import Depth
from stereopsis.upsampling.dkn import (
    DKN,
    DKN_X8,
    FDKN_X8,
    FDKN_X16,
    OFFICIAL,
    DKNConfig,
    DKNStream,
)
from stereopsis.zoo import get_entry
from stereopsis.zoo.importers import import_dkn

VARIANTS = [
    replace(base, **change)
    for base in (DKN_X8, FDKN_X8)
    for change in (
        {},
        {"residual": False},
        {"guidance": None},
        {"guidance": "grey", "kernel_size": 5},
        {"kernel_size": 7, "widths": (32, 16)},
        {"grid": "authors", "zeros_outside": True, "guidance": "grey-bgr"},
    )
]


def _network(config, seed=0):
    """Statistics of the normalisations as after training, so that folding or forgetting them would show."""
    torch.manual_seed(seed)
    model = DKN(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def _scene(b, h, w, c=3, t=1, seed=1):
    """An image, a positive map and a mask with holes."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(b, c, h, w, generator=generator)
    depth = 1 + 4 * torch.rand(b, t, h, w, generator=generator)
    return image, depth, torch.rand(b, 1, h, w, generator=generator) > 0.2


def _parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# --- size and interface


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (DKN_X8, 1_158_070),
        (replace(FDKN_X8, guidance="grey"), 693_856),
        (OFFICIAL, 693_856),
        (FDKN_X8, 703_072),
        (replace(DKN_X8, guidance=None), 577_467),
        (replace(FDKN_X8, guidance=None), 346_928),
    ],
)
def test_parameter_counts_of_the_published_networks(config, parameters):
    assert _parameters(DKN(config)) == parameters


@pytest.mark.parametrize(
    ("widths", "dkn", "fdkn"),
    [((128, 128), 4.5, 2.8), ((256, 128), 6.7, 4.5), ((256, 256), 9.0, 7.3), ((256, 512), 14.0, 13.0)],
)
def test_widths_of_the_supplements_second_table(widths, dkn, fdkn):
    """By the size of the file in MB; the table's numbers of parameters do not agree with its sizes for FDKN."""
    for base, megabytes in ((DKN_X8, dkn), (replace(FDKN_X8, guidance="grey"), fdkn)):
        assert 4e-6 * _parameters(DKN(replace(base, widths=widths))) == pytest.approx(megabytes, rel=0.05)


def test_registered_names_build_what_they_say():
    assert get_entry("dkn_x8").config == DKN_X8
    assert get_entry("fdkn_x16").config == FDKN_X16
    official = get_entry("fdkn_x8.official")
    assert official.config == OFFICIAL
    assert official.official
    assert (official.family, official.architecture) == ("upsampling", "fdkn")


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 24), (21, 34)])
def test_any_variant_and_size(config, size):
    image, depth, valid = _scene(2, *size)
    valid[:, :, 0, 0] = True
    with torch.inference_mode():
        for result in (_network(config)(image, depth), _network(config)(image[:, :1], Depth(depth * valid, valid))):
            assert isinstance(result, Depth)
            assert result.depth.shape == result.valid.shape == (2, 1, *size)
            assert (result.depth.dtype, result.valid.dtype) == (torch.float32, torch.bool)
            assert result.depth.isfinite().all()
            assert result.depth[~result.valid].eq(0).all()


@pytest.mark.parametrize("config", [DKN_X8, FDKN_X8], ids=["DKN", "FDKN"])
def test_the_size_is_padded_inside_and_does_not_move_the_map(config):
    """Pixels far from the right and lower border do not notice that the image goes on there."""
    model = _network(config)
    image, depth, _ = _scene(1, 64, 84)
    limits = (0.0, 5.0)
    with torch.inference_mode():
        whole = model(image, depth, limits=limits).depth
        part = model(image[..., :61, :82], depth[..., :61, :82], limits=limits).depth
    torch.testing.assert_close(part[..., :30, :50], whole[..., :30, :50], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [DKN_X8, replace(FDKN_X8, residual=False)])
def test_channels_are_filtered_one_by_one(config):
    model = _network(config)
    image, maps, valid = _scene(2, 17, 22, t=3)
    with torch.inference_mode():
        together = model(image, maps, valid)
        for channel in range(3):
            alone = model(image, maps[:, channel : channel + 1], valid)
            torch.testing.assert_close(together.depth[:, channel : channel + 1], alone.depth)
            assert torch.equal(together.valid[:, channel : channel + 1], alone.valid)


@pytest.mark.parametrize("config", [DKN_X8, FDKN_X8, replace(FDKN_X8, residual=False)])
def test_neither_unit_nor_range_matters(config):
    model = _network(config)
    image, depth, _ = _scene(1, 20, 24)
    with torch.inference_mode():
        metres = model(image, depth).depth
        torch.testing.assert_close(model(image, 1000 * depth).depth / 1000, metres, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(image, depth + 10).depth - 10, metres, rtol=1e-4, atol=1e-4)
        low, high = depth.amin().item(), depth.amax().item()
        torch.testing.assert_close(model(image, depth, limits=(low, high)).depth, metres, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS[:3])
def test_a_flat_map_stays_as_it_is(config):
    image, depth, valid = _scene(1, 20, 24)
    with torch.inference_mode():
        result = _network(config)(image, torch.full_like(depth, 2.5), valid)
    torch.testing.assert_close(result.depth[result.valid], torch.full_like(result.depth[result.valid], 2.5))


def test_compute_dtype_runs_the_convolutions_in_bfloat16():
    model = _network(FDKN_X8)
    image, depth, _ = _scene(1, 32, 40)
    with torch.inference_mode():
        expected = model(image, depth).depth
        model.compute_dtype = torch.bfloat16
        seen = []
        model.depth_stream.layers[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        found = model(image, depth).depth
    assert seen == [torch.bfloat16]
    assert found.dtype == torch.float32
    assert (found - expected).abs().median() < 0.02


@pytest.mark.parametrize(
    ("image", "depth", "arguments", "words"),
    [
        ((1, 3, 8, 8), (1, 1, 4, 4), {}, "enlarge the map first"),
        ((2, 3, 8, 8), (1, 1, 8, 8), {}, "one batch"),
        ((1, 2, 8, 8), (1, 1, 8, 8), {}, "2 channels"),
        ((1, 3, 8, 8), (1, 1, 8, 8), {"valid": torch.ones(1, 1, 8, 7, dtype=torch.bool)}, "valid is (1, 1, 8, 7)"),
        ((1, 3, 8, 8), (1, 1, 8, 8), {"limits": (5.0, 5.0)}, "limits are 5 and 5"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(image, depth, arguments, words):
    with pytest.raises(ValueError) as error:
        _network(FDKN_X8)(torch.rand(image), torch.rand(depth), **arguments)
    message = str(error.value)
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("change", [{"kernel_size": 4}, {"window": 0}, {"kernel_size": 9, "window": 7}])
def test_a_bad_configuration_is_refused_in_one_sentence(change):
    with pytest.raises(ValueError, match=r"^(kernel_size|window) is .*\.$"):
        DKNConfig(**change)


# --- passes


@pytest.mark.parametrize("size", [(9, 14), (16, 20)])
def test_one_pass_of_dkn_equals_shift_and_stitch_and_the_definition(size):
    stream = _network(DKN_X8).image_stream
    assert isinstance(stream, DKNStream)
    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        once, stitched = stream(x), stream.shift_and_stitch(x)
        torch.testing.assert_close(once, stitched, rtol=0, atol=1e-5)
        padded = F.pad(x, (25, 25, 25, 25))
        for row, column in ((0, 0), (5, 2), (8, 13)):
            # 51 x 51 pixels around this one, of which the strides leave the last row and column unread
            alone = stream.every_fourth(padded[..., row : row + 51, column : column + 51])
            torch.testing.assert_close(once[..., row, column], alone[..., 0, 0], rtol=0, atol=1e-5)


def test_one_pass_of_dkn_in_training_has_the_same_numbers():
    stream = _network(DKN_X8).image_stream
    x = torch.rand(2, 3, 13, 16)
    expected = stream(x)
    stream.train()
    for module in stream.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(stream(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(33, 46), (8, 8), (5, 3)])
def test_a_sparse_pass_of_dkn_answers_for_the_first_pixel_of_each_block(size):
    model = _network(DKN_X8)
    image, depth, valid = _scene(2, *size)
    with torch.inference_mode():
        whole, sparse = (model(image, depth, valid, sparse=sparse) for sparse in (False, True))
    assert torch.allclose(whole.depth[..., ::4, ::4], sparse.depth[..., ::4, ::4], atol=1e-5)
    assert torch.equal(whole.valid[..., ::4, ::4], sparse.valid[..., ::4, ::4])
    assert not torch.equal(whole.depth, sparse.depth)


def test_a_sparse_pass_of_fdkn_is_a_whole_one():
    model, scene = _network(FDKN_X8), _scene(1, 20, 24)
    with torch.inference_mode():
        assert torch.equal(model(*scene).depth, model(*scene, sparse=True).depth)


@pytest.mark.parametrize("config", [FDKN_X8, DKN_X8, replace(FDKN_X8, guidance=None), OFFICIAL])
@pytest.mark.parametrize("several", [False, True])
def test_the_kernels_that_are_shown_are_those_that_average(config, several):
    """A call, and the average under the weights and shifts that it never writes down."""
    model = _network(config)
    image, depth, _ = _scene(1, 18, 23)
    depth = torch.cat([depth, depth.flip(3)], 1) if several else depth
    with torch.inference_mode():
        found = model(image, depth, limits=(0.0, 1.0)).depth
        maps = depth.view(-1, 1, 18, 23)
        average, _ = kernel_average(
            maps, *model.kernels(image, maps), residual=True, zeros_outside=model.config.zeros_outside
        )
    torch.testing.assert_close(found, (maps + average).view_as(depth), rtol=1e-4, atol=1e-4)


def test_inference_takes_the_normalisations_into_the_kernels():
    for config in (FDKN_X8, DKN_X8):
        model = _network(config)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after a training
                for values in (module.running_mean, module.weight.data, module.bias.data):
                    nn.init.normal_(values, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
        scene = _scene(1, 21, 26)
        expected = model(*scene).depth.detach()
        with torch.inference_mode():
            torch.testing.assert_close(model(*scene).depth, expected, rtol=1e-4, atol=1e-4)


def test_the_grid_is_centred_and_the_authors_is_not():
    assert DKN().grid.flatten().tolist() == [t for y in (-1, 0, 1) for x in (-1, 0, 1) for t in (x, y)]
    authors = DKN(OFFICIAL).grid.view(9, 2)
    expected = [((7 + i) * 14 / 15 - 7, (7 + j) * 14 / 15 - 7) for i in range(3) for j in range(3)]
    torch.testing.assert_close(authors, torch.tensor(expected))


def test_without_guidance_the_image_does_not_matter():
    model = _network(replace(FDKN_X8, guidance=None))
    image, depth, _ = _scene(1, 16, 20)
    with torch.inference_mode():
        assert torch.equal(model(image, depth).depth, model(1 - image, depth).depth)


@pytest.mark.parametrize("config", [DKN_X8, FDKN_X8, replace(FDKN_X8, residual=False)])
def test_every_parameter_learns(config):
    model = _network(config).train()
    image, depth, valid = _scene(2, 16, 20)
    model(image, depth, valid).depth.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or "conv" in name or "layers" in name or "down" in name, name


def test_the_torch_operator_gives_the_same(monkeypatch):
    model = _network(OFFICIAL)
    image, depth, valid = _scene(1, 20, 28)
    with torch.inference_mode():
        fast = model(image, depth, valid).depth
        monkeypatch.setattr(native, "library", lambda: None)
        torch.testing.assert_close(model(image, depth, valid).depth, fast, rtol=1e-4, atol=1e-4)


# --- holes


@pytest.mark.parametrize("config", [FDKN_X8, replace(FDKN_X8, residual=False), OFFICIAL])
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_holes_never_leak(config, seed):
    model = _network(config)
    image, depth, valid = _scene(1, 18, 22, seed=seed)
    results = []
    with torch.inference_mode():
        for content in (0.0, 1e6, -3.0, float("nan"), float("inf")):
            results.append(model(image, torch.where(valid, depth, content), valid))
    for other in results[1:]:
        assert torch.equal(other.depth, results[0].depth)
        assert torch.equal(other.valid, results[0].valid)
    assert results[0].valid[valid].all()


@pytest.mark.parametrize("config", [replace(FDKN_X8, residual=False), replace(DKN_X8, residual=False)])
def test_without_residual_the_result_lies_between_the_samples(config):
    image, depth, valid = _scene(1, 24, 24)
    with torch.inference_mode():
        result = _network(config)(image, depth, valid)
    assert result.depth[result.valid].min() >= depth[valid].min() - 1e-4
    assert result.depth[result.valid].max() <= depth[valid].max() + 1e-4


@pytest.mark.parametrize("config", [FDKN_X8, replace(DKN_X8, residual=False)])
def test_holes_are_filled_from_reach_and_stay_beyond(config):
    image, depth, _ = _scene(1, 40, 60)
    valid = torch.ones(1, 1, 40, 60, dtype=torch.bool)
    valid[..., 20:] = False
    with torch.inference_mode():
        result = _network(config)(image, depth, valid)
    assert result.valid[..., :20].all()
    assert result.valid[..., 20].any()
    assert not result.valid[..., 20 + 8 :].any()  # samples come from at most 7 pixels, and their neighbours


def test_unknown_values_of_a_bare_map_are_holes():
    model = _network(FDKN_X8)
    image, depth, valid = _scene(1, 24, 28)
    with torch.inference_mode():
        expected = model(image, depth, valid)
        for content in (0.0, -1.0, float("nan")):
            assert torch.equal(model(image, torch.where(valid, depth, content)).depth, expected.depth)


def test_a_map_without_anything_stays_so():
    image, depth, _ = _scene(2, 12, 12)
    depth[1] = 0
    with torch.inference_mode():
        result = _network(FDKN_X8)(image, depth)
    assert result.valid[0].all()
    assert not result.valid[1].any()


# --- the authors' network


def test_the_authors_weights_reproduce_their_output(shared_data):
    model = import_dkn(DKN(OFFICIAL), shared_data("weights/dkn/FDKN_8x")).eval()
    with np.load(shared_data("weights/dkn/golden_fdkn_x8_64x96.npz")) as golden:
        image, target, expected = (torch.from_numpy(golden[key]) for key in ("guidance", "target", "output"))
    with torch.inference_mode():
        found = model(image, target, limits=(0.0, 1.0))
    torch.testing.assert_close(found.depth, expected, rtol=0, atol=1e-4)
    assert found.valid.all()
