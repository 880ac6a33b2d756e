"""The boundaries between the parts of the package, read from the import statements."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stereopsis

ROOT = Path(stereopsis.__file__).parent
COMMON = ("stereopsis.ops", "stereopsis.layers", "stereopsis.types")
FAMILIES = ("matching", "upsampling", "compression")

# What each folder may import of the package, beside itself.
ALLOWED = {"ops": ("stereopsis.types",)} | dict.fromkeys(FAMILIES, (*COMMON, "stereopsis.zoo.registry"))
# A file of a codec holds the rig, which comes back with the pair.
ALLOWED["compression"] += ("stereopsis.calibration", "stereopsis.io.images")
# Drawn from here, so that a new module is under the rule without being named.
GUARDED = [(folder, file) for folder in ALLOWED for file in sorted((ROOT / folder).rglob("*.py"))]


def _imports(file: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere, functions and type-checking blocks included."""
    package = ["stereopsis", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` imports a module whose name stands on the right.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


@pytest.mark.parametrize(("folder", "file"), GUARDED, ids=[str(file.relative_to(ROOT)) for _, file in GUARDED])
def test_boundaries(folder, file):
    own = f"stereopsis.{folder}"
    foreign = [
        name for name in _imports(file) if _within(name, ("stereopsis",)) and not _within(name, (own, *ALLOWED[folder]))
    ]
    assert not foreign, f"{file.relative_to(ROOT)} may not import {', '.join(foreign)}"


def test_only_the_joining_parts_import_two_families():
    joining = {"apps", "pipeline", "evaluation", "cli", "export"}
    for file in ROOT.rglob("*.py"):
        top = file.relative_to(ROOT).parts[0]
        names = list(_imports(file))
        joined = {family for family in FAMILIES if any(_within(name, (f"stereopsis.{family}",)) for name in names)}
        assert len(joined) < 2 or top in joining, f"{file.relative_to(ROOT)} joins {joined}"


def test_relative_and_nested_imports_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "ops").mkdir()
    file = tmp_path / "ops" / "a.py"
    file.write_text(
        "def f():\n    from ..io import pfm\n    import cv2\n    from . import b\n    from stereopsis import cli\n"
    )
    assert sorted(_imports(file)) == ["cv2", "stereopsis.cli", "stereopsis.io.pfm", "stereopsis.ops.b"]


def _loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light():
    heavy = {"cv2", "numba", "tyro", "rich", "PIL", "safetensors", "yaml", "skimage", "scipy", "sklearn", "triton"}
    loaded = _loaded("import stereopsis")
    assert {"torch", "numpy"} <= loaded
    assert not loaded & heavy


def test_listing_models_loads_neither_opencv_nor_the_command_line():
    assert not _loaded("import stereopsis; stereopsis.list_models()") & {"cv2", "numba", "tyro", "rich", "PIL"}


@pytest.mark.parametrize("name", stereopsis.__all__)
def test_every_public_name_is_there(name):
    assert getattr(stereopsis, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = stereopsis.nothing
