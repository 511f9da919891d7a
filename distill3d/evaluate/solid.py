"""The solid a radiance field shows to the outside, on a voxel grid.

A voxel is solid where the opacity accumulated from outside up to its centre is at least one half along each of the
26 grid directions: no one looking from any of them sees as far as this voxel. The rule needs no density level, fills
a hollow that no view can see (nothing trains a field inside its own surface), and leaves a torus its hole, because
one direction that looks through is enough to keep a voxel open. Along a ray it is the median depth of the rendering.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fields.base import RadianceField
from ..render.occupancy import OccupancyGrid

_STEPS = (-1, 0, 1)
DIRECTIONS = tuple(d for d in itertools.product(_STEPS, _STEPS, _STEPS) if any(d))
_CHUNK = 1 << 17


@dataclass(frozen=True)
class Solid:
    """A binary volume over ``[-1, 1]^3``.

    Attributes:
        inside: ``(N, N, N)`` bool, indexed x, y, z, one value a voxel centre.
    """

    inside: Tensor

    @property
    def spacing(self) -> float:
        return 2.0 / len(self.inside)

    @property
    def volume(self) -> float:
        """World volume of the solid voxels."""
        return int(self.inside.sum()) * self.spacing**3

    def points(self) -> Tensor:
        """``(n, 3)`` centres of the solid voxels."""
        return (self.inside.nonzero() + 0.5) * self.spacing - 1


def centres(resolution: int) -> Tensor:
    """``(resolution^3, 3)`` voxel centres of ``[-1, 1]^3``, x slowest."""
    axis = (torch.arange(resolution) + 0.5) * (2.0 / resolution) - 1
    return torch.cartesian_prod(axis, axis, axis)


@torch.no_grad()
def sample_density(field: RadianceField, occupancy: OccupancyGrid | None, resolution: int) -> Tensor:
    """``(N, N, N)`` density at voxel centres as the renderer sees it: zero in the cells the occupancy grid skips."""
    points = centres(resolution)
    density = torch.zeros(len(points))
    keep = torch.arange(len(points)) if occupancy is None else occupancy.contains(points).nonzero().squeeze(1)
    for index in keep.split(_CHUNK):
        density[index] = field.density(points[index]).float()
    return density.view(resolution, resolution, resolution)


def _shifted(plane: Tensor, down: int, right: int) -> Tensor:
    """``plane`` moved by whole cells, zeros coming in."""
    moved = torch.zeros_like(plane)
    height, width = plane.shape
    to = (slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
    source = (slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
    moved[to] = plane[source]
    return moved


def optical_depth(density: Tensor, direction: tuple[int, int, int], spacing: float) -> Tensor:
    """``(N, N, N)`` integral of ``density`` along ``direction`` from outside the grid up to each voxel centre.

    ``direction`` has entries -1, 0 and 1 and is the way the light of sight travels.
    """
    axis = next(i for i, d in enumerate(direction) if d)
    segment = density.movedim(axis, 0) * (spacing * math.sqrt(sum(map(abs, direction))))
    if direction[axis] < 0:
        segment = segment.flip(0)
    down, right = (d for i, d in enumerate(direction) if i != axis)
    depth = torch.empty_like(segment)
    before = torch.zeros_like(segment[0])
    for i, own in enumerate(segment):
        depth[i] = before + 0.5 * own
        before = _shifted(before + own, down, right)
    if direction[axis] < 0:
        depth = depth.flip(0)
    return depth.movedim(0, axis)


def solidify(density: Tensor) -> Solid:
    """The voxels of ``density`` ``(N, N, N)`` that at least half hide from every one of the 26 directions."""
    spacing = 2.0 / len(density)
    least = torch.full_like(density, math.inf)
    for direction in DIRECTIONS:
        least = torch.minimum(least, optical_depth(density, direction, spacing))
    return Solid(least >= math.log(2))
