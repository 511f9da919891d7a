"""Files that lie beside a mesh file: how it names them, where they are, and those that must not be replaced."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from ..files import real

HEAD = 1 << 16
"""Bytes at the beginning of an OBJ in which its materials are looked for; they come before the faces that use them."""
MARK_WITHIN = 4096
"""Bytes at the beginning of a companion in which its mark stands."""
PICTURES = re.compile(r"map_\w+|norm|bump|disp|decal|refl", re.IGNORECASE)
"""Words of MTL before a picture's name, read by this library or not."""
MATERIALS = re.compile("mtllib", re.IGNORECASE)
UP_TO_THREE = ("-s", "-o", "-t")
OPTIONS = (
    dict.fromkeys(UP_TO_THREE, 3)
    | {"-mm": 2}
    | {f"-{key}": 1 for key in ("blendu", "blendv", "boost", "bm", "cc", "clamp", "imfchan", "texres", "type")}
)
"""Options that MTL allows before a picture's name, and the most words that follow each."""


def find(folder: Path, name: str) -> Path | None:
    """The file that a mesh file in ``folder`` means by ``name``, or None: never one outside that folder.

    Names written on other systems are understood: backslashes, other capitals, and of a path that leads elsewhere, such
    as ``C:\\work\\brick.png``, the last word, where the folder has a file of that name.
    """
    text = posixpath.normpath(name.strip().strip('"').replace("\\", "/"))
    inside = not text.startswith(("/", "..")) and ":" not in text.split("/")[0]
    for relative in ([text] if inside else []) + [text.rsplit("/", 1)[-1]]:
        place = folder
        try:
            for word in relative.split("/"):
                exact = place / word
                place = exact if exact.exists() else _any_case(place, word)
            if place.is_file():
                return place
        except (OSError, ValueError):
            continue
    return None


def _any_case(folder: Path, word: str) -> Path:
    alike = (item for item in sorted(folder.iterdir()) if item.name.casefold() == word.casefold())
    return next(alike, folder / word)


def picture_of(line: str) -> tuple[str, dict[str, list[str]]]:
    """The picture's name, blanks and all, and the options before it, in what follows ``map_Kd`` on its line."""
    words = re.findall(r"\S+\s*", line)
    options: dict[str, list[str]] = {}
    at = 0
    while at < len(words) and words[at].strip().lower() in OPTIONS:
        key = words[at].strip().lower()
        most, at = OPTIONS[key], at + 1
        options[key] = []
        while len(options[key]) < most and at < len(words) - 1:
            word = words[at].strip()
            if key in UP_TO_THREE and not _is_number(word):
                break
            options[key].append(word)
            at += 1
    return "".join(words[at:]).strip(), options


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def mtl_names(path: Path, lines: Iterable[str]) -> list[str]:
    """The libraries of an OBJ's ``mtllib`` lines: each names one file, perhaps with blanks in its name, or several."""
    names: list[str] = []
    for text in lines:
        several = find(path.parent, text) is None and any(find(path.parent, name) for name in text.split())
        names += text.split() if several else [text]
    return list(dict.fromkeys(names))


def parts_of(path: Path) -> set[Path]:
    """The file and all that it refers to, there or not, as absolute paths."""
    readers = {".gltf": _named_by_gltf, ".obj": _named_by_obj, ".ply": _named_by_ply}
    reader = readers.get(path.suffix.lower())
    try:
        names = [] if reader is None else reader(path)
    except (OSError, ValueError, TypeError, AttributeError):
        names = []
    return {real(path), *(real(find(path.parent, name) or path.parent / name) for name in names)}


def _named_by_gltf(path: Path) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    items = [*document.get("buffers", []), *document.get("images", [])]
    names = [item["uri"] for item in items if "uri" in item]
    return [unquote(name) for name in names if not name.startswith("data:") and "://" not in name]


def _named_by_obj(path: Path) -> list[str]:
    with path.open("rb") as file:
        head = file.read(HEAD).decode("utf-8", "replace")
    found: list[str] = []
    for library in mtl_names(path, _values(head, MATERIALS)):
        found.append(library)
        place = find(path.parent, library)
        if place is not None:
            said = _values(place.read_text(encoding="utf-8", errors="replace"), PICTURES)
            pictures = [picture_of(line)[0].replace("\\", "/") for line in said]
            found += [str(place.parent.relative_to(path.parent) / name) for name in pictures]
    return found


def _named_by_ply(path: Path) -> list[str]:
    with path.open("rb") as file:
        head = file.read(HEAD).split(b"end_header")[0].decode("utf-8", "replace")
    return [name.strip() for name in re.findall(r"^comment TextureFile (.*)$", head, re.MULTILINE)]


def _values(text: str, key: re.Pattern[str]) -> list[str]:
    """What follows ``key`` on a line of its own."""
    lines = (line.split(None, 1) for line in text.splitlines())
    return [line[1].strip() for line in lines if len(line) == 2 and key.fullmatch(line[0])]


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
