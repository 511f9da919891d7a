"""Meshes that come from elsewhere: GLB, glTF, OBJ, PLY, STL and OFF files through trimesh, with their colours.

A file may hold several parts, each with a material of its own; they are kept apart until something asks for one mesh.
Only geometry and base colour are read: no animation, no bones, no light, no transparency.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import MeshFileError
from .beside import missing
from .clean import face_areas
from .color import face_weighted_normals, linear_to_srgb, srgb_to_linear
from .types import Bytes, Floats, Ints, SurfaceMesh
from .view import sample_texture

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
GREY = 0.8
"""Colour of a mesh that has none."""
EDGE = 1e-3
"""Texture coordinates may leave 0..1 by this much before the texture counts as repeated."""
MOST_REPEATS, MOST_TEXELS = 64, 4096
"""A repeated texture is laid out up to so many times along a side, within so many texels; beyond that its colours are
kept at the vertices only."""
FAR = 1000.0
"""Coordinates this many times larger than the object are too coarse in 32 bits; it is moved to the origin."""


def read(path: Path | str) -> SurfaceMesh:
    """A mesh file as one mesh, its frame and size as they are in the file; see :func:`read_parts` and :func:`merge`."""
    return merge(read_parts(path))


def read_parts(path: Path | str) -> list[SurfaceMesh]:
    """The parts of a mesh file in the file's world frame, each with its colours, and its texture if it has one.

    Raises:
        MeshFileError: no such file, an unknown kind, a damaged file, or nothing with triangles in it.
    """
    import trimesh

    path = Path(path)
    if not path.is_file():
        raise MeshFileError(f"expected a mesh file, but there is no file {path}: check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise MeshFileError(f"expected a mesh file ending in {', '.join(SUFFIXES)}, got {path.name!r}")
    try:
        # an OBJ read in its own order loses texture coordinates at seams
        scene = trimesh.load_scene(path, process=False, maintain_order=path.suffix.lower() != ".obj")
        placed = [_placed(scene, name, path.suffix.lower()) for name in sorted(scene.graph.nodes_geometry)]
        pieces = [piece for piece in placed if piece is not None]
        origin = _origin([piece.vertices for piece in pieces])
        parts = [_part(piece, origin, linear=path.suffix.lower() in (".glb", ".gltf")) for piece in pieces]
    except Exception as error:  # trimesh's readers raise whatever a damaged file leads them to
        if absent := missing(path):
            raise MeshFileError(
                f"could not read {path}: it refers to {', '.join(absent)}, not found in its folder: put it there, or "
                "export the object as one .glb file"
            ) from error
        kind = type(error).__name__
        raise MeshFileError(
            f"could not read {path} ({kind}: {error}): it may be damaged or use an extension (Draco, meshopt) that is"
            " not read here; export it again without compression"
        ) from error
    _refuse_nothing(path, scene, parts)
    parts[0].report = _remarks(path, origin)
    return parts


def _remarks(path: Path, origin: NDArray[np.float64]) -> dict[str, Any]:
    """A report of what is not as the file has it; empty where all is."""
    report: dict[str, Any] = {}
    texts = []
    if origin.any():
        where = ", ".join(f"{v:.6g}" for v in origin)
        report["moved_by"] = (-origin).tolist()
        texts.append(
            f"the object lies around ({where}), too far from the origin for its size: 32-bit files would lose its "
            "shape, so it was moved to the origin"
        )
    if absent := missing(path):
        texts.append(f"{path.name} refers to {', '.join(absent)}, not found in its folder: colours may be missing")
    return report | ({"warnings": texts} if texts else {})


def _refuse_nothing(path: Path, scene: Any, parts: Sequence[SurfaceMesh]) -> None:
    """Raises ``MeshFileError`` where there is no surface, or none at finite places."""
    if not parts:
        raise MeshFileError(
            f"expected triangles in {path}, but found none, only {_contents(scene)}: export the object as a mesh"
        )
    if not all(np.isfinite(part.vertices).all() for part in parts):
        raise MeshFileError(
            f"expected finite coordinates that fit 32 bits in {path}, but some are NaN, infinite or larger: repair the "
            "object, or scale it, and export it again"
        )
    if not any(face_areas(part.vertices.astype(np.float64), part.faces).any() for part in parts):
        raise MeshFileError(f"expected triangles with an area in {path}, but all are lines or points: export it again")


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
        parts[0].report,
    )


class _Piece(NamedTuple):
    """A geometry of the scene with its place in the world: ``(V, 3)`` float64 vertices and normals, and faces."""

    geometry: Any
    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    faces: Ints


def _placed(scene: Any, node: str, suffix: str) -> _Piece | None:
    """A node's triangles in world coordinates, outward also where the node mirrors; None where it has none."""
    import trimesh

    transform, name = scene.graph[node]
    geometry = scene.geometry[name]
    if not isinstance(geometry, trimesh.Trimesh) or len(geometry.faces) == 0:
        return None
    if suffix == ".stl":
        geometry.merge_vertices()
    if geometry.faces.min() < 0 or geometry.faces.max() >= len(geometry.vertices):
        raise ValueError("a face names a vertex that does not exist")
    if not np.bincount(geometry.faces.ravel(), minlength=len(geometry.vertices)).all():
        geometry.remove_unreferenced_vertices()  # a stray one would set the size of the object
    matrix = np.asarray(transform, np.float64)
    faces = np.asarray(geometry.faces, np.int64).copy()
    vertices = np.asarray(geometry.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    normals = np.asarray(geometry.vertex_normals, np.float64) @ np.linalg.pinv(matrix[:3, :3])
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1].copy()
    return _Piece(geometry, vertices, normals, faces)


