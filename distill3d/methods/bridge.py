"""SDS-Bridge: SDS first, then ``G = w k (e_target - e_source)``. https://arxiv.org/abs/2406.09417.

Score distillation as transport between two distributions of images: the second stage names the one the picture is in
("..., oversaturated, smooth ...") instead of standing it in by the empty prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import SettingsError
from ..schedules import WINDOWS, Constant, Schedule
from .base import NULL, TARGET, Evaluation, Method, Preset, guided_target
from .sds import sds
from .settings import MethodSettings
from .tbsd import BRIDGE_MODIFIER, SourceKind, check_given, source_texts


def bridge(e_target: Tensor, e_source: Tensor, w: Tensor, k: float) -> Tensor:
    """``G = w k (e_target - e_source)``, SDS-Bridge's second stage (https://arxiv.org/abs/2406.09417).

    ``(B, C, H, W)`` predictions, w ``(B, 1, 1, 1)``. With the empty prompt as source it is k times CSD. By hand:
    e_target = 3, e_source = 1, w = 0.5, k = 40 gives 40.
    """
    return w * k * (e_target - e_source)


@dataclass(frozen=True)
class BridgeSettings(MethodSettings):
    """Settings of SDS-Bridge."""

    guidance: Schedule = field(default=Constant(40.0))
    """Guidance scale s of the first stage, which is SDS; 40 on images, 100 in 3D as published."""
    k: Schedule = field(default=Constant(40.0))
    """Strength of the second stage, no unit, 0 or more; 40 on images, 1 in 3D, where that stage has no timestep
    weight."""
    switch: float = 0.5
    """Share of the run after which the second stage begins, 0 to 1. Starting with it harms the shape."""
    weighted: bool = True
    """Whether the second stage keeps the timestep weight; the authors' 3D code drops it."""
    target: str = "detailed high resolution, high quality, sharp"
    """Words put behind the prompt for the place to go to; may be empty."""
    modifier: str = BRIDGE_MODIFIER
    """Words for poor quality: the place to leave. Empty takes the negative prompt."""
    source: SourceKind = "target_negative"
    """The source prompt: target_negative (prompt and modifier), or modifier (the modifier alone)."""
    given: str = ""
    """The source prompt written out, {prompt} standing for the view's prompt; empty joins prompt and modifier. Only
    with source target_negative."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.switch <= 1:
            raise SettingsError(f"expected switch as a share of the run from 0 to 1, got {self.switch}: try 0.5")
        if self.source not in ("target_negative", "modifier"):
            raise SettingsError(f"expected source as target_negative or modifier, got {self.source!r}: choose one")
        check_given(self)


class Bridge(Method[BridgeSettings]):
    """Two evaluations in either stage: target and empty, then target and source."""

    name = "BRIDGE"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {
        "published-2d": Preset(BridgeSettings()),
        "published-3d": Preset(
            BridgeSettings(
                Constant(100.0), Constant(1.0), switch=0.8, weighted=False, target=".", source="target_negative"
            ),
            WINDOWS["annealed"],
        ),
    }

    @property
    def _source(self) -> Evaluation:
        return Evaluation(self.settings.source)

    def reference(self, progress: float) -> Evaluation:
        return NULL if progress < self.settings.switch else self._source

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return TARGET, self.reference(progress)

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        s = self.settings
        if progress < s.switch:
            return sds(guided_target(e), e[NULL], eps, w, s.guidance(progress))
        weight = w if s.weighted else torch.ones_like(w)
        return bridge(guided_target(e), e[self._source], weight, s.k(progress))

    def texts(self, prompt: str, negative: str) -> dict[str, str]:
        words = self.settings.target.strip()
        texts = super().texts(prompt, negative) | source_texts(
            prompt, negative, self.settings, "write some into {bridge.modifier}, such as 'blurry'"
        )
        return texts | {"target": f"{prompt}, {words}" if words else prompt}

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        first = progress < self.settings.switch
        return {
            "stage": 1.0 if first else 2.0,
            "guidance": self.settings.guidance(progress) if first else self.settings.k(progress),
        }
