"""The wrapper of the C kernels: what is not what a kernel takes is refused, whatever the caller's state is."""

import re
import resource
from pathlib import Path

import pytest
import torch

from stereopsis.ops import native
from stereopsis.ops.native import Call, declarations, run

FOLDER = Path(native.__file__).parent
B, C, H, W, D = 2, 3, 5, 6, 4
NUMBERS = (C, H, W, D)
ROWS = B * H
# a structure, whose maker checks it, and what is no kernel
OTHERS = {"bf16_conv_amx", "bf16_conv_avx512", "bf16_convolutions", "over_rows"}


@pytest.fixture
def arguments(kernels):
    return [torch.rand(B, C, H, W), torch.rand(B, C, H, W), torch.empty(B, D, H, W)]


def functions():
    """Names and bodies of the exported functions."""
    for path in FOLDER.glob("*.c"):
        for found in re.finditer(r"^[A-Z ]*EXPORT [A-Z ]*(?:void|int) (\w+)\(.*?^}", path.read_text(), re.M | re.S):
            yield found[1], found[0]


def test_every_kernel_is_declared_with_all_that_it_reads():
    bodies = dict(functions())
    assert set(bodies) - OTHERS == set(declarations.TEXTS)
    for name, declared in ((name, declarations.declaration(name)) for name in declarations.TEXTS):
        for what, given in (("numbers", declared.numbers), ("tensors", declared.arguments)):
            read = [int(place) for place in re.findall(rf"{what}\[(\d+)\]", bodies[name])]
            assert max(read, default=0) < len(given), (name, what)


def test_takes_what_is_declared(arguments):
    run("absolute_volume", arguments, NUMBERS, ROWS)
    assert (arguments[2][:, 0] - (arguments[0] - arguments[1]).abs().sum(1)).abs().max() < 1e-5


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x.double(),
        lambda x: x.bfloat16(),
        lambda x: x.to("meta"),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[..., :-1],
        lambda x: x[:1],
        lambda x: x[:, :1].expand_as(x),
        lambda x: x.flip(-1)[..., ::2].repeat_interleave(2, -1).mT,
        lambda x: torch._neg_view(x),
        lambda x: x.to_sparse(),
        lambda x: x.view(-1),
        lambda x: None,
    ],
)  # fmt: skip
def test_refuses_other_tensors(arguments, place, spoil):
    arguments[place] = spoil(arguments[place])
    with pytest.raises(ValueError, match=r"(left|right|costs) of absolute_volume"):
        run("absolute_volume", arguments, NUMBERS, ROWS)


@pytest.mark.parametrize(
    ("numbers", "rows", "text"),
    [
        ((C, H, W), ROWS, "takes 4 numbers"),
        ((C, H, 0, D), ROWS, "width of absolute_volume is 0"),
        ((C, H, 2**31, D), ROWS, "width of absolute_volume is 2147483648"),
        ((C, H, W, 2**30), ROWS, "costs of absolute_volume"),
        ((C, H, W, -1), ROWS, "candidates of absolute_volume is -1"),
        (NUMBERS, ROWS + 1, "a positive multiple of 5"),
        (NUMBERS, 0, "a positive multiple of 5"),
        (NUMBERS, 2**40 * H, "a positive multiple of 5"),
    ],
)
def test_refuses_other_numbers(arguments, numbers, rows, text):
    with pytest.raises(ValueError, match=text):
        run("absolute_volume", arguments, numbers, rows)


def test_refuses_outputs_that_share_memory(arguments):
    memory = torch.zeros(B * D * H * W)
    arguments[2] = memory.view(B, D, H, W)
    arguments[0] = memory[: B * C * H * W].view(B, C, H, W)
    with pytest.raises(ValueError, match="costs of absolute_volume shares memory"):
        run("absolute_volume", arguments, NUMBERS, ROWS)


def test_refuses_a_wrong_count_of_tensors_and_an_unknown_kernel(arguments):
    with pytest.raises(ValueError, match="takes 3 tensors and was given 2"):
        run("absolute_volume", arguments[:2], NUMBERS, ROWS)
    with pytest.raises(ValueError, match="over_rows has no declaration"):
        run("over_rows", arguments, NUMBERS, ROWS)


def test_late_tensors_are_checked_and_needed_at_each_run(kernels):
    def late(rows=H, columns=W):
        return torch.empty(B, 1, rows, columns)

    d, w = torch.rand(B, 8, 8, 1), torch.rand(B, 2, 2, 1)
    call = Call("finished_hypotheses", [d, w, None, None, None], (8, 8, H, W, 1), B * H)
    with pytest.raises(ValueError, match="no out and no valid and no confidence"):
        call()
    with pytest.raises(ValueError, match="out of finished_hypotheses is float64"):
        call.put(2, late().double())
    with pytest.raises(ValueError, match="argument 0 of finished_hypotheses is fixed"):
        call.put(0, d)
    call.put(2, late())
    call.put(3, torch.empty(B, 1, H, W, dtype=torch.bool))
    call.put(4, late())
    call()
    with pytest.raises(ValueError, match="call put first"):  # the memory of the last run is its caller's
        call()


def test_missing_memory_is_an_error(kernels):
    features = torch.rand(1, 1, 2, 1)
    tensors = [features, features, None, native.scalar(0), native.empty(1, 1, 1, 2)]
    call = Call("tile_match", tensors, (1, 2, 2, 1, 2**30), 1)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**31, limits[1]))
    try:
        with pytest.raises(MemoryError, match="tile_match found no memory"):
            call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_memory_for_kernels_ignores_the_callers_defaults(dtype):
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            made = [native.empty(2, 3), native.zeros(4), native.scalar(2.5)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" for t in made)
    assert made[2].item() == 2.5
