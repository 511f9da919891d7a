"""PLY, and OFF as if it were one, through trimesh; polygons, colours and texture coordinates from its raw tables.

http://paulbourke.net/dataformats/ply/. trimesh would cut polygons as fans, split vertices at will and stumble over
binary files whose faces have different numbers of corners: the faces are hidden from it under another name, and such
files given as text.
"""

from __future__ import annotations

import io
import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..beside import find
from ..types import Ints
from .part import Contents, Doubles, Part, Picture, levels, text_of
from .polygons import triangulate

CODES = {
    "char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d",
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f",
    "float64": "d", "int64": "q", "uint64": "Q",
}  # fmt: skip
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texcoord_u", "texcoord_v"))


def read_ply(path: Path) -> Contents:
    """The part of a PLY. Raises ``ValueError`` where its header or body cannot be understood."""
    data = path.read_bytes()
    end = re.search(rb"(?:^|[\r\n])end_header[ \t]*(?:\r\n|\n|\r|$)", data)
    if not data.startswith(b"ply") or end is None:
        raise ValueError("it does not begin with a PLY header")
    head = text_of(data[: end.start()])
    texture = re.search(r"^comment TextureFile (.*)$", head, re.MULTILINE)
    return _contents(_tables(head, data[end.end() :]), "" if texture is None else texture[1].strip(), path)


def read_off(path: Path) -> Contents:
    """Text OFF, also with normals (NOFF), colours of vertices (COFF) or of faces. Raises ``ValueError``."""
    lines = [row for line in text_of(path.read_bytes()).split("\n") if (row := line.partition("#")[0].strip())]
    kind = re.match(r"(C)?(N)?OFF\b", lines[0] if lines else "")
    if kind is None or "BINARY" in lines[0]:
        raise ValueError("it does not begin with OFF, COFF or NOFF")
    lines = [*filter(None, [lines[0][kind.end() :].strip()]), *lines[1:]]
    count, faces = (max(int(word), 0) for word in lines[0].split()[:2]) if lines else (0, 0)
    rows = [line.split() for line in lines[1 : 1 + count + faces]]
    if len(rows) < count + faces:
        raise ValueError(f"it is cut off: {count + faces} lines were announced and {len(rows)} are there")
    axes = ["x", "y", "z", "nx", "ny", "nz"] if kind[2] else ["x", "y", "z"]
    head = f"format ascii 1.0\nelement vertex {count}\n" + "".join(f"property double {axis}\n" for axis in axes)
    head += _off_colors([row[len(axes) :] for row in rows[:count]])
    head += f"element face {faces}\nproperty list int int vertex_indices\n"
    head += _off_colors([row[int(row[0]) + 1 :] for row in rows[count:]])
    return _contents(_tables(head, "\n".join(" ".join(row) for row in rows).encode()), "", path)


def _off_colors(rest: list[list[str]]) -> str:
    """The header for colours that stand at the end of every line: whole numbers to 255, or others to 1, which many
    programs write without a point where they are 0 or 1."""
    if not rest or min(map(len, rest)) < 3:
        return ""
    words = {word for row in rest for word in row[:3]}
    kind = "uchar" if all(word.isdigit() for word in words) and not words <= {"0", "1"} else "float"
    return "".join(f"property {kind} {name}\n" for name in [*COLORS[0], "alpha", "more"][: min(map(len, rest))])


def _tables(head: str, body: bytes) -> dict[str, dict[str, Any]]:
    """The properties of each element as trimesh finds them: ``(n,)``, or lengths ``(n,)`` and values of lists."""
    lines = [line.split() for line in head.split("\n") if line.split()[:1] in (["element"], ["property"])]
    order = re.search(r"^format (ascii|binary_little_endian|binary_big_endian)", head, re.MULTILINE)
    kinds = {word for line in lines if line[0] == "property" for word in line[1:-1]}
    if order is None or not kinds <= {"list", *CODES} or (lines and lines[0][0] != "element"):
        raise ValueError("its header is not understood")
    if order[1] == "ascii":
        rows = [line for line in body.splitlines() if line.strip()]
        _check_lists(lines, rows)
        return _read("ascii", lines, b"\n".join(rows))
    try:
        return _read(order[1], lines, body)
    except ValueError:  # lists of different lengths, or cut off
        return _read("ascii", lines, _as_text(lines, body, "<" if "little" in order[1] else ">"))


def _check_lists(lines: list[list[str]], rows: list[bytes]) -> None:
    """Raises ``ValueError`` where a row that begins with a list has fewer numbers than it announces."""
    at = 0
    for line, following in pairwise(lines):
        if line[0] == "element":
            mine, at = rows[at : at + int(line[2])], at + int(line[2])
            if following[1] == "list" and any(len(row.split()) <= int(row.split(None, 1)[0]) for row in mine):
                raise ValueError(f"a {line[1]} has fewer numbers than announced")


def _read(order: str, lines: list[list[str]], body: bytes) -> dict[str, dict[str, Any]]:
    from trimesh.exchange.ply import load_ply

    # under its own name, trimesh would make a mesh of each
    hidden = [[line[0], f"_{line[1]}", *line[2:]] if line[0] == "element" else line for line in lines if len(line) > 2]
    shown = [*hidden, *(["element vertex 0"], ["property float x"])]
    head = "\n".join(["ply", f"format {order} 1.0", *map(" ".join, shown), "end_header", ""])
    raw = load_ply(io.BytesIO(head.encode() + body), skip_materials=True)["metadata"]["_ply_raw"]
    return {name[1:]: _columns(name[1:], element) for name, element in raw.items() if element["length"]}


