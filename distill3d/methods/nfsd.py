"""Noise-Free Score Distillation: ``G = w (d_D + s (e_y - e_0))``. https://arxiv.org/abs/2310.17590.

``e_0`` is a domain part ``d_D`` plus the noise still to be found; the noise part only blurs, so it goes.
At low noise ``e_0`` is taken as ``d_D`` whole; above, what a prompt for poor pictures shares with it is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..devices import upload
from ..errors import SettingsError
from ..schedules import Constant, Schedule
from .base import (
    NULL,
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

POOR = Evaluation("modifier")
NFSD_NEGATIVE = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
"""The authors' description of pictures outside the domain."""


def nfsd(e_y: Tensor, e_0: Tensor, e_neg: Tensor, w: Tensor, s: float | Tensor, low: Tensor) -> Tensor:
    """``G = w (d_D + s (e_y - e_0))`` with ``d_D = e_0`` where ``low``, else ``e_0 - e_neg``.

    Tensors ``(B, C, H, W)``; w and the bool ``low`` ``(B, 1, 1, 1)``. By hand: e_y = 3, e_0 = 1, e_neg = 5, w = 1,
    s = 7.5 gives 1 + 15 = 16 at low noise and -4 + 15 = 11 above. Source: arXiv 2310.17590, and ``nfsd_loss`` of
    SDS-Bridge's code.
    """
    return w * (torch.where(low, e_0, e_0 - e_neg) + s * (e_y - e_0))


@dataclass(frozen=True)
class NFSDSettings(MethodSettings):
    """Settings of NFSD."""

    guidance: Schedule = field(default=Constant(7.5))
    """Guidance scale s, no unit; an ordinary 7.5 is enough, because the noise that a large scale must drown is gone."""
    negative: str = NFSD_NEGATIVE
    """Words for pictures outside the domain, without the object; it belongs to the method and is not your negative
    prompt."""
    low: float = 0.2
    """Timestep as a share of T below which the unconditional prediction counts as free of noise; 0.2 as published.
    Below it one evaluation is saved."""
    guidance_over: Over = "iterations"
    """What the guidance schedule runs over: iterations (0 is the start of the run), or timesteps (0 is a clean
    picture, 1 is pure noise)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_over(self.guidance_over)
        if not 0 <= self.low <= 1:
            raise SettingsError(f"expected low as a share of T from 0 to 1, got {self.low}: NFSD has 0.2")
        if not self.negative.strip():
            raise SettingsError(
                "expected words for poor pictures in nfsd.negative, got none: write e.g. 'blurry, ugly'"
            )


class NFSD(Method[NFSDSettings]):
    """Three evaluations: target, empty, and poor pictures; two for samples at low noise."""

    name = "NFSD"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {"published": Preset(NFSDSettings())}

    def _low(self, time: Tensor | None) -> Tensor:
        if time is None:
            raise ValueError("expected the timesteps for NFSD, got none: pass time = t / T")
        return time < self.settings.low - 1e-9

    def reference(self, progress: float) -> Evaluation:
        return NULL

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return TARGET, NULL, POOR

    def needed(self, evaluation: Evaluation, time: Tensor) -> Tensor | None:
        return ~self._low(time) if evaluation == POOR else None

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        s = scale_at(self.settings.guidance, self.settings.guidance_over, progress, time)
        low = upload(self._low(time), eps.device)
        return nfsd(guided_target(e), e[NULL], e[POOR], w, beside(s, eps), low)

    def texts(self, prompt: str, negative: str) -> dict[str, str]:
        return {**super().texts(prompt, negative), "modifier": self.settings.negative.strip()}

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        return {
            "guidance": mean_scale(self.settings.guidance, self.settings.guidance_over, progress, time),
            "low_noise_share": float(self._low(time).double().mean()),
        }
