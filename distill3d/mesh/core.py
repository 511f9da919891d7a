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
    texture = _picture(getattr(mesh, "texture", None), index)
    tangents = None if normals is None else vertex("tangents")
    if normals is None:
        source, triangles, sharp = creased(points.astype(np.float64), triangles)
        points, normals = points[source], sharp.astype(np.float32)
        uvs, colors = (None if values is None else values[source] for values in (uvs, colors))
    textured = texture is not None and uvs is not None
    tint = None
    if textured and colors is not None and not np.allclose(colors[:, :3], 1):
        tint = np.clip(colors[:, :3], 0, None)  # as in glTF, vertex colours multiply a texture
    if texture is not None and uvs is not None:
        colors = tinted(sample_texture(torch.from_numpy(texture).float() / 255, torch.from_numpy(uvs)).numpy(), tint)
    elif colors is not None:
        colors = linear_to_srgb(np.clip(colors[:, :3].astype(np.float64), 0, 1)).astype(np.float32)
    else:
        colors = np.full_like(points, 0.8)
    rough = getattr(mesh, "metallic_roughness", None) if getattr(mesh, "occlusion_in_mr", False) else None
    rough = _picture(rough, index)
    return SurfaceMesh(
        points,
        triangles,
        normals,
        colors.astype(np.float32),
        0.0,
        uvs=uvs if textured else None,
        texture=texture if textured else None,
        normal_map=_picture(getattr(mesh, "normal_map", None), index) if textured else None,
        tangents=tangents if textured else None,
        occlusion=rough[..., 0].copy() if textured and rough is not None else None,
        tint=tint,
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
    chosen = values[min(index, len(values) - 1)].detach().cpu().float()
    return (chosen[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))[None]
