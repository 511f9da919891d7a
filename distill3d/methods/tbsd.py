"""TBSD-P, after Target-Balanced Score Distillation (https://arxiv.org/abs/2511.11710): our reading, not a reproduction.

The paper balances a shape term against a texture term with an MGDA-like weight that moves from geometry to texture;
its equations and settings are not used here. These are put together from its abstract, SDS-Bridge and MGDA
(https://arxiv.org/abs/1810.04650): the shape term is CSD's, the texture term is the bridge from a low-quality prompt
that holds the target, plus ``a`` times the target's own direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import SettingsError
from ..schedules import WINDOWS, Constant, Schedule
from .base import NULL, TARGET, Evaluation, Method, Preset, dot, mgda_weight
from .settings import MethodSettings

BRIDGE_MODIFIER = "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
"""SDS-Bridge's description of what a distilled picture looks like when it goes wrong."""


def terms(e_y: Tensor, e_0: Tensor, e_neg: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """``g_shape = e_y - e_0`` and ``g_tex = (e_y - e_neg) + a (e_y - e_0)``, our reading of
    https://arxiv.org/abs/2511.11710; all ``(B, C, H, W)``."""
    g_shape = e_y - e_0
    return g_shape, e_y - e_neg + a * g_shape


def balance(g_shape: Tensor, g_tex: Tensor, p: float, unit_norm: bool = False) -> Tensor:
    """Weight of the shape term ``lam = (1 - p) + p lam_mgda``, ``(B, 1, 1, 1)``; p in [0, 1] is the way to texture.

    ``unit_norm`` stands for MGDA on copies of length 1. With two of them the shortest combination is the bisector
    whatever they are (``<v - u, v> / ||v - u||^2 = (1 - c) / (2 - 2c) = 1/2``), so ``lam_mgda`` is 1/2 then.
    """
    lam = mgda_weight(g_shape, g_tex)
    return (1 - p) + p * (torch.full_like(lam, 0.5) if unit_norm else lam)


def tbsd(g_shape: Tensor, g_tex: Tensor, w: Tensor, lam: Tensor | float, omega: float) -> Tensor:
    """``G = w omega (lam g_shape + (1 - lam) g_tex)``, our reading of https://arxiv.org/abs/2511.11710.

    lam = 1 is omega times CSD; lam = 0 with a = 0 is SDS-Bridge's second stage. By hand: g_shape = 2, g_tex = 4,
    w = 1, lam = 0.5, omega = 7.5 gives 22.5.
    """
    return w * omega * (lam * g_shape + (1 - lam) * g_tex)


@dataclass(frozen=True)
class TBSDSettings(MethodSettings):
    """Settings of TBSD-P. The numbers are ours; the paper's were not available."""

    omega: Schedule = field(default=Constant(7.5))
    """Strength of the whole gradient, no unit, above 0. Has no effect when the gradient is normalised."""
    a: Schedule = field(default=Constant(0.0))
    """Target information put back into the texture term, 0 to 1. Raise it when the shape melts late in the run."""
    start: float = 0.0
    """Share of the run after which texture begins to count, 0 to 1; until then it is CSD and one evaluation cheaper."""
    end: float = 1.0
    """Share of the run from which MGDA alone sets the balance; above start, at most 1."""
    unit_norm: bool = False
    """Balance unit-length copies of the two terms: the weight of each then ends at one half. Off, the shorter term
    (mostly the texture) gets the larger weight."""
    source: str = "target_negative"
    """What the texture term moves away from: target_negative ("{prompt}, {modifier}", strong texture), or modifier
    (the modifier alone: shape is kept, texture weaker)."""
    modifier: str = BRIDGE_MODIFIER
    """Words for poor quality, without the object. Empty takes the negative prompt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start < self.end <= 1:
            raise SettingsError(f"expected 0 <= start < end <= 1, got {self.start} and {self.end}: shares of the run")
        if self.source not in ("target_negative", "modifier"):
            raise SettingsError(f"expected source as target_negative or modifier, got {self.source!r}: choose one")


class TBSD(Method[TBSDSettings]):
    """Three evaluations: target, empty, and the source of the bridge; two until ``start``."""

    name = "TBSD"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {"our-reading": Preset(TBSDSettings(), WINDOWS["annealed"])}

    def _p(self, progress: float) -> float:
        s = self.settings
        return min(max((progress - s.start) / (s.end - s.start), 0.0), 1.0)

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        return (TARGET, NULL, Evaluation(self.settings.source)) if self._p(progress) > 0 else (TARGET, NULL)

    def _balanced(self, e: Mapping[Evaluation, Tensor], progress: float) -> tuple[Tensor, Tensor, Tensor | float]:
        p = self._p(progress)
        if p == 0:
            g_shape = e[TARGET] - e[NULL]
            return g_shape, g_shape, 1.0
        g_shape, g_tex = terms(e[TARGET], e[NULL], e[Evaluation(self.settings.source)], self.settings.a(progress))
        return g_shape, g_tex, balance(g_shape, g_tex, p, self.settings.unit_norm)

    def gradient(self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float) -> Tensor:
        g_shape, g_tex, lam = self._balanced(e, progress)
        return tbsd(g_shape, g_tex, w, lam, self.settings.omega(progress))

    def texts(self, prompt: str, negative: str) -> dict[str, str]:
        modifier = self.settings.modifier.strip() or negative.strip()
        if not modifier:
            raise SettingsError("expected a modifier or a negative prompt for TBSD, got neither: write e.g. 'blurry'")
        return {**super().texts(prompt, negative), "target_negative": f"{prompt}, {modifier}", "modifier": modifier}

    def diagnostics(self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float) -> dict[str, float]:
        g_shape, g_tex, lam = self._balanced(e, progress)
        norms = [dot(g, g).sqrt() for g in (g_shape, g_tex)]
        return {
            "lambda": float(torch.as_tensor(lam).mean()),
            "shape_norm": float(norms[0].mean()),
            "texture_norm": float(norms[1].mean()),
            "cosine": float((dot(g_shape, g_tex) / (norms[0] * norms[1]).clamp(min=1e-12)).mean()),
        }
