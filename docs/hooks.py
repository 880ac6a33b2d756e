"""Hook of MkDocs: what the documents link to outside of this folder becomes a part of the site.

The documents are written for GitHub, where ``../src/...`` is a link to a file. On the site each file that is linked
gets a page of its own, names in the column "code" of a table lead to the line that defines them, and the change log and
the contributors' page of the root stand beside the documents.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "stereopsis"
PAGES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}

LINK = re.compile(r"\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")
SPAN = re.compile(r"(?<!\[)`([A-Za-z_][\w.]*)(\([^`]*\))?`(?!\])")
# What a browser would load by itself; links may lead anywhere.
ELSEWHERE = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](https?:[^"']+)""")
ROLE = re.compile(r":(?:func|class|mod|meth|data|exc|attr):<code>~?([\w.]+)</code>")


@cache
def definitions() -> dict[str, list[tuple[str, str, int]]]:
    """Every class, function, method, attribute and constant of the package, by the last word of its name.

    Returns:
        Dotted names with their file, from the root, and line.
    """
    found: dict[str, list[tuple[str, str, int]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "triton":  # the operators' kernels for GPUs have the operators' names
            continue
        file = path.relative_to(ROOT).as_posix()
        module = file.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for dotted, line in _defined(ast.parse(path.read_text(encoding="utf-8")), module):
            found.setdefault(dotted.rsplit(".", 1)[-1], []).append((dotted, file, line))
    return found


def _defined(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield f"{prefix}.{child.name}", child.lineno
        if isinstance(child, ast.ClassDef):
            yield from _defined(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.FunctionDef) and child.name == "__init__":
            yield from _defined(child, prefix)
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield f"{prefix}.{target.id}", child.lineno
                elif isinstance(target, ast.Attribute):
                    yield f"{prefix}.{target.attr}", child.lineno


def find(name: str, linked: frozenset[str] = frozenset()) -> tuple[str, int] | None:
    """Where a name of a table is defined, as ``losses.hitnet_loss`` or ``Propagation``.

    Args:
        name: the end of a dotted name, from a whole word on.
        linked: files that the document links to, which go before the others.

    Returns:
        The file from the root and its line, or None where nothing or more than one thing has that name.
    """
    named = definitions().get(name.rsplit(".", 1)[-1], [])
    places = {(file, line) for dotted, file, line in named if f".{dotted}".endswith(f".{name}")}
    near = {place for place in places if place[0] in linked}
    chosen = near or places
    return chosen.pop() if len(chosen) == 1 else None


def code_cells(markdown: str) -> list[tuple[int, int]]:
    """Start and end, in the text, of every cell in the column "code" of a table."""
    cells, column, start = [], None, 0
    for line in markdown.splitlines(keepends=True):
        if not line.startswith("|"):
            column = None
        else:
            bounds = [match.start() for match in re.finditer(r"(?<!\\)\|", line)]
            names = [line[a + 1 : b].strip() for a, b in pairwise(bounds)]
            if column is None:
                column = names.index("code") if "code" in names else -1
            elif 0 <= column < len(names):
                cells.append((start + bounds[column] + 1, start + bounds[column + 1]))
        start += len(line)
    return cells


def links(markdown: str) -> frozenset[str]:
    """Files and folders outside of ``docs`` that a document links to, from the root."""
    return frozenset(match[1] for match in LINK.finditer(markdown))


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    wanted = set()
    for file in files.documentation_pages():
        text = Path(file.abs_src_path).read_text(encoding="utf-8")
        near = links(text)
        wanted |= {name for name in near if (ROOT / name).is_file() and name not in PAGES and name != "README.md"}
        names = [match[1] for a, b in code_cells(text) for match in SPAN.finditer(text[a:b])]
        wanted |= {place[0] for place in (find(name, near) for name in names) if place}
    for name in sorted(wanted):
        content = (ROOT / name).read_text(encoding="utf-8")
        language = {".py": "python", ".c": "c", ".h": "c"}.get(PurePosixPath(name).suffix, "text")
        page = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# {name}\n\n~~~~~~ {language}\n{content}\n~~~~~~\n"
        files.append(File.generated(config, f"source/{name}.md", content=page))
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    near, parts, end = links(markdown), [], 0
    for a, b in code_cells(markdown):
        parts += [markdown[end:a], SPAN.sub(lambda match: _line_link(match, near), markdown[a:b])]
        end = b
    return LINK.sub(_page_link, "".join([*parts, markdown[end:]]))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    return ROLE.sub(lambda match: f"<code>{match[1].split('.')[-1]}</code>", html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    for address in ELSEWHERE.findall(output):
        logging.getLogger("mkdocs.hooks").warning("%s loads %s; keep such files in the project.", page.url, address)
    return output


def _line_link(match: re.Match[str], linked: frozenset[str]) -> str:
    place = find(match[1], linked)
    if place is None:
        return match[0]
    text = match[0].strip("`").replace("|", "&#124;")
    return f'<a href="source/{place[0]}.html#__codelineno-0-{place[1]}"><code>{text}</code></a>'


def _page_link(match: re.Match[str]) -> str:
    name = match[1].rstrip("/")
    if name == "README.md":
        return f"](index.md{match[2] or ''})"
    if name in PAGES:
        return f"]({PAGES[name]}{match[2] or ''})"
    if (ROOT / name).is_dir():
        return "](api.md)"
    return f"](source/{name}.md)"
