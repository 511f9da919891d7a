"""Pictures of a mesh with the same cameras, kinds and frame as pictures of a field, by depth-buffered rasterisation.

``render.pictures.picture``, ``contact_sheet`` and ``turntable`` take a :class:`MeshView` in a field's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..render.cameras import Cameras, rays
from .color import tinted
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
WHOLE = 1.0
"""Radius of the ball that holds a mesh fitted whole: cameras at 3 with 42 degrees see 1.07."""


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


class _Skin(NamedTuple):
    """The pictures of a part: its faces ``[first, last)``, texture and normal map ``(H, W, 3)``, where it has them."""

    first: int
    last: int
    texture: Tensor | None
    normal_map: Tensor | None
    tinted: bool


class MeshView:
    """A mesh to look at.

    Args:
        mesh: one, or its parts, each with a texture of its own; in any size. What does not lie within ``[-1, 1]^3``, or
            is far smaller, is moved and scaled for the view; the mesh itself is left alone.
        fit: move and scale it in any case, so that cameras all around see it whole and large: for files of any origin.
    """

    def __init__(self, mesh: SurfaceMesh | Sequence[SurfaceMesh], *, fit: bool = False) -> None:
        parts = [mesh] if isinstance(mesh, SurfaceMesh) else list(mesh)
        vertices = _joined([part.vertices for part in parts], np.float64)
        low, high = vertices.amin(0), vertices.amax(0)
        size = float((high - low).max())
        if fit:
            vertices = vertices - (low + high) / 2
            vertices = vertices * (WHOLE / max(float(vertices.norm(dim=1).max()), 1e-30))
        elif float(vertices.abs().max()) > 1.001 or size < 0.2:
            vertices = (vertices - (low + high) / 2) * (2 * FITTED / max(size, 1e-30))
        starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
        self.vertices = vertices
        self.faces = _joined([part.faces + start for part, start in zip(parts, starts, strict=False)], np.int64)
        self.normals = _joined([part.normals for part in parts], np.float32)
        self.colors = _joined([part.colors for part in parts], np.float32)
        blank = [np.zeros((len(part.vertices), 6), np.float32) for part in parts]
        self.uvs = _joined(
            [b[:, :2] if p.uvs is None else p.uvs for p, b in zip(parts, blank, strict=True)], np.float32
        )
        self.tangents = _joined(
            [b[:, :4] if p.tangents is None else p.tangents for p, b in zip(parts, blank, strict=True)], np.float32
        )
        self.tints = _joined(
            [b[:, :3] if p.tint is None else p.tint for p, b in zip(parts, blank, strict=True)], np.float32
        )
        ends = np.cumsum([0, *(len(part.faces) for part in parts)]).tolist()
        self.skins = [_skin(part, *ends[k : k + 2]) for k, part in enumerate(parts) if part.uvs is not None]

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
        near = (depth[self.faces] > NEAR).all(1)
        faces, number = self.faces[near], near.nonzero()[:, 0]
        found = rasterise(flat[faces], fine_h, fine_w)
        # 1/z is linear in the picture; weights divided by z and made to sum to 1 are the weights on the triangle
        inverse = found.weight / depth[faces][found.face]
        total = inverse.sum(-1)
        hit, _ = nearest(found, 1 / total, fine_h * fine_w)
        hit = hit[hit >= 0]
        weight, corners = (inverse[hit] / total[hit, None]), faces[found.face[hit]]

        def at(values: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            return torch.einsum("nk,nkc->nc", weight[rows], values[corners[rows]].double()).float()

        normal, color = F.normalize(at(self.normals), dim=-1), at(self.colors)
        owner = number[found.face[hit]]
        for skin in self.skins:
            mine = ((owner >= skin.first) & (owner < skin.last)).nonzero()[:, 0]
            uv = at(self.uvs, mine)
            if skin.texture is not None:
                color[mine] = sample_texture(skin.texture, uv)
                if skin.tinted:
                    factor = at(self.tints, mine).numpy()
                    color[mine] = torch.from_numpy(tinted(color[mine].numpy(), factor)).float()
            if skin.normal_map is not None:
                tangent, flat = at(self.tangents[:, :3], mine), normal[mine]
                tangent = F.normalize(tangent - flat * (flat * tangent).sum(-1, keepdim=True), dim=-1)
                side = self.tangents[corners[mine, 0], 3:] * torch.linalg.cross(flat, tangent)
                fine = sample_texture(skin.normal_map, uv)
                normal[mine] = F.normalize(fine[:, :1] * tangent + fine[:, 1:2] * side + fine[:, 2:] * flat, dim=-1)
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


def _joined(arrays: Sequence[np.ndarray], kind: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(arrays), kind))


def _skin(part: SurfaceMesh, first: int, last: int) -> _Skin:
    texture = None if part.texture is None else torch.from_numpy(part.texture).float() / 255
    mapped = part.normal_map is not None and part.tangents is not None
    fine = torch.from_numpy(part.normal_map).float() / 127.5 - 1 if mapped and part.normal_map is not None else None
    return _Skin(first, last, texture, fine, part.tint is not None)
