"""What a reader gives: one part of a file, in its own numbers, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
        normals: ``(V, 3)``, of any length; none, or NaN in a row, where the file has none.
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


@dataclass
class Contents:
    """A file's parts, what else it holds in words, what it lacks, and what of it is not read."""

    parts: list[Part] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Something in the file that is not read, once."""
        if what not in self.unread:
            self.unread.append(what)


def numbers(texts: Iterable[str], kind: type = float) -> Any:
    """All the numbers of the texts in a row. Raises ``ValueError`` with what is none."""
    return np.array(" ".join(texts).split(), np.float64 if kind is float else np.int64)


def text_of(data: bytes) -> str:
    """A text file as text: UTF-8, or UTF-16 where its first bytes say so, with one kind of line end. Never raises."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = data.decode("utf-16" if wide else "utf-8", "replace").lstrip("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def checked(faces: Ints, count: int) -> Ints:
    """The faces. Raises ``ValueError`` where one names a vertex that is not there."""
    if len(faces) and (faces.min() < 0 or faces.max() >= count):
        raise ValueError("a face names a vertex that does not exist")
    return faces


def by_face_color(vertices: Doubles, faces: Ints, colors: Doubles) -> tuple[Ints, Ints, Doubles]:
    """Colours of faces ``(F, 3)`` as colours of vertices: those are there once for each colour around them.

    Returns:
        The vertex that each new one comes from ``(N,)``, the faces in new vertices, and colours ``(N, 3)``.
    """
    from ..clean import unique_rows

    levels = np.round(np.clip(colors, 0, 1) * 255).astype(np.int64) @ np.array([65536, 256, 1])
    corners = np.stack([faces.reshape(-1), np.repeat(levels, 3)], 1)
    first, number, _ = unique_rows(corners)
    return corners[first, 0], number.reshape(-1, 3), np.repeat(colors, 3, 0)[first]


def rgb(picture: Image.Image) -> Bytes:
    """``(H, W, 3)`` uint8 of a picture of any kind; 16-bit grey is brought to 8 bits, where Pillow would cut it off."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray(np.round(grey * (255 / max(65535.0, float(grey.max())))).astype(np.uint8))
    return np.array(picture.convert("RGB"), np.uint8)
