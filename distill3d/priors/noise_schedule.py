"""The forward process of a diffusion model, ``x_t = alpha_t x + sigma_t eps`` (DDPM, https://arxiv.org/abs/2006.11239).

The one place where alpha and sigma come from. ``alpha_t = sqrt(abar_t)`` and ``sigma_t = sqrt(1 - abar_t)``, with
``abar_t`` the running product of ``1 - beta``. Tables are float64; ``alpha_sigma`` hands out float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import SettingsError

KINDS = ("scaled_linear", "linear", "squaredcos_cap_v2")


def betas(kind: str = "scaled_linear", beta_start: float = 0.00085, beta_end: float = 0.012, T: int = 1000) -> Tensor:
    """``(T,)`` float64 noise increments; the kinds and their names are those of diffusers' scheduler configs.

    ``scaled_linear`` (Stable Diffusion) is linear in sqrt(beta), ``linear`` is DDPM's own, ``squaredcos_cap_v2`` is
    the cosine schedule of Improved DDPM (https://arxiv.org/abs/2102.09672, eq. 17) and ignores start and end.

    Raises:
        SettingsError: unknown kind, T < 1, or betas outside 0 < start <= end < 1.
    """
    if kind not in KINDS:
        raise SettingsError(f"expected a noise schedule of kind {', '.join(KINDS)}, got {kind!r}: choose one of these")
    if T < 1:
        raise SettingsError(f"expected at least one timestep, got T={T}: Stable Diffusion has 1000")
    if kind == "squaredcos_cap_v2":
        grid = torch.arange(T + 1, dtype=torch.float64) / T
        abar = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    if not 0 < beta_start <= beta_end < 1:
        raise SettingsError(
            f"expected 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}: "
            "Stable Diffusion has 0.00085 and 0.012"
        )
    if kind == "linear":
        return torch.linspace(beta_start, beta_end, T, dtype=torch.float64)
    return torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), T, dtype=torch.float64) ** 2


def alphas_cumprod(
    kind: str = "scaled_linear", beta_start: float = 0.00085, beta_end: float = 0.012, T: int = 1000
) -> Tensor:
    """``(T,)`` float64 ``abar_t``, falling from almost 1 at t = 0. Raises as ``betas`` does.

    >>> round(float(alphas_cumprod()[500]), 6)
    0.276333
    """
    return torch.cumprod(1 - betas(kind, beta_start, beta_end, T), dim=0)


def alpha_sigma(abar: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """``alpha_t`` and ``sigma_t`` of ``(B,)`` integer timesteps from the table ``abar``: two ``(B, 1, 1, 1)`` float32.

    Raises:
        SettingsError: a timestep outside ``0 .. len(abar) - 1`` (a negative one would silently read the far end).
    """
    index = t.detach().cpu()
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(abar):
        raise SettingsError(
            f"expected timesteps in 0..{len(abar) - 1}, got {int(index.min())}..{int(index.max())}: "
            "check the timestep window"
        )
    at = abar.cpu().double()[index].reshape(-1, 1, 1, 1)
    return at.sqrt().float().to(t.device), (1 - at).sqrt().float().to(t.device)
