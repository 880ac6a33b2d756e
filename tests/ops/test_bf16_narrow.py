"""Convolutions of bfloat16 with narrow outputs: oneDNN computes those of width 1 and stride above 1 wrongly.

No model may meet them, whatever the size of a view, so their convolutions are looked at one by one.
"""

import pytest
import torch
from torch import nn

from stereopsis.matching import hitnet_bf16
from stereopsis.zoo.registry import get_entry, list_models, load

# widths up to 80 that a network pads to others than the width before: all of them are multiples of 16
SIDES = [*range(1, 81, 16), 80]
NAMES = [name for name in list_models() if get_entry(name).weights_file and get_entry(name).family == "matching"]


class Strided(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the convolutions of bfloat16 whose output is one column wide under a stride above 1."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if "convolution" in str(function) and isinstance(out, torch.Tensor) and out.dtype == torch.bfloat16:
            strides = [value for value in arguments if isinstance(value, list | tuple) and len(value) in (1, 2)]
            if out.dim() == 4 and out.shape[-1] == 1 and any(max(value) > 1 for value in strides):
                self.found.add((str(function), tuple(arguments[0].shape), tuple(arguments[1].shape)))
        return out


def test_the_collector_sees_such_a_convolution():
    with torch.no_grad(), Strided() as seen:
        x, kernel = torch.rand(1, 4, 8, 2, dtype=torch.bfloat16), torch.rand(4, 4, 3, 3, dtype=torch.bfloat16)
        nn.functional.conv2d(x, kernel, stride=2, padding=1)
    assert len(seen.found) == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_matcher_meets_one(name, monkeypatch):
    monkeypatch.setattr(hitnet_bf16, "usable", lambda *_: False)  # else no convolution is one of torch
    model = load(name, dtype=torch.bfloat16)
    met = {}
    for width in SIDES:
        left = torch.rand(1, 3, 20, width, dtype=torch.float32)
        with torch.no_grad(), Strided() as seen:
            try:
                model(left, left)
            except ValueError as error:
                assert "needs at least" in str(error)  # noqa: PT017
        if seen.found:
            met[width] = seen.found
    assert not met
