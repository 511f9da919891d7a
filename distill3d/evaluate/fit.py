"""How well a known shape explains a solid: volume IoU, best over position, isotropic scale and turn about the y axis.

The search: 16 yaws x 3 scales about the pose that matches centroid and volume, then a pattern search (R. Hooke and
T. A. Jeeves, J. ACM 8, 1961) over the five numbers of the pose. It sees only solid voxels: the shape's own volume is
known, so the union is V_field + V_shape - intersection. No tilt and no upside-down: an object must stand upright.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..world.catalogue import CATALOGUE, WORLDS
from .solid import Solid, centres

SEARCH_POINTS = 4096
REFINE_POINTS = 24576
_MOMENT_RESOLUTION = 96
_MOMENT_BOX = 1.05


@dataclass(frozen=True)
class Pose:
    """World point = ``centre + scale * R_y(yaw) * object point``; ``yaw`` in radians."""

    x: float
    y: float
    z: float
    scale: float
    yaw: float

    @property
    def centre(self) -> tuple[float, float, float]:
        return self.x, self.y, self.z


@dataclass(frozen=True)
class Fit:
    """A shape in its best pose, and the volume IoU it reaches there."""

    shape: str
    pose: Pose
    iou: float


@functools.cache
def moments(shape: str) -> tuple[float, tuple[float, float, float]]:
    """Volume and centroid of a shape of the world at scale 1, by an antialiased 96^3 grid."""
    points = centres(_MOMENT_RESOLUTION) * _MOMENT_BOX
    spacing = 2 * _MOMENT_BOX / _MOMENT_RESOLUTION
    share = (0.5 - CATALOGUE[shape].sdf(*points.unbind(-1)) / spacing).clamp(0, 1)
    x, y, z = ((share[:, None] * points).sum(0) / share.sum()).tolist()
    return float(share.sum()) * spacing**3, (x, y, z)


def to_object(points: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Object coordinates, three ``(K, n)``, of world ``points`` ``(n, 3)`` under ``K`` poses.

    ``poses`` is ``(K, 5)``: x, y, z, log of the scale, yaw.
    """
    offset = points[None] - poses[:, None, :3]
    scale = poses[:, 3].exp()[:, None]
    cos, sin = poses[:, 4].cos()[:, None], poses[:, 4].sin()[:, None]
    x, y, z = (offset / scale[..., None]).unbind(-1)
    return cos * x - sin * z, y, sin * x + cos * z


def occupancy_of(shape: str, points: Tensor, poses: Tensor, spacing: float) -> Tensor:
    """``(K, n)`` antialiased share in [0, 1] of each voxel that the posed shape fills."""
    distance = poses[:, 3:4].exp() * CATALOGUE[shape].sdf(*to_object(points, poses))
    return (0.5 - distance / spacing).clamp(0, 1)


def _ious(shape: str, solid: Solid, points: Tensor, poses: Tensor) -> Tensor:
    """``(K,)`` volume IoU under each pose, with ``points`` a sample of the solid's voxels."""
    own = moments(shape)[0] * (3 * poses[:, 3]).exp()
    common = occupancy_of(shape, points, poses, solid.spacing).mean(1) * solid.volume
    return common / (solid.volume + own - common)


def _start(shape: str, solid: Solid, points: Tensor) -> Tensor:
    """``(48, 5)`` poses that match the centroid, at 16 yaws and at 0.9, 1 and 1.1 times the matching scale."""
    volume, centroid = moments(shape)
    log_scale = math.log(solid.volume / volume) / 3
    yaw, factor = torch.cartesian_prod(torch.arange(16) * (2 * math.pi / 16), torch.tensor([0.9, 1.0, 1.1])).unbind(-1)
    log_scales = log_scale + factor.log()
    cx, cy, cz = centroid
    cos, sin, scale = yaw.cos(), yaw.sin(), log_scales.exp()
    shift = torch.stack([cos * cx + sin * cz, cy + 0 * yaw, cos * cz - sin * cx], -1) * scale[:, None]
    return torch.cat([points.mean(0) - shift, log_scales[:, None], yaw[:, None]], -1)


def _descend(shape: str, solid: Solid, points: Tensor, pose: Tensor, step: Tensor, halvings: int) -> Tensor:
    """Pattern search from ``pose`` ``(5,)``: try each number a step up and down, halve the steps when none helps."""
    best = float(_ious(shape, solid, points, pose[None])[0])
    moves = torch.cat([torch.eye(5), -torch.eye(5)])
    while halvings >= 0:
        candidates = pose + moves * step
        values = _ious(shape, solid, points, candidates)
        if float(values.max()) > best + 1e-5:
            best, pose = float(values.max()), candidates[int(values.argmax())]
        else:
            step, halvings = step / 2, halvings - 1
    return pose


def fit(shape: str, solid: Solid, points: Tensor | None = None) -> Fit:
    """The best pose of one of ``CATALOGUE`` on a solid that is not empty.

    ``points`` are the solid's voxel centres in any fixed order; a fixed shuffle gives the 4096 that guide the search
    and the 24,576 that refine it; all of them give the IoU. Deterministic.

    Raises:
        ValueError: the solid is empty.
    """
    points = solid.points() if points is None else points
    if not len(points):
        raise ValueError("expected a solid with at least one voxel, got an empty one: check the field's opacity first")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    few, more = points[order[:SEARCH_POINTS]], points[order[:REFINE_POINTS]]
    starts = _start(shape, solid, points)
    pose = starts[int(_ious(shape, solid, few, starts).argmax())]
    step = torch.tensor([0.06, 0.06, 0.06, 0.06, 0.12])
    pose = _descend(shape, solid, few, pose, step, halvings=3)
    pose = _descend(shape, solid, more, pose, step / 8, halvings=1)
    iou = float(_ious(shape, solid, points, pose[None])[0])
    x, y, z, log_scale, yaw = pose.tolist()
    return Fit(shape, Pose(x, y, z, math.exp(log_scale), yaw), iou)


def fit_all(solid: Solid, world: str = "plain") -> dict[str, Fit]:
    """Every different solid of a world in its best pose: the plain world's eight, or the full world's eighteen."""
    points = solid.points()
    return {shape: fit(shape, solid, points) for shape in WORLDS[world].solids}
