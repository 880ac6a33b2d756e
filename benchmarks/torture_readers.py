"""Damages files at random and reads them: each gives a result, or the reader's own error.

    python benchmarks/torture_readers.py --count 1000 --out out/readers.json

Readers of NPY, NPZ, 16-bit PNG, PFM, PLY, TIFF, calibrations, .stz, ROS bags and safetensors. The reader's own error
is a ValueError or FileNotFoundError whose sentence names the file (of a .stz file, the pair or the header). Each reader
runs in a process of its own, whose memory may grow by 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "compression")]
GROWTH = 2**30  # bytes
NUMBERS = [b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483648", b"1e-320", b"0x10", b""]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers in text, parts cut, doubled, moved or replaced."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(data)) if data else 0
        # half of the changes fall on the header, which decides most
        at = rng.randrange(min(len(data), 200)) if data and rng.random() < 0.5 else at
        kind = rng.randrange(8)
        if not data or kind == 0:
            data[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at] = rng.choice([0, 255, 127, 128, rng.randrange(256)])
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.randint(1, 60)]
        elif kind == 5:
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice([0, 2**31, 2**32 - 1, 2**31 - 1, 65536]))
        elif kind == 6:
            found = [match.span() for match in re.finditer(rb"-?\d+(?:\.\d+)?", bytes(data[:4000]))]
            if found:
                start, end = rng.choice(found)
                data[start:end] = rng.choice(NUMBERS)
        else:
            other, length = rng.randrange(len(data)), rng.randint(1, 60)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def _map() -> np.ndarray:
    return (np.random.default_rng(0).random((12, 17)) * 30 + 1).astype(np.float32)


def _seeds_of_maps(folder: Path, suffix: str) -> list[bytes]:
    from stereopsis.io import write_depth, write_disparity

    write_disparity(folder / f"a{suffix}", _map())
    write_depth(folder / f"b{suffix}", _map())
    return [(folder / f"{name}{suffix}").read_bytes() for name in "ab"]


def maps(suffix: str) -> Callable[[Path], tuple[str, list[bytes], Callable[[Path], Any]]]:
    def reader(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
        from stereopsis.io import read_depth, read_disparity

        return f"x{suffix}", _seeds_of_maps(folder, suffix), lambda path: (read_disparity(path), read_depth(path))

    return reader


def pictures(suffix: str, bits: int) -> Callable[[Path], tuple[str, list[bytes], Callable[[Path], Any]]]:
    def reader(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
        import torch

        from stereopsis.io import read_image, write_image

        for number, channels in enumerate((1, 3)):
            write_image(folder / f"{number}{suffix}", torch.rand(channels, 12, 17, dtype=torch.float32), bits=bits)
        seeds = [(folder / f"{number}{suffix}").read_bytes() for number in range(2)]
        return f"x{suffix}", seeds, read_image

    return reader


def points(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
    import torch

    from stereopsis.io import read_point_cloud, write_point_cloud
    from stereopsis.types import PointCloud

    cloud = PointCloud(torch.rand(20, 3), (255 * torch.rand(20, 3)).to(torch.uint8))
    write_point_cloud(folder / "a.ply", cloud)
    text = (
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    return "x.ply", [(folder / "a.ply").read_bytes(), text + b"1 2 3\n4 5 6\n"], read_point_cloud


def calibrations(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
    from stereopsis.calibration import read_calibration, read_rig

    shared = sorted((ROOT / "tests").rglob("*.yaml")) + sorted((ROOT / "tests").rglob("*.yml"))
    seeds = [path.read_bytes() for path in shared if path.stat().st_size < 20000]
    seeds += [text.encode() for text in CALIBRATIONS]

    def read(path: Path) -> None:
        errors = []
        for reader in (read_calibration, read_rig):
            try:
                reader(path)
            except (ValueError, FileNotFoundError) as error:
                errors.append(error)
        without_name = [error for error in errors if str(path) not in str(error)]
        if without_name or len(errors) == 2:
            raise (without_name or errors)[0]

    return "x.yaml", seeds, read


def cameras(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
    from stereopsis.calibration import read_calibration

    return "calib.txt", [text.encode() for text in CAMERAS], read_calibration


def archives(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
    from tiny import photo, tiny

    from stereopsis.types import StereoPair

    codec = tiny()
    seeds = [codec.compress(StereoPair(photo(37, 70), photo(37, 70, 1.0)), quality) for quality in (2.0, 7.0)]
    return "x.stz", seeds, lambda path: codec.decompress(path.read_bytes())


def bags(suffix: str) -> Callable[[Path], tuple[str, list[bytes], Callable[[Path], Any]]]:
    def reader(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
        from bags import START, write_bag

        from stereopsis.io.bags import BagPair

        pixels = (255 * np.random.default_rng(0).random((12, 16))).astype(np.uint8)
        messages = [(START, "mono8", pixels), (START + 10**8, "mono8", pixels)]
        topics = {f"/{side}/image_raw": messages for side in ("left", "right")}
        path = write_bag(folder / f"seed{suffix}", topics)
        if path.is_dir():
            path = next(path.glob(f"*{suffix}"))

        def read(path: Path) -> None:
            for _, left, right in BagPair(path):
                left.image(), right.image()

        return f"x{suffix}", [path.read_bytes()], read

    return reader


def weights(folder: Path) -> tuple[str, list[bytes], Callable[[Path], Any]]:
    import torch

    from stereopsis.zoo.weights import ModelCard, read_card, read_weights, save_weights

    state = {"a.weight": torch.rand(3, 4), "b": torch.arange(5)}
    save_weights(folder / "a.safetensors", state, ModelCard(architecture="x", config={"k": 1}))
    return (
        "x.safetensors",
        [(folder / "a.safetensors").read_bytes()],
        lambda path: (read_weights(path), read_card(path)),
    )


CAMERAS = [
    "cam0=[500 0 225; 0 500 187; 0 0 1]\ncam1=[500 0 225; 0 500 187; 0 0 1]\ndoffs=0\nbaseline=100\nwidth=450\n"
    "height=375\nndisp=64\n",
    "P0: 7.2e2 0 6.1e2 0 0 7.2e2 1.7e2 0 0 0 1 0\nP1: 7.2e2 0 6.1e2 -3.9e2 0 7.2e2 1.7e2 0 0 0 1 0\n"
    "P2: 7.2e2 0 6.1e2 4.5e1 0 7.2e2 1.7e2 0 0 0 1 0\nP3: 7.2e2 0 6.1e2 -3.4e2 0 7.2e2 1.7e2 0 0 0 1 0\n",
    "754.66 0.0 489.37 0.0 754.66 265.16 0.0 0.0 1.0\n0.063\n",
]


def _matrix(name: str, rows: int, columns: int, data: str) -> str:
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {columns}\n   dt: d\n   data: [ {data} ]\n"


def _ros(name: str, rows: int, columns: int, data: str) -> str:
    return f"{name}:\n  rows: {rows}\n  cols: {columns}\n  data: [{data}]\n"


_K, _EYE, _LENS = (
    "500., 0., 320., 0., 500., 240., 0., 0., 1.",
    "1., 0., 0., 0., 1., 0., 0., 0., 1.",
    "0.1, 0., 0., 0., 0.",
)
_P = "500., 0., 320., {}, 0., 500., 240., 0., 0., 0., 1., 0."
CALIBRATIONS = [
    "%YAML:1.0\n---\nimage_width: 640\nimage_height: 480\n"
    + "".join(_matrix(f"K{side}", 3, 3, _K) + _matrix(f"D{side}", 1, 5, _LENS) for side in (1, 2))
    + _matrix("R", 3, 3, _EYE)
    + _matrix("T", 3, 1, "-0.1, 0., 0."),
    "%YAML:1.0\n---\n" + _matrix("P1", 3, 4, _P.format("0.")) + _matrix("P2", 3, 4, _P.format("-50.")),
    "image_width: 640\nimage_height: 480\ncamera_name: left\ndistortion_model: plumb_bob\n"
    + _ros("camera_matrix", 3, 3, _K)
    + _ros("distortion_coefficients", 1, 5, _LENS)
    + _ros("rectification_matrix", 3, 3, _EYE)
    + _ros("projection_matrix", 3, 4, _P.format("-50.")),
]

Reader = Callable[[Path], tuple[str, list[bytes], Callable[[Path], Any]]]
READERS: dict[str, Reader] = {
    "npy": maps(".npy"),
    "npz": maps(".npz"),
    "png16": maps(".png"),
    "pfm": maps(".pfm"),
    "image-png16": pictures(".png", 16),
    "image-jpeg": pictures(".jpg", 8),
    "tiff": pictures(".tif", 16),
    "ply": points,
    "yaml": calibrations,
    "camera-text": cameras,
    "stz": archives,
    "bag": bags(".bag"),
    "mcap": bags(".mcap"),
    "db3": bags(".db3"),
    "safetensors": weights,
}


def torture(name: str, count: int, seconds: float, seed: int) -> dict[str, Any]:
    """Reads mutated files of one kind; see the module's text."""
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    found, faults, slowest = Counter(), {}, 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        file, seeds, read = READERS[name](folder)
        target = folder / "files" / file
        target.parent.mkdir()
        for seed_file in seeds:
            target.write_bytes(seed_file)
            _outcome(read, target)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + GROWTH, resource.RLIM_INFINITY))
        number, start = 0, time.monotonic()
        while number < count and time.monotonic() - start < seconds:
            target.write_bytes(mutated(rng.choice(seeds), rng))
            begun = time.process_time()
            outcome = _outcome(read, target)
            slowest = max(slowest, time.process_time() - begun)
            found[outcome.split(":")[0]] += 1
            if outcome not in ("read", "own error"):
                faults.setdefault(outcome[:160], number)
                kept = Path(tempfile.gettempdir()) / f"torture-{name}-{number}{target.suffix}"
                if len(faults) < 20:
                    kept.write_bytes(target.read_bytes())
            number += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "files": number, "outcomes": dict(found), "faults": faults, "slowest seconds": round(slowest, 2),
        "memory MiB": round(grown / 1024), "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def _outcome(read: Callable[[Path], Any], path: Path) -> str:
    try:
        read(path)
    except (ValueError, FileNotFoundError) as error:
        own = str(path) in str(error) or (path.suffix == ".stz" and str(error)[:1].islower())
        return "own error" if own else f"{type(error).__name__}: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="files a reader")
    parser.add_argument("--seconds", type=float, default=3600, help="a reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, help="this one, in this process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.reader:
        print(json.dumps(torture(options.reader, options.count, options.seconds, options.seed)))
        return
    results: dict[str, Any] = {}
    for name in READERS:
        words = ["--reader", name, "--count", options.count, "--seconds", options.seconds, "--seed", options.seed]
        done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
        ended = {"ended": done.returncode, "stderr": done.stderr[-500:]}
        results[name] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else ended
        print(name, json.dumps(results[name]), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(any(result.get("faults") or "ended" in result for result in results.values()))


if __name__ == "__main__":
    main()
