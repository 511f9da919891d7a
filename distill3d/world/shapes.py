"""What a shape is, and exact signed distances of the eight of the plain world, as functions of three coordinates.

Negative inside, positive outside, gradient norm 1 almost everywhere, in world units. Every shape stands upright
(y up), is centred on the middle of its bounding box, and fits inside the ball of radius 1.02.
Box, torus, capsule, cylinder and octahedron follow Inigo Quilez, https://iquilezles.org/articles/distfunctions/;
cone and pyramid are the nearer of base and slanted side, because his pyramid is not exact below its base.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .paint import Paint

SDF = Callable[[Tensor, Tensor, Tensor], Tensor]


def _norm(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return (x * x + y * y + z * z).sqrt()


def _to_segment(x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    """Distance in the plane from ``(x, y)`` to the segment from ``start`` to ``end``."""
    ex, ey = end[0] - start[0], end[1] - start[1]
    dx, dy = x - start[0], y - start[1]
    along = ((dx * ex + dy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
    return torch.hypot(dx - along * ex, dy - along * ey)


def sphere(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.72) -> Tensor:
    return _norm(x, y, z) - radius


def cube(x: Tensor, y: Tensor, z: Tensor, half: float = 0.54) -> Tensor:
    dx, dy, dz = x.abs() - half, y.abs() - half, z.abs() - half
    outside = _norm(dx.clamp(min=0), dy.clamp(min=0), dz.clamp(min=0))
    return outside + torch.maximum(dx, torch.maximum(dy, dz)).clamp(max=0)


def cylinder(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.5, half: float = 0.66) -> Tensor:
    dr, dy = torch.hypot(x, z) - radius, y.abs() - half
    return torch.hypot(dr.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dr, dy).clamp(max=0)


def cone(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.58, half: float = 0.72) -> Tensor:
    """Apex at ``y = half``, base disc at ``y = -half``."""
    r = torch.hypot(x, z)
    base = torch.hypot((r - radius).clamp(min=0), y + half)
    side = _to_segment(r, y, (radius, -half), (0.0, half))
    inside = (y > -half) & (r / radius < (half - y) / (2 * half))
    return torch.minimum(base, side) * torch.where(inside, -1.0, 1.0)


def torus(x: Tensor, y: Tensor, z: Tensor, ring: float = 0.56, tube: float = 0.22) -> Tensor:
    """A ring around the y axis: it lies flat, and its hole opens upwards."""
    return torch.hypot(torch.hypot(x, z) - ring, y) - tube


def pyramid(x: Tensor, y: Tensor, z: Tensor, half_base: float = 0.62, half: float = 0.5) -> Tensor:
    """Square base at ``y = -half`` with sides along x and z, apex at ``y = half``."""
    x, z = x.abs(), z.abs()
    base = _norm((x - half_base).clamp(min=0), (z - half_base).clamp(min=0), y + half)
    out, across = torch.maximum(x, z), torch.minimum(x, z)
    height = 2 * half
    slope = math.hypot(half_base, height)
    normal = ((out - half_base) * height + (y + half) * half_base) / slope
    up = ((half_base - out) * half_base + (y + half) * height) / slope
    on_face = (up >= 0) & (across / half_base <= 1 - up / slope)
    beside = torch.where(on_face, 0.0, _to_segment(across, up, (half_base, 0.0), (0.0, slope)))
    inside = (normal < 0) & (y > -half)
    return torch.minimum(base, torch.hypot(beside, normal)) * torch.where(inside, -1.0, 1.0)


def capsule(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.34, half: float = 0.5) -> Tensor:
    return _norm(x, y - y.clamp(-half, half), z) - radius


def octahedron(x: Tensor, y: Tensor, z: Tensor, reach: float = 0.88) -> Tensor:
    """Corners at ``reach`` on each half axis."""
    x, y, z = x.abs(), y.abs(), z.abs()
    over = x + y + z - reach
    edge_x, edge_y, edge_z = 3 * x < over, 3 * y < over, 3 * z < over
    a = torch.where(edge_x, x, torch.where(edge_y, y, z))
    b = torch.where(edge_x, y, torch.where(edge_y, z, x))
    c = torch.where(edge_x, z, torch.where(edge_y, x, y))
    along = (0.5 * (c - b + reach)).clamp(0, reach)
    return torch.where(edge_x | edge_y | edge_z, _norm(a, b - reach + along, c - along), over / math.sqrt(3))


@dataclass(frozen=True)
class Shape:
    """A named solid.

    Attributes:
        word: its name in captions.
        sdf: signed distance from three coordinate tensors, at scale 1.
        has_front: whether exactly one side is its front; that side faces +z.
        turn: least turn about the y axis in degrees that leaves solid and paint as they are; 0 for any turn.
        bound: radius of a ball about the origin that holds it.
        paint: what it wears besides its colour, whatever its pattern.
        solid: the word of a plain shape that is the same solid; empty when there is none.
        phrase: how a caption puts colour and word together.
    """

    word: str
    sdf: SDF
    has_front: bool = False
    turn: int = 0
    bound: float = 1.02
    paint: Paint | None = None
    solid: str = ""
    phrase: str = "{colour} {word}"


SHAPES: dict[str, Shape] = {
    s.word: s
    for s in (
        Shape("sphere", sphere, bound=0.73),
        Shape("cube", cube, turn=90, bound=0.94),
        Shape("cylinder", cylinder, bound=0.84),
        Shape("cone", cone, bound=0.93),
        Shape("torus", torus, bound=0.79),
        Shape("pyramid", pyramid, turn=90, bound=1.02),
        Shape("capsule", capsule, bound=0.85),
        Shape("octahedron", octahedron, turn=90, bound=0.89),
    )
}
"""The eight of the plain world."""
