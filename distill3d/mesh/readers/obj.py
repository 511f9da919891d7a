"""OBJ through trimesh, its text written anew before.

http://paulbourke.net/dataformats/obj/ and mtl/. trimesh cuts every polygon as a fan, counts relative numbers from the
end of the file, takes one style of corners for all and loses pictures whose line has options: it is given triangles,
absolute numbers, corners that are all alike and plain names. Lines, points, curves and smoothing groups are not read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from ..beside import find, mtl_names, picture_of
from ..types import Ints
from .part import Contents, Doubles, Part, Picture, levels, text_of
from .polygons import triangulate

OPAQUE = {"d": 1.0, "tr": 0.0}
"""What MTL says of a material that one cannot see through; ``Tr`` counts the other way round."""
NEUTRAL = {"-t": [0.0, 0.0, 0.0], "-mm": [0.0, 1.0]}
"""Options that change a picture in ways not followed here, and their values that change nothing."""
ELEMENTS = ("o", "g", "s", "usemtl", "vp", "deg", "cstype")
"""Beside what is read, words that lines of an OBJ begin with."""


@dataclass
class _Material:
    """``Kd``, and ``map_Kd``: its name, its bytes and its options."""

    diffuse: Doubles | None = None
    name: str = ""
    data: bytes | None = None
    options: dict[str, list[str]] = field(default_factory=dict)


def read_obj(path: Path) -> Contents:
    """The parts of an OBJ, one a material. Raises ``ValueError`` where a line cannot be understood."""
    from trimesh.exchange.obj import load_obj

    found = Contents()
    rows: dict[str, list[str]] = {key: [] for key in ("v", "vt", "vn", "f", "mtllib", "l", "p", "curv", "surf")}
    sizes: list[tuple[int, int, int]] = []
    owner: list[str] = []
    used, known = "", False
    for line in text_of(path.read_bytes()).replace("\\\n", " ").replace("\t", " ").split("\n"):
        key, _, rest = line.strip().partition(" ")
        known |= key in rows or key in ELEMENTS
        if key == "usemtl":
            used = rest.strip()
        elif key in rows:
            rows[key].append(rest if "#" not in rest or key == "mtllib" else rest.partition("#")[0])
            if key == "f":
                owner.append(used)
                sizes.append((len(rows["v"]), len(rows["vt"]), len(rows["vn"])))
    others = {"lines": rows["l"], "a point cloud": rows["p"], "curves": rows["curv"] + rows["surf"]}
    found.others = [what for what, lines in others.items() if lines] or ["a point cloud"] * bool(rows["v"])
    if not rows["f"]:
        if not known:
            raise ValueError("no line of it is one of an OBJ")
        return found
    materials = _materials(path, [name.strip() for name in rows["mtllib"] if name.strip()], found)
    names = list(dict.fromkeys(owner))
    looks = [materials.get(name, _Material()) for name in names]
    numbers = {name: k for k, name in enumerate(names)}
    text = _plain(rows, sizes, np.array([numbers[name] for name in owner], np.int64), looks)
    files = {f"picture {k}": look.data for k, look in enumerate(looks) if look.data is not None}
    library = [f"newmtl {k}\n" + f"map_Kd picture {k}\n" * (look.data is not None) for k, look in enumerate(looks)]
    files["mtl"] = "".join([*library, "newmtl none\n"]).encode()  # of two or more, each has its name in what is loaded
    loaded = load_obj(io.BytesIO(text.encode()), resolver=files)
    for number, mesh in sorted((int(name), mesh) for name, mesh in loaded["geometry"].items()):
        found.parts.append(_part(mesh, names[number], looks[number], found))
    return found


def _plain(rows: dict[str, list[str]], sizes: list[tuple[int, int, int]], owner: Ints, looks: list[_Material]) -> str:
    """The text for trimesh; ``owner`` is the material of each face ``(P,)``."""
    tables = {key: _even(rows[key], width) for key, width in (("v", 3), ("vt", 2), ("vn", 3))}
    points = np.array(" ".join(tables["v"]).split(), np.float64).reshape(len(rows["v"]), -1)[:, :3]
    words = [row.split() for row in rows["f"]]
    counts = np.fromiter(map(len, words), np.int64, len(words))
    corners = _corners(list(chain.from_iterable(words)))
    corners = np.where(corners < 0, corners + np.repeat(np.array(sizes, np.int64), counts, 0) + 1, corners)
    if len(corners) and (corners[:, 0].min() < 1 or corners[:, 0].max() > len(points)):
        raise ValueError("a face names a vertex that does not exist")
    for axis, key in ((1, "vt"), (2, "vn")):  # the last of each stands for none
        corners[(corners[:, axis] < 1) | (corners[:, axis] > len(rows[key])), axis] = len(rows[key]) + 1
    for key in ("vt", "vn"):
        tables[key].append(" ".join("0" for _ in tables[key][0].split()) if tables[key] else "0 0 0")
    text = ["mtllib mtl", *(f"{key} {row}" for key, table in tables.items() for row in table)]
    triangles, face = triangulate(points[corners[:, 0] - 1], counts)
    for number, look in enumerate(looks):
        mine = corners[triangles[owner[face] == number].reshape(-1)]
        uv = look.data is not None and bool((mine[:, 1] <= len(rows["vt"])).any())
        normal = bool((mine[:, 2] <= len(rows["vn"])).any())
        style = "%d" + ("/%d" if uv else "/" * normal) + "/%d" * normal
        table = mine[:, [0, *[1] * uv, *[2] * normal]].reshape(len(mine) // 3, -1).tolist()
        text += [f"usemtl {number}", *(f"f {style} {style} {style}" % tuple(row) for row in table)]
    return "\n".join(text)


def _even(rows: list[str], least: int) -> list[str]:
    """The rows with as many numbers each; NaN where there are none."""
    widths = {least, *(len(row.split()) for row in rows)}
    if len(widths) > 1:
        rows = [" ".join((row.split() + ["nan"] * max(widths))[: max(widths)]) for row in rows]
    return list(rows)


def _corners(words: list[str]) -> Ints:
    """``(n, 3)`` of words such as ``3``, ``3/1``, ``3//2`` and ``3/1/2``; 0 where a number is left out."""
    if {word.count("/") for word in words} == {2} and not any(word.endswith("/") for word in words):
        flat = " ".join(words).replace("//", "/0/").replace("/", " ").split()
        return np.array(flat, np.int64).reshape(-1, 3)
    split = [[*word.split("/"), "", ""][:3] for word in words]
    return np.array([[int(part or 0) for part in parts] for parts in split], np.int64).reshape(-1, 3)


