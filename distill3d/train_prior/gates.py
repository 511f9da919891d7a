"""Gates the prior must pass before it may be used, with thresholds fixed beforehand; a miss is an error."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Distill3DError
from ..world import (
    FIGURES,
    Object,
    Renders,
    WorldSettings,
    all_objects,
    is_held_out,
    render_dataset,
    view_word,
)
from .autoencoder import decode_all, encode_all
from .explain import Painted, build_painted, judge_pictures, nearest_colours, object_mask, view_obeyed
from .export import sample
from .match import build_bank, foreground, labels, match_colours, match_shapes

logger = logging.getLogger(__name__)


class GateError(Distill3DError):
    """A trained part that misses its thresholds; it was written for inspection, not for use."""


@dataclass(frozen=True)
class Gates:
    """Smallest values that pass; shares are in [0, 1]."""

    psnr: float = 30.0
    """Mean peak signal-to-noise ratio of held-out reconstructions in dB."""
    reconstructed_hue: float = 0.97
    """Share of reconstructions with the nearest hue right."""
    sample_hue: float = 0.95
    """Share of samples with the nearest hue right."""
    sample_shape: float = 0.85
    """Share of samples whose shape explains them better than every other."""
    guidance: float = 4.0
    """Classifier-free guidance of the samples."""
    sample_pattern: float = 0.85
    """Full world: share of samples whose pattern explains them better than the shape's other patterns."""
    view_word: float = 0.85
    """Full world: share of samples of objects with a front that are seen from where the prompt says."""
    samples_each: int = 4
    """Samples of each of the world's prompts."""
    every: int = 1
    """Full world: judge only every so many-th prompt."""

    def check(
        self, measured: dict[str, float], advice: str = "train for more steps, or look at samples.png for what is wrong"
    ) -> None:
        """Raise ``GateError`` naming every value of ``measured`` below the threshold of the same name."""
        known = asdict(self)
        low = {k: v for k, v in measured.items() if k in known and not v >= known[k]}
        if low:
            wanted = ", ".join(f"{k} >= {known[k]:g} (got {v:.4g})" for k, v in low.items())
            raise GateError(f"expected {wanted}: {advice}")


GATES = Gates()
FULL_GATES = Gates(sample_shape=0.90, samples_each=1)
"""For the full world: 496 prompts, and each object with a front from each of four sides."""


def gates_of(world: str) -> Gates:
    """The gates of a world's prior."""
    return FULL_GATES if world == "full" else GATES


def measure_autoencoder(vae: Any, held_out: Renders, device: torch.device) -> dict[str, float]:
    """``psnr`` (dB, mean over images) and ``reconstructed_hue`` of held-out renders."""
    latents = encode_all(vae, held_out.images, device, bf16=False)
    out = decode_all(vae, latents, device).float() / 255
    error = (out - held_out.images.float() / 255).square().mean((1, 2, 3))
    asked = labels(held_out.objects)[1]
    right = match_colours(out) == asked
    if any(o.has_front or o.pattern != "plain" for o in held_out.objects):
        shown = held_out.images.float() / 255
        seen = nearest_colours(shown, object_mask(shown))
        right = (nearest_colours(out, object_mask(out)) == asked)[seen >= 0]
    return {"psnr": float((-10 * torch.log10(error)).mean()), "reconstructed_hue": float(right.float().mean())}


def measure_images(images: Tensor, shape: Tensor, colour: Tensor) -> dict[str, float]:
    """Hue and shape agreement of images ``(N, 3, S, S)`` in [0, 1] with the wanted indices.

    ``residual`` is the mean share of brightness the wanted shape leaves unexplained, and ``border`` the mean standard
    deviation of the border pixels: 0 is a flat background.
    """
    residual = match_shapes(images, build_bank(images.shape[-1]))
    mask, _ = foreground(images)
    edge = torch.cat([images[:, :, :2].flatten(2), images[:, :, -2:].flatten(2)], 2)
    return {
        "sample_hue": float((match_colours(images) == colour).float().mean()),
        "sample_shape": float((residual.argmin(1) == shape).float().mean()),
        "residual": float(residual.gather(1, shape[:, None]).mean()),
        "border": float(edge.std(2).mean()),
        "covered": float(mask.float().mean()),
    }


