"""Perp-Neg: view prompts that are blended over the azimuth, and wrong views as perpendicular negatives.

https://arxiv.org/abs/2304.04968, with the weights of threestudio's prompt processor: the target text between two views
is a blend of their embeddings; the two views that a picture must not show are subtracted, but only the part of their
directions that is perpendicular to the target's. Every row here belongs to one sample, so any batch size is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingsError
from ..schedules import Schedule
from .base import dot
from .settings import MethodSettings

VIEWS = ("side", "front", "back")
Curve = tuple[float, float, float]


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """``x - <x, y> / max(<y, y>, 1e-6) y``, the part of x perpendicular to y, for each sample; ``(B, C, H, W)``.

    >>> perpendicular(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]])).tolist()
    [[0.0, 4.0]]
    """
    return x - dot(x, y) / dot(y, y).clamp(min=1e-6) * y


def correction(e_y: Tensor, e_ref: Tensor, e_views: Tensor, weights: Tensor) -> Tensor:
    """``sum_i w_i perp(e_i - e_ref, e_y - e_ref)``, what Perp-Neg adds to the guided direction ``e_y - e_ref``.

    Args:
        e_views: ``(B, n, C, H, W)`` predictions of the n views to avoid; ``weights`` ``(B, n)``, 0 or below.
    """
    y = e_y - e_ref
    total = torch.zeros_like(y)
    for e_i, w_i in zip(e_views.unbind(1), weights.unbind(1), strict=True):
        total = total + w_i.reshape(-1, *[1] * (y.ndim - 1)) * perpendicular(e_i - e_ref, y)
    return total


@dataclass(frozen=True)
class PerpNegSettings(MethodSettings):
    """Settings of Perp-Neg. The curves ``a exp(-b r) + c`` are threestudio's."""

    enabled: bool = False
    """Blend the view prompts over the azimuth and push away from wrong views, for objects with a front. Costs two more
    evaluations a view. Needs sectors named front, side and back."""
    strength: Schedule | None = None
    """Weight of the push over the run, no unit, 0 or more. None takes the method's published one: SDS 1, ASD 0.5,
    CSD 3, and 1, our choice, for those published without. At 0 the prompts are still blended and nothing more is
    evaluated."""
    f_sb: Curve = (1.0, 0.5, -0.606)
    """Push away from the side while the view turns from side to back: a, b, c."""
    f_fsb: Curve = (1.0, 0.5, 0.967)
    """Push away from the front while the view turns from side to back: a, b, c."""
    f_fs: Curve = (4.0, 0.5, -2.426)
    """Push away from the front while the view turns from front to side: a, b, c."""
    f_sf: Curve = (4.0, 0.5, -2.426)
    """Push away from the side while the view turns from side to front: a, b, c."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("f_sb", "f_fsb", "f_fs", "f_sf"):
            try:
                curve = tuple(float(v) for v in getattr(self, name))
            except (TypeError, ValueError):
                curve = ()
            if len(curve) != 3 or not all(map(math.isfinite, curve)):
                raise SettingsError(
                    f"expected {name} as three numbers a, b, c, got {getattr(self, name)}: try 1 0.5 -0.606"
                )
            object.__setattr__(self, name, curve)


@dataclass(frozen=True)
class Blend:
    """What one view is told: the target is ``share`` of ``first`` and the rest of ``second``; ``avoid`` has the two
    views to push away from and their weights, 0 or below."""

    first: str
    second: str
    share: float
    avoid: tuple[tuple[str, float], tuple[str, float]]


def decay(curve: Curve, r: float) -> float:
    """``a exp(-b r) + c``."""
    a, b, c = curve
    return a * math.exp(-b * r) + c


def blend(azimuth: float, settings: PerpNegSettings) -> Blend:
    """The blend at an azimuth in degrees, 0 the front (threestudio, ``get_text_embeddings_perp_neg``).

    >>> blend(90, PerpNegSettings()).first, round(blend(180, PerpNegSettings()).avoid[1][1], 3)
    ('side', -1.967)
    """
    turned = abs((azimuth + 180) % 360 - 180)
    if turned < 90:
        r = 1 - turned / 90
        avoid = (("front", -decay(settings.f_fs, r)), ("side", -decay(settings.f_sf, 1 - r)))
        return Blend("front", "side", r, avoid)
    r = 2 - turned / 90
    return Blend("side", "back", r, (("side", -decay(settings.f_sb, r)), ("front", -decay(settings.f_fsb, r))))
