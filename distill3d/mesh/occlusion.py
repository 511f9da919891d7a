"""Ambient occlusion by depth maps: the mesh is seen from many sides, and a point is lit by each that sees it.

The share ``sum_d max(n d, 0) V(d) / sum_d max(n d, 0)`` over directions d spread evenly over the sphere approximates
the cosine-weighted visibility ``1/pi int V(d) (n d) dd`` (Zhukov et al. 1998, "An ambient light illumination model").
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from .raster import nearest, rasterise
from .types import Floats, Ints

DIRECTIONS = 96
"""Sides the mesh is seen from."""
PIXELS = 256
"""Side of each depth map."""
BIAS = 2.0
"""Points this many pixels of a depth map below it still count as seen."""


def sphere(count: int) -> NDArray[np.float64]:
    """``(count, 3)`` unit vectors, a Fibonacci lattice."""
    k = np.arange(count)
    y = 1 - (2 * k + 1) / count
    angle = k * math.pi * (3 - math.sqrt(5))
    ring = np.sqrt(1 - y * y)
    return np.stack([ring * np.cos(angle), y, ring * np.sin(angle)], -1)


class Visibility:
    """Depth maps of a mesh, ``(V, 3)`` vertices and ``(F, 3)`` faces, from all sides."""

    def __init__(self, vertices: Floats, faces: Ints) -> None:
        points = vertices.astype(np.float64)
        low, high = points.min(0), points.max(0)
        self.centre, self.reach = (low + high) / 2, max(float(np.linalg.norm(high - low) / 2), 1e-12)
        self.directions = sphere(DIRECTIONS)
        self.depth = [self._map(points, faces, d) for d in self.directions]

    def _place(self, points: NDArray[np.float64], direction: NDArray) -> tuple[NDArray, NDArray]:
        """Pixel coordinates ``(n, 2)`` and depth ``(n,)`` away from the light."""
        side = np.cross(direction, np.eye(3)[np.abs(direction).argmin()])
        side /= np.linalg.norm(side)
        local = points - self.centre
        scale = (PIXELS / 2 - 1) / self.reach
        flat = np.stack([local @ side, local @ np.cross(direction, side)], -1) * scale + PIXELS / 2
        return flat, -(local @ direction)

    def _map(self, points: NDArray[np.float64], faces: Ints, direction: NDArray) -> NDArray[np.float64]:
        flat, depth = self._place(points, direction)
        found = rasterise(torch.from_numpy(flat[faces]), PIXELS, PIXELS)
        at = (found.weight * torch.from_numpy(depth[faces])[found.face]).sum(-1)
        return cast("NDArray[np.float64]", nearest(found, at, PIXELS * PIXELS)[1].numpy())

    def share(self, points: Floats, normals: Floats) -> Floats:
        """``(n,)`` in 0..1: how much of its half of the surroundings each point sees."""
        lit, total = np.zeros(len(points)), np.zeros(len(points))
        pixel = self.reach / (PIXELS / 2 - 1)
        for direction, depth in zip(self.directions, self.depth, strict=True):
            cosine = np.maximum(normals @ direction, 0)
            flat, at = self._place(points + BIAS * pixel * normals.astype(np.float64), direction)
            column, row = np.clip(flat.astype(np.int64), 0, PIXELS - 1).T
            slope = BIAS * pixel * np.minimum(1 / np.maximum(cosine, 0.2), 4)
            total += cosine
            lit += cosine * (at <= depth[row * PIXELS + column] + slope)
        return cast(Floats, (lit / np.maximum(total, 1e-12)).astype(np.float32))