def measure_samples(pipeline: Any, gates: Gates, seed: int) -> tuple[dict[str, float], Tensor]:
    """Measurements over every plain prompt of the world, and the images ``(64 * samples_each, 3, S, S)``."""
    objects = all_objects() * gates.samples_each
    images = sample(pipeline, [o.caption() for o in objects], gates.guidance, seed)
    shape, colour = labels(objects)
    measured = measure_images(images, shape, colour)
    logger.info("samples %s", json.dumps(measured))
    return measured, images


VIEW_WORDS = ("front", "side", "back", "overhead")


def measure_pictures(images: Tensor, wanted: Sequence[Object], bank: Painted) -> dict[str, float]:
    """Shares of pictures ``(N, 3, S, S)`` in [0, 1] with colour, shape and pattern right, and the mean unexplained."""
    found = judge_pictures(images, wanted, bank)
    patterned = torch.tensor([not o.has_front for o in wanted])
    held = torch.tensor([is_held_out(o) for o in wanted])
    measured = {
        "sample_hue": float(found.colour.float().mean()),
        "sample_shape": float(found.shape.float().mean()),
        "residual": float(1 - found.share.mean()),
    }
    if patterned.any():
        measured["sample_pattern"] = float(found.pattern[patterned].float().mean())
    if held.any():
        measured["held_out_shape"] = float(found.shape[held].float().mean())
    return measured


def view_chance(bank: Painted, settings: WorldSettings, count: int = 384) -> dict[str, float]:
    """What the view measure says of true renders of objects with a front.

    Returns:
        ``view_word_truth``: share obeyed by the right word, which no model can be expected to exceed; and
        ``view_word_chance``: mean share over all four words, what a model reaches that ignores them.
    """
    found = render_dataset(3 * count, 99, settings)
    rows = [i for i, o in enumerate(found.objects) if o.has_front][:count]
    things = [found.objects[i] for i in rows]
    cameras = found.cameras[torch.tensor(rows)]
    azimuth, elevation = cameras.azimuth.rad2deg().tolist(), cameras.elevation.rad2deg().tolist()
    words = [view_word(a, e) for a, e in zip(azimuth, elevation, strict=True)]
    shares = judge_pictures(found.images[torch.tensor(rows)].float() / 255, things, bank).shares
    every = [float(view_obeyed(shares, things, [word] * len(things), bank).float().mean()) for word in VIEW_WORDS]
    return {
        "view_word_truth": float(view_obeyed(shares, things, words, bank).float().mean()),
        "view_word_chance": sum(every) / len(every),
    }


def measure_full(pipeline: Any, gates: Gates, settings: WorldSettings, seed: int) -> tuple[dict[str, float], Tensor]:
    """Measurements over the full world's prompts and its view prompts, and the images of the former.

    ``sample_hue``, ``sample_shape``, ``sample_pattern``, ``held_out_shape`` (combinations training never showed) and
    ``view_word`` with its chance and truth; see ``explain``.
    """
    bank = build_painted()
    things = all_objects("full")[:: gates.every] * gates.samples_each
    images = sample(pipeline, [o.caption() for o in things], gates.guidance, seed)
    measured = measure_pictures(images, things, bank)
    figures = [o for o in all_objects("full") if o.shape in FIGURES][:: gates.every] * gates.samples_each
    asked = [(o, word) for o in figures for word in VIEW_WORDS]
    shown = sample(pipeline, [f"{o.caption()}, {word} view" for o, word in asked], gates.guidance, seed + 1)
    turned, words = [o for o, _ in asked], [word for _, word in asked]
    shares = judge_pictures(shown, turned, bank).shares
    measured["view_word"] = float(view_obeyed(shares, turned, words, bank).float().mean())
    measured |= view_chance(bank, settings, max(16, 384 // gates.every))
    logger.info("samples %s", json.dumps(measured))
    return measured, images
