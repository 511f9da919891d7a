"""Does a field wear its object's paint? Its colours against those of the true object in the same pose."""

from __future__ import annotations

import functools
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


def pattern_errors(views: Views, thing: Object, pose: Pose) -> dict[str, float]:
    """For every pattern the least mean squared colour error over pixels that field and truth both cover."""
    own = views.colour().permute(0, 3, 1, 2)
    errors = {}
    for pattern in WORLDS["full"].patterns:
        candidate = replace(thing, pattern=pattern)
        found = []
        for yaw in _yaws(candidate, pose):
            albedo, alpha = _shown(candidate, replace(pose, yaw=yaw))
            weight = (alpha * views.opacity)[:, None]
            found.append(float(((own - albedo).square() * weight).sum() / weight.sum().clamp(min=1e-6) / 3))
        errors[pattern] = min(found)
    return errors
