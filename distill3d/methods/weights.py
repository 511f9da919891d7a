"""Timestep weights w(t) of a distillation gradient, from ``alpha_t`` and ``sigma_t``: threestudio's three, BSD's two.

ASD takes them at t, never at the shifted timestep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingsError


def w_sds(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``sigma^2 = 1 - abar`` (DreamFusion, https://arxiv.org/abs/2209.14988)."""
    return sigma**2


def w_uniform(alpha: Tensor, sigma: Tensor) -> Tensor:
    """1 at every timestep (Magic3D, CSD on pixels)."""
    return torch.ones_like(sigma)


def w_fantasia3d(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``alpha sigma^2 = sqrt(abar) (1 - abar)`` (Fantasia3D, https://arxiv.org/abs/2303.13873)."""
    return alpha * sigma**2


def w_alpha(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``alpha = sqrt(abar)`` (BSD, PlacidDreamer's code, https://arxiv.org/abs/2407.13976)."""
    return alpha


def w_sigma(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``sigma = sqrt(1 - abar)`` (BSD's automatic variant, beside the length of ``e_0 - eps``)."""
    return sigma


Weighting = Literal["sds", "uniform", "fantasia3d", "alpha", "sigma"]
WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sds": w_sds,
    "uniform": w_uniform,
    "fantasia3d": w_fantasia3d,
    "alpha": w_alpha,
    "sigma": w_sigma,
}


def weight(name: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w(t) in the shape of ``alpha`` and ``sigma``.

    Raises:
        SettingsError: an unknown name.
    """
    if name not in WEIGHTS:
        raise SettingsError(f"expected a weighting of {', '.join(WEIGHTS)}, got {name!r}: choose one of these")
    return WEIGHTS[name](alpha, sigma)
