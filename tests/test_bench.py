"""The clock: what it counts, what it prints, and what it refuses."""

import json

import pytest
import torch
from torch import nn

from stereopsis.cli import main
from stereopsis.evaluation.speed import (
    Contender,
    _Counter,
    _exponent,
    _percentile,
    bench,
    contenders,
    count,
    measure_machine,
    peak_megabytes,
)

KEYS = {
    "model", "runtime", "dtype", "size", "threads", "repeats", "first_ms", "median_ms", "p95_ms", "pairs_per_s",
    "peak_mb", "macs", "bytes", "floor_ms", "reached", "max_disparity",
}  # fmt: skip


def test_networks_and_classical_matchers_in_one_table(capsys):
    arguments = ["bench", "--models", "anynet.scenes,sgbm-3way,bm", "--sizes", "256x48,512x96", "--repeats", "2"]
    before = torch.get_num_threads()
    try:
        assert main([*arguments, "--threads", "1", "--dtype", "float32,bfloat16", "--no-memory", "--json"]) == 0
    finally:
        torch.set_num_threads(before)
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["threads"] == 1
    assert set(result["machine"]["gmacs_per_s"]) == {"float32", "bfloat16"}
    rows = result["results"]
    assert [(row["model"], row["runtime"], row["dtype"]) for row in rows[:4]] == [
        ("anynet.scenes", "torch", "float32"),
        ("anynet.scenes", "torch", "bfloat16"),
        ("sgbm-3way", "opencv", "uint8"),
        ("bm", "opencv", "uint8"),
    ]
    assert [row["size"] for row in rows] == ["256x48"] * 4 + ["512x96"] * 4
    for row in rows:
        assert set(row) == KEYS
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["first_ms"] > 0
        assert row["pairs_per_s"] > 0
        assert row["peak_mb"] is None
        assert (row["macs"] is None) == (row["runtime"] == "opencv")
    small, large = rows[0], rows[4]
    assert large["macs"] == pytest.approx(4 * small["macs"], rel=0.01)
    assert rows[1]["bytes"] * 2 == small["bytes"]
    assert [row["model"] for row in result["growth"]] == ["anynet.scenes", "anynet.scenes", "sgbm-3way", "bm"]


def test_the_table(capsys):
    assert main(["bench", "--models", "bm", "--size", "256x48", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "bm (opencv uint8)" in printed
    assert "median ms" in printed
    assert "GB/s" in printed


def test_memory_in_a_process_of_its_own():
    small, large = (peak_megabytes(Contender("sgbm-hh", "opencv", "uint8"), size) for size in ((256, 48), (640, 480)))
    if small is None:
        pytest.skip("this system does not tell a process's memory")
    # OpenCV keeps 16 bits for each of 192 disparities of all pixels but the first 192 of a row, and more
    assert 448 * 480 * 192 * 2 / 2**20 < large - small < 4000


def test_multiply_adds():
    counter = _Counter()
    with torch.no_grad(), counter:
        nn.Conv2d(3, 5, 3, stride=2, padding=1, groups=1)(torch.zeros(2, 3, 8, 10))
    assert counter.macs == 2 * (4 * 5) * 5 * 3 * 9
    assert counter.elements == 2 * 3 * 80 + 5 * 27 + 2 * 5 * 20
    counter = _Counter()
    with torch.no_grad(), counter:
        nn.ConvTranspose2d(4, 6, 2, 2)(torch.zeros(1, 4, 5, 5))
        nn.Conv3d(2, 3, 3, padding=1)(torch.zeros(1, 2, 4, 5, 6))
    assert counter.macs == 25 * 4 * 6 * 4 + 120 * 3 * 2 * 27


def test_the_published_count_of_hitnet():
    # 34.7 GMAC of the authors' graph at 1242 x 375, which it pads to 1280 x 384
    macs = count(Contender("hitnet.eth3d", max_disparity=32), (320, 192)).macs * (1280 * 384) / (320 * 192)
    assert macs / 1e9 == pytest.approx(34.7, rel=0.02)


def test_what_the_machine_reaches():
    machine = measure_machine(["float32"])
    assert machine["gmacs_per_s"]["float32"] > 0.1
    assert machine["copy_gb_per_s"] > 0.01
    assert machine["threads"] == torch.get_num_threads()


def test_percentile_and_growth():
    assert _percentile([5.0, 1.0, 2.0, 3.0], 0.95) == 5
    assert _percentile([3.0], 0.95) == 3
    rows = [{"size": f"{2**k}x{2**k}", "median_ms": 3.0 * 4**k, "peak_mb": None} for k in (4, 5, 6)]
    assert _exponent(rows, "median_ms") == 1
    assert _exponent(rows, "peak_mb") is None


def test_who_competes():
    found = contenders(["hitnet.scenes", "sgbm-hh"], ["torch", "openvino"], ["float32", "bfloat16"], 128)
    assert [(c.runtime, c.dtype, c.max_disparity) for c in found] == [
        ("torch", "float32", 128),
        ("torch", "bfloat16", 128),
        ("openvino", "float32", 128),
        ("opencv", "uint8", 192),
    ]
    with pytest.raises(ValueError, match="repeats is 0"):
        bench(found, [(64, 48)], repeats=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench --models nothing", "there is no model named 'nothing'"),
        ("bench --models bm --size 64x48 --no-memory", "measure bm at a width of 208 pixels or more"),
        ("bench --size 64", "--size is '64'; give width and height"),
        ("bench --sizes 64x48,x", "--sizes is 'x'"),
        ("bench --repeats 0", "--repeats is 0"),
        ("bench --threads 0", "--threads is 0"),
        ("bench --runtime tensorrt", "the runtime 'tensorrt' is unknown; choose from torch, onnxruntime, openvino"),
        ("bench --dtype int8", "the dtype 'int8' is unknown"),
        ("bench --models fdkn.any --runtime openvino", "fdkn.any is no matcher"),
        ("bench --models ,", "must each name something"),
        ("bench --max-disparity 0", "--max-disparity is 0"),
    ],
)
def test_bad_input(capsys, line, message):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("stereopsis: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
