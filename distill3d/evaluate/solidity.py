"""How convex a solid is: the share of its convex hull that it fills (solidity), next to the true shape's; and whether
it is solid where the true shape is deep.

Volume IoU and hue forgive a cube whose faces are bent inwards to a four-pointed star; this does not. A hull is
stretched by every bump, so it is trimmed: an intersection of 206 half-spaces, each of which leaves out the outermost
0.5 % of the solid. On a cube with sides bent inwards by a fifth of its half width the ratio to the true cube is 0.91,
by three tenths 0.83; on true shapes with a surface rough by 0.04 (standard deviation, world units) 0.94 to 0.98.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distance import posed_distance
from .fit import Pose, occupancy_of
from .solid import Solid, centres

TRIM = 0.005
SPREAD_DIRECTIONS = 200
DEEP = 0.12
"""World units; one and a half times as far as a surface may stray on average."""


def _directions(yaw: float) -> Tensor:
    """``(206, 3)`` unit vectors: a Fibonacci sphere, and the six half axes turned by ``yaw`` about y."""
    k = torch.arange(SPREAD_DIRECTIONS)
    y = 1 - 2 * (k + 0.5) / SPREAD_DIRECTIONS
    angle = k * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - y.square()).sqrt()
    cos, sin = math.cos(yaw), math.sin(yaw)
    axes = torch.tensor([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
    return torch.cat([torch.stack([ring * angle.cos(), y, ring * angle.sin()], -1), axes, -axes])


def solidity(solid: Solid, yaw: float = 0.0) -> float:
    """Share in [0, 1] of the trimmed convex hull's voxels that are solid; 0 for an empty solid.

    ``yaw`` (radians) is the turn of the object's own axes, along which faces are most likely.
    """
    points = solid.points()
    if not len(points):
        return 0.0
    everywhere = centres(len(solid.inside))
    boxed = ((everywhere >= points.amin(0)) & (everywhere <= points.amax(0))).all(-1)
    everywhere, inside = everywhere[boxed], solid.inside.view(-1)[boxed]
    hull = torch.ones(len(everywhere), dtype=torch.bool)
    kept = max(1, int(TRIM * len(points)))
    for direction in _directions(yaw):
        reach = (points @ direction).topk(kept).values[-1]
        hull &= everywhere @ direction <= reach + 1e-6
    return float(inside[hull].float().mean()) if hull.any() else 0.0


def relative_solidity(solid: Solid, shape: str, pose: Pose) -> float:
    """Solidity over that of the true shape, voxelised at the same resolution in the same pose."""
    resolution = len(solid.inside)
    row = torch.tensor([[*pose.centre, math.log(pose.scale), pose.yaw]])
    share = occupancy_of(shape, centres(resolution), row, solid.spacing)[0]
    truth = Solid((share >= 0.5).view(resolution, resolution, resolution))
    reference = solidity(truth, pose.yaw)
    return solidity(solid, pose.yaw) / reference if reference > 0 else 0.0


def core_fill(solid: Solid, shape: str, pose: Pose) -> float:
    """Share of the voxels that lie at least ``DEEP`` inside the posed shape which are solid; 1 where none lies so deep.

    A tunnel through a cube that is a quarter of its width across leaves 0.94 of the volume, and of the hull.
    """
    deep = posed_distance(shape, pose, centres(len(solid.inside))) <= -DEEP
    return float(solid.inside.view(-1)[deep].float().mean()) if deep.any() else 1.0
