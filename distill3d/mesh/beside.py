"""Files that lie beside a mesh file: those that it needs and lacks, and those of others that must not be replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

HEAD = 1 << 16
"""Bytes at the beginning of an OBJ in which its materials are looked for; they come before the faces that use them."""
MARK = b"Distill3D"
"""Stands near the beginning of every file that an OBJ of ours has beside it."""
PICTURES = ("map_kd", "norm", "map_ao")


def missing(path: Path) -> list[str]:
    """Names that a ``.gltf`` or ``.obj`` refers to and that are not there; empty for other files and damaged ones."""
    readers = {".gltf": _named_by_gltf, ".obj": _named_by_obj}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return []
    try:
        return [name for name in dict.fromkeys(reader(path)) if not (path.parent / name).is_file()]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _named_by_gltf(path: Path) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    items = [*document.get("buffers", []), *document.get("images", [])]
    names = [item["uri"] for item in items if "uri" in item]
    return [unquote(name) for name in names if not name.startswith("data:") and "://" not in name]


def _named_by_obj(path: Path) -> list[str]:
    with path.open("rb") as file:
        head = file.read(HEAD).decode("utf-8", "replace")
    found: list[str] = []
    for text in _values(head, ("mtllib",)):
        # a line may name one file with spaces in its name, or several
        several = not (path.parent / text).is_file() and any((path.parent / name).is_file() for name in text.split())
        for library in text.split() if several else [text]:
            found.append(library)
            place = path.parent / library
            if place.is_file():
                said = _values(place.read_text(encoding="utf-8", errors="replace"), PICTURES)
                # options such as -s 1 1 1 may stand before a picture's name
                names = [name.split()[-1] if name.startswith("-") else name for name in said]
                found += [str(Path(library).parent / name.replace("\\", "/")) for name in names]
    return found


def _values(text: str, keys: Iterable[str]) -> list[str]:
    """What follows one of ``keys`` on a line of its own."""
    lines = (line.split(None, 1) for line in text.splitlines())
    return [line[1].strip() for line in lines if len(line) == 2 and line[0].lower() in keys]


def is_free(path: Path) -> bool:
    """Whether a companion of an OBJ may be written there: nothing is there, or an earlier one of ours."""
    if not os.path.lexists(path):
        return True
    try:
        with path.open("rb") as file:
            return MARK in file.read(256)
    except OSError:
        return False
