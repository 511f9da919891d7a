"""How far a mesh lies from the exact surface of a known shape, and how well its normals agree.

Both ways, without a mesh of the truth: points of the mesh ask the distance function, points of the true surface ask the
nearest triangles. Chamfer distance is the mean of the two mean distances, as a share of the box's side; normal
consistency the mean of the two mean cosines (L. Mescheder et al., "Occupancy Networks", arXiv 1812.03828, section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..world.catalogue import CATALOGUE
from .fit import Pose, to_object

POINTS = 8192
NEIGHBOURS = 8
BAND = 0.02
BOX_SIDE = 2.0


@dataclass(frozen=True)
class SurfaceDistance:
    """``chamfer`` as a share of the box's side, 0 is perfect; ``normals`` a mean cosine, 1 is perfect."""

    chamfer: float
    normals: float


def posed_distance(shape: str, pose: Pose, points: Tensor) -> Tensor:
    """Signed distance ``(n,)`` of world points ``(n, 3)`` to a shape in its pose."""
    row = points.new_tensor([[*pose.centre, math.log(pose.scale), pose.yaw]])
    x, y, z = (c[0] for c in to_object(points, row))
    return pose.scale * CATALOGUE[shape].sdf(x, y, z)


def posed_normals(shape: str, pose: Pose, points: Tensor, step: float = 2e-3) -> Tensor:
    """Unit gradients ``(n, 3)`` of the distance, by central differences."""
    taps = step * torch.eye(3, dtype=points.dtype)
    gradient = [posed_distance(shape, pose, points + tap) - posed_distance(shape, pose, points - tap) for tap in taps]
    return torch.nn.functional.normalize(torch.stack(gradient, -1), dim=-1)


def true_points(shape: str, pose: Pose, count: int, generator: torch.Generator) -> Tensor:
    """``(count, 3)`` points spread over the exact surface: those of a thin layer outside, moved onto it."""
    reach = CATALOGUE[shape].bound * pose.scale + BAND
    found: list[Tensor] = []
    have = 0
    while have < count:
        points = (torch.rand(1 << 17, 3, generator=generator) * 2 - 1) * reach + torch.tensor(pose.centre)
        distance = posed_distance(shape, pose, points)
        near = (distance > 0) & (distance < BAND * pose.scale)
        points, distance = points[near], distance[near]
        found.append(points - distance[:, None] * posed_normals(shape, pose, points))
        have += len(points)
    return torch.cat(found)[:count]


def mesh_points(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``(count, 3)`` points drawn evenly over triangles ``(F, 3)`` of ``vertices`` ``(V, 3)``, and their faces."""
    a, b, c = vertices[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1).double()
    chosen = torch.multinomial(area / area.sum(), count, replacement=True, generator=generator)
    u, v = torch.rand(2, count, 1, generator=generator)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen], chosen


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """``(F, 3)`` unit normals, outwards for counter-clockwise triangles."""
    a, b, c = vertices[faces].unbind(1)
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)


def to_triangles(points: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Distances ``(n,)`` of points to triangles with corners ``(n, 3)`` each: the nearest of inside and three edges."""
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    best = torch.full_like(points[..., 0], math.inf)
    within = torch.ones_like(best, dtype=torch.bool)
    for p, q in ((a, b), (b, c), (c, a)):
        edge, offset = q - p, points - p
        along = ((offset * edge).sum(-1) / edge.square().sum(-1).clamp(min=1e-20)).clamp(0, 1)
        best = torch.minimum(best, (offset - along[..., None] * edge).norm(dim=-1))
        within &= (torch.linalg.cross(edge, offset) * normal).sum(-1) >= 0
    height = ((points - a) * normal).sum(-1).abs()
    return torch.where(within & (normal.norm(dim=-1) > 0.5), height, best)


def nearest_faces(
    points: Tensor, vertices: Tensor, faces: Tensor, drawn: Tensor, owner: Tensor
) -> tuple[Tensor, Tensor]:
    """Distance ``(n,)`` and face ``(n,)`` of the nearest triangle among those of the 8 nearest ``drawn`` points."""
    _, index = cKDTree(drawn.numpy()).query(points.numpy(), k=min(NEIGHBOURS, len(drawn)))
    candidates = owner[torch.from_numpy(index).view(len(points), -1)]
    a, b, c = vertices[faces[candidates]].unbind(2)
    distance = to_triangles(points[:, None].expand_as(a), a, b, c)
    best = distance.argmin(1, keepdim=True)
    return distance.gather(1, best).squeeze(1), candidates.gather(1, best).squeeze(1)


@torch.no_grad()
def surface_distance(vertices: Tensor, faces: Tensor, shape: str, pose: Pose, count: int = POINTS) -> SurfaceDistance:
    """Compare a mesh with a shape in its pose, from ``count`` points of each; deterministic.

    Args:
        vertices: ``(V, 3)`` float world positions.
        faces: ``(F, 3)`` long, counter-clockwise from outside, at least one of them not degenerate.
        shape: a key of ``CATALOGUE``.
    """
    generator = torch.Generator().manual_seed(0)
    normals = face_normals(vertices, faces)
    drawn, owner = mesh_points(vertices, faces, 3 * count, generator)
    some = drawn[:count]
    out = posed_distance(shape, pose, some).abs()
    agree_out = (posed_normals(shape, pose, some) * normals[owner[:count]]).sum(1)
    truth = true_points(shape, pose, count, generator)
    back, face = nearest_faces(truth, vertices, faces, drawn, owner)
    agree_back = (posed_normals(shape, pose, truth + 1e-4) * normals[face]).sum(1)
    chamfer = float(out.mean() + back.mean()) / 2 / BOX_SIDE
    return SurfaceDistance(chamfer, float(agree_out.mean() + agree_back.mean()) / 2)
