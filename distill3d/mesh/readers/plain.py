"""STL and OFF: shape, and the colours that some programs put into them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..clean import first_seen
from ..shade import places
from ..types import Ints
from .part import Contents, Doubles, Part, by_face_color, checked, numbers, text_of
from .polygons import triangulate

RECORD = np.dtype([("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("color", "<u2")])
HEAD = 84
"""Bytes before the first triangle of a binary STL: a line of text and the number of triangles."""


def read_stl(path: Path) -> Contents:
    """Binary or text STL, its corners joined. Its normals are those of the faces, so sharp edges are found anew.

    Two colours of faces are in use, five bits each: VisCAM's (bit 15 says that there is one, red in the highest bits)
    and Magics' (``COLOR=`` in the head, bit 15 says that there is none, red in the lowest).

    Raises:
        ValueError: cut off, or no STL.
    """
    data = path.read_bytes()
    count = int.from_bytes(data[80:HEAD], "little") if len(data) >= HEAD else 0
    text = data[:512].lstrip().lower().startswith(b"solid") and b"facet" in data[:4096].lower()
    if text and len(data) != HEAD + RECORD.itemsize * count:
        return _stl_text(data)
    if len(data) < HEAD:
        raise ValueError("it is cut off: not even its head is whole")
    if len(data) < HEAD + RECORD.itemsize * count:
        there = max(len(data) - HEAD, 0) // RECORD.itemsize
        raise ValueError(f"it is cut off: {count} triangles were announced and {there} are there")
    if count == 0:
        return Contents()
    table = np.frombuffer(data, RECORD, count, HEAD)
    part = _joined(table["corner"].reshape(-1, 3).astype(np.float64))
    colors = _stl_colors(data[:80], table["color"])
    if colors is not None:
        source, part.faces, part.colors = by_face_color(part.vertices, part.faces, colors)
        part.vertices = part.vertices[source]
    return Contents([part])


def _stl_text(data: bytes) -> Contents:
    text = data.decode("ascii", "replace").lower()
    rows = re.findall(r"^\s*vertex\s+(.*)$", text, re.MULTILINE)
    flat = numbers(rows)
    if flat.size % 9 or "endsolid" not in text:
        raise ValueError("it is cut off: its last triangle, or the line endsolid, is not whole")
    return Contents([_joined(flat.reshape(-1, 3))] if flat.size else [])


def _joined(corners: Doubles) -> Part:
    """Corners ``(3 F, 3)`` at the same place as one vertex."""
    first, number = first_seen(places(corners)[:, None])
    return Part(corners[first], number.reshape(-1, 3))


def _stl_colors(head: bytes, bits: Ints) -> Doubles | None:
    """``(F, 3)`` sRGB 0..1, or None where the file has no colours."""
    fives = np.stack([bits & 31, bits >> 5 & 31, bits >> 10 & 31], -1) / 31
    own = (bits & 0x8000) != 0
    at = head.find(b"COLOR=")
    if at >= 0 and len(head) >= at + 9:
        default = np.frombuffer(head, np.uint8, 3, at + 6) / 255
        return np.where(own[:, None], default, fives)
    return np.where(own[:, None], fives[:, ::-1], 0.8) if own.any() else None


def read_off(path: Path) -> Contents:
    """Text OFF, also with normals (NOFF), colours of vertices (COFF) or of faces. Raises ``ValueError``."""
    text = text_of(path.read_bytes())
    lines = [line for line in (row.partition("#")[0].strip() for row in text.split("\n")) if line]
    head = re.match(r"(ST)?(C)?(N)?(4)?(n)?OFF\b\s*(BINARY)?", lines[0] if lines else "")
    if head is None or any(head[k] for k in (1, 4, 5, 6)):
        raise ValueError("it does not begin with OFF, COFF or NOFF")
    rest = lines[0][head.end() :].strip()
    lines = [rest, *lines[1:]] if rest else lines[1:]
    count, faces = (max(int(word), 0) for word in lines[0].split()[:2]) if lines else (0, 0)
    if len(lines) < 1 + count + faces:
        raise ValueError(f"it is cut off: {count + faces} lines were announced and {max(len(lines) - 1, 0)} are there")
    rows = [row.split() for row in lines[1 : 1 + count]]
    vertices = np.array([[float(word) for word in row[:3]] for row in rows], np.float64).reshape(-1, 3)
    polygons = [row.split() for row in lines[1 + count : 1 + count + faces]]
    counts = np.array([int(row[0]) for row in polygons], np.int64)
    if any(len(row) <= many for row, many in zip(polygons, counts, strict=True)):
        raise ValueError("a face has fewer corners than announced")
    corners = np.array(
        [int(w) for row, many in zip(polygons, counts, strict=True) for w in row[1 : many + 1]], np.int64
    )
    if len(counts) == 0:
        return Contents(others=["a point cloud"] * (count > 0))
    checked(corners.reshape(-1, 1), count)
    triangles, owner = triangulate(vertices[corners], counts)
    part = Part(vertices, corners[triangles])
    skip = 6 if head[3] else 3
    if head[3] and all(len(row) >= 6 for row in rows):
        part.normals = np.array([[float(word) for word in row[3:6]] for row in rows])
    if all(len(row) >= skip + 3 for row in rows):
        part.colors = _off_colors([row[skip : skip + 3] for row in rows])
    elif all(len(row) >= many + 4 for row, many in zip(polygons, counts, strict=True)):
        colors = _off_colors([row[many + 1 : many + 4] for row, many in zip(polygons, counts, strict=True)])
        source, part.faces, part.colors = by_face_color(vertices, part.faces, colors[owner])
        part.vertices = vertices[source]
        part.normals = None if part.normals is None else part.normals[source]
    return Contents([part])


def _off_colors(words: list[list[str]]) -> Doubles:
    """Whole numbers count to 255, others to 1."""
    values = np.array([[float(word) for word in row] for row in words])
    whole = all(word.isdigit() for row in words for word in row)
    return np.clip(values / (255 if whole else 1), 0, 1)
