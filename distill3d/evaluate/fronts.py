"""How many fronts does a field have? Each view of a ring around it is matched against known renders of the true object.

A view is described by its opacity, its own colour and its normals in the camera's axes, cut to the object; the light
does not enter, and a cast that all views share is taken off. Of the true object the same is known from every azimuth.
A view *shows the front* when the best match stands within 22.5 degrees of the true front, and when what tells that side
from the opposite one is there to at least one half: ``c = <F - B, A - B> / <A - B, A - B>`` with the view ``F``, the
matched true view ``A`` and the true view ``B`` from the opposite side; 1 is the front itself, 0 a ball without a face,
or a view without an opaque pixel.
True views are known as in a mirror too: a second mug grown out of the back of a first has its handle on the other side
of the badge. Such a front counts, and is named, because one alone is the wrong object. Neighbouring views that show
the front are one front, but every full 90 degrees of them count. A head with two faces has two, the Janus problem of
text-to-3D.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fields.base import RadianceField
from ..render.cameras import Cameras, orbit
from ..render.occupancy import OccupancyGrid
from ..render.shading import Shading
from ..render.volume import RenderSettings, render
from ..world.crop import cut_out
from ..world.objects import Object
from ..world.trace import looks

VIEWS = 24
ELEVATION = 15.0
ELEVATIONS = (5.0, 15.0, 25.0)
SIZE = 64
FRONTAL = 22.5
GAP = 2
"""Views that may be missing inside one front: 30 degrees."""
SHORTEST = 2
"""Fewest views that make a front; a true one has three."""
WIDTH = 6
"""Views that one front may fill, as wide as the front view of prompts; every 90 degrees more are another front."""
NORMAL_WEIGHT = 0.5
CLEARLY = 0.99
"""Share of the plain match's distance below which a mirrored one is better: most objects equal their mirror image."""
NORMAL_X = 4
"""Channel of a description that a mirror negates."""


@dataclass(frozen=True)
class Around:
    """What a field shows from 24 azimuths, elevation 15.

    Attributes:
        parts: ``(24, 7, 32, 32)`` opacity, colour and weighted normals in camera axes, cut to the object.
    """

    parts: Tensor


@dataclass(frozen=True)
class Fronts:
    """The fronts found.

    Attributes:
        azimuths: degrees of each front's middle view; 0 is where view prompts put the front.
        mirrored: of each front, whether most of its views match true ones in a mirror.
        matched: ``(24,)`` degrees of the best matching true azimuth of each view.
        strength: ``(24,)`` ``c`` of each view, 0 where nothing is opaque.
    """

    azimuths: tuple[float, ...]
    mirrored: tuple[bool, ...]
    matched: tuple[float, ...]
    strength: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.azimuths)


def ring_of_views(elevation: float = ELEVATION) -> Cameras:
    return orbit(torch.arange(VIEWS) * (360.0 / VIEWS), elevation, 3.0, 42.0)


def describe(opacity: Tensor, colour: Tensor, normal: Tensor, cameras: Cameras) -> Tensor:
    """``(B, 7, 32, 32)`` from opacity ``(B, S, S)``, colour and world-space normals ``(B, 3, S, S)``."""
    local = torch.einsum("bji,bjhw->bihw", cameras.c2w[:, :, :3], normal)
    weighted = torch.cat([torch.ones_like(colour[:, :1]), colour, NORMAL_WEIGHT * local], 1) * opacity[:, None]
    return cut_out(weighted, opacity > 0.5)


@torch.no_grad()
def look_around(field: RadianceField, occupancy: OccupancyGrid | None, settings: RenderSettings) -> Around:
    """Render the ring, unlit and without jitter."""
    cameras = ring_of_views()
    seen = render(
        field, cameras, SIZE, SIZE, occupancy=occupancy, background=torch.zeros(3), settings=settings,
        shading=Shading(), normals=True, generator=None,
    )  # fmt: skip
    opacity = seen.opacity.float()
    colour = (seen.foreground.float() / opacity.clamp(min=1e-3)[..., None]).clamp(0, 1)
    normal = torch.zeros_like(colour) if seen.normal is None else seen.normal.float()
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=1e-4)
    return Around(describe(opacity, colour.permute(0, 3, 1, 2), normal.permute(0, 3, 1, 2), cameras))


