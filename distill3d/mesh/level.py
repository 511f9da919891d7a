"""Choose the iso level of a density field from the field itself, by the opacity a viewer sees.

A radiance field has no surface of its own, only an opacity along each ray, ``alpha = 1 - exp(-sum sigma h)``
(Max 1995; NeRF, arXiv 2003.08934, equation 3). A fixed density level is wrong by orders of magnitude from one run to
the next: the same opaque ball may be made of density 5 or of density 5000. The rule here:

1. Subtract the haze: the median density on the sides of the sampled box, where no object is.
2. Look through the rest from all round. Every ray has an opacity ``alpha`` and a largest density ``m``; the solid
   ``{sigma > L}`` covers that ray exactly where ``m > L``.
3. Take the levels whose covered rays disagree least with the opacities,
   ``cost(L) = sum_{m > L} (1 - alpha) + sum_{m <= L} alpha``. An edge that is soft gives one sharp minimum; an edge
   that is hard gives a wide band of equally good levels.
4. Of the levels around the best whose cost is within 1 % of the covered area of the least one, take the middle in log
   density: far from what is left of the haze and far from the uneven matter inside. It is never more than half the
   median ``m`` of the covered rays, so that it does not graze the plateau of a thin, faint object.

So the mesh covers the pixels that the rendered field covers, whatever the density's scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

VIEWS = 8
"""Directions looked along."""
RAYS = 72
"""Rays along each side of a view."""
BLOCK = 1024
"""Rays sampled at once."""
TOLERANCE = 0.01
"""Extra silhouette error, as a share of the covered area, that still counts as equally good."""
FAINT = 0.5
"""Below this largest ray opacity the object is called faint and opacities are taken relative to the largest."""
INVISIBLE = 0.05
"""Below this largest ray opacity there is nothing to see."""
VISIBLE_DENSITY = 0.005
"""Matter thinner than this is 1 % opaque across the whole box and not looked at."""
DECADES = 1e-4
"""Levels below this share of the band's upper end are not considered (an exact zero has no logarithm)."""


@dataclass(frozen=True)
class LevelChoice:
    """A level and how it came about.

    Attributes:
        level: density, or None where the field holds no visible object.
        rule: 'silhouette', 'faint' (the same on opacities relative to the largest), or, without a level, 'transparent'
            (nothing to see) and 'opaque' (a fog as dense as the object fills the box).
        band: the (lowest, highest) density that would have served as well.
        mismatch: silhouette error at the level as a share of the covered area.
        opacity: the largest ray opacity, without the haze.
        haze: density subtracted before looking, and added to the level again.
    """

    level: float | None
    rule: str
    band: tuple[float, float]
    mismatch: float
    opacity: float
    haze: float


def directions(count: int = VIEWS) -> Tensor:
    """``(count, 3)`` unit view directions, a Fibonacci half-sphere: even, and none along an axis.

    A direction along x, y or z would look along the faces of a box and take its faint rim for matter.
    """
    k = torch.arange(count, dtype=torch.float64)
    y = (k + 0.5) / count
    angle = k * math.pi * (3 - math.sqrt(5)) + 0.4
    ring = (1 - y * y).sqrt()
    return torch.stack([ring * angle.cos(), y, ring * angle.sin()], -1)


