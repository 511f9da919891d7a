"""Wavefront OBJ: polygons of any shape, relative numbers, texture coordinates and normals of their own, materials.

http://paulbourke.net/dataformats/obj/ and mtl/. One part a material. Read here because trimesh cuts every polygon as a
fan, counts relative numbers from the end of the file and loses pictures whose line has options. Lines, points, curves
and smoothing groups are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ..beside import mtl_names
from ..clean import unique_rows
from ..types import Ints
from .mtl import Material, read_mtl
from .part import Contents, Doubles, Part, numbers, text_of
from .polygons import triangulate

CHUNK = 200_000
"""Faces split into words at once: millions of words take many times the memory of the file."""


class _Lines:
    """An OBJ's lines by kind."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.uvs: list[str] = []
        self.normals: list[str] = []
        self.faces: list[str] = []
        self.stamps: list[tuple[int, int, int, int]] = []
        """Number of the first face after more places, uvs or normals came, and how many of each there were."""
        self.materials: list[tuple[int, str]] = []
        """Number of the first face of a material, and its name."""
        self.libraries: list[str] = []
        self.others: set[str] = set()

    def take(self, line: str) -> None:
        key, _, rest = line.partition(" ")
        if key == "v":
            self.places.append(rest)
        elif key == "f":
            seen = (len(self.places), len(self.uvs), len(self.normals))
            if not self.stamps or self.stamps[-1][1:] != seen:
                self.stamps.append((len(self.faces), *seen))
            self.faces.append(rest)
        elif key == "vt":
            self.uvs.append(rest)
        elif key == "vn":
            self.normals.append(rest)
        elif key == "usemtl":
            self.materials.append((len(self.faces), rest.strip()))
        elif key == "mtllib":
            self.libraries += [rest.strip()] * bool(rest.strip())
        elif key in ("l", "p", "curv", "surf"):
            self.others.add({"l": "lines", "p": "a point cloud"}.get(key, "curves"))


def read_obj(path: Path) -> Contents:
    """The parts of an OBJ. Raises ``ValueError`` where a line cannot be understood."""
    text = text_of(path.read_bytes()).replace("\\\n", " ").replace("\t", " ")
    lines = _Lines()
    for line in text.split("\n"):
        lines.take(line.strip() if line[:1] in ("", " ") else line)
    del text
    found = Contents(others=sorted(lines.others) or (["a point cloud"] if lines.places else []))
    materials: dict[str, Material] = {}
    for library in mtl_names(path, lines.libraries):
        materials |= read_mtl(path, library, found)
    places, colors = _places(lines.places)
    uvs, normals = _rows(lines.uvs, 2), _rows(lines.normals, 3)
    counts, corners = _faces(lines, (len(places), len(uvs), len(normals)))
    triangles, owner = triangulate(places[corners[:, 0]], counts)
    material = np.zeros(len(counts), np.int64)
    names = [""]
    for first, name in lines.materials:
        names.append(name)
        material[first:] = len(names) - 1
    same = {name: k for k, name in reversed(list(enumerate(names)))}
    material = np.array([same[name] for name in names])[material]
    for number in np.unique(material[owner]):
        used = materials.get(names[number])
        mine = corners[triangles[material[owner] == number]].reshape(-1, 3)
        found.parts.append(_part(mine, (places, uvs, normals), colors, used))
        if used is not None and used.picture is not None and found.parts[-1].picture is None:
            found.note(f"the picture of {names[number]}, for its faces have no texture coordinates")
    return found


def _places(rows: Sequence[str]) -> tuple[Doubles, Doubles | None]:
    """Places ``(n, 3)``, and sRGB colours from ``v x y z r g b`` where any line has them; grey in those that lack."""
    if not rows:
        return np.zeros((0, 3)), None
    width = len(rows[0].split())
    flat = numbers(rows)
    if flat.size != width * len(rows):
        words = [row.split() for row in rows]
        width = max(map(len, words))
        flat = np.array([[float(w) for w in row] + [np.nan] * (width - len(row)) for row in words])
    table = flat.reshape(len(rows), -1)
    if width < 3 or np.isnan(table[:, :3]).all(1).any():
        raise ValueError("a line that begins with v has fewer than three numbers")
    if width < 6:  # a fourth number is a weight of curves
        return table[:, :3], None
    colors = table[:, 3:6] / (255 if np.nanmax(table[:, 3:6], initial=0) > 1 else 1)
    return table[:, :3], np.clip(np.nan_to_num(colors, nan=0.8), 0, 1)


