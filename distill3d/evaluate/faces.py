"""Is the face whole? What is painted on an object's front, mark by mark, and nothing else.

A front is counted by what tells it from the back (``fronts``), and half of that is enough: a head with a third eye has
one front, and a house whose windows run into each other too. So each pixel of the views around the front, without the
cast that all views share, is read as the object's own colour, as white or as dark paint, whichever is nearest, and
compared with the true object turned alike and moved by up to two pixels.
*Marks* are the connected patches of paint that the true object shows from straight ahead: two eyes and a mouth, a
badge, a door and two windows. One is there when half of it has its paint; paint further than a pixel from any true
paint of its kind strays. All views are turned by the same angle, so that a second face aside cannot stand in for the
first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from skimage.measure import label
from torch import Tensor

from ..world.figures import ROOF
from ..world.objects import COLOURS, Object
from ..world.paint import DARK, WHITE
from .fronts import ELEVATIONS, VIEWS, Around, true_views, without_cast

WITH_FACE = ("smiley", "mug", "house")
"""Objects whose front wears marks; the ball's whole half is its front, chair and arrow wear no paint."""
TURNS = 4
"""Views, 15 degrees each, that the face may be turned by; where fronts may stand is judged elsewhere."""
ASIDE = 2
"""Views to either side of it that are read."""
SHIFT = 2
"""Pixels of 32 that it may lie higher, lower or aside."""
THICK = 3
"""Pixels that fit into a mark each way: the white line that is left of a mug's inside is none."""
OWN, LIGHT, SHADE = 0, 1, 2


@dataclass(frozen=True)
class Face:
    """What was found of the marks.

    Attributes:
        marks: how many the true object shows from ahead.
        found: how many of them are there.
        stray: share of what is seen, mean of the views, that is paint and should be none.
        turn: degrees from azimuth 0 to the face.
    """

    marks: int
    found: int
    stray: float
    turn: float


def has_face(thing: Object) -> bool:
    """Whether its front wears marks that can be told apart."""
    return thing.shape in WITH_FACE


def read_paint(parts: Tensor, thing: Object) -> Tensor:
    """``(n, 32, 32)`` of OWN, LIGHT and SHADE for views as ``fronts.describe`` gives them; OWN also where air is."""
    opacity = parts[:, :1]
    rgb = parts[:, 1:4] / opacity.clamp(min=1e-3)
    own = torch.tensor(COLOURS[thing.colour])
    known = [(own, OWN), (torch.full_like(own, WHITE), LIGHT), (torch.full_like(own, DARK), SHADE)]
    if thing.shape == "house":
        known.append((torch.lerp(own, torch.full_like(own, DARK), ROOF), OWN))
    distance = torch.stack([(rgb - colour[:, None, None]).square().sum(1) for colour, _ in known])
    kinds = torch.tensor([kind for _, kind in known])[distance.argmin(0)]
    return torch.where(opacity[:, 0] > 0.5, kinds, OWN)


def find_face(around: Around, thing: Object) -> Face:
    """The face of an observed field that should be this object, in the turn and place that fit best.

    Raises:
        ValueError: it wears no marks.
    """
    if not has_face(thing):
        raise ValueError(f"expected an object with a face, {', '.join(WITH_FACE)}, got a {thing.shape}")
    truth = true_views(thing.shape, thing.colour)[ELEVATIONS.index(15.0)]
    ahead = [step % VIEWS for step in range(-ASIDE, ASIDE + 1)]
    true = read_paint(truth[ahead], thing)
    marks = _marks(true[ASIDE])
    allowed = torch.stack([_grown(true == kind) for kind in (LIGHT, SHADE)])
    seen = read_paint(without_cast(around, truth), thing)
    solid = around.parts[:, 0] > 0.5
    best = Face(len(marks), -1, 1.0, 0.0)
    for turn in sorted(range(-TURNS, TURNS + 1), key=abs):
        views = [(step + turn) % VIEWS for step in ahead]
        for dy in range(-SHIFT, SHIFT + 1):
            for dx in range(-SHIFT, SHIFT + 1):
                own = seen[views].roll((dy, dx), (1, 2))
                found = sum(bool((own[ASIDE][mark] == kind).float().mean() >= 0.5) for mark, kind in marks)
                wrong = ((own == LIGHT) & ~allowed[0]) | ((own == SHADE) & ~allowed[1])
                stray = float((wrong.sum((1, 2)) / solid[views].sum((1, 2)).clamp(min=1)).mean())
                if (found, -stray) > (best.found, -best.stray):
                    best = Face(len(marks), found, stray, turn * 360.0 / VIEWS)
    return best


def _marks(kinds: Tensor) -> list[tuple[Tensor, int]]:
    """Masks of connected patches of one kind of paint, ``(32, 32)`` each, and the kind."""
    found = []
    for kind in (LIGHT, SHADE):
        numbered = torch.from_numpy(label((kinds == kind).numpy(), connectivity=1))
        patches = [numbered == i for i in range(1, int(numbered.max()) + 1)]
        found += [(patch, kind) for patch in patches if bool(F.avg_pool2d(patch.float()[None], THICK, 1).max() == 1)]
    return found


def _grown(mask: Tensor) -> Tensor:
    """A mask ``(n, H, W)`` and the pixels next to it."""
    return F.max_pool2d(mask.float()[:, None], 3, 1, 1)[:, 0] > 0
