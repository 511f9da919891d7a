"""Sim and R@1 of an object by the scorer, in the protocol of ScaleDreamer (arXiv 2407.02040, section 4.1).

120 views around the object, azimuth 0 to 360 degrees with both ends, elevation 15; Sim is the mean cosine between the
views and the object's own caption, R@1 the share of views whose nearest caption is the object's own. The corpus is
every caption of the world. Distance and field of view are the world's, not the paper's, and the scorer is this
project's own, so the figures compare methods here and nothing with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..fields.base import RadianceField
from ..render.cameras import Cameras, orbit
from ..render.occupancy import OccupancyGrid
from ..render.shading import Shading
from ..render.volume import RenderSettings, render
from ..world import Object, all_objects, trace
from ..world import headlight as lamp_directions
from .model import SIZE

VIEWS = 120
ELEVATION = 15.0
RADIUS, FOV = 3.0, 42.0
AMBIENT = 0.45
LAMP_DISTANCE = 100.0
CHUNK = 12

CORPUS = {world: tuple(o.caption() for o in all_objects(world)) for world in ("plain", "full")}
"""Every caption of each world: what a view could be taken for."""


def labels(objects: Sequence[Object]) -> Tensor:
    """``(N,)`` place of each object's caption in the full world's corpus."""
    place = {caption: i for i, caption in enumerate(CORPUS["full"])}
    return torch.tensor([place[o.caption()] for o in objects])


def scoring_cameras(count: int = VIEWS) -> Cameras:
    """``count`` cameras around the object, the last where the first is."""
    return orbit(torch.linspace(0, 360, count), ELEVATION, RADIUS, FOV)


def true_pictures(thing: Object, count: int = VIEWS) -> Tensor:
    """``(count, 3, 64, 64)`` of a world object, in the world's own light and on white."""
    return trace([thing] * count, scoring_cameras(count), SIZE, ambient=AMBIENT)[0]


@torch.no_grad()
def field_pictures(
    field: RadianceField, occupancy: OccupancyGrid | None, settings: RenderSettings, count: int = VIEWS
) -> Tensor:
    """The same of a field: the same cameras, lamp and ground."""
    cameras = scoring_cameras(count)
    lamp = LAMP_DISTANCE * lamp_directions(cameras)
    pictures = []
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        light = Shading("lambertian", lamp[part], AMBIENT, 1 - AMBIENT)
        seen = render(
            field, cameras[part], SIZE, SIZE, occupancy=occupancy, background=torch.ones(3), settings=settings,
            shading=light, generator=None,
        )  # fmt: skip
        pictures.append(seen.rgb.float().permute(0, 3, 1, 2).clamp(0, 1))
    return torch.cat(pictures)


def rank(images: Tensor, texts: Tensor) -> Tensor:
    """``(N,)`` row of ``texts`` ``(T, width)`` nearest to each of ``images`` ``(N, width)``, both of unit length."""
    return (images @ texts.T).argmax(1)
