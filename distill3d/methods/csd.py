"""Classifier Score Distillation: ``G = w (e_y - e_0)``, noise left out. https://arxiv.org/abs/2310.19415.

Eq. 7, and the weighted form over target, negative and empty prompt of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..schedules import WINDOWS, Constant, Linear, Schedule
from .base import NEGATIVE, NULL, PERP, TARGET, Evaluation, Method, Preset
from .gradient import GradientSettings
from .settings import MethodSettings


def csd(
    w: Tensor,
    c_y: float,
    c_n: float,
    c_0: float,
    e_y: Tensor | None = None,
    e_n: Tensor | None = None,
    e_0: Tensor | None = None,
    c_eps: float = 0.0,
    eps: Tensor | None = None,
) -> Tensor:
    """``G = w (c_y e_y + c_n e_n + c_0 e_0 + c_eps eps)``, CSD (https://arxiv.org/abs/2310.19415) and its code.

    (1, 0, -1) is eq. 7. With weights w1 on the target and w2 on the negative direction it is (w1, -w2, w2 - w1), so
    the three sum to 0; (s, 0, 1 - s) with c_eps = -1 is SDS. Tensors ``(B, C, H, W)``, w ``(B, 1, 1, 1)``; a tensor
    may be left out where its coefficient is 0. By hand: e_y = 3, e_0 = 1, w = 2, (1, 0, -1) gives 4.

    Raises:
        ValueError: a prediction with a weight is missing, or every weight is 0.
    """
    terms = [(c_y, e_y, "e_y"), (c_n, e_n, "e_n"), (c_0, e_0, "e_0"), (c_eps, eps, "eps")]
    if missing := [name for c, e, name in terms if c != 0 and e is None]:
        raise ValueError(f"expected every prediction with a weight, got none for {', '.join(missing)}: evaluate it")
    weighted = [c * e for c, e, _ in terms if c != 0 and e is not None]
    if not weighted:
        raise ValueError("expected at least one weight other than 0, got none: pure CSD is c_y=1, c_n=0, c_0=-1")
    total = weighted[0]
    for term in weighted[1:]:
        total = total + term
    return w * total


@dataclass(frozen=True)
class CSDSettings(MethodSettings):
    """Settings of CSD. Keep target + negative + null = 0, or a part of the plain noise comes in."""

    target: Schedule = field(default=Constant(1.0))
    """Weight c_y of the target prompt's prediction, no unit; 1 in every published run."""
    negative: Schedule = field(default=Constant(0.0))
    """Weight c_n of the negative prompt's prediction, 0 to -1. Toward -1: richer texture, looser alignment with the
    prompt. While it is 0 that evaluation is skipped."""
    null: Schedule = field(default=Constant(-1.0))
    """Weight c_0 of the empty prompt's prediction: minus the sum of the other two, so -1 to 0."""


class CSD(Method[CSDSettings]):
    """Two evaluations, three with a negative weight and prompt. A CFG scale there is not; a factor would only
    rescale G."""

    name = "CSD"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {
        "plain": Preset(CSDSettings()),
        "annealed-negative": Preset(
            CSDSettings(negative=Linear(0, -1, until=0.5), null=Linear(-1, 0, until=0.5)),
            WINDOWS["halved"],
            GradientSettings("uniform", normalise="norm"),
        ),
        "refine": Preset(CSDSettings(negative=Linear(-1, -0.5), null=Linear(0, -0.5)), WINDOWS["refine"]),
        "mvdream": Preset(
            CSDSettings(negative=Constant(-1.0), null=Constant(0.0)),
            WINDOWS["multi-view"],
            GradientSettings("uniform", normalise="std"),
        ),
    }
    """``plain`` is eq. 7 with the code's own defaults; ``annealed-negative`` and ``refine`` are the released stages of
    10,000 iterations: DeepFloyd IF, then SD; ``mvdream`` is the authors' multi-view branch."""
    perp_neg = 3.0

    def _weighted(self, progress: float) -> tuple[tuple[Evaluation, float], ...]:
        s = self.settings
        return (TARGET, s.target(progress)), (NEGATIVE, s.negative(progress)), (NULL, s.null(progress))

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return tuple(evaluation for evaluation, c in self._weighted(progress) if c != 0)

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        c_y, c_n, c_0 = (c for _, c in self._weighted(progress))
        if c_y == c_n == c_0 == 0:
            return torch.zeros_like(eps)
        G = csd(w, c_y, c_n, c_0, e.get(TARGET), e.get(NEGATIVE), e.get(NULL))
        return G + w * e[PERP] if PERP in e else G

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        return {f"c_{evaluation.prompt}": c for evaluation, c in self._weighted(progress)}
