"""Score Distillation Sampling: ``G = w (e_0 + s (e_y - e_0) - eps)``. DreamFusion, https://arxiv.org/abs/2209.14988.

Eq. 3 with the guided prediction. It needs a large s, and pays with saturated colours and smooth surfaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

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
from .gradient import GradientSettings
from .settings import MethodSettings


def sds(e_y: Tensor, e_0: Tensor, eps: Tensor, w: Tensor, s: float | Tensor) -> Tensor:
    """``G = w ((e_y - eps) + (s - 1)(e_y - e_0))``, DreamFusion (https://arxiv.org/abs/2209.14988) eq. 3.

    The two parts are the generative term and the classifier term; s = 1 leaves the first. Predictions and noise
    ``(B, C, H, W)``, w ``(B, 1, 1, 1)``. By hand: e_y = 3, e_0 = 1, eps = 2, w = 1, s = 10 gives 1 + 9 * 2 = 19.
    """
    return w * (e_0 + s * (e_y - e_0) - eps)


@dataclass(frozen=True)
class SDSSettings(MethodSettings):
    """Settings of SDS."""

    guidance: Schedule = field(default=Constant(101.0))
    """Guidance scale s, no unit, 1 = none; DreamFusion's w = 100 is s = 1 + w = 101. DeepFloyd IF takes 21, the
    bundled tiny prior far less. Larger: bigger object, stronger colours, rougher surface; 101->61 calms the end (our
    reading of arXiv 2505.19868)."""
    guidance_over: Over = "iterations"
    """What the guidance schedule runs over: iterations (0 is the start of the run), or timesteps (0 is a clean
    picture, 1 is pure noise)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_over(self.guidance_over)


class SDS(Method[SDSSettings]):
    """Two evaluations: target and negative (an empty negative prompt is the null prompt)."""

    name = "SDS"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {
        "published": Preset(SDSSettings()),
        "deepfloyd": Preset(SDSSettings(Constant(21.0))),
        "magic3d": Preset(SDSSettings(), gradient=GradientSettings("uniform")),
        "fantasia3d": Preset(SDSSettings(), WINDOWS["refine"], GradientSettings("fantasia3d")),
    }

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return TARGET, NEGATIVE

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        s = scale_at(self.settings.guidance, self.settings.guidance_over, progress, time)
        return sds(guided_target(e), e[NEGATIVE], eps, w, beside(s, eps))

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        return {"guidance": mean_scale(self.settings.guidance, self.settings.guidance_over, progress, time)}
