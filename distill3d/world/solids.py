"""Exact signed distances of the six shapes that the full world adds to the eight of ``shapes``.

Negative inside, in world units; upright, centred on the middle of the bounding box. Outlines in the plane are folded
by their symmetries to a few segments and arcs, then drawn out along z or turned about the y axis, both of which keep
the distance exact (Inigo Quilez, https://iquilezles.org/articles/distfunctions/).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .shapes import Shape, _to_segment

_FIFTH = math.pi / 5


def drawn_out(outline: Tensor, z: Tensor, half: float) -> Tensor:
    """Distance to a plane figure drawn out to ``+-half`` along z; ``outline`` is the distance in the plane."""
    beyond = z.abs() - half
    return torch.hypot(outline.clamp(min=0), beyond.clamp(min=0)) + torch.maximum(outline, beyond).clamp(max=0)


def star(x: Tensor, y: Tensor, z: Tensor, tip: float = 0.84, notch: float = 0.42, half: float = 0.2) -> Tensor:
    """Five points, one of them upwards; it stands in the x-y plane."""
    y = y + tip * (1 - math.cos(_FIFTH)) / 2
    angle = torch.atan2(x, y)
    folded = (torch.remainder(angle + _FIFTH, 2 * _FIFTH) - _FIFTH).abs()
    length = torch.hypot(x, y)
    u, v = length * folded.sin(), length * folded.cos()
    corner = (notch * math.sin(_FIFTH), notch * math.cos(_FIFTH))
    away = _to_segment(u, v, (0.0, tip), corner)
    inside = u * (tip - corner[1]) + (v - tip) * corner[0] < 0
    return drawn_out(torch.where(inside, -away, away), z, half)


def cross(x: Tensor, y: Tensor, z: Tensor, arm: float = 0.74, width: float = 0.24, half: float = 0.24) -> Tensor:
    """A plus sign in the x-y plane."""
    x, y = x.abs(), y.abs()
    u, v = torch.maximum(x, y), torch.minimum(x, y)
    away = torch.minimum(_to_segment(u, v, (arm, 0.0), (arm, width)), _to_segment(u, v, (arm, width), (width, width)))
    return drawn_out(torch.where((u < arm) & (v < width), -away, away), z, half)


def heart(x: Tensor, y: Tensor, z: Tensor, size: float = 1.24, half: float = 0.24) -> Tensor:
    """A square on its corner with half discs on the two upper sides, in the x-y plane."""
    radius = math.sqrt(2) / 4
    u, v = x.abs() / size, y / size + (0.75 + radius) / 2
    du, dv = u - 0.25, v - 0.75
    length = torch.hypot(du, dv)
    arc = torch.where(du + dv >= 0, (length - radius).abs(), torch.hypot(u, v - 1))
    away = torch.minimum(arc, _to_segment(u, v, (0.0, 0.0), (0.5, 0.5)))
    inside = (u + (v - 0.5).abs() < 0.5) | (length < radius)
    return drawn_out(size * torch.where(inside, -away, away), z, half)


def dome(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.78) -> Tensor:
    """The upper half of a ball."""
    r, y = torch.hypot(x, z), y + radius / 2
    length = torch.hypot(r, y)
    base = torch.hypot((r - radius).clamp(min=0), y)
    away = torch.where(y > 0, torch.minimum(base, (length - radius).abs()), base)
    return torch.where((y > 0) & (length < radius), -away, away)


def bowl(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.72, wall: float = 0.09) -> Tensor:
    """Half a hollow ball that opens upwards, with a rounded rim."""
    r, y = torch.hypot(x, z), y - radius / 2
    return torch.where(y <= 0, (torch.hypot(r, y) - radius).abs(), torch.hypot(r - radius, y)) - wall


def arch(
    x: Tensor, y: Tensor, z: Tensor, radius: float = 0.42, wall: float = 0.2, leg: float = 0.66, half: float = 0.26
) -> Tensor:
    """A gate in the x-y plane: half a ring on two legs."""
    x, y = x.abs(), y + (radius + wall - leg) / 2
    side, foot = (x - radius).abs() - wall, -(y + leg)
    legs = torch.hypot(side.clamp(min=0), foot.clamp(min=0)) + torch.maximum(side, foot).clamp(max=0)
    return drawn_out(torch.where(y >= 0, (torch.hypot(x, y) - radius).abs() - wall, legs), z, half)


MORE_SHAPES: dict[str, Shape] = {
    s.word: s
    for s in (
        Shape("star", star, turn=180, bound=0.94),
        Shape("cross", cross, turn=180, bound=0.85),
        Shape("heart", heart, turn=180, bound=0.88),
        Shape("dome", dome, turn=0, bound=0.9),
        Shape("bowl", bowl, turn=0, bound=0.98),
        Shape("arch", arch, turn=180, bound=0.98),
    )
}
