"""Mesh files: GLB, OBJ and PLY with normals and vertex colours, whole or absent.

Colours are sRGB in OBJ (``v x y z r g b``, the extension that MeshLab and Blender read) and PLY (``uchar``), and
linear in GLB. Axes are the world's in all three: y up, right-handed, front faces +z, which is also glTF's frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import SettingsError
from .clean import is_closed
from .gltf import encode_glb
from .types import SurfaceMesh


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: a number that is not finite becomes null, anything unknown its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def encode_ply(mesh: SurfaceMesh, metadata: dict[str, Any]) -> bytes:
    """Binary little-endian PLY: position, normal, sRGB ``uchar`` colour; the metadata as one JSON comment line."""
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment Distill3D, y up, colours sRGB",
        *([f"comment metadata {json.dumps(metadata)}"] if metadata else []),
        f"element vertex {len(mesh.vertices)}",
        *(f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {len(mesh.faces)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    vertex = np.zeros(len(mesh.vertices), [("x", "<f4", 3), ("n", "<f4", 3), ("c", "u1", 3)])
    vertex["x"], vertex["n"] = mesh.vertices, mesh.normals
    vertex["c"] = np.round(np.clip(mesh.colors, 0, 1) * 255)
    face = np.zeros(len(mesh.faces), [("count", "u1"), ("index", "<i4", 3)])
    face["count"], face["index"] = 3, mesh.faces
    return ("\n".join(header) + "\n").encode("ascii") + vertex.tobytes() + face.tobytes()


def encode_obj(mesh: SurfaceMesh, metadata: dict[str, Any]) -> bytes:
    """Wavefront OBJ text with ``v x y z r g b`` (sRGB 0..1), ``vn`` and ``f v//vn``; the metadata as one comment."""
    lines = ["# Distill3D, y up, colours sRGB"]
    if metadata:
        lines.append(f"# metadata {json.dumps(metadata)}")
    lines.append("o object")
    corners = np.concatenate([mesh.vertices, np.clip(mesh.colors, 0, 1)], -1).tolist()
    lines += [f"v {x:.7g} {y:.7g} {z:.7g} {r:.5f} {g:.5f} {b:.5f}" for x, y, z, r, g, b in corners]
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in mesh.normals.tolist()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")


def _glb(mesh: SurfaceMesh, metadata: dict[str, Any]) -> bytes:
    return encode_glb(mesh, metadata, watertight=is_closed(mesh.faces))


ENCODERS = {".glb": _glb, ".obj": encode_obj, ".ply": encode_ply}


def write(mesh: SurfaceMesh, path: Path | str, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write the mesh in the format of the path's suffix, .glb, .obj or .ply; missing folders are made.

    Args:
        metadata: prompt, method, seed and the like; kept in GLB's ``asset.extras`` and in a comment of OBJ and PLY.

    Returns:
        The path. An earlier file there is replaced in one step, and untouched when writing fails.

    Raises:
        SettingsError: another suffix.
        OutputError: the folder or disk does not take the file; the message says what to do.
    """
    path = Path(path)
    encode = ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise SettingsError(f"expected a mesh file ending in {', '.join(ENCODERS)}, got {path.name!r}: rename it")
    data = encode(mesh, plain(metadata or {}))
    files.make_folder(path.parent)
    return files.write_bytes(path, data)
