"""The import graph of the package: floors, and no cycles. ``python tests/test_imports.py`` prints the graph."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import stereopsis

ROOT = Path(stereopsis.__file__).parent
FAMILIES = {"matching", "upsampling", "compression"}
# A module may import from its own package and from packages of lower floors.
FLOORS = (
    {"types", "ops"},
    {"io", "geometry", "visualization"},
    {"zoo", "calibration"},
    {"matching", "upsampling", "compression", "data"},
    {"export", "pipeline"},
    {"evaluation"},
    {"training", "apps"},
    {"cli"},
    {"__main__"},
)
BESIDE = {("types", "ops")}  # the one arrow within a floor: values are checked as operators check them
FLOOR = {package: floor for floor, packages in enumerate(FLOORS, start=1) for package in packages}
FACE = "stereopsis"  # re-exports names of types, zoo and pipeline, which must not import it


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The modules of the package by name."""
    files = sorted(root.rglob("*.py"))
    names = (".".join((FACE, *file.relative_to(root).with_suffix("").parts)) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imports(name: str, file: Path) -> Iterator[str]:
    """Full names of what a module imports anywhere: in functions and type-checking blocks too."""
    parts = name.split(".")
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` imports a module whose name stands on the right.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def graph(found: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each module imports."""
    edges: dict[str, set[str]] = {name: set() for name in found}
    for name, file in found.items():
        for target in imports(name, file):
            while target and target not in found:
                target = target.rpartition(".")[0]
            if target and target != name:
                edges[name].add(target)
    return edges


@cache
def whole() -> dict[str, set[str]]:
    """The graph of the package."""
    return graph(modules())


def package_of(module: str) -> str:
    return [*module.split("."), ""][1]


def packages(edges: dict[str, set[str]]) -> dict[tuple[str, str], list[str]]:
    """Arrows between packages, each with the imports that draw it."""
    arrows = defaultdict(list)
    for name, targets in edges.items():
        for target in sorted(targets):
            if package_of(name) != package_of(target):
                arrows[package_of(name), package_of(target)].append(f"{name} -> {target}")
    return dict(arrows)


def cycle(edges: dict[str, Iterable[str]]) -> list[str]:
    """Some cycle of a graph, its nodes in order; empty if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        for target in sorted(edges.get(node, ())):
            if found := visit(target):
                return found
        done.add(path.pop())
        return []

    return next((found for node in sorted(edges) if (found := visit(node))), [])


def test_every_package_has_a_floor():
    assert {package_of(name) for name in modules()} - {""} == set(FLOOR)


def test_no_module_imports_in_a_circle():
    assert not cycle(whole()), "imports in functions and under TYPE_CHECKING count"


def test_no_package_imports_in_a_circle():
    arrows: dict[str, list[str]] = defaultdict(list)
    for source, target in packages(whole()):
        if source and target:
            arrows[source].append(target)
    assert not cycle(arrows)


@pytest.mark.parametrize("package", sorted(FLOOR))
def test_floors(package):
    wrong = [
        line
        for (source, target), lines in packages(whole()).items()
        if source == package and target and FLOOR[target] >= FLOOR[source] and (source, target) not in BESIDE
        for line in lines
    ]
    assert not wrong, f"{package} is on floor {FLOOR[package]} and imports from its own floor or above: {wrong}"


def test_the_face_is_imported_by_no_module_below_it():
    above = {"apps", "training", "cli", "__main__"}
    edges = whole()
    assert not [name for name, targets in edges.items() if FACE in targets and package_of(name) not in above]


def test_applications_do_not_import_each_other():
    edges = whole()
    apps = {name: name.split(".")[2] for name in edges if name.startswith("stereopsis.apps.")}
    assert not [(name, t) for name in apps for t in edges[name] if t in apps and apps[t] != apps[name]]


def test_few_modules_stand_outside_of_a_package():
    assert {file.name for file in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "types.py"}


def test_no_file_is_longer_than_500_lines():
    long = {name: len(lines) for name, file in modules().items() if len(lines := file.read_text().splitlines()) > 500}
    assert not long


def test_relative_and_nested_imports_are_seen(tmp_path):
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "a.py").write_text(
        "def f():\n    from ..io import pfm\n    import cv2\n    from . import b\n    from stereopsis import cli\n"
    )
    (tmp_path / "ops" / "b.py").write_text("if TYPE_CHECKING:\n    from stereopsis.ops.a import f\n")
    found = modules(tmp_path)
    assert sorted(imports("stereopsis.ops.a", found["stereopsis.ops.a"])) == [
        "cv2", "stereopsis.cli", "stereopsis.io.pfm", "stereopsis.ops.b"
    ]  # fmt: skip
    assert cycle(graph(found)) == ["stereopsis.ops.a", "stereopsis.ops.b", "stereopsis.ops.a"]


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


if __name__ == "__main__":
    for (source, target), lines in sorted(packages(whole()).items(), key=lambda item: item[0]):
        if source and target:
            print(f"{FLOOR[source]} {source} -> {FLOOR[target]} {target}  ({len(lines)} imports)")
    print("module cycle:", cycle(whole()) or "none")
