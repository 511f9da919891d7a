"""What a reader gives: one part of a file, in its own numbers, before anything is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..clean import unique_rows
from ..types import Bytes, Ints

Doubles = NDArray[np.float64]
Wrap = Literal["repeat", "mirror", "clamp"]


@dataclass(frozen=True)
class Picture:
    """A texture: ``(H, W, 3)`` uint8 sRGB, row 0 at the top, and what lies beyond its sides along u and along v."""

    pixels: Bytes
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")


@dataclass
class Part:
    """Triangles of one material.

    Attributes:
        vertices: ``(V, 3)`` in the file's world frame.
        faces: ``(F, 3)``, counter-clockwise from outside.
        normals: ``(V, 3)``, of any length; none, or 0 or NaN in a row, where the file has none.
        colors: ``(V, 3)`` sRGB 0..1, where the part has any.
        uvs: ``(V, 2)`` from the upper left corner of the picture, v downwards.
        tint: ``(V, 3)`` linear factors that multiply the picture.
    """

    vertices: Doubles
    faces: Ints
    normals: Doubles | None = None
    colors: Doubles | None = None
    uvs: Doubles | None = None
    picture: Picture | None = None
    tint: Doubles | None = None

    def paint_faces(self, colors: Doubles) -> None:
        """Colours of faces ``(F, 3)``; a vertex is there once for each colour around it."""
        levels = np.round(np.clip(colors, 0, 1) * 255).astype(np.int64) @ np.array([65536, 256, 1])
        first, number, _ = unique_rows(np.stack([self.faces.reshape(-1), np.repeat(levels, 3)], 1))
        source = self.faces.reshape(-1)[first]
        self.vertices, self.faces, self.colors = self.vertices[source], number.reshape(-1, 3), colors[first // 3]
        self.normals = None if self.normals is None else self.normals[source]


@dataclass
class Contents:
    """A file's parts, what else it holds in words, what it lacks, and what of it is not read."""

    parts: list[Part] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Something in the file that is not read, once."""
        self.unread += [what] * (what not in self.unread)

    def pixels(self, picture: Image.Image | None, name: str) -> Bytes | None:
        """``(H, W, 3)`` uint8 of a picture of any kind; None, and noted, where it cannot be decoded.

        16-bit grey is brought to 8 bits, where Pillow would cut it off.
        """
        try:
            if picture is not None and picture.mode.startswith("I"):
                grey = np.asarray(picture).astype(np.float64)
                return np.stack([np.round(grey * (255 / max(65535.0, grey.max()))).astype(np.uint8)] * 3, -1)
            if picture is not None:
                return np.array(picture.convert("RGB"), np.uint8)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            pass
        self.note(f"the picture {name}, which is damaged or of an unknown kind")
        return None


def levels(values: NDArray, most: float = 0.0) -> Doubles:
    """Colours as 0..1: of ``most``, or, where that is 0, of 1, or of 255 where any is larger."""
    found: Doubles = np.clip(values / (most or (255.0 if np.nanmax(values, initial=0) > 1 else 1.0)), 0, 1)
    return np.nan_to_num(found, nan=0.8)


def text_of(data: bytes) -> str:
    """A text file as text: UTF-8, or UTF-16 where its first bytes say so, with one kind of line end. Never raises."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = data.decode("utf-16" if wide else "utf-8", "replace").lstrip("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")
