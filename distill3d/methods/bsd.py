"""Balanced Score Distillation: ``G = w (a kappa (e_y - e_0) + (1 - a) e_0)``. PlacidDreamer, arXiv 2407.13976.

The classifier direction and the unconditional denoising direction as two objectives; ``a`` is MGDA's weight, so that
neither is followed at the other's cost. The authors' automatic variant takes ``e_0 - eps`` for the second one and its
length as the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..errors import SettingsError
from ..schedules import Constant, Schedule
from .base import NULL, TARGET, Evaluation, Method, Preset, dot, guided_target, mgda_weight
from .gradient import GradientSettings
from .settings import MethodSettings


def bsd(g1: Tensor, g2: Tensor, w: Tensor) -> Tensor:
    """``G = w (a g1 + (1 - a) g2)`` with MGDA's ``a`` for each sample, PlacidDreamer (arXiv 2407.13976).

    ``g1 = kappa (e_y - e_0)``, ``g2`` proportional to ``e_0``, both ``(B, C, H, W)``; w ``(B, 1, 1, 1)``. By hand, in
    two dimensions: g1 = (3, 0), g2 = (0, 1), w = 1 gives a = 0.1 and G = (0.3, 0.9).
    """
    a = mgda_weight(g1, g2)
    return w * (a * g1 + (1 - a) * g2)


def residual_weight(e_0: Tensor, eps: Tensor) -> Tensor:
    """``||e_0 - eps|| / 50`` for each sample, ``(B, 1, 1, 1)``: the automatic variant's weight beside sigma.

    Source: ``train_step_BSD_auto`` of PlacidDreamer's code, which takes one norm over the batch. By hand, in two
    dimensions: e_0 = (30, 41), eps = (0, 1) gives 50 / 50 = 1.
    """
    residual = e_0 - eps
    return dot(residual, residual).sqrt() / 50


@dataclass(frozen=True)
class BSDSettings(MethodSettings):
    """Settings of BSD."""

    kappa: Schedule = field(default=Constant(15.0))
    """Scale of the classifier direction, 0 or more; 15 in the authors' 3D code, 1 on images."""
    denoise: float = 1.0
    """Scale of the unconditional prediction, above 0; 1 in the authors' 3D code, 0.018 on images, 1.25 in auto."""
    auto: bool = False
    """The authors' automatic variant: the denoising direction is taken without the noise, and the gradient is as long
    as that direction is, divided by 50. Take kappa 1, denoise 1.25 and the weighting sigma with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.denoise > 0:
            raise SettingsError(f"expected denoise above 0, got {self.denoise}: the authors have 1, 0.018 and 1.25")


class BSD(Method[BSDSettings]):
    """Two evaluations: target and empty."""

    name = "BSD"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {
        "published-3d": Preset(BSDSettings(), gradient=GradientSettings("alpha")),
        "published-2d": Preset(BSDSettings(Constant(1.0), 0.018), gradient=GradientSettings("alpha")),
        "published-auto": Preset(BSDSettings(Constant(1.0), 1.25, auto=True), gradient=GradientSettings("sigma")),
    }

    def reference(self, progress: float) -> Evaluation:
        return NULL

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return TARGET, NULL

    def _terms(self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        s = self.settings
        denoising = e[NULL] - eps if s.auto else e[NULL]
        return s.kappa(progress) * (guided_target(e) - e[NULL]), s.denoise * denoising

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        own = w * residual_weight(e[NULL], eps) if self.settings.auto else w
        return bsd(*self._terms(e, eps, progress), own)

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        g1, g2 = self._terms(e, eps, progress)
        return {
            "lambda": float(mgda_weight(g1, g2).mean()),
            "classifier_norm": float(dot(g1, g1).sqrt().mean()),
            "denoise_norm": float(dot(g2, g2).sqrt().mean()),
        }