def ray_views(density: Tensor, low: Tensor, spacing: float, rays: int = RAYS) -> tuple[Array, Array]:
    """Opacity and largest density of rays from all round, by trilinear sampling.

    Args:
        density: ``(X, Y, Z)`` float on the CPU, zero or more, zero outside.
        low: ``(3,)`` world position of the first lattice point.
        spacing: distance between lattice points in world units, also the step along the ray.
        rays: rays along each side of a view.

    Returns:
        ``alpha`` and ``m``, each ``(n,)`` float64, of the rays around all that can be seen.
    """
    low = low.to(torch.float64)
    size = torch.tensor(density.shape, dtype=torch.float64) - 1
    visible = density > VISIBLE_DENSITY
    if not bool(visible.any()):
        return np.zeros(1), np.full(1, float(density.max()))
    extent = [visible.any(first).any(second).nonzero()[[0, -1], 0] for first, second in ((2, 1), (2, 0), (1, 0))]
    corners = low + spacing * torch.stack(extent, -1)
    centre, reach = corners.mean(0), float((corners[1] - corners[0]).norm() / 2) + 2 * spacing
    side = torch.linspace(-reach, reach, rays, dtype=torch.float64)
    t = torch.arange(-reach, reach, spacing, dtype=torch.float64)
    volume = density.permute(2, 1, 0)[None, None]
    found: list[Tensor] = []
    for direction in directions():
        right = torch.nn.functional.normalize(torch.linalg.cross(direction, direction.roll(1)), dim=0)
        up = torch.linalg.cross(right, direction)
        origin = side[:, None, None] * right + side[None, :, None] * up
        origin = centre + origin.reshape(-1, 3)
        for part in origin.split(BLOCK):
            x = part[:, None] + t[None, :, None] * direction
            unit = ((x - low) / (spacing * size) * 2 - 1).to(volume.dtype)
            sigma = torch.nn.functional.grid_sample(volume, unit[None, None], align_corners=True)[0, 0, 0].double()
            found.append(torch.stack([-torch.expm1(-spacing * sigma.sum(-1)), sigma.amax(-1)]))
    alpha, m = torch.cat(found, 1).numpy()
    return alpha, m


def silhouette_level(alpha: Array, m: Array) -> tuple[float, tuple[float, float], float]:
    """Level, band and mismatch of least disagreement between opacities and covered rays (steps 3 and 4 above).

    Needs some opacity and some density above 0.

    >>> level, band, mismatch = silhouette_level(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 100.0, 100.0]))
    >>> round(level, 6), band, mismatch
    (10.0, (1.0, 100.0), 0.0)
    """
    order = np.argsort(m, kind="stable")
    m, alpha = m[order], alpha[order]
    uncovered = np.concatenate([[0.0], np.cumsum(alpha)])
    covered = np.concatenate([np.cumsum((1 - alpha)[::-1])[::-1], [0.0]])
    value, first = np.unique(m, return_index=True)
    value, first = value[value > 0], first[value > 0]
    # band k holds the levels in [value[k - 1], value[k]): exactly the rays before first[k] are uncovered
    cost = (uncovered + covered)[first]
    area = float(alpha.sum())
    good = cost <= cost.min() + TOLERANCE * area
    start = stop = int(cost.argmin())
    while start > 0 and good[start - 1]:
        start -= 1
    while stop + 1 < len(good) and good[stop + 1]:
        stop += 1
    low, high = (float(value[start - 1]) if start > 0 else 0.0), float(value[stop])
    middle = math.sqrt(max(low, DECADES * high) * high)
    inside = float(m[np.searchsorted(np.cumsum(alpha), 0.5 * area)])
    return min(middle, inside / 2), (low, high), float(cost.min() / area)


def haze_density(density: Tensor) -> float:
    """Median density on the six sides of the lattice: what is there where no object is."""
    sides = [density.select(axis, index).flatten() for axis in range(3) for index in (0, -1)]
    return float(torch.cat(sides).median())


def choose_level(density: Tensor, low: Tensor, spacing: float) -> LevelChoice:
    """Apply the rule of this module to a sampled field; arguments as for :func:`ray_views`, density finite."""
    haze = haze_density(density)
    alpha, m = ray_views((density - haze).clamp(min=0), low, spacing)
    opacity = float(alpha.max())
    if opacity < INVISIBLE:
        rule = "transparent" if -math.expm1(-2 * haze) < INVISIBLE else "opaque"
        return LevelChoice(None, rule, (haze, float(density.max())), 1.0, opacity, haze)
    rule = "silhouette"
    if opacity < FAINT:
        rule, alpha = "faint", alpha / opacity
    level, (lowest, highest), mismatch = silhouette_level(alpha, m)
    return LevelChoice(level + haze, rule, (lowest + haze, highest + haze), mismatch, opacity, haze)
