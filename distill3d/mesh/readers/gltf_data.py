"""The numbers and pictures of a glTF: buffers, views, accessors and images, from the file itself or from beside it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..beside import find
from ..types import Bytes
from .part import Contents, rgb

KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


class Lacking(ValueError):
    """Files without which there is no shape; ``names`` are those that the mesh file has for them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class Buffers:
    """What the accessors and images of a document hold.

    Args:
        binary: the binary chunk of a GLB.
        path: the mesh file; others are looked for in its folder, and nowhere else.

    Raises:
        Lacking: a buffer is in a file that is not there.
    """

    def __init__(self, document: dict[str, Any], binary: bytes, path: Path, found: Contents) -> None:
        self.document, self.path, self.found = document, path, found
        self.pictures: dict[int, Bytes | None] = {}
        self.buffers: list[bytes] = []
        lacking: list[str] = []
        for buffer in document.get("buffers", []):
            data = self._fetched(buffer["uri"]) if "uri" in buffer else binary
            if data is None:
                lacking.append(unquote(buffer["uri"]))
            elif len(data) < buffer["byteLength"]:
                name = unquote(buffer.get("uri", "its binary part")) if not _inline(buffer) else "a buffer inside it"
                raise ValueError(
                    f"{name} is cut off: {buffer['byteLength']} bytes were announced, {len(data)} are there"
                )
            self.buffers.append(data or b"")
        if lacking:
            raise Lacking(lacking)

    def _fetched(self, uri: str) -> bytes | None:
        """The bytes that a uri stands for; None where there is no such file in the folder."""
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            return base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
        place = find(self.path.parent, unquote(uri)) or find(self.path.parent, uri)
        return None if place is None else place.read_bytes()

    def view(self, number: int) -> tuple[bytes, int | None]:
        """A buffer view's bytes, and the stride it asks for."""
        view = self.document["bufferViews"][number]
        start = view.get("byteOffset", 0)
        data = self.buffers[view["buffer"]][start : start + view["byteLength"]]
        if len(data) < view["byteLength"]:
            raise ValueError("a buffer view reaches past the end of its buffer")
        return data, view.get("byteStride")

    def values(self, number: int, *, unit: bool = False) -> NDArray:
        """``(count, width)`` of an accessor; normalised whole numbers, and with ``unit`` all, as floats in 0..1."""
        accessor = self.document["accessors"][number]
        kind, width, count = np.dtype(KINDS[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
        table: NDArray
        if "bufferView" in accessor:
            table = self._table(accessor["bufferView"], accessor.get("byteOffset", 0), kind, width, count)
        else:
            table = np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            where, what = sparse["indices"], sparse["values"]
            index = np.dtype(KINDS[where["componentType"]])
            rows = self._table(where["bufferView"], where.get("byteOffset", 0), index, 1, sparse["count"])
            table = table.copy()
            table[rows[:, 0]] = self._table(what["bufferView"], what.get("byteOffset", 0), kind, width, sparse["count"])
        if kind.kind != "f" and (unit or accessor.get("normalized")):
            table = np.maximum(table / float(np.iinfo(kind).max), -1.0)
        return table

    def _table(self, view: int, start: int, kind: np.dtype, width: int, count: int) -> NDArray:
        data, stride = self.view(view)
        row = width * kind.itemsize
        stride = stride or row
        if count and start + stride * (count - 1) + row > len(data):
            raise ValueError("an accessor reaches past the end of its buffer view")
        table: NDArray = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize)).copy()
        return table

    def picture(self, number: int) -> Bytes | None:
        """``(H, W, 3)`` sRGB of an image; None, and told, where it is missing or not understood."""
        if number not in self.pictures:
            self.pictures[number] = self._picture(number)
        return self.pictures[number]

    def _picture(self, number: int) -> Bytes | None:
        image = self.document["images"][number]
        name = image.get("name") or (f"image {number}" if _inline(image) else unquote(image["uri"]))
        data = self.view(image["bufferView"])[0] if "bufferView" in image else self._fetched(image["uri"])
        if data is None:
            self.found.absent.append(unquote(image["uri"]))
            return None
        try:
            with Image.open(io.BytesIO(data)) as opened:
                return rgb(opened)
        except (OSError, ValueError, Image.DecompressionBombError):
            self.found.note(f"the picture {name}, which is damaged or of an unknown kind")
            return None


def _inline(item: dict[str, Any]) -> bool:
    return "uri" not in item or item["uri"].startswith("data:")
