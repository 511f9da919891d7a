"""Files that lie beside a mesh file: those that it needs and lacks, and those of others that must not be replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

HEAD = 1 << 16
"""Bytes at the beginning of an OBJ in which its materials are looked for; they come before the faces that use them."""
MARK_WITHIN = 4096
"""Bytes at the beginning of a companion in which its mark stands."""
PICTURES = ("map_kd", "norm", "map_ao")


def missing(path: Path) -> list[str]:
    """Names that a ``.gltf`` or ``.obj`` refers to and that are not there; empty for other files and damaged ones."""
    return [name for name in _named(path) if not (path.parent / name).is_file()]


def parts_of(path: Path) -> set[Path]:
    """The file and all that it refers to, there or not, as absolute paths."""
    return {path.resolve(), *((path.parent / name).resolve() for name in _named(path))}


def _named(path: Path) -> list[str]:
    readers = {".gltf": _named_by_gltf, ".obj": _named_by_obj}
    reader = readers.get(path.suffix.lower())
    try:
        return [] if reader is None else list(dict.fromkeys(reader(path)))
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


def mark(path: Path) -> str:
    """What stands near the beginning of every file that the OBJ ``path`` of ours has beside it."""
    return f"Distill3D, of <{quote(path.name)}>"


def is_free(path: Path, owner: Path) -> bool:
    """Whether a companion of the OBJ ``owner`` may be written there: nothing is there, or an earlier one of its own."""
    if not os.path.lexists(path):
        return True
    try:
        with path.open("rb") as file:
            return mark(owner).encode() in file.read(MARK_WITHIN)
    except OSError:
        return False
