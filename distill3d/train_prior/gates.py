"""Gates the prior must pass before it may be used, with thresholds fixed beforehand; a miss is an error."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Distill3DError
from ..world import Renders, all_objects
from .autoencoder import decode_all, encode_all
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
    samples_each: int = 4
    """Samples of each of the world's prompts."""

    def check(self, measured: dict[str, float]) -> None:
        """Raise ``GateError`` naming every value of ``measured`` below the threshold of the same name."""
        known = asdict(self)
        low = {k: v for k, v in measured.items() if k in known and not v >= known[k]}
        if low:
            wanted = ", ".join(f"{k} >= {known[k]:g} (got {v:.4g})" for k, v in low.items())
            raise GateError(f"expected {wanted}: train for more steps, or look at samples.png for what is wrong")


GATES = Gates()


def measure_autoencoder(vae: Any, held_out: Renders, device: torch.device) -> dict[str, float]:
    """``psnr`` (dB, mean over images) and ``reconstructed_hue`` of held-out renders."""
    latents = encode_all(vae, held_out.images, device, bf16=False)
    out = decode_all(vae, latents, device).float() / 255
    error = (out - held_out.images.float() / 255).square().mean((1, 2, 3))
    right = match_colours(out) == labels(held_out.objects)[1]
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
