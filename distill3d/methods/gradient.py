"""From a method's latent gradient G to a loss: clean, clip, normalise, in this order (threestudio, CSD's code)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingsError
from ..schedules import Schedule
from .settings import MethodSettings
from .weights import WEIGHTS, Weighting


def clean(G: Tensor) -> Tensor:
    """G with every NaN and infinity set to 0, so that one bad element cannot move the field."""
    return torch.nan_to_num(G, nan=0.0, posinf=0.0, neginf=0.0)


def clip(G: Tensor, c: float) -> Tensor:
    """G clamped to [-c, c] element by element."""
    return G.clamp(-c, c)


def unit_norm(G: Tensor) -> Tensor:
    """``G / (||G||_2 + 1e-8)``, one norm over the whole ``(B, C, H, W)`` batch (CSD, stable_diffusion guidances)."""
    norm: Tensor = torch.linalg.vector_norm(G)
    return G / (norm + 1e-8)


def unit_std(G: Tensor, share: float = 0.9) -> Tensor:
    """``share G / (std_HW(G) + 1e-8) + (1 - share) G`` for each sample and channel (CSD's MVDream branch); a channel
    without spread, or of one pixel, stays as it is."""
    if G.shape[-2:].numel() < 2:
        return G
    std = G.std(dim=(-2, -1), keepdim=True)
    flat = std <= 1e-6 * G.abs().amax(dim=(-2, -1), keepdim=True)
    return torch.where(flat, G, share * G / (std + 1e-8) + (1 - share) * G)


Normalise = Literal["none", "norm", "std"]
NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda G: G, "norm": unit_norm, "std": unit_std}


@dataclass(frozen=True)
class GradientSettings(MethodSettings):
    """What happens to the latent gradient on its way to the renderer."""

    weighting: Weighting = "sds"
    """Weight of a timestep: sds (sigma squared, the usual one), uniform (1), fantasia3d (alpha sigma squared), alpha
    (BSD), or sigma (BSD auto)."""
    clip: Schedule | None = None
    """Largest size of a gradient element, above 0, over the run; none by default. Try 2->8 when colours burn out."""
    normalise: Normalise = "none"
    """none; norm (the batch's gradient has length 1, as CSD on pixels); std (unit spread per channel, CSD on MVDream).
    With norm a CFG scale changes the direction only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in WEIGHTS:
            raise SettingsError(f"expected a weighting of {', '.join(WEIGHTS)}, got {self.weighting!r}: choose one")
        if self.normalise not in NORMALISERS:
            raise SettingsError(f"expected normalise as {', '.join(NORMALISERS)}, got {self.normalise!r}: choose one")
        if self.clip is not None and self.clip.extremes()[0] <= 0:
            raise SettingsError(f"expected a clip above 0 throughout, got {self.clip}: use 2->8, or none")


def process(G: Tensor, settings: GradientSettings, progress: float) -> Tensor:
    """``(B, C, H, W)`` weighted gradient -> cleaned, clipped at this progress, normalised."""
    G = clean(G)
    if settings.clip is not None:
        G = clip(G, settings.clip(progress))
    return NORMALISERS[settings.normalise](G)


def surrogate_loss(latents: Tensor, G: Tensor) -> Tensor:
    """A scalar worth ``0.5 ||G||^2 / B`` whose gradient to ``latents`` is ``G / B`` exactly; none flows into G.

    threestudio's ``0.5 mse(latents, (latents - G).detach(), sum) / B`` agrees up to the rounding of ``latents - G``.

    Raises:
        ValueError: latents and G of different shapes.
    """
    if latents.shape != G.shape:
        raise ValueError(f"expected a gradient shaped as the latents {tuple(latents.shape)}, got {tuple(G.shape)}")
    G = G.detach().to(latents.dtype)
    value = 0.5 * G.square().sum() / len(latents)
    return value + ((latents - latents.detach()) * (G / len(latents))).sum()
