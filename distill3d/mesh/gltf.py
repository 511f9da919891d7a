"""A mesh as one binary glTF 2.0 file: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (sections 3.6, 3.7, 4).

Written here rather than by a library so that normals, linear colours, the material and the metadata are exactly as the
specification asks. One mesh, one primitive, one buffer; every section starts on a multiple of four bytes.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .color import srgb_to_linear
from .types import SurfaceMesh

MAGIC, VERSION, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
ROUGHNESS = 0.9


def linear_rgba16(colors: NDArray) -> NDArray[np.uint16]:
    """``(V, 3)`` sRGB 0..1 -> ``(V, 4)`` linear uint16, opaque; 16 bits because 8 linear bits band in the dark."""
    linear = srgb_to_linear(np.clip(colors.astype(np.float64), 0, 1))
    rgba = np.concatenate([linear, np.ones((len(linear), 1))], -1)
    return np.round(rgba * 65535).astype(np.uint16)


def encode_glb(mesh: SurfaceMesh, metadata: dict[str, Any], *, watertight: bool) -> bytes:
    """The file's bytes.

    Args:
        metadata: JSON-ready; goes to ``asset.extras``.
        watertight: a closed mesh is drawn single-sided, one with holes double-sided.
    """
    position = np.ascontiguousarray(mesh.vertices, "<f4")
    index_type = np.dtype("<u2") if len(position) < 65535 else np.dtype("<u4")
    arrays: list[NDArray] = [
        np.ascontiguousarray(mesh.faces.reshape(-1), index_type),
        position,
        np.ascontiguousarray(mesh.normals, "<f4"),
        linear_rgba16(mesh.colors).astype("<u2"),
    ]
    body, views = bytearray(), []
    for array, target in zip(arrays, (ELEMENT_ARRAY_BUFFER, *[ARRAY_BUFFER] * 3), strict=True):
        data = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data), "target": target})
        body += data + bytes(-len(data) % 4)
    kinds = [(UNSIGNED_SHORT if index_type.itemsize == 2 else UNSIGNED_INT, "SCALAR"), (FLOAT, "VEC3"), (FLOAT, "VEC3")]
    kinds.append((UNSIGNED_SHORT, "VEC4"))
    accessors: list[dict[str, Any]] = [
        {"bufferView": k, "componentType": component, "count": len(array), "type": shape}
        for k, ((component, shape), array) in enumerate(zip(kinds, arrays, strict=True))
    ]
    accessors[1] |= {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    accessors[3]["normalized"] = True
    primitive = {"attributes": {"POSITION": 1, "NORMAL": 2, "COLOR_0": 3}, "indices": 0, "material": 0, "mode": 4}
    surface = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": ROUGHNESS}
    asset: dict[str, Any] = {"version": "2.0", "generator": "Distill3D"}
    if metadata:
        asset["extras"] = metadata
    document = {
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"name": "object", "primitives": [primitive]}],
        "materials": [{"name": "vertex colour", "pbrMetallicRoughness": surface, "doubleSided": not watertight}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(body)
    return b"".join(
        [
            struct.pack("<III", MAGIC, VERSION, total),
            struct.pack("<II", len(text), JSON_CHUNK),
            text,
            struct.pack("<II", len(body), BIN_CHUNK),
            bytes(body),
        ]
    )
