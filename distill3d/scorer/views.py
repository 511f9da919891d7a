"""Sim and R@1 of an object by the scorer, in the protocol of ScaleDreamer (arXiv 2407.02040, section 4.1).

120 views around the object, azimuth 0 to 360 degrees with both ends, elevation 15; Sim is the mean cosine between the
views and the object's own caption, R@1 the share of views whose nearest caption is the object's own. The corpus is
every caption of the world. Distance and field of view are the world's, not the paper's, and the scorer is this
project's own, so the figures compare methods here and nothing with published ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..fields.base import RadianceField
from ..render.cameras import Cameras, orbit
from ..render.occupancy import OccupancyGrid
from ..render.shading import Shading
from ..render.volume import RenderSettings, render
from ..world import Object, all_objects, trace
from ..world import headlight as lamp_directions
from .model import SIZE, Scorer

VIEWS = 120
ELEVATION = 15.0
RADIUS, FOV = 3.0, 42.0
AMBIENT = 0.45
LAMP_DISTANCE = 100.0
CHUNK = 12

CORPUS = {world: tuple(o.caption() for o in all_objects(world)) for world in ("plain", "full")}
"""Every caption of each world: what a view could be taken for."""


@dataclass(frozen=True)
class Score:
    """Figures of one object's views.

    Attributes:
        sim: mean cosine with the object's own caption.
        r_at_1: share of views whose nearest caption in the corpus is the object's own.
        nearest: the caption most views are nearest to.
    """

    sim: float
    r_at_1: float
    nearest: str

    def to_json(self) -> dict[str, float | str]:
        return asdict(self)


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


@torch.no_grad()
def score(scorer: Scorer, pictures: Tensor, caption: str, world: str) -> Score:
    """Score views ``(N, 3, 64, 64)`` in [0, 1] for a caption of a world's corpus.

    Raises:
        ValueError: the caption is not in the corpus.
    """
    corpus = CORPUS[world]
    own = corpus.index(caption)
    cosines = scorer.embed_images(pictures) @ scorer.embed_texts(corpus).T
    nearest = cosines.argmax(1)
    most = int(torch.bincount(nearest, minlength=len(corpus)).argmax())
    return Score(float(cosines[:, own].mean()), float((nearest == own).float().mean()), corpus[most])
