"""Pictures of a mesh with the same cameras, kinds and frame as pictures of a field, by depth-buffered rasterisation.

``render.pictures.picture``, ``contact_sheet`` and ``turntable`` take a :class:`MeshView` in a field's place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..render.cameras import Cameras, rays
from .raster import nearest, rasterise
from .types import SurfaceMesh

NEAR = 0.05
"""Triangles with a corner nearer to the camera than this are not drawn."""
SUPERSAMPLING = 3
"""Samples along each side of a pixel."""
AMBIENT, DIFFUSE = 0.3, 0.7
"""The light of the 'shaded' kind, from the camera, as pictures of fields have it."""
FITTED = 0.8
"""Half the longest side of a mesh that does not fit the frame once it is scaled to be seen."""


def sample_texture(texture: Tensor, uvs: Tensor) -> Tensor:
    """Bilinear look-up of ``(H, W, C)`` floats at ``(n, 2)`` uvs from the upper left corner, borders clamped."""
    grid = (uvs.to(texture) * 2 - 1)[None, None]
    found = F.grid_sample(
        texture.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T


@dataclass(frozen=True)
class _Drawn:
    """Values at the samples that hit: their place in the fine picture, colour and normal."""

    pixel: Tensor
    color: Tensor
    normal: Tensor
    point: Tensor


class MeshView:
    """A mesh to look at.

    Args:
        mesh: in any size. One that does not lie within ``[-1, 1]^3``, or is far smaller, is moved and scaled for the
            view; the mesh itself is left alone.
    """

    def __init__(self, mesh: SurfaceMesh) -> None:
        vertices = torch.from_numpy(np.ascontiguousarray(mesh.vertices, np.float64))
        low, high = vertices.amin(0), vertices.amax(0)
        size = float((high - low).max())
        if float(vertices.abs().max()) > 1.001 or size < 0.2:
            vertices = (vertices - (low + high) / 2) * (2 * FITTED / max(size, 1e-30))
        self.vertices, self.faces = vertices, torch.from_numpy(np.ascontiguousarray(mesh.faces))
        self.normals = torch.from_numpy(np.ascontiguousarray(mesh.normals, np.float32))
        self.colors = torch.from_numpy(np.ascontiguousarray(mesh.colors, np.float32))
        self.uvs = self.texture = self.normal_map = self.tangents = None
        if mesh.uvs is not None:
            self.uvs = torch.from_numpy(np.ascontiguousarray(mesh.uvs, np.float32))
            if mesh.texture is not None:
                self.texture = torch.from_numpy(mesh.texture).float() / 255
            if mesh.normal_map is not None and mesh.tangents is not None:
                self.normal_map = torch.from_numpy(mesh.normal_map).float() / 127.5 - 1
                self.tangents = torch.from_numpy(np.ascontiguousarray(mesh.tangents, np.float32))

    @torch.no_grad()
    def picture(
        self,
        camera: Cameras,
        size: int | tuple[int, int],
        kind: Literal["colour", "shaded", "normal", "opacity"],
        background: Callable[[Tensor], Tensor] | Tensor | None,
    ) -> Tensor:
        """One picture ``(H, W, 3)`` float in 0..1; arguments as for ``render.pictures.picture``."""
        height, width = (size, size) if isinstance(size, int) else size
        camera = camera.to("cpu")
        drawn = self._draw(camera, height, width)
        behind = self._background(camera, height, width, background)
        if kind == "opacity":
            return self._resolve(drawn, torch.ones_like(drawn.color), torch.zeros(3), height, width)
        if kind == "normal":
            return self._resolve(drawn, 0.5 + 0.5 * drawn.normal, torch.ones(3), height, width)
        color = drawn.color
        if kind == "shaded":
            toward = F.normalize(camera.position[0].float() - drawn.point, dim=-1)
            color = color * (AMBIENT + DIFFUSE * (drawn.normal * toward).sum(-1, keepdim=True).clamp(min=0))
        return self._resolve(drawn, color, behind, height, width)

    def _draw(self, camera: Cameras, height: int, width: int) -> _Drawn:
        fine_h, fine_w = height * SUPERSAMPLING, width * SUPERSAMPLING
        rotation, position = camera.c2w[0, :, :3].double(), camera.position[0].double()
        local = (self.vertices - position) @ rotation
        depth = -local[:, 2]
        focal = 0.5 * fine_h / torch.tan(camera.fov[0].double() / 2)
        safe = depth.clamp(min=1e-9)
        flat = torch.stack([fine_w / 2 + focal * local[:, 0] / safe, fine_h / 2 - focal * local[:, 1] / safe], -1)
        faces = self.faces[(depth[self.faces] > NEAR).all(1)]
        found = rasterise(flat[faces], fine_h, fine_w)
        # 1/z is linear in the picture; weights divided by z and made to sum to 1 are the weights on the triangle
        inverse = found.weight / depth[faces][found.face]
        total = inverse.sum(-1)
        hit, _ = nearest(found, 1 / total, fine_h * fine_w)
        hit = hit[hit >= 0]
        weight, corners = (inverse[hit] / total[hit, None]), faces[found.face[hit]]

        def at(values: Tensor) -> Tensor:
            return torch.einsum("nk,nkc->nc", weight, values[corners].double()).float()

        normal = F.normalize(at(self.normals), dim=-1)
        color = at(self.colors)
        if self.uvs is not None:
            uv = at(self.uvs)
            if self.texture is not None:
                color = sample_texture(self.texture, uv)
            if self.normal_map is not None and self.tangents is not None:
                tangent = at(self.tangents[:, :3])
                tangent = F.normalize(tangent - normal * (normal * tangent).sum(-1, keepdim=True), dim=-1)
                side = self.tangents[corners[:, 0], 3:] * torch.linalg.cross(normal, tangent)
                fine = sample_texture(self.normal_map, uv)
                normal = F.normalize(fine[:, :1] * tangent + fine[:, 1:2] * side + fine[:, 2:] * normal, dim=-1)
        return _Drawn(found.pixel[hit], color, normal, at(self.vertices))

    def _background(
        self, camera: Cameras, height: int, width: int, background: Callable[[Tensor], Tensor] | Tensor | None
    ) -> Tensor:
        if background is None:
            return torch.ones(3)
        if isinstance(background, Tensor):
            return background.detach().float().cpu()
        return background(rays(camera, height, width)[1])[0].detach().float().cpu()

    def _resolve(self, drawn: _Drawn, values: Tensor, behind: Tensor, height: int, width: int) -> Tensor:
        fine = torch.zeros(height * width * SUPERSAMPLING**2, 4)
        fine[drawn.pixel] = torch.cat([values.clamp(0, 1), torch.ones(len(values), 1)], -1)
        fine = fine.view(height, SUPERSAMPLING, width, SUPERSAMPLING, 4).mean((1, 3))
        return fine[..., :3] + (1 - fine[..., 3:]) * behind
