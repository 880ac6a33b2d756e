"""Everything that hostile input, memory and processes were tried with, in one command.

    python benchmarks/torture.py                 # 10 minutes
    python benchmarks/torture.py --minutes 60    # the same, longer

Half of the time operators run under AddressSanitizer and UndefinedBehaviorSanitizer (with gcc, for each instruction set
that this CPU runs), half of it readers read damaged files. Results go to ``benchmarks/results/torture.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torture_readers import READERS

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "src/stereopsis/ops/native"
CHECKS = "address,undefined,float-cast-overflow"
MACHINES = {"avx512": {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}, "avx2": {"avx2": "x86-64-v3"}}


def build(folder: Path) -> list[Path]:
    """The kernels with the sanitizers, for each instruction set that this CPU runs; none without gcc."""
    if shutil.which("gcc") is None:
        return []
    found = []
    for name, machine in MACHINES.get(torch.backends.cpu.get_cpu_capability().lower(), {}).items():
        library = folder / f"libkernels.{name}.so"
        words = [
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            "-g",
            "-w",
            "-std=gnu11",
            f"-march={machine}",
            "-fno-omit-frame-pointer",
        ]
        words += [f"-fsanitize={CHECKS}", f"-fno-sanitize-recover={CHECKS.removeprefix('address,')}"]
        subprocess.run([*words, "-o", str(library), *map(str, sorted(NATIVE.glob("*.c"))), "-lm"], check=True)
        found.append(library)
    return found


def operators(library: Path, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """The fuzz of operators with one library, in a process that the sanitizers end at the first finding."""
    runtimes = []
    for name in ("asan", "ubsan"):
        words = ["gcc", f"-print-file-name=lib{name}.so"]
        runtimes.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
    out = folder / f"{library.stem}.json"
    environment = os.environ | {
        "LD_PRELOAD": ":".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, which end with the process
        "STEREOPSIS_KERNELS_FILE": str(library),
    }
    words = [
        sys.executable,
        str(ROOT / "benchmarks/torture_operators.py"),
        "--seconds",
        str(seconds),
        "--seed",
        str(seed),
    ]
    done = subprocess.run([*words, "--out", str(out)], env=environment, capture_output=True, text=True, check=False)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return found | {"exit": done.returncode, "sanitizer": "" if out.exists() else done.stderr[-3000:]}


def readers(seconds: float, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """The fuzz of readers."""
    out = folder / "readers.json"
    words = [sys.executable, str(ROOT / "benchmarks/torture_readers.py"), "--seconds", str(seconds / len(READERS))]
    subprocess.run([*words, "--count", str(count), "--seed", str(seed), "--out", str(out)], check=False)
    return json.loads(out.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, default=100_000, help="damaged files a reader, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/torture.json")
    options = parser.parse_args()
    share = 30 * options.minutes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        libraries = build(folder)
        results: dict[str, Any] = {
            "seed": options.seed,
            "operators": {
                library.stem: operators(library, share / len(libraries), options.seed, folder) for library in libraries
            },
            "readers": readers(share, options.count, options.seed, folder),
        }
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    faults = [name for name, found in results["operators"].items() if found["exit"]]
    faults += [name for name, found in results["readers"].items() if found.get("faults") or "ended" in found]
    print(f"faults: {', '.join(faults) or 'none'}; {options.out}")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
