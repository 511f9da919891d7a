"""Meshes as ComfyUI's core MESH holds them: plain CPU tensors, no import of the host.

Layout (ComfyUI 0.33, ``comfy_api/latest/_util/geometry_types.py``): everything has a batch axis in front; texture
coordinates count from the upper left corner as in glTF, textures are floats in 0..1, vertex colours are linear as in
glTF's ``COLOR_0``, the normal map has green upwards, and occlusion is the red channel of the metallic-roughness map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MeshFileError
from .color import linear_to_srgb, srgb_to_linear, tinted
from .gltf import ROUGHNESS
from .load import GREY, laid_out
from .readers.part import Picture
from .shade import creased
from .types import Bytes, SurfaceMesh
from .view import sample_texture


def to_core(mesh: SurfaceMesh) -> dict[str, Any]:
    """Keyword arguments for the host's ``MESH(**to_core(mesh))``.

    Returns:
        ``vertices`` (1, N, 3), ``faces`` (1, M, 3) int64, ``normals`` (1, N, 3) and ``vertex_colors`` (1, N, 3)
        linear; with a texture instead of vertex colours ``uvs`` (1, N, 2), ``texture`` (1, H, W, 3), and where there
        are any ``normal_map`` (1, H, W, 3) with ``tangents`` (1, N, 4), ``metallic_roughness`` (1, H, W, 3) with
        ``occlusion_in_mr``. All float32 on the CPU and copies, so that later nodes may change them.
    """
    found: dict[str, Any] = {
        "vertices": _tensor(mesh.vertices),
        "faces": torch.from_numpy(mesh.faces.astype(np.int64, copy=True))[None],
        "normals": _tensor(mesh.normals),
    }
    if mesh.uvs is None or mesh.texture is None:
        found["vertex_colors"] = _tensor(srgb_to_linear(mesh.colors.astype(np.float64)))
        return found
    found["uvs"], found["texture"] = _tensor(mesh.uvs), _tensor(mesh.texture) / 255
    if mesh.tint is not None:
        found["vertex_colors"] = _tensor(mesh.tint)
    if mesh.normal_map is not None:
        found["normal_map"] = _tensor(mesh.normal_map) / 255
    if mesh.tangents is not None:
        found["tangents"] = _tensor(mesh.tangents)
    if mesh.occlusion is not None:
        red = _tensor(mesh.occlusion)[..., None] / 255
        # red occlusion, green roughness, blue metal
        found["metallic_roughness"] = torch.cat([red, torch.full_like(red, ROUGHNESS), torch.zeros_like(red)], -1)
        found["occlusion_in_mr"] = True
    return found


def from_core(mesh: Any, index: int = 0) -> SurfaceMesh:
    """One mesh of a core MESH, or of anything with its attributes, as this library's own; the input is not changed.

    Raises:
        MeshFileError: the object is no such mesh, or holds no triangles. Other packs use the same type name for other
            classes.
    """
    vertices, faces = getattr(mesh, "vertices", None), getattr(mesh, "faces", None)
    if not isinstance(vertices, Tensor) or not isinstance(faces, Tensor) or vertices.ndim != 3 or faces.ndim != 3:
        raise MeshFileError(
            f"expected ComfyUI's core MESH with vertices (B, N, 3) and faces (B, M, 3), got {type(mesh).__module__}."
            f"{type(mesh).__name__}: some packs use the name MESH for a class of their own; convert it with their nodes"
        )
    count, face_count = (_count(mesh, name, index) for name in ("vertex_counts", "face_counts"))
    points = _array(vertices[index, :count])
    triangles = faces[index, :face_count].detach().cpu().numpy().astype(np.int64)
    if len(triangles) == 0 or len(points) == 0:
        raise MeshFileError("expected a mesh with triangles, got an empty one: check the node that made it")
    if triangles.min() < 0 or triangles.max() >= len(points) or not np.isfinite(points).all():
        raise MeshFileError("expected faces of existing vertices at finite places: the mesh that came in is broken")

    def vertex(name: str) -> np.ndarray | None:
        values = getattr(mesh, name, None)
        return None if values is None else _array(values[index, :count])

    normals, uvs, colors = vertex("normals"), vertex("uvs"), vertex("vertex_colors")
    normals = None if normals is None or not np.isfinite(normals).all() else normals
    colors = None if colors is None else np.nan_to_num(colors, nan=GREY, posinf=1, neginf=0)
    tangents = None if normals is None else vertex("tangents")
    rough = getattr(mesh, "metallic_roughness", None) if getattr(mesh, "occlusion_in_mr", False) else None
    given = getattr(mesh, "texture", None), getattr(mesh, "normal_map", None), rough
    texture, normal_map, rough = (_picture(values, index) for values in given)
    seen = texture
    if uvs is not None and texture is not None:
        # as glTF has it, a texture repeats beyond its sides; not every format that is written can say so
        given_uvs = np.nan_to_num(uvs, posinf=0, neginf=0)
        normal_map, rough = (
            None if pixels is None else laid_out(Picture(pixels), given_uvs)[0] for pixels in (normal_map, rough)
        )
        texture, uvs, _ = laid_out(Picture(texture), given_uvs)
        seen = seen if texture is None else texture
    if normals is None:
        source, triangles, sharp = creased(points.astype(np.float64), triangles)
        points, normals = points[source], sharp.astype(np.float32)
        uvs, colors = (None if values is None else values[source] for values in (uvs, colors))
    textured = texture is not None and uvs is not None
    tint = None
    if seen is not None and uvs is not None and colors is not None and not np.allclose(colors[:, :3], 1):
        tint = np.clip(colors[:, :3], 0, None)  # as in glTF, vertex colours multiply a texture
    if seen is not None and uvs is not None:
        colors = tinted(sample_texture(torch.from_numpy(seen).float() / 255, torch.from_numpy(uvs)).numpy(), tint)
    elif colors is not None:
        colors = linear_to_srgb(np.clip(colors[:, :3].astype(np.float64), 0, 1)).astype(np.float32)
    else:
        colors = np.full_like(points, GREY)
    return SurfaceMesh(
        points,
        triangles,
        normals,
        colors.astype(np.float32),
        0.0,
        uvs=uvs if textured else None,
        texture=texture if textured else None,
        normal_map=normal_map if textured else None,
        tangents=tangents if textured else None,
        occlusion=rough[..., 0].copy() if textured and rough is not None else None,
        tint=tint if textured else None,
    )


def _count(mesh: Any, name: str, index: int) -> int | None:
    counts = getattr(mesh, name, None)
    return None if counts is None else int(counts[index])


def _array(values: Tensor) -> np.ndarray:
    copied: np.ndarray = values.detach().cpu().float().numpy().copy()
    return copied


def _picture(values: Tensor | None, index: int) -> Bytes | None:
    if values is None:
        return None
    chosen = values[min(index, len(values) - 1)].detach().cpu().float().nan_to_num(nan=0.0)
    return (chosen[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))[None]
