"""Sim and R@1 of a job's field by the image-text scorer, beside the judge's verdict and never part of it.

The 120 views are kept as one picture, so that another scorer reads them again without rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluate import grey_ball, parse_object, two_faced, world_of
from ..evaluate.controls import HEADS
from ..fields.base import RadianceField
from ..fields.density import DensityField
from ..optimize import Settings
from ..render.occupancy import OccupancyGrid
from ..render.pictures import write_png
from ..render.volume import RenderSettings
from ..scorer import CORPUS, VIEWS, Scorer, field_pictures, true_pictures

VIEWS_FILE = "views.png"
SCORE_VERSION = 1
"""Raised by hand when views are taken or scored differently, so that kept fields are scored again."""
COLUMNS = 12


def write_views(path: Path, pictures: Tensor) -> Path:
    """Keep views ``(120, 3, S, S)`` in [0, 1] as a picture of 10 rows, 8 bits a channel. Raises ``OutputError``."""
    from PIL import Image

    count, channels, height, width = pictures.shape
    grid = (pictures * 255).round().to(torch.uint8).view(count // COLUMNS, COLUMNS, channels, height, width)
    return write_png(path, Image.fromarray(grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()))


def read_views(path: Path, count: int = VIEWS) -> Tensor | None:
    """The views ``(count, 3, S, S)`` that ``write_views`` kept; None where there are none that can be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            whole = torch.from_numpy(np.array(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError):
        return None
    rows = count // COLUMNS
    if whole.shape[0] % rows or whole.shape[1] % COLUMNS:
        return None
    grid = whole.view(rows, whole.shape[0] // rows, COLUMNS, whole.shape[1] // COLUMNS, 3)
    return grid.permute(0, 2, 4, 1, 3).flatten(0, 1).float() / 255


def views_of(field: RadianceField, occupancy: OccupancyGrid | None, settings: RenderSettings, path: Path) -> Tensor:
    """Render the views, keep them in ``path``, and read them back, so that a kept field scores the same again."""
    write_views(path, field_pictures(field, occupancy, settings))
    found = read_views(path)
    if found is None:
        raise OSError(f"the views just written to {path} cannot be read")
    return found


@torch.no_grad()
def _cosines(scorer: Scorer, pictures: Tensor, world: str) -> Tensor:
    """``(N, captions)`` of views with every caption of a world."""
    return scorer.embed_images(pictures) @ scorer.embed_texts(CORPUS[world]).T


def _figures(cosines: Tensor, captions: Sequence[str], caption: str) -> dict[str, float]:
    own = captions.index(caption)
    return {"sim": float(cosines[:, own].mean()), "r_at_1": float((cosines.argmax(1) == own).float().mean())}


def scores(scorer: Scorer, pictures: Tensor, prompt: str, others: Sequence[str], world: str) -> dict[str, Any]:
    """Sim and R@1 of views among all captions of a world; next to the true object's own, and what they say of the
    prompts it was not made for."""
    captions = CORPUS[world]
    thing = parse_object(prompt)
    cosines = _cosines(scorer, pictures, world)
    found: dict[str, Any] = _figures(cosines, captions, thing.caption())
    true = _figures(_cosines(scorer, true_pictures(thing), world), captions, thing.caption())
    wrong = [_figures(cosines, captions, parse_object(p).caption()) for p in others]
    most = int(torch.bincount(cosines.argmax(1), minlength=len(captions)).argmax())
    return {
        **found,
        "nearest": captions[most],
        "true_sim": true["sim"],
        "true_r_at_1": true["r_at_1"],
        "shuffled_sim": mean(w["sim"] for w in wrong) if wrong else None,
        "shuffled_r_at_1": mean(w["r_at_1"] for w in wrong) if wrong else None,
    }


def blank_fields(settings: Settings) -> tuple[dict[str, RadianceField], Callable[[RadianceField], OccupancyGrid]]:
    """The controls without an object, by name; and the occupancy of these and further controls, which draws from the
    generator of the untrained field, so that the same ones in the same order are the same again."""
    generator = torch.Generator().manual_seed(0)
    untrained = DensityField(settings.field, generator=generator).requires_grad_(False)

    def occupancy_of(field: RadianceField) -> OccupancyGrid:
        occupancy = OccupancyGrid(settings.occupancy_resolution)
        occupancy.update(field, step_size=settings.render.step_size, generator=generator, warmup=True)
        return occupancy

    return {"untrained field": untrained, "grey ball": grey_ball()}, occupancy_of


def control_scores(scorer: Scorer, settings: Settings, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
    """What the scorer says of the controls: of a field without an object for every prompt, of a head with two faces for
    its own. A judge would have to refuse them; this shows how far the scorer's figures are from that."""
    blank, occupancy_of = blank_fields(settings)

    def seen(field: RadianceField) -> Tensor:
        return field_pictures(field, occupancy_of(field), settings.render)

    world = world_of(prompts)
    found = {}
    for name, field in blank.items():
        cosines = _cosines(scorer, seen(field), world)
        found[name] = _mean([_figures(cosines, CORPUS[world], parse_object(p).caption()) for p in prompts])
    heads = []
    for prompt in HEADS:
        thing = parse_object(prompt)
        heads.append(_figures(_cosines(scorer, seen(two_faced(thing)), "full"), CORPUS["full"], thing.caption()))
    found["two-faced head"] = _mean(heads)
    return found


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: mean(f[name] for f in figures) for name in figures[0]}
