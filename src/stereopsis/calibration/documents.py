"""Opens calibration files of any kind: YAML, JSON, XML, INI, arrays of MATLAB and NumPy, or plain text."""

from __future__ import annotations

import configparser
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stereopsis.calibration.parsing import as_text, read_content

Kind = Literal["yaml", "json", "xml", "ini", "arrays", "text"]


@dataclass(frozen=True)
class Document:
    """The content of one calibration file.

    Attributes:
        path: of the file.
        kind: how its values are written.
        text: of the file; empty for arrays.
        values: by their names; empty for plain text.
        others: values of further documents of a YAML stream.
    """

    path: Path
    kind: Kind
    text: str
    values: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()


def read_document(path: Path) -> Document:
    """Opens one file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, an empty or damaged file, or one that is neither text nor arrays.
        ModuleNotFoundError: a MAT file, and SciPy is not installed.
    """
    content = read_content(path)
    if content.startswith((b"MATLAB", b"\x89HDF")) or path.suffix.lower() == ".mat":
        return Document(path, "arrays", "", _mat(content, path))
    if content.startswith(b"PK\x03\x04"):
        return Document(path, "arrays", "", _npz(content, path))
    text = as_text(content, path)
    start = text.lstrip()
    suffix = path.suffix.lower()
    if start.startswith("<"):
        return Document(path, "xml", text, _xml(text, path))
    if suffix == ".json" or start.startswith("{"):
        return Document(path, "json", text, _json(text, path))
    if suffix in {".yml", ".yaml"} or start.startswith("%YAML"):
        first, *others = load_yaml(text, path)
        return Document(path, "yaml", text, first, tuple(others))
    if re.match(r"(\s*[#;][^\n]*\n|\s*\n)*\s*\[[^\]\n]+\]\s*\n", text):
        return Document(path, "ini", text, _ini(text, path))
    return Document(path, "text", text, {})


def as_yaml(document: Document) -> Document:
    """Plain text read as YAML where it is such; the document itself where it is not."""
    if document.kind != "text":
        return document
    try:
        first, *others = load_yaml(document.text, document.path)
    except ValueError:
        return document
    return Document(document.path, "yaml", document.text, first, tuple(others))


def load_yaml(text: str, path: Path) -> list[dict[str, Any]]:
    """The mappings of a YAML stream, OpenCV's dialect (``%YAML:1.0``, ``!!opencv-matrix``) included.

    Raises:
        ValueError: no YAML, or no mapping in it.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def matrix_node(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", matrix_node)
    # "%YAML:1.0" is no valid directive, and every other parser stops at it. OpenCV also leaves out the blank of "a:1".
    body = "\n".join("" if line.startswith("%") else line for line in text.replace("\t", "    ").splitlines())
    if text.startswith("%YAML:"):
        body = re.sub(r"^(\s*[\w.]+):(?=[^\s:])", r"\1: ", body, flags=re.MULTILINE)
    try:
        documents = [document for document in yaml.load_all(body, Loader) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise ValueError(f"{path} is not valid YAML{where}; correct it or write it anew.") from None
    mappings = [{str(k): v for k, v in document.items()} for document in documents if isinstance(document, dict)]
    if not mappings:
        raise ValueError(f"{path} holds no named values; name a calibration file.")
    return mappings


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f" (line {line})"
        raise ValueError(f"{path} is not valid JSON{where}; correct it or write it anew.") from None
    if isinstance(found, list):
        found = {"list": found}
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no named values; name a calibration file.")
    return found


def _xml(text: str, path: Path) -> dict[str, Any]:
    """OpenCV's FileStorage: matrices as ``{rows, cols, data}``, everything else as text or list."""
    from xml.etree import ElementTree

    # A file of OpenCV declares no entities, and expanding them can take all memory.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} declares entities, which OpenCV's files do not; write it again with OpenCV.")
    try:
        root = ElementTree.fromstring(text.strip())
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        line = getattr(error, "position", (None,))[0]
        where = "" if line is None else f" (line {line})"
        raise ValueError(f"{path} is not valid XML{where}; correct it or write it anew.") from None

    def value(node: Any) -> Any:
        if node.get("type_id") == "opencv-matrix":
            parts = {child.tag: (child.text or "").strip() for child in node}
            return {"rows": parts.get("rows"), "cols": parts.get("cols"), "data": parts.get("data", "").split()}
        if len(node):
            return {child.tag: value(child) for child in node}
        words = (node.text or "").split()
        return words[0].strip('"') if len(words) == 1 else words

    return {child.tag: value(child) for child in root}


def _ini(text: str, path: Path) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True, delimiters=("=",))
    parser.optionxform = str.lower  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text)
    except Exception:  # beside its own errors the parser raises AttributeError on a line that continues nothing
        raise ValueError(f"{path} is not a valid file of sections and values; copy it again.") from None
    return {section: dict(parser[section]) for section in parser.sections()}


def _npz(content: bytes, path: Path) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name].tolist() for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read as NPZ ({type(error).__name__}); write it again.") from None


def _mat(content: bytes, path: Path) -> dict[str, Any]:
    if content.startswith(b"\x89HDF") or b"MATLAB 7.3" in content[:128]:
        raise ValueError(f"{path} is a MAT file of version 7.3; save it in MATLAB with the option '-v7'.")
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a MAT file, which needs {error.name}; install it with: pip install scipy", name=error.name
        ) from None
    try:
        found = loadmat(io.BytesIO(content), simplify_cells=True)
    except Exception as error:  # the reader raises whatever the bytes make it stumble over
        raise ValueError(f"{path} cannot be read as a MAT file ({type(error).__name__}); save it again.") from None
    return {name: _plain(value) for name, value in found.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else value