@functools.lru_cache(maxsize=16)
def true_views(shape: str, colour: str) -> Tensor:
    """``(6, 24, 7, 32, 32)``: the true object at three elevations and 24 azimuths, described like a field's views, then
    the same mirrored: at azimuth ``a`` what a mirror shows of ``-a``."""
    thing = Object(shape, colour)
    rows = []
    for elevation in ELEVATIONS:
        cameras = ring_of_views(elevation)
        seen = looks([thing] * VIEWS, cameras, SIZE)
        rows.append(describe(seen.alpha[:, 0], seen.albedo, seen.normal, cameras))
    truth = torch.stack(rows)
    mirrored = truth.roll(-1, 1).flip(1, -1)
    mirrored[:, :, NORMAL_X] *= -1
    return torch.cat([truth, mirrored])


def runs(shown: list[bool], gap: int = GAP, shortest: int = SHORTEST) -> list[list[int]]:
    """Stretches of true entries on a ring, over gaps of at most ``gap``, that hold at least ``shortest`` of them.

    >>> runs([True, True, False, False, False, False, True, False])
    [[6, 0, 1]]
    """
    count = len(shown)
    places = [i for i in range(count) if shown[i]]
    if not places:
        return []
    found: list[list[int]] = [[places[0]]]
    for place in places[1:]:
        if place - found[-1][-1] <= gap + 1:
            found[-1].append(place)
        else:
            found.append([place])
    if len(found) > 1 and found[0][0] + count - found[-1][-1] <= gap + 1:
        found[0] = found.pop() + found[0]
    return [run for run in found if len(run) >= shortest]


def find_fronts(around: Around, shape: str, colour: str) -> Fronts:
    """Count the fronts of an observed field that should be this object; it must be one with a front."""
    truth = true_views(shape, colour)
    parts = without_cast(around, truth[len(ELEVATIONS) // 2])
    flat, known = parts.flatten(1), truth.flatten(2)
    distance = torch.stack([torch.cdist(flat[None], rows[None])[0] for rows in known])
    plain, mirror = (part.amin((0, 2)) for part in distance.split(len(ELEVATIONS)))
    reflected = mirror < CLEARLY * plain
    distance[len(ELEVATIONS) :, ~reflected] = torch.inf
    best = distance.amin(0).argmin(1)
    tilt = distance.gather(2, best[None, :, None].expand(len(known), -1, 1)).squeeze(2).argmin(0)
    ahead = known[tilt, best]
    behind = known[tilt, (best + VIEWS // 2) % VIEWS]
    span = ahead - behind
    strength = ((flat - behind) * span).sum(1) / span.square().sum(1).clamp(min=1e-8)
    step = 360.0 / VIEWS
    matched = [math.remainder(float(b) * step, 360.0) for b in best]
    strength = torch.where(around.parts[:, 0].sum((1, 2)) > 0, strength, 0.0)
    shown = [abs(m) <= FRONTAL and s >= 0.5 for m, s in zip(matched, strength.tolist(), strict=True)]
    fronts = [part for run in runs(shown) for part in _divided(run)]
    middles = tuple(_middle([i * step for i in part]) for part in fronts)
    mirrored = tuple(bool(reflected[part].float().mean() > 0.5) for part in fronts)
    return Fronts(middles, mirrored, tuple(matched), tuple(strength.tolist()))


def without_cast(around: Around, truth: Tensor) -> Tensor:
    """The field's views ``(24, 7, 32, 32)`` with the mean colour that the true ones at its elevation have."""
    offset = _mean_colour(around.parts) - _mean_colour(truth)
    parts = around.parts.clone()
    parts[:, 1:4] -= offset[:, None, None] * parts[:, :1]
    return parts


def _mean_colour(parts: Tensor) -> Tensor:
    """``(3,)`` mean colour over all views, weighted by opacity."""
    return parts[:, 1:4].sum((0, 2, 3)) / parts[:, 0].sum().clamp(min=1e-6)


def _divided(run: list[int]) -> list[list[int]]:
    """A stretch in equal parts of at least ``WIDTH`` views, or whole when it is shorter than two of them."""
    parts = max(1, len(run) // WIDTH)
    return [run[len(run) * i // parts : len(run) * (i + 1) // parts] for i in range(parts)]


def _middle(degrees: list[float]) -> float:
    """Mean direction in degrees, -180 to 180."""
    x = sum(math.cos(math.radians(d)) for d in degrees)
    y = sum(math.sin(math.radians(d)) for d in degrees)
    return round(math.degrees(math.atan2(y, x)), 3)
