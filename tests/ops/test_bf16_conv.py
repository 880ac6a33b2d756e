"""Convolutions in bfloat16 over maps with margins: the kernels of this CPU against torch's float32."""

import pytest
import torch
from torch.nn import functional as F

from stereopsis.ops import bf16_conv, native
from stereopsis.ops.bf16_conv import conv
from stereopsis.ops.program import Program


@pytest.fixture(params=["bf16_conv_avx512", "bf16_conv_amx"])
def kernel(request, monkeypatch):
    """Each kernel that this CPU can run."""
    library = native.library()
    known = 0 if library is None else library.bf16_convolutions()
    if request.param not in bf16_conv.KERNELS[1 : known + 1]:
        pytest.skip(f"no {request.param}: it was not built, is switched off, or this CPU has no such arithmetic")
    monkeypatch.setattr(bf16_conv, "kernel", lambda: request.param)
    return request.param


def _filled(program, *shape, exact=False):
    x = program.map(*shape, exact=exact)
    x.view.copy_(torch.randn(x.view.shape))
    return x


def _expected(sources, weight, bias, padding, slope=1.0, add=None, **options):
    x = torch.cat([x.view.float() for x in sources], 1)[:, : weight.shape[1]]
    out = F.conv2d(F.pad(x, padding), weight.bfloat16().float(), bias, **options)
    return F.leaky_relu(out if add is None else out + add.view.float(), slope)


def _assert_equal(found, expected):
    # one rounding to bfloat16's 8 bits, of sums in another order
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if found.exact else {"rtol": 2**-8, "atol": 1e-2}
    torch.testing.assert_close(found.view.float(), expected, **tolerance)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("c_in", "c_out", "size", "stride", "dilation"),
    [(16, 16, 3, 1, 1), (24, 24, 3, 1, 1), (32, 34, 3, 1, 1), (32, 32, 3, 1, 3), (16, 24, 4, 2, 1), (40, 72, 1, 1, 1)],
)
def test_equals_torch(kernel, threads, c_in, c_out, size, stride, dilation, exact):
    torch.manual_seed(0)
    program = Program(margin=4)
    for width in (6, 34, 70):
        x = _filled(program, 2, 10, width, c_in)
        weight, bias = torch.randn(c_out, c_in, size, size) / c_in**0.5 / size, torch.randn(c_out)
        pad = dilation * (size // 2) if stride == 1 else 1
        rows, columns = 10 // stride, width // stride
        out = program.map(2, rows, columns, c_out, exact=True) if exact else None
        options = {"stride": (stride, stride), "dilation": dilation}
        out = conv(program, [x], weight, bias, padding=(pad, pad), slope=0.2, out=out, **options)
        program()
        _assert_equal(out, _expected([x], weight, bias, (pad,) * 4, 0.2, **options))


def test_two_sources_a_summand_and_a_part_of_a_map(kernel):
    torch.manual_seed(0)
    program = Program(margin=4)
    sources = [_filled(program, 1, 8, 20, channels) for channels in (24, 16)]
    weight, bias = torch.randn(16, 40, 3, 3) / 12, torch.randn(16)
    whole = _filled(program, 1, 8, 20, 48)
    for add in (_filled(program, 1, 8, 20, 16), _filled(program, 1, 8, 20, 16, exact=True)):
        before = whole.view.clone()
        out = conv(program, sources, weight, bias, padding=(1, 1), add=add, slope=0.2, out=whole.part(16, 16))
        program()
        _assert_equal(out, _expected(sources, weight, bias, (1, 1, 1, 1), 0.2, add))
        assert torch.equal(whole.view[:, :16], before[:, :16])
        assert torch.equal(whole.view[:, 32:], before[:, 32:])


def test_in_place_summand(kernel):
    torch.manual_seed(0)
    program = Program(margin=1)
    x, total = (_filled(program, 1, 8, 40, 32) for _ in range(2))
    weight = torch.randn(32, 32, 3, 3) / 17
    expected = _expected([x], weight, None, (1, 1, 1, 1), 0.2, total)
    conv(program, [x], weight, padding=(1, 1), add=total, slope=0.2, out=total)
    program()
    _assert_equal(total, expected)


def test_strides_of_their_own_and_channels_that_count_nothing(kernel):
    """The tiles of HITNet's right view: one a column, four rows high; and a kernel for three channels of four."""
    torch.manual_seed(0)
    program = Program(margin=4)
    x = _filled(program, 2, 8, 24, 4)
    weight, bias = torch.randn(16, 3, 4, 4) / 7, torch.randn(16)
    out = conv(program, [x], weight, bias, stride=(4, 1), padding=(0, 1), size=(2, 24))
    program()
    _assert_equal(out, _expected([x], weight, bias, (1, 2, 0, 0), stride=(4, 1)))


def test_margins_stay_zero_and_memory_is_used_again(kernel):
    program = Program(margin=1)
    x = _filled(program, 1, 4, 10, 16)
    address, weight = x.address, torch.ones(16, 16, 3, 3)
    y = conv(program, [x], weight, padding=(1, 1))
    del x
    z = conv(program, [y], weight, padding=(1, 1))
    assert z.address == address
    program()
    program()
    for used in (y, z):
        inner = used.view.abs().sum()
        assert inner > 0
        assert used.memory.abs().sum() == inner


def test_refuses_what_it_cannot_do(kernel):
    program = Program(margin=1)
    x = program.map(1, 8, 8, 16)
    with pytest.raises(ValueError, match="takes one or two"):
        conv(program, [x, x, x], torch.zeros(16, 48, 1, 1))
    with pytest.raises(ValueError, match="the margin is 1"):
        conv(program, [x], torch.zeros(16, 16, 3, 3), padding=(3, 3), dilation=3)
