"""Is the face whole? What is painted on an object's front, mark by mark, and nothing else.

A front is counted by what tells it from the back (``fronts``), and half of that is enough: a head with a third eye has
one front, and a house whose windows run into each other too. So each pixel of the views all around, without the cast
that they share, is read as bare or as painted, white or dark, and compared with the true object turned alike and moved
by up to two pixels. A pixel is painted when less than half of the object's own colour is left in it, so that shade,
which darkens the colour, and a tint, which is another, are told from it.
*Marks* are the connected patches of paint that the true object shows from straight ahead: two eyes and a mouth, a
badge, a door and two windows. One is there when half of it has its paint; paint further than a pixel from any true
paint of its kind strays. All views are turned by the same angle, so that a second face aside cannot stand in for the
first; where the face stands is not asked here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from skimage.measure import label
from torch import Tensor

from ..world.objects import COLOURS, Object
from ..world.paint import DARK, WHITE
from .fronts import ELEVATION, ELEVATIONS, VIEWS, Around, true_views, without_cast

WITH_FACE = ("smiley", "mug", "house")
"""Objects whose front wears marks; the ball's whole half is its front, chair and arrow wear no paint."""
TOGETHER = 5
"""Neighbouring views, 60 degrees, over which stray paint is averaged, so that no single pixel decides."""
SHIFT = 2
"""Pixels of 32 that the face may lie higher, lower or aside."""
THICK = 3
"""Pixels that fit into a mark each way: the white line that is left of a mug's inside is none."""
STRONG = 0.75
"""Least paint of a true mark; a house's roof, which its colour shines through, is none."""
KINDS = LIGHT, SHADE = (0, 1)


@dataclass(frozen=True)
class Face:
    """What was found of the marks.

    Attributes:
        marks: how many the true object shows from ahead.
        found: how many of them are there.
        stray: share of what is seen that is paint and should be none, in the worst five neighbouring views.
        turn: degrees from azimuth 0 to the face.
    """

    marks: int
    found: int
    stray: float
    turn: float


def has_face(thing: Object) -> bool:
    """Whether its front wears marks that can be told apart."""
    return thing.shape in WITH_FACE


def read_paint(parts: Tensor, colour: str, least: float = 0.5) -> Tensor:
    """``(2, n, 32, 32)`` bool: where views as ``fronts.describe`` gives them are white, and where they are dark.

    Paint covers ``1 - k`` of the own colour ``c``, whose grey part counts for nothing: ``k = <p, c> / <c, c>`` of pixel
    and colour without their means. It is read where it covers ``least``, and nowhere in air.
    """
    opacity = parts[:, :1]
    rgb = parts[:, 1:4] / opacity.clamp(min=1e-3)
    level = rgb.mean(1)
    own = torch.tensor(COLOURS[colour])
    own = own - own.mean()
    kept = torch.einsum("nchw,c->nhw", rgb - level[:, None], own) / own.square().sum()
    painted = (1 - kept >= least) & (opacity[:, 0] > 0.5)
    light = level > (WHITE + DARK) / 2
    return torch.stack([painted & light, painted & ~light])


def find_face(around: Around, thing: Object) -> Face:
    """The face of an observed field that should be this object, in the turn and place that fit best.

    Raises:
        ValueError: it wears no marks.
    """
    if not has_face(thing):
        raise ValueError(f"expected an object with a face, {', '.join(WITH_FACE)}, got a {thing.shape}")
    truth = true_views(thing.shape, thing.colour)[ELEVATIONS.index(ELEVATION)]
    marks = _marks(read_paint(truth[:1], thing.colour, STRONG)[:, 0])
    bare = ~_grown(read_paint(truth, thing.colour))
    seen = read_paint(without_cast(around, truth), thing.colour)
    opaque = (around.parts[:, 0] > 0.5).sum((1, 2)).clamp(min=1)
    best = Face(len(marks), -1, 1.0, 0.0)
    for turn in sorted(range(-VIEWS // 2, VIEWS // 2), key=abs):
        for dy in range(-SHIFT, SHIFT + 1):
            for dx in range(-SHIFT, SHIFT + 1):
                own = seen.roll((-turn, dy, dx), (1, 2, 3))
                found = sum(bool(own[kind, 0][mark].float().mean() >= 0.5) for mark, kind in marks)
                shares = (own & bare).sum((0, 2, 3)) / opaque.roll(-turn)
                stray = float(torch.stack([shares.roll(step) for step in range(TOGETHER)]).mean(0).max())
                if (found, -stray) > (best.found, -best.stray):
                    best = Face(len(marks), found, stray, math.remainder(turn * 360.0 / VIEWS, 360.0))
    return best


def _marks(paint: Tensor) -> list[tuple[Tensor, int]]:
    """Masks of connected patches of one kind of paint, ``(32, 32)`` each, and the kind."""
    found = []
    for kind in KINDS:
        numbered = torch.from_numpy(label(paint[kind].numpy(), connectivity=1))
        patches = [numbered == i for i in range(1, int(numbered.max()) + 1)]
        found += [(patch, kind) for patch in patches if bool(F.avg_pool2d(patch.float()[None], THICK, 1).max() == 1)]
    return found


def _grown(mask: Tensor) -> Tensor:
    """A mask ``(..., H, W)`` and the pixels next to it."""
    return F.max_pool2d(mask.float(), 3, 1, 1) > 0
