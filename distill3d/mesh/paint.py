"""What a texture is painted from: the dense surface that lies under a coarser mesh, and the field or the samples on it.

A coarse mesh stands a little off the surface it came from. Each texel is moved along to the dense surface by the
vertices of that surface around it; there it takes its fine normal and its colour. Nothing depends on a viewing
direction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from ..errors import DivergedError
from .color import DIVERGED, color_depth
from .types import Floats

if TYPE_CHECKING:
    from ..fields.base import RadianceField

NEIGHBOURS = 4
"""Dense vertices that a texel is blended from."""


SIDE = 0.05
"""Distance in the box at which facing the other way counts as much as being elsewhere."""


class Paint(Protocol):
    """Colours and fine normals for the texels of a coarse mesh."""

    def texels(self, points: Floats, normals: Floats) -> tuple[Floats, Floats]:
        """Colours ``(n, 3)``, sRGB in 0..1, and fine unit normals ``(n, 3)`` for points of the coarse mesh."""
        ...


class Dense:
    """Points with normals close enough together that blending the nearest four gives the surface between them.

    Args:
        points: ``(V, 3)``; normals: ``(V, 3)`` unit, outward.
    """

    def __init__(self, points: Floats, normals: Floats) -> None:
        self.points, self.normals = points, normals
        self.tree = cKDTree(points)

    def around(self, points: Floats, normals: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Neighbours ``(n, k)`` and weights ``(n, k)`` that sum to 1, or to 0 where all of them face away."""
        count = min(NEIGHBOURS, len(self.points))
        distance, index = self.tree.query(points, k=count)
        distance, index = distance.reshape(-1, count), index.reshape(-1, count)
        weight = 1 / np.maximum(distance, 1e-9) ** 2
        facing = np.einsum("nkc,nc->nk", self.normals[index], normals)
        weight = np.where(facing > 0.1, weight * facing, 0)
        total = weight.sum(1, keepdims=True)
        return index, cast(Floats, (weight / np.where(total > 0, total, 1)).astype(np.float32))

    def detail(self, points: Floats, normals: Floats) -> tuple[Floats, Floats, NDArray[np.int64], Floats]:
        """Offset along the normal to the dense surface, its normal there, and the neighbours used."""
        index, weight = self.around(points, normals)
        known = weight.sum(1, keepdims=True) > 0
        fine = np.einsum("nk,nkc->nc", weight, self.normals[index])
        length = np.linalg.norm(fine, axis=1, keepdims=True)
        fine = np.where(known & (length > 1e-6), fine / np.maximum(length, 1e-6), normals).astype(np.float32)
        # height of each neighbour's tangent plane above the point, along the coarse normal
        reach = self.points[index] - points[:, None]
        slope = np.einsum("nkc,nc->nk", self.normals[index], normals)
        height = np.einsum("nkc,nkc->nk", reach, self.normals[index]) / np.maximum(slope, 0.1)
        nearest = np.linalg.norm(reach[:, 0], axis=1)
        height = np.clip((weight * height).sum(1), -nearest, nearest)
        return (height[:, None] * normals).astype(np.float32), fine, index, weight


class FieldPaint:
    """The field's own colour, taken at the depth below the dense surface where a ray would see it.

    Args:
        dense: ``(V, 3)`` vertices and normals of the surface before decimation.
        spacing: lattice spacing in world units.
        chunk: most points asked of the field at once.
    """

    def __init__(
        self,
        field: RadianceField,
        points: Floats,
        normals: Floats,
        spacing: float,
        chunk: int,
        device: torch.device,
    ) -> None:
        self.field, self.chunk, self.device = field, chunk, device
        self.dense = Dense(points, normals)
        self.depth, self.missing = color_depth(field, points, normals, spacing, chunk, device)

    @torch.no_grad()
    def texels(self, points: Floats, normals: Floats) -> tuple[Floats, Floats]:
        offset, fine, index, weight = self.dense.detail(points, normals)
        below = (weight * self.depth[index]).sum(1, keepdims=True)
        where = (points + offset - below * fine).astype(np.float32)
        parts: list[Tensor] = []
        for x in torch.from_numpy(where).clamp(-1, 1).split(self.chunk):
            parts.append(self.field(x.to(self.device))[1].float().cpu())
        found = torch.cat(parts) if parts else torch.zeros(0, 3)
        if not bool(found.isfinite().all()):
            raise DivergedError(DIVERGED)
        colors = found.numpy() + np.einsum("nk,nkc->nc", weight, self.missing[index])
        return cast(Floats, np.clip(colors, 0, 1).astype(np.float32)), fine


def _side(points: Floats, normals: Floats) -> Floats:
    """``(n, 6)``: near are points that are near and face the same way, so that a thin sheet keeps its two colours."""
    return np.concatenate([points, SIDE * normals], 1)


class SamplePaint:
    """Colours scattered over a surface, for a mesh that came without a field.

    Args:
        points: ``(n, 3)``; normals: ``(n, 3)``; colors: ``(n, 3)`` sRGB in 0..1.
    """

    def __init__(self, points: Floats, normals: Floats, colors: Floats) -> None:
        self.dense, self.values = Dense(points, normals), colors
        self.sides = cKDTree(_side(points, normals))

    def texels(self, points: Floats, normals: Floats) -> tuple[Floats, Floats]:
        offset, fine, _, _ = self.dense.detail(points, normals)
        count = min(NEIGHBOURS, len(self.values))
        distance, index = (found.reshape(-1, count) for found in self.sides.query(_side(points + offset, fine), count))
        weight = 1 / np.maximum(distance, 1e-9) ** 2
        weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
        return cast(Floats, np.einsum("nk,nkc->nc", weight, self.values[index]).astype(np.float32)), fine