def _part(mesh: dict, name: str, look: _Material, found: Contents) -> Part:
    part = Part(np.asarray(mesh["vertices"], np.float64), np.asarray(mesh["faces"], np.int64))
    part.normals = mesh.get("vertex_normals")
    pixels = None if look.data is None else found.pixels(mesh["visual"].material.image, look.name)
    if pixels is not None and mesh["visual"].uv is None:
        found.note(f"the picture of {name}, for its faces have no texture coordinates")
    elif pixels is not None:
        clamp = look.options.get("-clamp", ["off"])[0].lower() == "on"
        part.picture = Picture(pixels, ("clamp", "clamp") if clamp else ("repeat", "repeat"))
        scale, offset = _pair(look.options.get("-s", []), 1.0), _pair(look.options.get("-o", []), 0.0)
        part.uvs = (mesh["visual"].uv * scale + offset) * [1, -1] + [0, 1]
        return part
    if mesh.get("vertex_colors") is not None:
        part.colors = levels(np.asarray(mesh["vertex_colors"], np.float64))
    elif look.diffuse is not None:
        part.colors = np.tile(look.diffuse, (len(part.vertices), 1))
    return part


def _materials(path: Path, lines: Iterable[str], found: Contents) -> dict[str, _Material]:
    """The materials of all libraries by name; what is lacking is told in ``found``.

    The picture stands for the colour alone: programs write any ``Kd`` beside it, and most readers take none of it.
    """
    made: dict[str, _Material] = {}
    for library in mtl_names(path, lines):
        place = find(path.parent, library)
        if place is None:
            found.absent.append(library)
            continue
        current = _Material()
        for line in text_of(place.read_bytes()).split("\n"):
            key, _, rest = line.strip().replace("\t", " ").partition(" ")
            key, rest = key.lower(), rest.strip()
            if key == "newmtl":
                current = made.setdefault(rest, _Material())
            elif key == "kd":
                current.diffuse = _color(rest, found)
            elif key == "map_kd":
                _find_picture(current, rest, (place.parent, path.parent), found)
            elif key == "map_d" or (key in OPAQUE and _numbers(rest.split()[-1:]) != [OPAQUE[key]]):
                found.note("transparency")
    return made


def _find_picture(material: _Material, line: str, folders: tuple[Path, Path], found: Contents) -> None:
    name, material.options = picture_of(line)
    place = next((place for folder in folders if name and (place := find(folder, name))), None)
    material.name, material.data = name, None if place is None else place.read_bytes()
    if place is None and name:
        found.absent.append(name)
        return
    for option, neutral in NEUTRAL.items():
        values = _numbers(material.options.get(option, []))
        if values != neutral[: len(values)]:
            found.note(f"map_Kd's option {option}")


def _color(text: str, found: Contents) -> Doubles | None:
    values = _numbers(text.split()[:3])
    if not values or not np.isfinite(values).all():
        found.note(f"the material colour Kd {text!r}")
        return None
    # one number stands for all three
    color: Doubles = np.clip(values * 3 if len(values) == 1 else values + [0.0] * (3 - len(values)), 0, 1)
    return color


def _pair(words: list[str], missing: float) -> Doubles:
    return np.array([*_numbers(words[:2]), missing, missing])[:2]


def _numbers(words: list[str]) -> list[float]:
    """The words as numbers; none where any is not one."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return []
