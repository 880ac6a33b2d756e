"""Builds sdist and wheel into ``dist``, and tries the wheel in an environment that holds nothing else.

``python .ci/dist.py``: the wheel is made from the sdist, so that both are complete or it fails. It is then installed
with the versions of ``constraints.txt``, and its program runs in an empty folder: version, models, and a small pair
whose disparity is known.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PACKAGE = ROOT / "src"
SHIFT = 11

PAIR = f"""
import numpy as np
from PIL import Image
noise = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
scene = np.asarray(Image.fromarray(noise).resize((320, 160), Image.BICUBIC))
Image.fromarray(scene[:, :-{SHIFT}]).save("left.png")
Image.fromarray(scene[:, {SHIFT}:]).save("right.png")
"""
KERNELS = "from stereopsis.ops import native; print(native.library() is not None)"


def run(*words: str | Path, cwd: Path = ROOT, capture: bool = False) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env=environment, check=True, text=True, capture_output=capture)
    return done.stdout or ""


def wanted() -> set[str]:
    """Every file of the package but what building and running leave there."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE).as_posix() for path in files if path.suffix not in {".so", ".dylib", ".dll"}}


def check_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = sorted(wanted() - names)
    if missing:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}.")
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {len(names)} files, {len(weights)} weights")


def try_wheel(wheel: Path, folder: Path) -> None:
    venv.create(folder / "env", with_pip=True, symlinks=os.name != "nt")
    binaries = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python, program = binaries / "python", binaries / "stereopsis"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", wheel)
    empty = folder / "empty"
    empty.mkdir()
    version = run(program, "--version", cwd=empty, capture=True).strip()
    if version not in wheel.name:
        sys.exit(f"The program says that it is {version}, in {wheel.name}.")
    models = json.loads(run(program, "models", "--json", cwd=empty, capture=True))
    shipped = [model["name"] for model in models if model["shipped"]]
    if len(shipped) != len(list((PACKAGE / "stereopsis/zoo/files").glob("*.safetensors"))):
        sys.exit(f"The installed package has weights of {', '.join(shipped)} alone.")
    run(python, "-c", PAIR, cwd=empty)
    for model in ("hitnet.scenes", "anynet.scenes"):
        words = ("match", "left.png", "right.png", "--model", model, "--out", f"{model}.pfm", "--json")
        (pair,) = json.loads(run(program, *words, cwd=empty, capture=True))["pairs"]
        median = pair["disparity"]["median"]
        if abs(median - SHIFT) > 1:
            sys.exit(f"{model} finds a disparity of {median:.2f} px where it is {SHIFT}.")
    kernels = run(python, "-c", KERNELS, cwd=empty, capture=True).strip()
    print(f"installed: {version}, {len(models)} models, {len(shipped)} with weights, kernels in C: {kernels}")


def main() -> None:
    start = time.perf_counter()
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,) = DIST.glob("*.whl")
    check_wheel(wheel)
    built = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try_wheel(wheel, Path(folder))
    print(f"{built - start:.0f} s to build, {time.perf_counter() - built:.0f} s to install and try")


if __name__ == "__main__":
    main()
