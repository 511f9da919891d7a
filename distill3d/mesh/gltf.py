"""A mesh as one binary glTF 2.0 file: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html (sections 3.6-3.9, 4).

Written here rather than by a library so that normals, colours, tangents, the material and the metadata are exactly as
the specification asks: vertex colours linear, the colour texture sRGB, the normal map and occlusion linear, texture
coordinates from the upper left corner. One mesh, one primitive, one buffer; every section starts on a multiple of four
bytes.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .color import srgb_to_linear
from .images import encode_image
from .types import SurfaceMesh

MAGIC, VERSION, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP, REPEAT = 9729, 9987, 33071, 10497
ROUGHNESS = 0.9


def linear_rgba16(colors: NDArray) -> NDArray[np.uint16]:
    """``(V, 3)`` sRGB 0..1 -> ``(V, 4)`` linear uint16, opaque; 16 bits because 8 linear bits band in the dark."""
    return opaque_rgba16(srgb_to_linear(np.clip(colors.astype(np.float64), 0, 1)))


def opaque_rgba16(linear: NDArray) -> NDArray[np.uint16]:
    """``(V, 3)`` 0..1 -> ``(V, 4)`` uint16 with an alpha of 1."""
    rgba = np.concatenate([np.clip(linear, 0, 1), np.ones((len(linear), 1))], -1)
    return np.round(rgba * 65535).astype(np.uint16)


class _Binary:
    """The buffer, its views and accessors, in the order they are added."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, target: int | None = None) -> int:
        view = {"buffer": 0, "byteOffset": len(self.body), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.body += data + bytes(-len(data) % 4)
        return len(self.views) - 1

    def accessor(self, array: NDArray, component: int, shape: str, target: int, **more: Any) -> int:
        view = self.view(array.tobytes(), target)
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": len(array), "type": shape, **more}
        )
        return len(self.accessors) - 1


def encode_glb(mesh: SurfaceMesh, metadata: dict[str, Any], *, double_sided: bool) -> bytes:
    """The file's bytes.

    Args:
        metadata: JSON-ready; goes to ``asset.extras``.
        double_sided: whether viewers draw the backs of faces.
    """
    binary = _Binary()
    primitive = _primitive(mesh, binary)
    material, textures = _material(mesh, binary)
    asset: dict[str, Any] = {"version": "2.0", "generator": "Distill3D"}
    if metadata:
        asset["extras"] = metadata
    document = {
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"name": "object", "primitives": [primitive]}],
        "materials": [{**material, "doubleSided": double_sided}],
        **textures,
        "accessors": binary.accessors,
        "bufferViews": binary.views,
        "buffers": [{"byteLength": len(binary.body)}],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary.body)
    return b"".join(
        [
            struct.pack("<III", MAGIC, VERSION, total),
            struct.pack("<II", len(text), JSON_CHUNK),
            text,
            struct.pack("<II", len(binary.body), BIN_CHUNK),
            bytes(binary.body),
        ]
    )


def _primitive(mesh: SurfaceMesh, binary: _Binary) -> dict[str, Any]:
    """Indices and attributes. Vertex colours multiply a texture, so beside one there is only the tint that is to."""
    wide = len(mesh.vertices) >= 65535
    indices = np.ascontiguousarray(mesh.faces.reshape(-1), "<u4" if wide else "<u2")
    position = np.ascontiguousarray(mesh.vertices, "<f4")
    box = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    index = binary.accessor(indices, UNSIGNED_INT if wide else UNSIGNED_SHORT, "SCALAR", ELEMENT_ARRAY_BUFFER)

    def vertex(array: NDArray, shape: str, component: int = FLOAT, kind: str = "<f4", **more: Any) -> int:
        return binary.accessor(np.ascontiguousarray(array, kind), component, shape, ARRAY_BUFFER, **more)

    attributes = {"POSITION": vertex(position, "VEC3", **box), "NORMAL": vertex(mesh.normals, "VEC3")}
    if mesh.texture is None or mesh.uvs is None:
        colors = linear_rgba16(mesh.colors)
        attributes["COLOR_0"] = vertex(colors, "VEC4", UNSIGNED_SHORT, "<u2", normalized=True)
    else:
        if mesh.tangents is not None and mesh.normal_map is not None:
            attributes["TANGENT"] = vertex(mesh.tangents, "VEC4")
        attributes["TEXCOORD_0"] = vertex(mesh.uvs, "VEC2")
        if mesh.tint is not None:
            attributes["COLOR_0"] = vertex(opaque_rgba16(mesh.tint), "VEC4", UNSIGNED_SHORT, "<u2", normalized=True)
    return {"attributes": attributes, "indices": index, "material": 0, "mode": 4}


def _material(mesh: SurfaceMesh, binary: _Binary) -> tuple[dict[str, Any], dict[str, Any]]:
    """The material, and the samplers, images and textures that it names."""
    surface: dict[str, Any] = {
        "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
        "metallicFactor": 0.0,
        "roughnessFactor": ROUGHNESS,
    }
    if mesh.texture is None or mesh.uvs is None:
        return {"name": "vertex colour", "pbrMetallicRoughness": surface}, {}
    images: list[dict[str, Any]] = []

    def texture(pixels: NDArray, name: str, kind: str = "png") -> dict[str, int]:
        view = binary.view(encode_image(pixels, kind))
        images.append({"bufferView": view, "mimeType": f"image/{kind}", "name": name})
        return {"index": len(images) - 1}

    surface["baseColorTexture"] = texture(mesh.texture, "colour", mesh.image)
    material: dict[str, Any] = {"name": "baked", "pbrMetallicRoughness": surface}
    if mesh.normal_map is not None:
        material["normalTexture"] = texture(mesh.normal_map, "normals")
    if mesh.occlusion is not None:
        material["occlusionTexture"] = texture(mesh.occlusion[..., None].repeat(3, -1), "occlusion")
    # an atlas must not bleed from its other side; coordinates beyond it are meant to repeat
    wrap = CLAMP if mesh.uvs.min(initial=0) >= 0 and mesh.uvs.max(initial=1) <= 1 else REPEAT
    sampler = {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": wrap, "wrapT": wrap}
    textures = [{"source": k, "sampler": 0} for k in range(len(images))]
    return material, {"samplers": [sampler], "images": images, "textures": textures}
