"""PLY, text or binary: polygons of any shape, colours of vertices or faces, and texture coordinates.

http://paulbourke.net/dataformats/ply/. Read here because trimesh cuts polygons as fans and stumbles over binary files
whose faces have different numbers of corners.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..beside import find
from ..types import Ints
from .part import Contents, Doubles, Part, Picture, by_face_color, checked, numbers, rgb, text_of
from .polygons import triangulate

KINDS = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8",
}  # fmt: skip
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texcoord_u", "texcoord_v"))


@dataclass
class _Element:
    """``element name count`` and its properties: name, kind, and for a list the kind of its length."""

    name: str
    count: int
    properties: list[tuple[str, str, str]] = field(default_factory=list)


class Cut(ValueError):
    """The file ends before its header says it does."""


def read_ply(path: Path) -> Contents:
    """The part of a PLY. Raises ``ValueError`` where its header or body cannot be understood."""
    data = path.read_bytes()
    order, elements, texture, body = _header(data)
    read = _text(data[body:], elements) if order == "" else _binary(data, body, elements, order)
    vertex, face = read.get("vertex", {}), read.get("face", {})
    found = Contents()
    if not all(axis in vertex for axis in "xyz"):
        raise ValueError("its vertices have no x, y and z")
    vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], -1)
    lists = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), None)
    if lists is None or len(lists[0]) == 0:
        strips = read.get("tristrips", {}).get("vertex_indices")
        cloud = "Gaussian splats" if "f_dc_0" in vertex else "a point cloud"
        found.others = [cloud if strips is None else "triangle strips"] * (len(vertices) > 0)
        return found
    counts, corners = lists
    checked(corners.reshape(-1, 1), len(vertices))
    triangles, owner = triangulate(vertices[corners], counts)
    part = Part(vertices, corners[triangles])
    if all(name in vertex for name in ("nx", "ny", "nz")):
        part.normals = np.stack([np.asarray(vertex[name], np.float64) for name in ("nx", "ny", "nz")], -1)
    part.colors = _colors(vertex)
    colors = _colors(face)
    if part.colors is None and colors is not None:
        source, part.faces, part.colors = by_face_color(vertices, part.faces, colors[owner])
        part.vertices = vertices[source]
        part.normals = None if part.normals is None else part.normals[source]
    _clothe(part, read, texture, triangles, path, found)
    found.parts.append(part)
    return found


def _header(data: bytes) -> tuple[str, list[_Element], str, int]:
    """Byte order, elements, name of the picture, and where the body begins."""
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        raise ValueError("it does not begin with a PLY header")
    last = re.compile(rb"[^\r\n]*(\r\n|\n|\r)?").match(data, end)
    body = len(data) if last is None else last.end()
    order, texture = "", ""
    elements: list[_Element] = []
    for line in text_of(data[:end]).split("\n"):
        try:
            order, texture = _declared(line, order, texture, elements)
        except (LookupError, ValueError) as error:
            raise ValueError(f"the line {line!r} of its header is not understood") from error
    return order, elements, texture, body


def _declared(line: str, order: str, texture: str, elements: list[_Element]) -> tuple[str, str]:
    """A line of the header taken up into ``elements``; byte order and picture as they are known after it."""
    words = line.split()
    if words[:1] == ["format"]:
        order = ORDERS[words[1]]
    elif words[:1] == ["element"]:
        if int(words[2]) < 0:
            raise ValueError(words[2])
        elements.append(_Element(words[1], int(words[2])))
    elif words[:2] == ["property", "list"]:
        elements[-1].properties.append((words[4], KINDS[words[3]], KINDS[words[2]]))
    elif words[:1] == ["property"]:
        elements[-1].properties.append((words[2], KINDS[words[1]], ""))
    elif words[:2] == ["comment", "TextureFile"]:
        texture = line.split("TextureFile", 1)[1].strip()
    return order, texture


def _text(body: bytes, elements: list[_Element]) -> dict[str, dict[str, Any]]:
    lines = [line for line in body.decode("ascii", "replace").splitlines() if line.strip()]
    read: dict[str, dict[str, Any]] = {}
    at = 0
    for element in elements:
        rows = lines[at : at + element.count]
        at += element.count
        if len(rows) < element.count:
            raise Cut(f"{element.count} of {element.name} were announced and {len(rows)} are there")
        if not any(length for _, _, length in element.properties):
            table = numbers(rows).reshape(element.count, -1)
            if table.shape[1] < len(element.properties) and element.count:
                raise ValueError(f"a line of {element.name} has fewer numbers than announced")
            columns = enumerate(element.properties)
            read[element.name] = {name: table[:, k].astype(kind) for k, (name, kind, _) in columns}
        else:
            read[element.name] = _worded(rows, element)
    return read


def _worded(rows: list[str], element: _Element) -> dict[str, Any]:
    """Elements with lists, a line each."""
    values: dict[str, list[float]] = {name: [] for name, _, _ in element.properties}
    counts: dict[str, list[int]] = {name: [] for name, _, _ in element.properties}
    for row in rows:
        words = row.split()
        at = 0
        for name, _, length in element.properties:
            many = int(words[at]) if length else 1
            at += bool(length)
            if at + many > len(words):
                raise ValueError(f"a line of {element.name} has fewer numbers than announced")
            values[name] += map(float, words[at : at + many])
            counts[name].append(many)
            at += many
    return {
        name: (np.array(counts[name], np.int64), np.array(values[name]).astype("i8" if kind[0] in "iu" else kind))
        if length
        else np.array(values[name]).astype(kind)
        for name, kind, length in element.properties
    }


def _binary(data: bytes, at: int, elements: list[_Element], order: str) -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = {}
    for element in elements:
        read[element.name], at = _uniform(data, at, element, order)
        if not read[element.name] and element.count:
            read[element.name], at = _rows(data, at, element, order)
    return read


def _uniform(data: bytes, at: int, element: _Element, order: str) -> tuple[dict[str, Any], int]:
    """Elements whose lists are all as long as the first one's, at once; nothing where they are not."""
    if element.count == 0:
        kinds = element.properties
        return {n: (np.zeros(0, np.int64),) * 2 if length else np.zeros(0, kind) for n, kind, length in kinds}, at
    layout: list[Any] = []
    lengths: dict[str, int] = {}
    offset = at
    for name, kind, length in element.properties:
        if length:
            lengths[name] = _one(data, offset, order + length)
            layout.append((f"{name} length", order + length))
            offset += np.dtype(length).itemsize
        many = lengths.get(name, 1)
        layout.append((name, order + kind, (many,)) if length else (name, order + kind))
        offset += many * np.dtype(kind).itemsize
    size = np.dtype(layout).itemsize
    if at + size * element.count > len(data):
        if not lengths:
            raise Cut(f"{element.count} of {element.name} were announced and the file ends before")
        return {}, at
    table = np.frombuffer(data, layout, element.count, at)
    if any((table[f"{name} length"] != many).any() for name, many in lengths.items()):
        return {}, at
    found: dict[str, Any] = {}
    for name, kind, length in element.properties:
        values = np.ascontiguousarray(table[name]).astype("i8" if length and kind[0] in "iu" else kind)
        found[name] = (np.full(element.count, lengths[name], np.int64), values.reshape(-1)) if length else values
    return found, at + size * element.count


