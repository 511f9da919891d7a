"""Asynchronous Score Distillation: ``G = w (e_s(x_t; t) - e_y(x_t+; t+))``. ScaleDreamer, https://arxiv.org/abs/2407.02040.

Eq. 4: the frozen model at a slightly later timestep t+ stands in for VSD's fine-tuned one. Both noised latents carry
the same eps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import SettingsError
from ..schedules import WINDOWS, Constant, Schedule
from .base import (
    NEGATIVE,
    TARGET,
    Evaluation,
    Method,
    Over,
    Preset,
    beside,
    check_over,
    guided_target,
    mean_scale,
    scale_at,
)
from .settings import MethodSettings

SHIFTED = Evaluation("target", shifted=True)


def asd(e_y: Tensor, e_0: Tensor, e_y_plus: Tensor, w: Tensor, s: float | Tensor) -> Tensor:
    """``G = w (e_0 + s (e_y - e_0) - e_y_plus)``, ScaleDreamer (https://arxiv.org/abs/2407.02040) eq. 4.

    ``e_y_plus`` is the target prediction at t+, without guidance; w belongs to t. Tensors ``(B, C, H, W)``, w
    ``(B, 1, 1, 1)``. By hand: e_y = e_y_plus = 3, e_0 = 1, w = 1, s = 7.5 gives (s - 1)(e_y - e_0) = 13.
    """
    return w * (e_0 + s * (e_y - e_0) - e_y_plus)


def shift(t: Tensor, t_min: int, eta: float, u: Tensor | None = None, T: int = 1000) -> Tensor:
    """``t+ = t + floor(u min(eta (t - t_min), T - 1 - t))`` kept in 1 .. T-1 (Alg. 1 and the released code).

    Args:
        t: ``(B,)`` long.
        t_min: lower bound of the timestep window now, as in the code (the paper has a constant).
        eta: share of the distance to ``t_min``.
        u: ``(B,)`` in [0, 1), or None for the full distance.
    """
    now = t.cpu().double()
    room = torch.minimum(eta * (now - t_min), T - 1 - now).clamp(min=0)
    if u is not None:
        room = room * u.cpu().double()
    return (now + torch.floor(room + 1e-9)).clamp(1, T - 1).long().to(t.device)


@dataclass(frozen=True)
class ASDSettings(MethodSettings):
    """Settings of ASD."""

    guidance: Schedule = field(default=Constant(7.5))
    """Guidance scale s of the first prediction, no unit, 1 = none; 7.5 as published. The second one has none."""
    eta: float = 0.1
    """Largest shift as a share of t - t_min, 0 to 1. At 0 objects get several faces (and an evaluation is saved);
    0.2 gives larger, rounder shapes."""
    random: bool = True
    """Draw each shift at random up to the largest one. Off takes the largest; published results get worse by it."""
    t_min: float | None = None
    """Where the shift's bound starts, as a share of T. None is the timestep window's lower end at this iteration, as
    in the released code; the paper's text has a constant, such as 0.02, which allows larger shifts early."""
    guidance_over: Over = "iterations"
    """What the guidance schedule runs over: iterations (0 is the start of the run), or timesteps (0 is a clean
    picture, 1 is pure noise)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise SettingsError(f"expected eta from 0 to 1, got {self.eta}: ScaleDreamer uses 0.1")
        if self.t_min is not None and not 0 <= self.t_min < 1:
            raise SettingsError(f"expected t_min as a share of T from 0 to below 1, got {self.t_min}: try 0.02")
        check_over(self.guidance_over)


class ASD(Method[ASDSettings]):
    """Three evaluations: target and negative at t, target at t+, which is made once where no sample is shifted."""

    name = "ASD"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {"published": Preset(ASDSettings(), WINDOWS["sliding"])}
    perp_neg = 0.5

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return TARGET, NEGATIVE, SHIFTED

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        s = scale_at(self.settings.guidance, self.settings.guidance_over, progress, time)
        return asd(guided_target(e), e[NEGATIVE], e[SHIFTED], w, beside(s, eps))

    def shift(self, t: Tensor, t_min: int, generator: torch.Generator, T: int = 1000) -> Tensor:
        u = torch.rand(t.shape, generator=generator, device=generator.device) if self.settings.random else None
        constant = self.settings.t_min
        return shift(t, t_min if constant is None else int(constant * T + 1e-9), self.settings.eta, u, T)

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        return {"guidance": mean_scale(self.settings.guidance, self.settings.guidance_over, progress, time)}
