"""Changes compressed files at random and decodes them: every change is refused in one sentence, or harmless.

``python benchmarks/fuzz_bitstream.py`` writes what it found to ``benchmarks/results/fuzz_bitstream.json``.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "compression"))

from fuzzing import Result, fuzz  # noqa: E402
from tiny import tiny  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fuzz_bitstream.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    result: Result = fuzz(tiny(), options.count, random.Random(options.seed))
    summary = result.summary() | {"seed": options.seed, "seconds": round(time.perf_counter() - start, 1)}
    options.out.write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    sys.exit(bool(result.uncaught or result.wrong))


if __name__ == "__main__":
    main()