def _rows(rows: Sequence[str], width: int) -> Doubles:
    """The first ``width`` numbers of each line, 0 where there are fewer."""
    flat = numbers(rows)
    if rows and flat.size == len(rows[0].split()) * len(rows) and flat.size >= width * len(rows):
        table: Doubles = flat.reshape(len(rows), -1)[:, :width]
        return table
    words = [[float(w) for w in row.split()[:width]] for row in rows]
    return np.array([row + [0.0] * (width - len(row)) for row in words], np.float64).reshape(-1, width)


def _faces(lines: _Lines, sizes: tuple[int, int, int]) -> tuple[Ints, Ints]:
    """Corners of each face ``(P,)``, and of all corners the numbers ``(n, 3)`` of place, uv and normal; -1 is none."""
    counts: list[Ints] = [np.zeros(0, np.int64)]
    corners: list[Ints] = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(lines.faces), CHUNK):
        rows = [row.partition("#")[0].split() for row in lines.faces[start : start + CHUNK]]
        counts.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        corners.append(_corners(list(chain.from_iterable(rows))))
    count, corner = np.concatenate(counts), np.concatenate(corners)
    if (corner < 0).any():
        stamps = np.array(lines.stamps, np.int64)
        stamp = np.searchsorted(stamps[:, 0], np.repeat(np.arange(len(count)), count), side="right") - 1
        corner = np.where(corner < 0, corner + stamps[stamp, 1:] + 1, corner)
    corner = corner - 1
    if len(corner) and (corner[:, 0].min() < 0 or corner[:, 0].max() >= sizes[0]):
        raise ValueError("a face names a vertex that does not exist")
    corner[:, 1:][(corner[:, 1:] < -1) | (corner[:, 1:] >= np.array(sizes[1:]))] = -1
    return count, corner


def _corners(words: list[str]) -> Ints:
    """``(n, 3)`` of words such as ``3``, ``3/1``, ``3//2`` and ``3/1/2``; 0 where a number is left out."""
    slashes = {word.count("/") for word in words}
    if len(slashes) == 1 and not any(word.endswith("/") for word in words):
        width = slashes.pop() + 1
        table = numbers([" ".join(words).replace("//", "/0/").replace("/", " ")], int)
        if table.size == width * len(words):
            table = table.reshape(-1, width)[:, :3]
            return np.pad(table, ((0, 0), (0, 3 - table.shape[1])))
    split = [[*word.split("/"), "", ""][:3] for word in words]
    return np.array([[int(part or 0) for part in parts] for parts in split], np.int64).reshape(-1, 3)


def _part(
    corners: Ints, tables: tuple[Doubles, Doubles, Doubles], colors: Doubles | None, material: Material | None
) -> Part:
    """Corners ``(3 F, 3)`` of triangles as vertices: one for each place, uv and normal that come together."""
    picture = None if material is None else material.picture
    if picture is None:
        corners = corners * np.array([1, 0, 1]) - np.array([0, 1, 0])  # uvs without a picture would only split vertices
    first, number, _ = unique_rows(corners)
    place, uv, normal = corners[first].T
    part = Part(tables[0][place], number.reshape(-1, 3))
    if (normal >= 0).any():
        part.normals = np.where((normal >= 0)[:, None], tables[2][normal], np.nan)
    if picture is not None and (uv >= 0).any() and material is not None:
        part.picture = picture
        part.uvs = np.where((uv >= 0)[:, None], tables[1][uv], 0) * material.scale + material.offset
        part.uvs[:, 1] = 1 - part.uvs[:, 1]
    elif colors is not None:
        part.colors = colors[place]
    elif material is not None and material.diffuse is not None:
        part.colors = np.tile(material.diffuse, (len(place), 1))
    return part
