"""What a triangle mesh shows: its silhouettes, by exact point-in-triangle tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ..render.cameras import Cameras

SUPERSAMPLING = 2


def project(points: Tensor, cameras: Cameras, size: int) -> Tensor:
    """Pixel coordinates ``(B, n, 2)`` (column, row; centres at +0.5) of world points ``(n, 3)`` before the cameras."""
    local = torch.einsum("bji,bnj->bni", cameras.c2w[:, :, :3], points[None] - cameras.position[:, None])
    x, y, z = local.unbind(-1)
    focal = (0.5 * size / torch.tan(cameras.fov / 2))[:, None]
    depth = (-z).clamp(min=1e-6)
    return torch.stack([0.5 * size + focal * x / depth, 0.5 * size - focal * y / depth], -1)


def _cover(mask: Tensor, image: Tensor, corners: Tensor, low: Tensor, side: int) -> None:
    """Set the pixels of ``mask`` ``(B, S, S)`` whose centres lie in triangles of at most ``side`` pixels, in place."""
    size = mask.shape[-1]
    step = torch.arange(side)
    for part in torch.arange(len(corners)).split(max(1, (1 << 21) // side**2)):
        column = low[part, 0, None] + step
        row = low[part, 1, None] + step
        x, y = column[:, None, :] + 0.5, row[:, :, None] + 0.5
        a, b, c = corners[part].unbind(1)

        def edge(p: Tensor, q: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            p, q = p[:, :, None, None], q[:, :, None, None]
            return (q[:, 0] - p[:, 0]) * (y - p[:, 1]) - (q[:, 1] - p[:, 1]) * (x - p[:, 0])

        sides = edge(a, b), edge(b, c), edge(c, a)
        inside = ((sides[0] >= 0) & (sides[1] >= 0) & (sides[2] >= 0)) | (
            (sides[0] <= 0) & (sides[1] <= 0) & (sides[2] <= 0)
        )
        inside = inside & (column[:, None, :] >= 0) & (column[:, None, :] < size)
        inside = inside & (row[:, :, None] >= 0) & (row[:, :, None] < size)
        triangle, i, j = inside.nonzero().unbind(-1)
        mask[image[part][triangle], row[triangle, i], column[triangle, j]] = True


def mesh_opacity(vertices: Tensor, faces: Tensor, cameras: Cameras, size: int) -> Tensor:
    """``(B, size, size)`` coverage by ``faces`` ``(F, 3)`` of ``vertices`` ``(V, 3)``, 2 x 2 samples a pixel."""
    fine = size * SUPERSAMPLING
    corners = project(vertices.float(), cameras, fine)[:, faces].flatten(0, 1)
    image = torch.arange(len(cameras)).repeat_interleave(len(faces))
    low, high = corners.amin(1).floor().long(), corners.amax(1).floor().long()
    extent = (high - low).amax(-1) + 1
    mask = torch.zeros(len(cameras), fine, fine, dtype=torch.bool)
    side = 2
    (ux, uy), (vx, vy) = ((corners[:, i] - corners[:, 0]).unbind(-1) for i in (1, 2))
    remaining = ((ux * vy - uy * vx).abs() > 1e-9) & (extent <= 4 * fine) & (high >= 0).all(-1) & (low < fine).all(-1)
    while remaining.any():
        group = (remaining & (extent <= side)).nonzero().squeeze(1)
        if len(group):
            _cover(mask, image[group], corners[group], low[group], side)
            remaining[group] = False
        side *= 2
    return torch.nn.functional.avg_pool2d(mask[:, None].float(), SUPERSAMPLING)[:, 0]
