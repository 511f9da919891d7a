"""How rough a mesh is where the true object is smooth: how far normals scatter within a small neighbourhood.

Around each of many points of the surface, the normals at the 64 nearest points of 24,576, those within ``RADIUS``, have
a mean of length R; their mean square
angle about it is ``v = 2 (1 - R)`` for small angles (K. V. Mardia and P. E. Jupp, Directional Statistics).
The same of the exact surface in the same pose is what its own curvature and edges scatter. Roughness is the root of
what the median of the mesh has beyond the median of the truth, in degrees: medians, because edges that are rounded or
a little out of place are the business of other checks, and roughness is everywhere. Unlike the mean cosine with the
true normals it does not see a bend or a wrong taper, and unlike it, fine grain cannot hide behind well-placed sides.
"""

from __future__ import annotations

import math

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .distance import face_normals, mesh_points, posed_normals, true_points
from .fit import Pose

RADIUS = 0.08
"""Of the neighbourhood, at scale 1: two and a half pixels of a 64-pixel view, so that grain a viewer can see counts."""
POINTS = 24_576
CENTRES = 4_096
NEIGHBOURS = 64


def scatter(points: Tensor, normals: Tensor, radius: float) -> Tensor:
    """``(n,)`` mean square angle in radians of the 64 nearest normals, none beyond ``radius``, around the first 4096 of
    ``points``.

    Args:
        points: ``(N, 3)`` in random order, evenly spread over a surface.
        normals: ``(N, 3)`` unit normals there. Those that face away from a centre's own belong to another side of a
            thin part and do not count.
    """
    count = min(CENTRES, len(points))
    distance, index = cKDTree(points.numpy()).query(
        points[:count].numpy(), k=min(NEIGHBOURS, len(points)), distance_upper_bound=radius
    )
    near = torch.from_numpy(distance).view(count, -1).isfinite()
    found = normals[torch.from_numpy(index).view(count, -1).clamp(max=len(points) - 1)]
    near &= (found * normals[:count, None]).sum(-1) > 0
    weight = near.float()[..., None]
    mean = (found * weight).sum(1) / weight.sum(1).clamp(min=1)
    length: Tensor = mean.norm(dim=1)
    return (2 * (1 - length)).clamp(min=0)


@torch.no_grad()
def roughness(vertices: Tensor, faces: Tensor, shape: str, pose: Pose) -> float:
    """Degrees by which a mesh's normals scatter beyond those of the posed shape; 0 for a smooth one. Deterministic.

    Args:
        vertices: ``(V, 3)`` float world positions.
        faces: ``(F, 3)`` long, counter-clockwise from outside, at least one of them not degenerate.
        shape: a key of ``CATALOGUE``.
    """
    generator = torch.Generator().manual_seed(0)
    radius = RADIUS * pose.scale
    points, owner = mesh_points(vertices, faces, POINTS, generator)
    own = scatter(points, face_normals(vertices, faces)[owner], radius).median()
    exact = true_points(shape, pose, POINTS, generator)
    exact = exact[torch.randperm(len(exact), generator=generator)]
    true = scatter(exact, posed_normals(shape, pose, exact + 0), radius).median()
    return math.degrees(math.sqrt(max(0.0, float(own - true))))
