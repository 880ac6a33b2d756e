"""Damaged files of every kind give the reader's own error, and no array is made before its size was checked."""

import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stereopsis.io import read_depth, read_disparity

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def npy(header):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return bytearray(file.getvalue())


def spoiled(change):
    content = npz(disparity=np.random.default_rng(0).random((40, 40), dtype=np.float32))
    change(content)
    return bytes(content)


def scramble(content):
    for place in range(60, 400, 7):
        content[place] ^= 0x5A


def unknown_method(content):
    content[content.find(b"PK\x01\x02") + 10] = content[8] = 99


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("disparity.npy", bytes(2**20))
    content = bytearray(file.getvalue())
    place = content.find(b"PK\x01\x02") + 24  # the size that the directory states
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    return bytes(content)


FILES = {
    "token.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4"),
    "object.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }"),
    "huge.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999, 9999999), }"),
    "huger.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 99999999999999), }"),
    "negative.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4), }"),
    "odd.npy": npy("{'descr': '<m8[7Y]', 'fortran_order': False, 'shape': (4, 4), }"),
    "zlib.npz": spoiled(scramble),
    "method.npz": spoiled(unknown_method),
    "bomb.npz": bomb(),
    "empty.npz": bytes(npz()),
}


@pytest.mark.parametrize("reader", [read_disparity, read_depth])
@pytest.mark.parametrize("name", FILES)
def test_damaged_arrays(tmp_path, name, reader):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    with pytest.raises(ValueError, match=rf"{name} (cannot be read as an array|holds)"):
        reader(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_whole_arrays_are_read(tmp_path, order):
    values = np.arange(1, 13, dtype=np.float64).reshape(3, 4)
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    np.savez(tmp_path / "a.npz", disparity=np.asarray(values, order=order), valid=values > 3)
    assert np.array_equal(read_disparity(tmp_path / "a.npy")[0][0].numpy(), values)
    found, valid = read_disparity(tmp_path / "a.npz")
    assert np.array_equal(found[0].numpy(), np.where(values > 3, values, 0))
    assert np.array_equal(valid[0].numpy(), values > 3)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
@pytest.mark.parametrize("name", list(script("torture_readers").READERS))
def test_mutated_files_give_a_result_or_the_readers_own_error(name):
    if name in {"bag", "mcap", "db3"}:
        pytest.importorskip("rosbags")
    words = ["--reader", name, "--count", "30", "--seconds", "10"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/torture_readers.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == {}
    assert found["files"] > 5
    assert found["memory MiB"] < 1024


def test_operators_agree_with_their_references_on_odd_tensors():
    torture = script("torture_operators")
    for seed in range(3 * len(torture.CASES)):
        name, draw = list(torture.CASES)[seed % len(torture.CASES)], torture.Draw(seed)
        fast, reference, inputs = torture.CASES[name](draw)
        found, expected = torture.outcome(fast, inputs), torture.outcome(reference, inputs)
        assert not torture.differs(found, expected, not draw.odd_values and not draw.odd_dtype), (name, seed)
