"""What every distillation method is: which noise predictions it needs, and the latent gradient made of them.

One notation throughout. ``x`` is the clean latent of a render, ``x_t = alpha_t x + sigma_t eps`` its noised form,
``e(c)`` the frozen model's noise prediction for text c: ``e_y`` target, ``e_0`` empty or negative prompt. Guidance is
``e_s = e_0 + s (e_y - e_0)``, so s = 1 is none; the form ``(1 + w) e_y - w e_0`` of some papers has s = 1 + w.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, get_args

import torch
from torch import Tensor

from ..devices import upload
from ..errors import SettingsError
from ..schedules import WINDOWS, Schedule, TimestepWindow
from .gradient import GradientSettings
from .settings import S

PROMPTS = ("target", "null", "negative", "target_negative", "modifier", "perp_neg")
"""Kinds of text. ``perp_neg`` is none: it names the view correction that ``perp_neg.py`` makes of other evaluations."""


@dataclass(frozen=True)
class Evaluation:
    """One noise prediction: the kind of text it is conditioned on, and whether at the shifted timestep."""

    prompt: str
    shifted: bool = False

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise ValueError(f"expected a prompt kind of {', '.join(PROMPTS)}, got {self.prompt!r}")


TARGET, NULL, NEGATIVE = Evaluation("target"), Evaluation("null"), Evaluation("negative")
PERP = Evaluation("perp_neg")
Over = Literal["iterations", "timesteps"]
"""What a guidance schedule may run over."""
OVER: tuple[Over, ...] = get_args(Over)


def guided_target(e: Mapping[Evaluation, Tensor]) -> Tensor:
    """``e_y``, plus Perp-Neg's weighted correction where there is one: what a guided term reads."""
    return e[TARGET] + e[PERP] if PERP in e else e[TARGET]


def scale_at(schedule: Schedule, over: str, progress: float, time: Tensor | None) -> float | Tensor:
    """A scale at the run's progress, or, over timesteps, ``(B, 1, 1, 1)`` at each sample's t / T.

    Raises:
        ValueError: a schedule over timesteps without ``time``.
    """
    if over == "iterations":
        return schedule(progress)
    if time is None:
        raise ValueError("expected the timesteps for a schedule over timesteps, got none: pass time = t / T")
    values = [schedule(share) for share in time.flatten().tolist()]
    return torch.tensor(values, dtype=time.dtype, device=time.device).reshape(time.shape)


def mean_scale(schedule: Schedule, over: str, progress: float, time: Tensor | None) -> float:
    """``scale_at``, averaged over the samples: what is logged. Raises as it does."""
    return float(torch.as_tensor(scale_at(schedule, over, progress, time), dtype=torch.float64).mean())


def beside(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A scale or a flag that was found on the host, on the device of ``like``, which nobody waits for."""
    return upload(value, like.device) if isinstance(value, Tensor) else value


def check_over(over: str) -> None:
    """Raises ``SettingsError`` unless ``over`` names an axis a guidance schedule can run over."""
    if over not in OVER:
        raise SettingsError(f"expected a schedule over {' or '.join(OVER)}, got {over!r}: choose one")


@dataclass(frozen=True)
class Preset(Generic[S]):
    """Settings that were published together."""

    settings: S
    window: TimestepWindow = WINDOWS["fixed"]
    gradient: GradientSettings = field(default_factory=GradientSettings)


class Method(ABC, Generic[S]):
    """A distillation method with its settings; holds no model and no state."""

    name: ClassVar[str]
    presets: ClassVar[Mapping[str, Preset[Any]]]
    """Combinations, published ones unless they say otherwise; the first is the default."""
    perp_neg: ClassVar[float] = 1.0
    """Weight of Perp-Neg's correction in the published code of this method; 1 where there is none."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def evaluations(self, progress: float) -> tuple[Evaluation, ...]:
        """The predictions ``gradient`` reads at this progress; what has weight 0 there is left out."""

    @abstractmethod
    def gradient(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, w: Tensor, progress: float, time: Tensor | None = None
    ) -> Tensor:
        """Latent gradient ``(B, C, H, W)`` from predictions and noise of that shape and weights ``(B, 1, 1, 1)``.

        ``time`` is t / T, ``(B, 1, 1, 1)``, best on the host: it is looked at. Only methods and schedules that run over
        timesteps read it. Samples that ``needed`` left out of an evaluation hold zeros in it.
        """

    def needed(self, evaluation: Evaluation, time: Tensor) -> Tensor | None:
        """``(B,)`` bool of the samples that need this evaluation at ``(B,)`` t / T; None is all of them."""
        return None

    def reference(self, progress: float) -> Evaluation:
        """What Perp-Neg's directions start from: the prediction that guidance pushes away from."""
        return NEGATIVE

    def texts(self, prompt: str, negative: str) -> dict[str, str]:
        """The text of every prompt kind this method may evaluate, for one view's ``prompt``; only the target ones
        carry view words."""
        return {"target": prompt, "null": "", "negative": negative}

    def shift(self, t: Tensor, t_min: int, generator: torch.Generator, T: int = 1000) -> Tensor:
        """``(B,)`` long timesteps of the shifted evaluations; ``t_min`` is the window's lower bound at this step."""
        return t

    def diagnostics(
        self, e: Mapping[Evaluation, Tensor], eps: Tensor, progress: float, time: Tensor | None = None
    ) -> dict[str, float]:
        """Numbers worth logging beside the gradient; synchronises with the device, so not for every step."""
        return {}


def dot(a: Tensor, b: Tensor) -> Tensor:
    """``(B, 1, 1, 1)`` inner product of each sample over all its other axes."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def mgda_weight(g1: Tensor, g2: Tensor) -> Tensor:
    """Weight of g1 in the shortest convex combination ``l g1 + (1 - l) g2``, per sample: ``(B, 1, 1, 1)`` in [0, 1].

    ``l = clip(<g2 - g1, g2> / ||g1 - g2||^2, 0, 1)`` (MGDA for two tasks, https://arxiv.org/abs/1810.04650, Alg. 1).
    It favours the shorter gradient. Equal gradients give 1.

    >>> float(mgda_weight(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])))
    0.10000000149011612
    """
    difference = g2 - g1
    square = dot(difference, difference)
    same = square == 0
    return torch.where(same, 1.0, dot(difference, g2) / torch.where(same, 1.0, square)).clamp(0, 1)