def _columns(name: str, element: dict[str, Any]) -> dict[str, Any]:
    count, found = element["length"], {}
    for key, kind in element["properties"].items():
        table = element["data"][key]
        if table.dtype.names:
            if (table["f0"] != table["f1"].shape[1]).any():
                raise ValueError("lists of different lengths")
            table = table["f1"]
        if len(table) != count and count > 1:
            raise ValueError(f"it is cut off: {count} of {name} were announced and {len(table)} are there")
        if table.dtype == object:
            found[key] = np.array([len(row) for row in table]), np.concatenate(list(table))
        elif "," in kind:
            found[key] = np.full(count, table.size // count), table.reshape(-1)
        else:
            found[key] = table.reshape(-1)
    return found


def _as_text(lines: list[list[str]], body: bytes, sign: str) -> bytes:
    """A binary body as text, for trimesh takes it only where all lists of a property are equally long."""
    at = 0

    def taken(code: str, many: int = 1) -> tuple[Any, ...]:
        nonlocal at
        kind = struct.Struct(f"{sign}{many}{code}")
        at += kind.size
        return kind.unpack_from(body, at - kind.size)

    rows: list[str] = []
    elements = [k for k, line in enumerate(lines) if line[0] == "element"]
    for first, last in zip(elements, [*elements[1:], len(lines)], strict=True):
        properties = [
            (CODES[line[2]] if line[1] == "list" else "", CODES[line[-2]]) for line in lines[first + 1 : last]
        ]
        for number in range(int(lines[first][2])):
            row: list[Any] = []
            try:
                for length, code in properties:
                    row += taken(length) if length else ()
                    row += taken(code, max(row[-1], 0) if length else 1)
            except struct.error as error:
                what = f"{lines[first][2]} of {lines[first][1]} were announced and {number} are there"
                raise ValueError(f"it is cut off: {what}") from error
            rows.append(" ".join(map(repr, row)))
    return "\n".join(rows).encode()


def _contents(read: dict[str, dict[str, Any]], texture: str, path: Path) -> Contents:
    vertex, face, found = read.get("vertex", {}), read.get("face", {}), Contents()
    if vertex and not all(axis in vertex for axis in "xyz"):
        raise ValueError("its vertices have no x, y and z")
    lists = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), None)
    if lists is None:
        cloud = "Gaussian splats" if "f_dc_0" in vertex else "a point cloud"
        found.others = ["triangle strips" if "tristrips" in read else cloud] * bool(vertex)
        return found
    vertices, counts, corners = _stack(vertex, ("x", "y", "z")), lists[0], lists[1].astype(np.int64)
    if corners.min(initial=0) < 0 or corners.max(initial=-1) >= len(vertices):
        raise ValueError("a face names a vertex that does not exist")
    triangles, owner = triangulate(vertices[corners], counts)
    part = Part(vertices, corners[triangles])
    if "nz" in vertex:
        part.normals = _stack(vertex, ("nx", "ny", "nz"))
    part.colors, colors = _colors(vertex), _colors(face)
    if part.colors is None and colors is not None:
        part.paint_faces(colors[owner])
    if texture:
        _clothe(part, vertex, face.get("texcoord"), texture, triangles, path, found)
    found.parts.append(part)
    return found


def _stack(element: dict[str, Any], names: tuple[str, ...]) -> Doubles:
    return np.stack([np.asarray(element[name], np.float64) for name in names], -1)


def _colors(element: dict[str, Any]) -> Doubles | None:
    """sRGB ``(n, 3)``: whole numbers count to the most their kind holds, others to 1, or to 255 where any is larger."""
    for names in COLORS:
        if all(name in element and not isinstance(element[name], tuple) for name in names):
            kind = element[names[0]].dtype
            small = kind.kind in "iu" and kind.itemsize < 3
            return levels(_stack(element, names), float(np.iinfo(kind).max) if small else 0.0)
    return None


def _clothe(
    part: Part, vertex: dict[str, Any], wedge: Any, texture: str, triangles: Ints, path: Path, found: Contents
) -> None:
    """The picture that a comment names, with coordinates of vertices or of the corners of faces."""
    place = find(path.parent, texture)
    if place is None:
        found.absent.append(texture)
        return
    names = next((names for names in UVS if all(name in vertex for name in names)), None)
    if wedge is not None and len(wedge[1]) == 2 * (int(triangles.max(initial=-1)) + 1):
        # every corner of every face has coordinates of its own
        flat = part.faces.reshape(-1)
        uvs = wedge[1].reshape(-1, 2)[triangles.reshape(-1)]
        part.vertices, part.faces, part.colors = part.vertices[flat], np.arange(len(flat)).reshape(-1, 3), None
        part.normals = None if part.normals is None else part.normals[flat]
    elif names is not None and len(part.vertices) == len(vertex["x"]):
        uvs = _stack(vertex, names)
    else:
        found.note(f"the picture {texture}, for there are no texture coordinates")
        return
    try:
        with Image.open(place) as image:
            pixels = found.pixels(image, texture)
    except OSError:
        pixels = found.pixels(None, texture)
    if pixels is not None:
        part.picture, part.uvs = Picture(pixels), np.asarray(uvs, np.float64) * [1, -1] + [0, 1]
