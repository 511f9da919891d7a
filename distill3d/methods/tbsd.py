"""TBSD-P, after Target-Balanced Score Distillation (https://arxiv.org/abs/2511.11710): our reading, not a reproduction.

The paper balances a shape term against a texture term with an MGDA-like weight that moves from geometry to texture;
its equations and settings are not used here. These are put together from its abstract, SDS-Bridge and MGDA
(https://arxiv.org/abs/1810.04650): the shape term is CSD's, the texture term is the bridge from a low-quality prompt
that holds the target, plus ``a`` times the target's own direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..errors import SettingsError
from ..schedules import WINDOWS, Constant, Schedule
from .base import NULL, TARGET, Evaluation, Method, Preset, beside, dot, guided_target, mgda_weight
from .sds import sds
from .settings import MethodSettings

BRIDGE_MODIFIER = "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
"""SDS-Bridge's description of what a distilled picture looks like when it goes wrong."""


SourceKind = Literal["target_negative", "modifier"]
"""Kinds of text that a bridge may start from: the modifier with the target in it, or alone."""


class Source(Protocol):
    """Settings that describe what a texture term moves away from."""

    @property
    def modifier(self) -> str: ...
    @property
    def given(self) -> str: ...
    @property
    def source(self) -> SourceKind: ...


def source_texts(prompt: str, negative: str, settings: Source, advice: str) -> dict[str, str]:
    """Text of the source of a bridge, by its kind: written out, or the modifier alone or behind the target.

    Raises:
        SettingsError: no text written out, and neither a modifier nor a negative prompt; with ``advice``.
    """
    if given := settings.given.strip():
        return {"target_negative": given.replace("{prompt}", prompt)}
    modifier = settings.modifier.strip() or negative.strip()
    if not modifier:
        raise SettingsError("expected words for poor quality, got no modifier and no negative prompt: ", advice=advice)
    return {"target_negative": f"{prompt}, {modifier}", "modifier": modifier}


def check_given(settings: Source) -> None:
    """Raises ``SettingsError`` for a source written out that nothing would read."""
    if settings.given.strip() and settings.source != "target_negative":
        raise SettingsError(
            f"expected given with source target_negative only, got it with {settings.source}: leave one of them out"
        )


