"""The state of the caller's process changes no result: data types, autocast, modes, copies, threads, layouts."""

import ast
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import stereopsis
from stereopsis.types import Depth, StereoPair
from stereopsis.upsampling.upsample import upsample
from stereopsis.zoo.registry import get_entry, list_models, load

SIZE = (64, 96)
NAMES = [name for name in list_models() if get_entry(name).weights_file or not get_entry(name).needs_weights]
DTYPES = [torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """A name, its model, two views and what a plain call gives."""
    generator = torch.Generator().manual_seed(0)
    left = F.interpolate(torch.rand(1, 3, 16, 24, generator=generator, dtype=torch.float32), SIZE, mode="bicubic")
    left = left.clamp(0, 1)
    views = left, left.roll(-5, 3)
    model = load(request.param)
    return request.param, model, views, outputs(request.param, model, *views)


def outputs(name, model, left, right):
    """All tensors that a caller gets of a model; of a codec its bytes too."""
    family = get_entry(name).family
    with torch.no_grad():
        if family == "matching":
            found = model(left, right)
            return [found.disparity, found.valid, found.confidence]
        if family == "upsampling":
            ratio = {"x4": 4, "x16": 16, "denoise": 1}
            factor = next((ratio[word] for word in ratio if word in name), 8)
            depth = 1 + 5 * left[:, :1, ::factor, ::factor]
            found = upsample(model, left, Depth(depth, torch.ones_like(depth, dtype=torch.bool)))
            return [found.depth, found.valid]
        content = model.compress(StereoPair(left, right), quality=3)
        found = model.decompress(content)
        return [torch.frombuffer(bytearray(content), dtype=torch.uint8), found.left, found.right]


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.fixture(params=DTYPES, ids=str)
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_another_default_dtype(case, default_dtype):
    name, model, views, expected = case
    check(outputs(name, model, *views), expected)
    check(outputs(name, load(name), *views), expected)


def test_autocast_of_the_caller(case):
    name, model, views, expected = case
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(outputs(name, model, *views), expected)


def test_inference_mode(case):
    name, model, views, expected = case
    with torch.inference_mode():
        check(outputs(name, model, *views), expected)
        check(outputs(name, load(name), *views), expected)
    check(outputs(name, model, *views), expected)


def test_copies(case):
    name, model, views, expected = case
    check(outputs(name, copy.deepcopy(model), *views), expected)
    check(outputs(name, pickle.loads(pickle.dumps(model)), *views), expected)


def test_eight_threads(case):
    name, model, views, expected = case
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: outputs(name, model, *views), range(16)):
            check(found, expected)


def test_layouts(case):
    name, model, (left, right), expected = case
    last = [view.contiguous(memory_format=torch.channels_last) for view in (left, right)]
    check(outputs(name, model, *last), expected)
    wide = torch.zeros(2, 3, 2 * SIZE[0], 2 * SIZE[1], dtype=torch.float32)
    strided = wide[1:, :, ::2, 1::2]
    strided.copy_(left)
    check(outputs(name, model, strided, right.mT.contiguous().mT), expected)


@pytest.mark.parametrize("name", [name for name in NAMES if get_entry(name).family == "matching"])
def test_torch_compile(name):
    model, left = load(name), torch.rand(1, 3, *SIZE, dtype=torch.float32)
    right = left.roll(-4, 3)
    expected = outputs(name, model, left, right)
    found = outputs(name, torch.compile(model, backend="eager"), left, right)
    close = (found[0] - expected[0]).abs() < 0.5
    assert close.float().mean() > 0.98


def test_every_new_tensor_states_its_data_type():
    makers = {"empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "tensor", "zeros"}
    missing = [
        f"{path.name}:{node.lineno}"
        for path in Path(stereopsis.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in {("torch", maker) for maker in makers}
        and "dtype" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not missing
