"""What the scorer is held to before it may be used: true renders it never saw, told from every caption of the world."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..train_prior.gates import GateError
from ..world import Object, all_objects, render_dataset, view_word
from .model import Scorer
from .settings import TrainScorerSettings
from .views import CORPUS, rank, true_pictures

PROTOCOL_VIEWS = 8
CHUNK = 256


@dataclass(frozen=True)
class Gates:
    """Smallest values that pass; shares are in [0, 1]."""

    shapes: float = 0.95
    """Share of held-out renders of the fourteen shapes, in all patterns, whose own caption is the nearest of 496."""
    protocol: float = 0.95
    """The same of views as ``bench quality`` takes them: around the object, elevation 15 degrees, on white."""

    def check(self, measured: dict[str, float]) -> None:
        """Raise ``GateError`` naming every value below its gate."""
        low = {k: v for k, v in asdict(self).items() if not measured[k] >= v}
        if low:
            wanted = ", ".join(f"{k} >= {v:g} (got {measured[k]:.4g})" for k, v in low.items())
            raise GateError(f"expected {wanted} of the scorer: train for more steps")


GATES = Gates()


@torch.no_grad()
def embed(scorer: Scorer, images: Tensor) -> Tensor:
    """``(N, width)`` of pictures ``(N, 3, 64, 64)``, uint8 or in [0, 1], a part at a time."""
    parts = [p.float() / 255 if p.dtype == torch.uint8 else p for p in images.split(CHUNK)]
    return torch.cat([scorer.embed_images(p) for p in parts])


def _share(hits: Tensor, which: list[bool]) -> float:
    chosen = torch.tensor(which)
    return float(hits[chosen].float().mean()) if bool(chosen.any()) else float("nan")


def measure(scorer: Scorer, settings: TrainScorerSettings, seed: int, every: int = 1) -> dict[str, float]:
    """R@1 among the captions of all 496 objects, of ``settings.held_out`` renders drawn as training's were with another
    seed, and of eight views of each object as the benchmark takes them.

    ``every`` looks around every so many-th object only. Objects with a front are counted apart: from behind a smiley is
    a sphere, and no picture says otherwise.
    """
    made = render_dataset(settings.held_out, seed, settings.world)
    texts = scorer.embed_texts(CORPUS["full"]).detach()
    hits = rank(embed(scorer, made.images), texts) == _places(made.objects)
    azimuth, elevation = (torch.rad2deg(angle).tolist() for angle in (made.cameras.azimuth, made.cameras.elevation))
    views = [view_word(a, e) for a, e in zip(azimuth, elevation, strict=True)]
    fronted = [o.has_front for o in made.objects]
    found = {
        "all": float(hits.float().mean()),
        "shapes": _share(hits, [not f for f in fronted]),
        "figures": _share(hits, fronted),
        "figures_from_front": _share(hits, [f and v == "front" for f, v in zip(fronted, views, strict=True)]),
    }
    objects = all_objects("full")
    own = torch.arange(0, len(objects), every).repeat_interleave(PROTOCOL_VIEWS)
    pictures = torch.cat([true_pictures(o, PROTOCOL_VIEWS) for o in objects[::every]])
    hits = rank(embed(scorer, pictures), texts) == own
    found["protocol"] = _share(hits, [not objects[i].has_front for i in own.tolist()])
    found["protocol_figures"] = _share(hits, [objects[i].has_front for i in own.tolist()])
    return found


def _places(objects: list[Object]) -> Tensor:
    place = {caption: i for i, caption in enumerate(CORPUS["full"])}
    return torch.tensor([place[o.caption()] for o in objects])