def terms(e_y: Tensor, e_0: Tensor, e_neg: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """``g_shape = e_y - e_0`` and ``g_tex = (e_y - e_neg) + a (e_y - e_0)``, our reading of
    https://arxiv.org/abs/2511.11710; all ``(B, C, H, W)``."""
    g_shape = e_y - e_0
    return g_shape, e_y - e_neg + a * g_shape


def balance(g_shape: Tensor, g_tex: Tensor, p: float | Tensor, unit_norm: bool = False) -> Tensor:
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
    """Strength of the whole gradient, no unit, 0 or more; guidance scale of an opening with sds. Elsewhere it has no
    effect on a gradient that is normalised to length 1."""
    a: Schedule = field(default=Constant(0.0))
    """Target information put back into the texture term, 0 or more; 1 is all of it. Raise it when the shape melts late
    in the run."""
    start: float = 0.0
    """Share of the run after which texture begins to count, 0 to 1; until then it is CSD and one evaluation cheaper."""
    end: float = 1.0
    """Share of the run from which MGDA alone sets the balance; above start, at most 1."""
    unit_norm: bool = False
    """Balance unit-length copies of the two terms: the weight of each then ends at one half. Off, the shorter term
    (mostly the texture) gets the larger weight."""
    source: SourceKind = "target_negative"
    """What the texture term moves away from: target_negative ("{prompt}, {modifier}", strong texture), or modifier
    (the modifier alone: shape is kept, texture weaker)."""
    modifier: str = BRIDGE_MODIFIER
    """Words for poor quality, without the object. Empty takes the negative prompt."""
    time: Literal["iteration", "timestep"] = "iteration"
    """What moves the balance from shape to texture: iteration (our reading), or timestep: shape at high noise, texture
    at low noise, start and end then being shares of the noise taken away."""
    given: str = ""
    """The target negative prompt written out, {prompt} standing for the view's prompt; empty joins prompt and modifier.
    For instance "{prompt}, of plastic, blurry". Only with source target_negative."""
    weight: Schedule | None = None
    """A fixed weight of the shape term over the run, 0 to 1, in place of MGDA's; none by default. With a falling a,
    such as 1->0, it is the third reading."""
    kappa: float = 1.0
    """Scale of the shape term, above 0, before the two are balanced."""
    opening: Literal["csd", "sds"] = "csd"
    """The method until start: csd (times omega and kappa), or sds with omega as guidance scale, like SDS-Bridge's
    opening. sds needs a start above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start < self.end <= 1:
            raise SettingsError(f"expected 0 <= start < end <= 1, got {self.start} and {self.end}: shares of the run")
        if self.source not in ("target_negative", "modifier"):
            raise SettingsError(f"expected source as target_negative or modifier, got {self.source!r}: choose one")
        if self.time not in ("iteration", "timestep"):
            raise SettingsError(f"expected time as iteration or timestep, got {self.time!r}: choose one")
        if self.opening not in ("csd", "sds"):
            raise SettingsError(f"expected opening as csd or sds, got {self.opening!r}: choose one")
        if self.opening == "sds" and self.start == 0:
            raise SettingsError(
                "expected a start above 0 for an opening with sds, got 0, which leaves no opening: try 0.3"
            )
        check_given(self)
        if not self.kappa > 0:
            raise SettingsError(f"expected kappa above 0, got {self.kappa}: 1 leaves the shape term as it is")
        low, high = (1.0, 1.0) if self.weight is None else self.weight.extremes()
        if not 0 <= low <= high <= 1:
            raise SettingsError(f"expected a weight from 0 to 1 throughout, got {self.weight}: 1 is shape alone")


class TBSD(Method[TBSDSettings]):
    """Three evaluations: target, empty, and the source of the bridge; two until ``start``."""

    name = "TBSD"
    presets: ClassVar[Mapping[str, Preset[Any]]] = {"our-reading": Preset(TBSDSettings(), WINDOWS["annealed"])}

    @property
    def _source(self) -> Evaluation:
        return Evaluation(self.settings.source)

    def _p(self, progress: float, time: Tensor | None) -> float | Tensor:
        s = self.settings
        if s.time == "iteration":
            return min(max((progress - s.start) / (s.end - s.start), 0.0), 1.0)
        if time is None:
            raise ValueError("expected the timesteps for a balance over timesteps, got none: pass time = t / T")
        return ((1 - time - s.start) / (s.end - s.start)).clamp(0, 1)

    def reference(self, progress: float) -> Evaluation:
        return NULL

    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        s = self.settings
        shape_alone = s.weight is not None and s.weight(progress) == 1
        if shape_alone or (s.time == "iteration" and self._p(progress, None) == 0):
            return TARGET, NULL
        return TARGET, NULL, self._source

    def needed(self, evaluation: Evaluation, time: Tensor) -> Tensor | None:
        if self.settings.time == "iteration" or evaluation != self._source:
            return None
        return torch.as_tensor(self._p(0.0, time)) > 0

    def _balanced(
        self, e: Mapping[Evaluation, Tensor], progress: float, time: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        s, e_y = self.settings, guided_target(e)
        if self._source not in self.evaluations(progress):
            g_shape = s.kappa * (e_y - e[NULL])
            return g_shape, g_shape, 1.0
        g_shape, g_tex = terms(e_y, e[NULL], e[self._source], s.a(progress))
        p = beside(self._p(progress, time), g_tex)
        g_shape = s.kappa * g_shape
        if isinstance(p, Tensor):  # samples before the start have no source, and so no texture term yet
            g_tex = torch.where(p > 0, g_tex, g_shape)
        if s.weight is None:
            return g_shape, g_tex, balance(g_shape, g_tex, p, s.unit_norm)
        fixed = s.weight(progress)
        return g_shape, g_tex, torch.where(p > 0, fixed * torch.ones_like(p), 1) if isinstance(p, Tensor) else fixed

    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        omega = self.settings.omega(progress)
        g_shape, g_tex, lam = self._balanced(e, progress, time)
        G = tbsd(g_shape, g_tex, w, lam, omega)
        if self.settings.opening == "csd":
            return G
        p, opening = beside(self._p(progress, time), G), sds(guided_target(e), e[NULL], eps, w, omega)
        if isinstance(p, Tensor):
            return torch.where(p == 0, opening, G)
        return opening if p == 0 else G

    def texts(self, prompt: str, negative: str) -> dict[str, str]:
        return super().texts(prompt, negative) | source_texts(
            prompt, negative, self.settings, "write some into {tbsd.modifier}, such as 'blurry'"
        )

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        g_shape, g_tex, lam = self._balanced(e, progress, time)
        norms = [dot(g, g).sqrt() for g in (g_shape, g_tex)]
        return {
            "lambda": float(torch.as_tensor(lam).mean()),
            "shape_norm": float(norms[0].mean()),
            "texture_norm": float(norms[1].mean()),
            "cosine": float((dot(g_shape, g_tex) / (norms[0] * norms[1]).clamp(min=1e-12)).mean()),
        }
