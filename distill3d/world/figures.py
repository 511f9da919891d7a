"""Objects with exactly one front, which faces +z: a smiley, a two-coloured ball, a mug, a chair, a house, an arrow.

Each is a distance function and, where the solid alone does not show the front, a paint. Distances of solids made of
several parts are exact outside and on the surface, and never more than the true distance inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .paint import DARK, WHITE, layers
from .shapes import Shape, _norm, _to_segment, sphere

MUG_SHIFT = 0.17
HOUSE_SHIFT = 0.07


def _box(x: Tensor, y: Tensor, z: Tensor, half: tuple[float, float, float]) -> Tensor:
    dx, dy, dz = x.abs() - half[0], y.abs() - half[1], z.abs() - half[2]
    outside = _norm(dx.clamp(min=0), dy.clamp(min=0), dz.clamp(min=0))
    return outside + torch.maximum(dx, torch.maximum(dy, dz)).clamp(max=0)


def smiley_paint(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Two dark eyes and a dark mouth on the half that faces +z."""
    eyes = (1 - torch.hypot((x.abs() - 0.25) / 0.14, (y - 0.36) / 0.18)) * 0.14
    mouth = torch.minimum(0.1 - (torch.hypot(x, y - 0.21) - 0.38).abs(), 0.02 - y)
    return layers((torch.minimum(torch.maximum(eyes, mouth), z), DARK))


def ball_paint(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """White on the half that faces away."""
    return layers((-z, WHITE))


def mug(x: Tensor, y: Tensor, z: Tensor, radius: float = 0.46, half: float = 0.5, wall: float = 0.07) -> Tensor:
    """A cup that opens upwards, its handle towards +x."""
    x = x + MUG_SHIFT
    r = torch.hypot(x, z)
    side = torch.hypot(r - radius, (y.abs() - half).clamp(min=0))
    cup = torch.minimum(side, torch.hypot((r - radius).clamp(min=0), y + half)) - wall
    dx, dy = x - radius - 0.03, y.abs()
    ring = torch.where(dx >= 0, torch.hypot(dx, dy) - 0.29, torch.hypot(dx, dy - 0.29))
    return torch.minimum(cup, torch.hypot(ring, z) - 0.09)


def mug_paint(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """A white badge on the front, and white within."""
    x = x + MUG_SHIFT
    badge = torch.minimum(0.26 - torch.hypot(x, y + 0.02), z - 0.3)
    within = torch.minimum(0.45 - torch.hypot(x, z), y + 0.46)
    return layers((torch.maximum(badge, within), WHITE))


def chair(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A seat on four legs; the back rest stands at -z, so that the seat is open to the front."""
    x = x.abs()
    seat = _box(x, y + 0.1, z, (0.44, 0.08, 0.44))
    rest = _box(x, y - 0.34, z + 0.36, (0.44, 0.42, 0.08))
    legs = _box(x - 0.34, y + 0.44, z.abs() - 0.34, (0.1, 0.32, 0.1))
    return torch.minimum(torch.minimum(seat, rest), legs)


def house(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Four walls under a gable roof whose ridge runs along z."""
    x, y, eaves, ridge, half = x.abs(), y - HOUSE_SHIFT, 0.64, 0.6, 0.54
    walls = _box(x, y + 0.36, z, (0.5, 0.34, 0.46))
    v = y + 0.04
    base = torch.hypot((x - eaves).clamp(min=0), v)
    away = torch.minimum(base, _to_segment(x, v, (eaves, 0.0), (0.0, ridge)))
    roof = torch.where((v > 0) & (x / eaves + v / ridge < 1), -away, away)
    beyond = z.abs() - half
    roof = torch.hypot(roof.clamp(min=0), beyond.clamp(min=0)) + torch.maximum(roof, beyond).clamp(max=0)
    return torch.minimum(walls, roof)


def house_paint(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """A darker roof; on the front a dark door and two white windows."""
    y, front = y - HOUSE_SHIFT, z - 0.4
    door = torch.minimum(torch.minimum(0.14 - x.abs(), -0.2 - y), front)
    windows = torch.minimum(torch.minimum(0.1 - (x.abs() - 0.32).abs(), 0.11 - (y + 0.28).abs()), front)
    return layers((y + 0.05, DARK), (windows, WHITE), (door, DARK), opacity=0.6)


def arrow(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A shaft with a head that points to +z."""
    r = torch.hypot(x, y)
    tail, neck, tip, shaft, head = -0.8, 0.1, 0.8, 0.17, 0.48
    end = torch.hypot((r - shaft).clamp(min=0), z - tail)
    rod = _to_segment(r, z, (shaft, tail), (shaft, neck))
    collar = _to_segment(r, z, (shaft, neck), (head, neck))
    away = torch.minimum(torch.minimum(end, rod), torch.minimum(collar, _to_segment(r, z, (head, neck), (0.0, tip))))
    in_shaft = (r < shaft) & (z > tail) & (z <= neck)
    in_head = (z > neck) & (r / head < (tip - z) / (tip - neck))
    return torch.where(in_shaft | in_head, -away, away)


FIGURES: dict[str, Shape] = {
    s.word: s
    for s in (
        Shape("smiley", sphere, True, turn=360, bound=0.73, paint=smiley_paint, solid="sphere"),
        Shape(
            "ball",
            sphere,
            True,
            turn=360,
            bound=0.73,
            paint=ball_paint,
            solid="sphere",
            phrase="{colour} and white ball",
        ),
        Shape("mug", mug, True, turn=360, bound=0.94, paint=mug_paint),
        Shape("chair", chair, True, turn=360, bound=0.99),
        Shape("house", house, True, turn=360, bound=0.99, paint=house_paint),
        Shape("arrow", arrow, True, turn=360, bound=0.83),
    )
}
