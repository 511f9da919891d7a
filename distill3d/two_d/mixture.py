"""A prior over the plane whose score is known: a mixture of Gaussians for every prompt a method may ask about.

The toy of ScaleDreamer's figure 2 in kind (https://arxiv.org/abs/2407.02040; the mixture is ours): the target text has
three narrow modes, the empty text is one wide Gaussian over everything, and the texts for poor quality lie between the
modes and the centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SettingsError
from ..methods import METHODS
from ..methods.bridge import BridgeSettings
from ..methods.nfsd import NFSD_NEGATIVE
from ..methods.tbsd import BRIDGE_MODIFIER
from ..priors.analytic import GaussianPrior

if TYPE_CHECKING:
    from ..optimize.settings import Settings
    from .latents import Settings2D

TARGET_TEXT = "target"
SPREAD = 0.15
WIDE = 1.6


def modes() -> Tensor:
    """``(3, 2)`` modes of the target, on a circle of radius 1.2 around (0.6, 0)."""
    angles = torch.tensor([math.radians(a) for a in (90.0, 210.0, 330.0)])
    return torch.stack([0.6 + 1.2 * angles.cos(), 1.2 * angles.sin()], 1)


def mixture_prior(device: torch.device | str = "cpu") -> GaussianPrior:
    """A ``Prior`` whose latents are ``(B, 2, 1, 1)`` points; see ``TARGET_TEXT`` for its prompt."""
    target = modes()
    centre = target.mean(0, keepdim=True)
    between = centre + 0.6 * (target - centre)
    words = BridgeSettings().target
    points = {
        TARGET_TEXT: (target, SPREAD),
        f"{TARGET_TEXT}, {words}": (target, 0.7 * SPREAD),
        f"{TARGET_TEXT}, {BRIDGE_MODIFIER}": (between, 3 * SPREAD),
        BRIDGE_MODIFIER: (centre, 4 * SPREAD),
        NFSD_NEGATIVE: (centre, 4 * SPREAD),
        "": (torch.zeros(1, 2), WIDE),
    }
    means = {text: mean.reshape(-1, 2, 1, 1) for text, (mean, _) in points.items()}
    return GaussianPrior(means, {text: std for text, (_, std) in points.items()}, device=device)


def check_toy(run: Settings2D, chosen: Iterable[Settings], negative: str = "") -> None:
    """Raises ``SettingsError`` for what the toy cannot do: it has no views, no decoder, and no words but its own."""
    if negative:
        raise SettingsError(f"expected no negative prompt with the toy, got {negative!r}: leave it out")
    if run.space != "latent" or run.view != "none":
        raise SettingsError(
            f"expected space latent and view none with the toy, got {run.space} and {run.view}: leave both out"
        )
    for settings in chosen:
        if settings.perp_neg.enabled or settings.freeu.enabled:
            raise SettingsError(
                "expected neither Perp-Neg nor FreeU with the toy, which has no views and no layers: turn them off"
            )
        name = settings.method
        own, plain = getattr(settings, name), METHODS[name.upper()].settings()
        for words in ("modifier", "target", "given", "negative"):
            value, usual = getattr(own, words, None), getattr(plain, words, None)
            if isinstance(value, str) and value != usual:
                raise SettingsError(
                    f"expected {name}.{words} as it is with the toy, whose only texts are the methods' own, got "
                    f"{value!r}: leave it out"
                )


def density(points: Tensor) -> Tensor:
    """``(N,)`` density of the target text at ``(N, 2)`` points, 1 at its highest."""
    square = (points[:, None] - modes()).square().sum(-1)
    value = torch.exp(-0.5 * square / SPREAD**2).sum(1)
    return value / value.max().clamp(min=1e-30)


def distance_to_mode(points: Tensor) -> Tensor:
    """``(N,)`` distance from ``(N, 2)`` points to the nearest mode of the target."""
    return torch.cdist(points.float(), modes()).amin(1)


def modes_reached(points: Tensor, within: float = 3 * SPREAD) -> int:
    """How many of the three modes have one of the ``(N, 2)`` points nearby."""
    return int((torch.cdist(points.float(), modes()) < within).any(0).sum())


def ring(count: int, radius: float = 2.4) -> Tensor:
    """``(count, 2, 1, 1)`` starting points on a circle around the origin."""
    angles = torch.arange(count) * (2 * math.pi / count)
    return (radius * torch.stack([angles.cos(), angles.sin()], 1)).reshape(count, 2, 1, 1)
