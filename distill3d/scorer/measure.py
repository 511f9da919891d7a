"""What the scorer is held to before it may be used: true renders it never saw, told from every caption of the world."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..train_prior.gates import GateError
from ..world import all_objects, render_dataset, view_word
from .model import Scorer
from .settings import TrainScorerSettings
from .views import CORPUS, labels, rank, true_pictures

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
        """Raise ``GateError`` naming every value below its gate, and every one that nothing was measured of."""
        low = {k: v for k, v in asdict(self).items() if not measured.get(k, -1.0) >= v}
        if low:
            got = {k: f"{measured[k]:.4g}" if k in measured else "no render of it" for k in low}
            wanted = ", ".join(f"{k} >= {v:g} (got {got[k]})" for k, v in low.items())
            more = "train for more steps" if low.keys() <= measured.keys() else "check it on more held_out renders"
            raise GateError(f"expected {wanted} of the scorer: {more}")


GATES = Gates()


@torch.no_grad()
def embed(scorer: Scorer, images: Tensor) -> Tensor:
    """``(N, width)`` of pictures ``(N, 3, 64, 64)``, uint8 or in [0, 1], a part at a time."""
    parts = [p.float() / 255 if p.dtype == torch.uint8 else p for p in images.split(CHUNK)]
    return torch.cat([scorer.embed_images(p) for p in parts])


def _shares(hits: Tensor, groups: dict[str, list[bool]]) -> dict[str, float]:
    """Share of hits in each group that is not empty."""
    return {name: float(hits[torch.tensor(which)].float().mean()) for name, which in groups.items() if any(which)}


def measure(scorer: Scorer, settings: TrainScorerSettings, seed: int, every: int = 1) -> dict[str, float]:
    """R@1 among the captions of all 496 objects, of ``settings.held_out`` renders drawn as training's were with another
    seed, and of eight views of each object as the benchmark takes them.

    ``every`` looks around every so many-th object only. Objects with a front are counted apart: from behind a smiley is
    a sphere, and no picture says otherwise. What no render shows is left out.
    """
    made = render_dataset(settings.held_out, seed, settings.world)
    texts = scorer.embed_texts(CORPUS["full"]).detach()
    hits = rank(embed(scorer, made.images), texts) == labels(made.objects)
    azimuth, elevation = (torch.rad2deg(angle).tolist() for angle in (made.cameras.azimuth, made.cameras.elevation))
    views = [view_word(a, e) for a, e in zip(azimuth, elevation, strict=True)]
    fronted = [o.has_front for o in made.objects]
    drawn = {
        "shapes": [not f for f in fronted],
        "figures": fronted,
        "figures_from_front": [f and v == "front" for f, v in zip(fronted, views, strict=True)],
    }
    found = {"all": float(hits.float().mean()), **_shares(hits, drawn)}
    objects = all_objects("full")
    own = torch.arange(0, len(objects), every).repeat_interleave(PROTOCOL_VIEWS)
    pictures = torch.cat([true_pictures(o, PROTOCOL_VIEWS) for o in objects[::every]])
    hits = rank(embed(scorer, pictures), texts) == own
    fronted = [objects[i].has_front for i in own.tolist()]
    return found | _shares(hits, {"protocol": [not f for f in fronted], "protocol_figures": fronted})