def _rows(data: bytes, at: int, element: _Element, order: str) -> tuple[dict[str, Any], int]:
    """Elements whose lists have different lengths, one after the other."""
    values: dict[str, list[Any]] = {name: [] for name, _, _ in element.properties}
    counts: dict[str, list[int]] = {name: [] for name, _, _ in element.properties}
    kinds = [
        (n, np.dtype(order + k), np.dtype(order + length) if length else None) for n, k, length in element.properties
    ]
    for _ in range(element.count):
        for name, kind, length in kinds:
            many = 1
            if length is not None:
                many = _one(data, at, length)
                at += length.itemsize
            if many < 0 or at + many * kind.itemsize > len(data):
                raise Cut(f"{element.count} of {element.name} were announced and the file ends before")
            values[name].append(np.frombuffer(data, kind, many, at))
            counts[name].append(many)
            at += many * kind.itemsize
    found: dict[str, Any] = {}
    for name, kind, length in kinds:
        flat = np.concatenate(values[name]).astype(
            "i8" if length is not None and kind.kind in "iu" else kind.newbyteorder("=")
        )
        found[name] = flat if length is None else (np.array(counts[name], np.int64), flat)
    return found, at


def _one(data: bytes, at: int, kind: Any) -> int:
    if at + np.dtype(kind).itemsize > len(data):
        raise Cut("the file ends before its last element")
    return int(np.frombuffer(data, kind, 1, at)[0])


def _colors(element: dict[str, Any]) -> Doubles | None:
    """sRGB ``(n, 3)``: whole numbers count to the most their kind holds, others to 1, or to 255 where any is larger."""
    for names in COLORS:
        if all(name in element and not isinstance(element[name], tuple) for name in names):
            raw = np.stack([element[name] for name in names], -1)
            values = raw.astype(np.float64)
            if raw.dtype.kind == "f" or raw.dtype.itemsize > 2:
                most = 255.0 if values.max(initial=0) > 1 else 1.0
            else:
                most = float(np.iinfo(raw.dtype).max)
            return np.clip(np.nan_to_num(values / most, nan=0.8), 0, 1)
    return None


def _clothe(part: Part, read: dict[str, Any], texture: str, triangles: Ints, path: Path, found: Contents) -> None:
    """The picture that a comment names, with coordinates of vertices or of the corners of faces."""
    if not texture:
        return
    place = find(path.parent, texture)
    if place is None:
        found.absent.append(texture)
        return
    vertex, wedge = read["vertex"], read["face"].get("texcoord")
    names = next((names for names in UVS if all(name in vertex for name in names)), None)
    if isinstance(wedge, tuple) and len(wedge[1]) == 2 * (int(triangles.max(initial=-1)) + 1):
        # every corner of every face has coordinates of its own
        flat = part.faces.reshape(-1)
        uvs = wedge[1].reshape(-1, 2)[triangles.reshape(-1)]
        part.vertices, part.faces = part.vertices[flat], np.arange(len(flat)).reshape(-1, 3)
        part.normals = None if part.normals is None else part.normals[flat]
        part.colors = None
    elif names is not None and len(part.vertices) == len(vertex["x"]):
        uvs = np.stack([vertex[name] for name in names], -1)
    else:
        found.note(f"the picture {texture}, for there are no texture coordinates")
        return
    try:
        with Image.open(place) as image:
            part.picture = Picture(rgb(image))
    except (OSError, ValueError, Image.DecompressionBombError):
        found.note(f"the picture {texture}, which is damaged or of an unknown kind")
        return
    part.uvs = np.asarray(uvs, np.float64) * [1, -1] + [0, 1]
