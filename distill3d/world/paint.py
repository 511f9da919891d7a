"""White and dark paint on coloured solids: the three patterns, and the faces of objects that have a front.

Paint is neutral, so that the hue of what is left names the object's colour alone. Its levels stand 0.16 off white and
off the dark grey of 0.08, the grounds that objects are judged on (``evaluate/thresholds.py`` asks for 0.15).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WHITE, DARK = 0.84, 0.24
EDGE = 0.03
"""Width in object units over which paint fades in at its outline: about a pixel of a 64-pixel render."""

Paint = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Object coordinates, three ``(n,)``, to the share ``(n,)`` in [0, 1] that paint covers and its grey level ``(n,)``."""

STRIPE, SLOPE = 0.17, 0.5
DOT_SPACING, DOT_RADIUS = 0.5, 0.15
CHECK = 0.3


def covered(outline: Tensor) -> Tensor:
    """Share in [0, 1] of paint at a signed distance ``outline`` from its edge, positive inside the paint."""
    return (0.5 + outline / EDGE).clamp(0, 1)


def layers(*painted: tuple[Tensor, float], opacity: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paints one over another, each ``(outline, level)``, the last on top; as ``Paint`` returns them.

    ``opacity`` is that of the first: below 1 the object's colour shines through it.
    """
    share, light = torch.zeros_like(painted[0][0]), torch.zeros_like(painted[0][0])
    for i, (outline, level) in enumerate(painted):
        own = covered(outline) * (1.0 if i else opacity)
        share, light = share + own - share * own, light * (1 - own) + level * own
    return share, light / share.clamp(min=1e-6)


def striped(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Rings that climb towards the y axis, so that sides and lids alike show bands."""
    away = (torch.remainder(y + SLOPE * torch.hypot(x, z), 2 * STRIPE) - STRIPE).abs()
    return layers((STRIPE / 2 - away, WHITE))


def dotted(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Balls on a body-centred cubic lattice, cut by the surface to discs; flat sides pass near the middles of some."""
    half = DOT_SPACING / 2
    corners = [torch.remainder(c + half, DOT_SPACING) - half for c in (x, y, z)]
    centres = [torch.remainder(c, DOT_SPACING) - half for c in (x, y, z)]
    nearest = torch.stack([sum((c * c for c in away[1:]), away[0] * away[0]) for away in (corners, centres)]).amin(0)
    return layers((DOT_RADIUS - nearest.sqrt(), WHITE))


def checkered(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Cubes of two kinds in turn, like a chessboard in three dimensions."""
    waves = [torch.remainder(c, 2 * CHECK) - CHECK for c in (x, y, z)]
    sign = torch.stack(waves).sign().prod(0)
    edge = torch.stack([torch.minimum(w.abs(), CHECK - w.abs()) for w in waves]).amin(0)
    return layers((sign * edge, WHITE))


PATTERNS: dict[str, Paint | None] = {"plain": None, "striped": striped, "dotted": dotted, "checkered": checkered}

PATTERN_TURN = {"plain": 0, "striped": 0, "dotted": 90, "checkered": 180}
"""Least turn about the y axis in degrees that leaves each pattern as it is; 0 for any turn."""
