"""Does a field wear its object's paint? Its colours against those of the true object in the same pose."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..world.catalogue import CATALOGUE, WORLDS
from ..world.objects import Object
from ..world.trace import looks
from .colour import ColourReading, chroma, read_colour
from .fit import Pose
from .views import SIZE, Views, from_object, judging_cameras

YAW_STEP = 15


def is_painted(thing: Object) -> bool:
    """Whether anything but its own colour shows on it."""
    return thing.pattern != "plain" or CATALOGUE[thing.shape].paint is not None


def _shown(thing: Object, pose: Pose) -> tuple[Tensor, Tensor]:
    """True colour ``(12, 3, 64, 64)`` and coverage ``(12, 64, 64)`` from the judging views."""
    seen = looks([thing] * 12, from_object(judging_cameras(), pose), SIZE)
    return seen.albedo, seen.alpha[:, 0]


@functools.lru_cache(maxsize=64)
def true_reading(thing: Object, pale: float) -> ColourReading:
    """The hue reading of the true object, front to +z, as ``read_colour`` takes it of a field."""
    albedo, alpha = _shown(thing, Pose(0.0, 0.0, 0.0, 1.0, 0.0))
    return read_colour(albedo.permute(0, 2, 3, 1), alpha, pale)


@functools.lru_cache(maxsize=64)
def paint_shares(thing: Object, pale: float) -> tuple[float, float]:
    """Shares of what one sees of the true object that are light and dark paint: pale pixels above and below grey."""
    albedo, alpha = _shown(thing, Pose(0.0, 0.0, 0.0, 1.0, 0.0))
    rgb = albedo.permute(0, 2, 3, 1)
    paint = (chroma(rgb) < pale) * alpha
    light = rgb.mean(-1) > 0.5
    return float((paint * light).sum() / alpha.sum()), float((paint * ~light).sum() / alpha.sum())


def _yaws(thing: Object, pose: Pose) -> list[float]:
    """The turns to try: a fitted yaw says nothing of the paint on a solid that looks the same after a smaller turn."""
    step = CATALOGUE[thing.shape].turn or YAW_STEP
    return [pose.yaw + float(torch.deg2rad(torch.tensor(float(d)))) for d in range(0, thing.turn or 1, step)]


def _compared(views: Views, thing: Object, pose: Pose) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Field's colour, true colour and weight, ``(12, 3, 64, 64)`` twice and ``(12, 1, 64, 64)``, at each turn to try.

    Weighted are the pixels that both cover; the weights add up to 1, or to 0 where there is no such pixel.
    """
    own = views.colour().permute(0, 3, 1, 2)
    for yaw in _yaws(thing, pose):
        albedo, alpha = _shown(thing, replace(pose, yaw=yaw))
        weight = (alpha * views.opacity)[:, None]
        yield own, albedo, weight / weight.sum().clamp(min=1e-6)


def pattern_errors(views: Views, thing: Object, pose: Pose) -> dict[str, float]:
    """For every pattern the least mean squared colour error over pixels that field and truth both cover."""
    errors = {}
    for pattern in WORLDS["full"].patterns:
        compared = _compared(views, replace(thing, pattern=pattern), pose)
        errors[pattern] = min(float(((own - true).square() * weight).sum() / 3) for own, true, weight in compared)
    return errors


def pattern_correlation(views: Views, thing: Object, pose: Pose) -> float:
    """The largest Pearson correlation of the field's colours with the painted truth's, over the same turns and pixels.

    Each channel about its own mean, so that neither a cast nor paler paint counts: only where the paint is. 1 is
    perfect, 0 what any other blotches have, or a field of one colour.
    """
    return max(correlation(*compared) for compared in _compared(views, thing, pose))


def correlation(a: Tensor, b: Tensor, weight: Tensor) -> float:
    """Pearson correlation of pictures ``(B, 3, H, W)``, each channel about its own mean; 0 if either is of one colour.

    ``weight`` ``(B, 1, H, W)`` adds up to 1.
    """
    a, b = (c - (c * weight).sum((0, 2, 3), keepdim=True) for c in (a, b))
    spread = (a.square() * weight).sum() * (b.square() * weight).sum()
    return float((a * b * weight).sum() / spread.sqrt().clamp(min=1e-9))
