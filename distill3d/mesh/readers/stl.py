"""STL through trimesh, with the colours that some programs put into it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..clean import first_seen
from ..shade import places
from .part import Contents, Doubles, Part

HEAD, TRIANGLE = 84, 50
"""Bytes before the first triangle of a binary STL, a line of text and the number of triangles, and bytes of each."""


def read_stl(path: Path) -> Contents:
    """Binary or text STL, its corners joined. Its normals are those of the faces, so sharp edges are found anew.

    Raises:
        ValueError: cut off, or no STL.
    """
    from trimesh.exchange.stl import load_stl

    data = path.read_bytes()
    there, count = (len(data) - HEAD) // TRIANGLE, int.from_bytes(data[80:HEAD], "little")
    text = data[:512].lstrip().lower().startswith(b"solid") and b"facet" in data[:4096].lower()
    if text and len(data) != HEAD + TRIANGLE * count:
        ends = re.findall(rb"^\s*(end)?solid", data.lower(), re.MULTILINE)
        if 2 * ends.count(b"end") < len(ends):
            raise ValueError("it is cut off: its last triangle, or the line endsolid, is not whole")
    elif len(data) < HEAD + TRIANGLE * count or there < 0:
        raise ValueError(f"it is cut off: {count} triangles were announced and {max(there, 0)} are there")
    else:
        data = data[: HEAD + TRIANGLE * count]
    loaded = load_stl(io.BytesIO(data))
    return Contents([_part(solid, data[:80]) for solid in loaded.get("geometry", {"": loaded}).values()])


def _part(solid: Mapping[str, Any], head: bytes) -> Part:
    corners = np.asarray(solid["vertices"], np.float64)
    first, number = first_seen(places(corners)[:, None])
    part = Part(corners[first], number[np.asarray(solid["faces"], np.int64)])
    bits = solid.get("face_attributes", {}).get("stl")
    colors = None if bits is None else _colors(head, bits.astype(np.int64))
    if colors is not None:
        part.paint_faces(colors)
    return part


def _colors(head: bytes, bits: Any) -> Doubles | None:
    """``(F, 3)`` sRGB 0..1 in five bits each, or None where the file has no colours.

    Two ways are in use: VisCAM's (bit 15 says that there is one, red in the highest bits) and Magics' (``COLOR=`` in
    the head, bit 15 says that there is none, red in the lowest).
    """
    fives = np.stack([bits & 31, bits >> 5 & 31, bits >> 10 & 31], -1) / 31
    own = (bits & 0x8000) != 0
    at = head.find(b"COLOR=")
    if 0 <= at <= len(head) - 9:
        return np.where(own[:, None], np.frombuffer(head, np.uint8, 3, at + 6) / 255, fives)
    return np.where(own[:, None], fives[:, ::-1], 0.8) if own.any() else None