def _origin(places: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The middle of all parts ``(3,)`` where they lie too far away for 32 bits, else 0."""
    corners = np.array([[p.min(0), p.max(0)] for p in places]).reshape(-1, 3)
    if not len(corners) or not np.isfinite(corners).all():
        return np.zeros(3)
    low, high = corners.min(0), corners.max(0)
    far = float(np.abs(corners).max()) > FAR * max(float((high - low).max()), 1e-30)
    return (low + high) / 2 if far else np.zeros(3)


def _part(piece: _Piece, origin: NDArray[np.float64], *, linear: bool) -> SurfaceMesh:
    vertices = (piece.vertices - origin).astype(np.float32)
    length = np.linalg.norm(piece.normals, axis=1, keepdims=True)
    usable = np.isfinite(length) & (length > 1e-12)
    normals = np.where(
        usable, piece.normals / np.where(usable, length, 1), face_weighted_normals(vertices, piece.faces)
    )
    texture, uvs = _texture(piece.geometry)
    if texture is not None and uvs is not None:
        kept, uvs = _laid_out(texture, uvs)
        picture = torch.from_numpy(texture if kept is None else kept).float() / 255
        colors = sample_texture(picture, torch.from_numpy(uvs)).numpy()
        texture = kept
    else:
        colors = _colors(piece.geometry, len(vertices), linear=linear)
    return SurfaceMesh(
        vertices,
        piece.faces,
        normals.astype(np.float32),
        np.ascontiguousarray(colors, np.float32),
        0.0,
        uvs=None if texture is None else uvs,
        texture=texture,
    )


def _laid_out(pixels: Bytes, uvs: Floats) -> tuple[Bytes | None, Floats]:
    """A texture that repeats, laid out as often as it does, and its coordinates in 0..1.

    With too many repeats there is no texture, and the coordinates are those within one. Viewers differ in what they do
    outside 0..1 and the formats written here do not all say it; one picture is clear.
    """
    first = np.floor(uvs.min(0) + EDGE)
    times = np.maximum(np.ceil(uvs.max(0) - EDGE) - first, 1).astype(int)
    if (times > MOST_REPEATS).any():
        return None, uvs - np.floor(uvs)
    if (times > 1).any():
        height, width = pixels.shape[:2]
        size = min(width, MOST_TEXELS // int(times[0])), min(height, MOST_TEXELS // int(times[1]))
        pixels = np.tile(np.asarray(Image.fromarray(pixels).resize(size)), (times[1], times[0], 1))
    return pixels, np.clip((uvs - first) / times, 0, 1).astype(np.float32)


def _contents(scene: Any) -> str:
    """What a file without triangles holds, in words."""
    kinds = {"PointCloud": "a point cloud", "Path3D": "lines", "Path2D": "lines"}
    found = dict.fromkeys(kinds.get(type(g).__name__, "empty parts") for g in scene.geometry.values())
    return " and ".join(found) or "an empty scene"


def _texture(geometry: Any) -> tuple[Bytes | None, Floats | None]:
    """Base colour picture with its factor multiplied in, and uvs from the upper left corner."""
    visual = geometry.visual
    uvs = getattr(visual, "uv", None)
    material = getattr(visual, "material", None)
    picture = getattr(material, "baseColorTexture", None)
    picture = getattr(material, "image", None) if picture is None else picture
    if uvs is None or picture is None or len(uvs) != len(geometry.vertices):
        return None, None
    pixels = _rgb(picture)
    factor = _factor(getattr(material, "baseColorFactor", None))
    if factor is not None and not np.allclose(factor, 1):
        light = srgb_to_linear(pixels / 255.0) * factor
        pixels = np.round(linear_to_srgb(light) * 255).astype(np.uint8)
    flipped = np.stack([np.asarray(uvs)[:, 0], 1 - np.asarray(uvs)[:, 1]], -1).astype(np.float32)
    return np.ascontiguousarray(pixels), np.nan_to_num(flipped)


def _rgb(picture: Image.Image) -> Bytes:
    """``(H, W, 3)`` uint8 of a picture of any kind; 16-bit grey is brought to 8 bits, where Pillow would cut it off."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray(np.round(grey * (255 / max(65535.0, float(grey.max())))).astype(np.uint8))
    return np.array(picture.convert("RGB"), np.uint8)


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
