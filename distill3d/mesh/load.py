"""Meshes that come from elsewhere: GLB, glTF, OBJ, PLY, STL and OFF files through trimesh, with their colours.

A file may hold several parts, each with a material of its own; they are kept apart until something asks for one mesh.
Only geometry and base colour are read: no animation, no bones, no light.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray

from ..errors import MeshFileError
from .color import face_weighted_normals, linear_to_srgb, srgb_to_linear
from .types import Bytes, Floats, SurfaceMesh
from .view import sample_texture

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
GREY = 0.8
"""Colour of a mesh that has none."""
EDGE = 1e-3
"""Texture coordinates may leave 0..1 by this much before the texture counts as repeated."""


def read(path: Path | str) -> SurfaceMesh:
    """A mesh file as one mesh, its frame and size as they are in the file; see :func:`read_parts` and :func:`merge`."""
    return merge(read_parts(path))


def read_parts(path: Path | str) -> list[SurfaceMesh]:
    """The parts of a mesh file in the file's world frame, each with its colours, and its texture if it has one.

    Raises:
        MeshFileError: no such file, an unknown kind, a damaged file, or nothing with triangles in it.
    """
    path = Path(path)
    if not path.is_file():
        raise MeshFileError(f"expected a mesh file, but there is no file {path}: check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise MeshFileError(f"expected a mesh file ending in {', '.join(SUFFIXES)}, got {path.name!r}")
    try:
        # an OBJ read in its own order loses texture coordinates at seams
        scene = trimesh.load_scene(path, process=False, maintain_order=path.suffix.lower() != ".obj")
        found = [_part(scene, name, path.suffix.lower()) for name in sorted(scene.graph.nodes_geometry)]
    except Exception as error:  # trimesh's readers raise whatever a damaged file leads them to
        kind = type(error).__name__
        raise MeshFileError(
            f"could not read {path} ({kind}: {error}): it may be damaged or use an extension (Draco, meshopt) that is"
            " not read here; export it again without compression"
        ) from error
    parts = [part for part in found if part is not None]
    if not parts:
        raise MeshFileError(f"expected triangles in {path}, but found none: export the object as a mesh")
    if not all(np.isfinite(part.vertices).all() for part in parts):
        raise MeshFileError(f"expected finite coordinates in {path}, but some are NaN or infinite: export it again")
    return parts


def merge(parts: Sequence[SurfaceMesh]) -> SurfaceMesh:
    """Parts as one mesh. A single part keeps its texture; of several only vertex colours remain."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return SurfaceMesh(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + start for p, start in zip(parts, starts, strict=True)]),
        np.concatenate([p.normals for p in parts]),
        np.concatenate([p.colors for p in parts]),
        0.0,
    )


def _part(scene: Any, node: str, suffix: str) -> SurfaceMesh | None:
    transform, name = scene.graph[node]
    geometry = scene.geometry[name]
    if not isinstance(geometry, trimesh.Trimesh) or len(geometry.faces) == 0:
        return None
    if suffix == ".stl":
        geometry.merge_vertices()
    matrix = np.asarray(transform, np.float64)
    faces = np.asarray(geometry.faces, np.int64).copy()
    vertices = (np.asarray(geometry.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError("a face names a vertex that does not exist")
    normals = np.asarray(geometry.vertex_normals, np.float64) @ np.linalg.pinv(matrix[:3, :3])
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1].copy()
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    usable = np.isfinite(length) & (length > 1e-12)
    normals = np.where(usable, normals / np.where(usable, length, 1), face_weighted_normals(vertices, faces))
    texture, uvs = _texture(geometry)
    if texture is not None and uvs is not None:
        wrapped = uvs - np.floor(uvs)
        inside = bool((uvs > -EDGE).all() and (uvs < 1 + EDGE).all())
        coordinates = torch.from_numpy(np.clip(uvs, 0, 1) if inside else wrapped)
        colors = sample_texture(torch.from_numpy(texture).float() / 255, coordinates).numpy()
        if not inside:
            texture = None  # repeated: no format written here would repeat it alike; bake it anew
    else:
        colors = _colors(geometry, len(vertices), linear=suffix in (".glb", ".gltf"))
        texture = None
    return SurfaceMesh(
        vertices,
        faces,
        normals.astype(np.float32),
        np.ascontiguousarray(colors, np.float32),
        0.0,
        uvs=np.clip(uvs, 0, 1) if texture is not None and uvs is not None else None,
        texture=texture,
    )


def _texture(geometry: Any) -> tuple[Bytes | None, Floats | None]:
    """Base colour picture with its factor multiplied in, and uvs from the upper left corner."""
    visual = geometry.visual
    uvs = getattr(visual, "uv", None)
    material = getattr(visual, "material", None)
    picture = getattr(material, "baseColorTexture", None)
    picture = getattr(material, "image", None) if picture is None else picture
    if uvs is None or picture is None or len(uvs) != len(geometry.vertices):
        return None, None
    pixels = np.array(picture.convert("RGB"), np.uint8)
    factor = _factor(getattr(material, "baseColorFactor", None))
    if factor is not None and not np.allclose(factor, 1):
        light = srgb_to_linear(pixels / 255.0) * factor
        pixels = np.round(linear_to_srgb(light) * 255).astype(np.uint8)
    flipped = np.stack([np.asarray(uvs)[:, 0], 1 - np.asarray(uvs)[:, 1]], -1).astype(np.float32)
    return np.ascontiguousarray(pixels), np.nan_to_num(flipped)


def _factor(value: Any) -> NDArray | None:
    """A colour factor as linear floats ``(3,)``; trimesh keeps it as bytes."""
    if value is None:
        return None
    array = np.asarray(value)
    return (array / 255.0 if array.dtype == np.uint8 else array.astype(float))[:3]


def _colors(geometry: Any, count: int, *, linear: bool) -> NDArray:
    """``(V, 3)`` sRGB from vertex colours, face colours or the material; grey where there are none."""
    visual = geometry.visual
    if getattr(visual, "kind", None) in ("vertex", "face"):
        raw = np.asarray(visual.vertex_colors)[:, :3] / 255.0
        return linear_to_srgb(raw) if linear else raw
    attribute = getattr(visual, "vertex_attributes", {}).get("color")
    if attribute is not None and len(attribute) == count:
        raw = np.asarray(attribute, np.float64)[:, :3]
        raw = raw / (1.0 if np.asarray(attribute).dtype.kind == "f" else np.iinfo(np.asarray(attribute).dtype).max)
        return linear_to_srgb(raw) if linear else raw
    material = getattr(visual, "material", None)
    factor = _factor(getattr(material, "baseColorFactor", None))
    if factor is not None:
        return np.tile(linear_to_srgb(factor), (count, 1))
    diffuse = _factor(getattr(material, "diffuse", None))
    return np.tile(np.full(3, GREY) if diffuse is None else diffuse, (count, 1))
