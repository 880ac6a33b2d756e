"""Builds the C kernels of stereopsis.ops.native with the zig compiler that comes as a wheel.

A plain C ABI called through ctypes needs one library a platform and instruction set, whatever the Python and torch.
Where nothing can be compiled the package is built without them and runs on its torch references.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/stereopsis/ops/native")
SUFFIX = {"win32": "dll", "darwin": "dylib"}.get(sys.platform, "so")
SYSTEM = {"win32": "windows-gnu", "darwin": "macos"}.get(sys.platform, "linux-gnu.2.17")
# by machine: zig's name of it, and the instruction sets worth a library of their own, as torch names them
MACHINES = {
    "x86_64": ("x86_64", {"avx512": "x86_64_v4", "avx2": "x86_64_v3"}),
    "amd64": ("x86_64", {"avx512": "x86_64_v4", "avx2": "x86_64_v3"}),
    "aarch64": ("aarch64", {"default": "generic"}),
    "arm64": ("aarch64", {"default": "generic"}),
}


class KernelBuildHook(BuildHookInterface):
    """Compiles every ``*.c`` of the folder into ``libkernels.<instruction set>.<suffix>``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict) -> None:
        if self.target_name != "wheel":
            return
        machine, instruction_sets = MACHINES.get(platform.machine().lower(), ("", {}))
        folder = Path(self.root) / NATIVE
        sources = sorted(str(path) for path in folder.glob("*.c"))
        built = []
        for name, cpu in instruction_sets.items():
            library = folder / f"libkernels.{name}.{SUFFIX}"
            command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O3", "-ffast-math"]
            command += ["-fno-finite-math-only", f"-mcpu={cpu}", "-target", f"{machine}-{SYSTEM}"]
            if name == "avx512":
                command.append("-mprefer-vector-width=512")
            done = subprocess.run([*command, "-o", str(library), *sources], capture_output=True, text=True, check=False)
            if done.returncode:
                self.app.display_warning(f"kernels for {name} were not built: {done.stderr.strip()[-500:]}")
                continue
            built.append(library)
        if built:
            build_data["artifacts"] += [path.relative_to(self.root).as_posix() for path in built]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
