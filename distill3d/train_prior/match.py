"""Which solid does a picture show? Photometric matching against known renders, with no trained network.

Lambert shading is nearly linear in the surface normal: brightness = a + b . n. Every view in the bank therefore
spans four basis images, its mask and its normals; a picture is explained by a view as far as least squares on those
four reaches, over mask and background alike. The light need not be known, and a flat blob, a grey ball or a bent
cube is not explained by a cube.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from ..render.cameras import orbit
from ..world import CATALOGUE, COLOURS, SHAPES, Object, normals

ELEVATIONS = tuple(range(-10, 81, 9))
ROUND = ("sphere", "cylinder", "cone", "torus", "capsule")
SCALES = (0.82, 0.9, 0.98, 1.06, 1.14)
CHUNK = 64
FOREGROUND = 0.12


@dataclass(frozen=True)
class Bank:
    """``V`` views of the known shapes.

    Attributes:
        basis: ``(V, 4, S * S)`` orthonormal rows spanning mask and normals of each view.
        shape: ``(V,)`` index into ``SHAPES``.
    """

    basis: Tensor
    shape: Tensor


@lru_cache(maxsize=2)
def build_bank(size: int = 64) -> Bank:
    """Views over elevation, apparent size and, for shapes that are not round, azimuth up to their quarter turn."""
    views = [
        (index, elevation, azimuth, scale)
        for index, shape in enumerate(SHAPES)
        for elevation, azimuth, scale in product(ELEVATIONS, (0,) if shape in ROUND else range(0, 90, 15), SCALES)
        if shape != "sphere" or elevation == ELEVATIONS[0]
    ]
    words = list(SHAPES)
    objects = [Object(words[index], "red", scale) for index, _, _, scale in views]
    parts = []
    for start in range(0, len(views), CHUNK):
        part = views[start : start + CHUNK]
        cameras = orbit([v[2] for v in part], [v[1] for v in part], 3.05, 42.0)
        normal, alpha = normals(objects[start : start + CHUNK], cameras, size)
        columns = torch.cat([alpha, alpha * normal], 1).flatten(2).mT
        noise = torch.randn(columns.shape, generator=torch.Generator().manual_seed(0))
        parts.append(torch.linalg.qr(columns + 1e-6 * noise)[0].mT)
    return Bank(torch.cat(parts).contiguous(), torch.tensor([v[0] for v in views]))


def foreground(images: Tensor) -> tuple[Tensor, Tensor]:
    """Masks ``(N, S, S)`` of what differs from the median border colour, and those colours ``(N, 3)``."""
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2)
    flat = border.median(2).values
    return (images - flat[:, :, None, None]).norm(dim=1) > FOREGROUND, flat


def brightness(images: Tensor, mask: Tensor) -> Tensor:
    """``(N, S, S)``: each masked pixel's colour along the object's mean colour, 0 outside, unit norm an image."""
    weight = mask[:, None].float()
    mean = (images * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1)
    direction = torch.nn.functional.normalize(mean, dim=1)[:, :, None, None]
    along: Tensor = (images * direction).sum(1) * mask
    length: Tensor = along.flatten(1).norm(dim=1).clamp(min=1e-6)
    return along / length[:, None, None]


def match_shapes(images: Tensor, bank: Bank) -> Tensor:
    """``(N, len(SHAPES))`` unexplained share in [0, 1] of images ``(N, 3, S, S)``, at each shape's best view."""
    mask, _ = foreground(images)
    flat = brightness(images, mask).flatten(1)
    explained = (flat @ bank.basis.flatten(0, 1).T).view(len(flat), -1, 4).square().sum(-1)
    best = [explained[:, bank.shape == i].amax(1) for i in range(len(SHAPES))]
    return (1 - torch.stack(best, 1)).clamp(0, 1)


def hue(colours: Tensor) -> Tensor:
    """Hue in degrees of ``(..., 3)`` RGB, from the angle in the chroma plane; shading by white light keeps it."""
    r, g, b = colours.unbind(-1)
    return torch.rad2deg(torch.atan2(3**0.5 * (g - b), 2 * r - g - b)) % 360


def match_colours(images: Tensor) -> Tensor:
    """``(N,)`` index into ``COLOURS`` of the hue nearest to the object's mean colour; -1 where it has next to none."""
    mask, _ = foreground(images)
    weight = mask[:, None].float()
    mean = (images * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1)
    known = hue(torch.tensor(list(COLOURS.values())))
    away = (hue(mean)[:, None] - known).abs()
    nearest = torch.minimum(away, 360 - away).argmin(1)
    grey = mean.amax(1) - mean.amin(1) < 0.08
    return torch.where(grey, -1, nearest)


def labels(objects: Sequence[Object]) -> tuple[Tensor, Tensor]:
    """True shape and colour indices, each ``(N,)``; the plain world's shapes come first in ``CATALOGUE``."""
    shapes, colours = list(CATALOGUE), list(COLOURS)
    return (
        torch.tensor([shapes.index(o.shape) for o in objects]),
        torch.tensor([colours.index(o.colour) for o in objects]),
    )
