"""The cases both sides run: settings in the official vocabulary and in ours, and a fixed random state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill3d.methods.asd import ASDSettings, shift
from distill3d.methods.csd import CSDSettings
from distill3d.methods.gradient import GradientSettings
from distill3d.methods.perp_neg import PerpNegSettings
from distill3d.methods.sds import SDSSettings
from distill3d.optimize.guidance import Draw, Guidance, Guided
from distill3d.optimize.settings import Settings
from distill3d.priors.noise_schedule import alpha_sigma, alphas_cumprod
from distill3d.prompts import ViewPrompts

PROMPT, NEGATIVE = "a red cube", "a blue sphere"
SHAPE = (4, 8, 8)


@dataclass(frozen=True)
class Case:
    """One comparison; azimuth and elevation in degrees, ``official`` are fields of their configuration."""

    name: str
    method: str
    official: dict[str, Any]
    ours: dict[str, Any]
    t: tuple[int, ...]
    azimuth: tuple[float, ...]
    elevation: tuple[float, ...] = (10.0, 10.0)
    negative: str = ""
    perp_neg: bool = False
    strength: float | None = None
    seed: int = field(default=0)

    @property
    def batch(self) -> int:
        return len(self.t)

    def state(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents and noise ``(B, 4, 8, 8)``, timesteps ``(B,)`` and shares of the shift ``(B,)``."""
        generator = torch.Generator().manual_seed(self.seed)
        latents, eps = (torch.randn(self.batch, *SHAPE, generator=generator) for _ in range(2))
        return latents.to(dtype), eps.to(dtype), torch.tensor(self.t), torch.rand(self.batch, generator=generator)


_SDS_101 = {"method": "sds", "sds": SDSSettings(guidance=101.0)}  # type: ignore[arg-type]
_SDS_100 = {"method": "sds", "sds": SDSSettings(guidance=100.0)}  # type: ignore[arg-type]
_ASD = {"guidance_scale": 7.5, "plus_ratio": 0.1, "plus_random": True}
_TRIPLE = {"cond_scale": 1.0, "uncond_scale": -0.4, "null_scale": -0.6}
_OUR_TRIPLE = {"method": "csd", "csd": CSDSettings(1.0, -0.4, -0.6)}  # type: ignore[arg-type]

CASES = (
    Case("sds", "sds", {"guidance_scale": 100.0}, _SDS_101, (200, 800), (0.0, 170.0)),
    Case("sds_uniform", "sds", {"guidance_scale": 7.5, "weighting_strategy": "uniform"},
         {"method": "sds", "sds": SDSSettings(8.5), "gradient": GradientSettings("uniform")},  # type: ignore[arg-type]
         (20, 980), (90.0, 0.0), (0.0, 75.0), NEGATIVE, seed=1),
    Case("sds_perp_neg_front", "sds", {"guidance_scale": 100.0}, _SDS_100, (500,), (30.0,), (10.0,), "", True),
    Case("sds_perp_neg_back", "sds", {"guidance_scale": 100.0}, _SDS_100, (700,), (-120.0,), (10.0,), NEGATIVE, True),
    Case("sds_perp_neg_overhead", "sds", {"guidance_scale": 100.0}, _SDS_100, (700,), (50.0,), (80.0,), "", True),
    Case("asd", "asd", _ASD, {"method": "asd"}, (900, 700), (0.0, -100.0), seed=2),
    Case("asd_fixed_shift", "asd", {**_ASD, "plus_random": False}, {"method": "asd", "asd": ASDSettings(random=False)},
         (980, 501), (45.0, 180.0), negative=NEGATIVE, seed=3),
    Case("asd_perp_neg", "asd", {**_ASD, "guidance_perp_neg": -0.5}, {"method": "asd"}, (850,), (60.0,), (10.0,), "",
         True, seed=4),
    Case("csd", "csd", {"cond_scale": 1.0, "uncond_scale": 0.0, "null_scale": -1.0}, {"method": "csd"}, (300, 600),
         (0.0, 120.0), negative=NEGATIVE, seed=5),
    Case("csd_triple", "csd", _TRIPLE, _OUR_TRIPLE, (100, 950), (20.0, 200.0), negative=NEGATIVE, seed=6),
    Case("csd_perp_neg_unit", "csd", {**_TRIPLE, "perpneg_scale": 3.0, "grad_normalize": True},
         {**_OUR_TRIPLE, "gradient": GradientSettings(normalise="norm")}, (400,), (100.0,), (10.0,), NEGATIVE, True,
         seed=7),
)  # fmt: skip


class _Prior:
    """Recorded or live noise predictions behind the protocol's part that guidance uses."""

    T = 1000

    def __init__(self, predict: Callable[[Tensor, Tensor, Tensor], Tensor], table: Mapping[str, Tensor]) -> None:
        self.predict_noise, self.table = predict, table
        self.abar = alphas_cumprod()

    def embed(self, texts: list[str]) -> Tensor:
        return torch.stack([self.table[text] for text in texts])

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return alpha_sigma(self.abar, t)


def run_ours(
    case: Case,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    table: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> Guided:
    """Our guidance on the case's state, with the ASD window at its start (t from 500)."""
    settings = Settings(**case.ours, perp_neg=PerpNegSettings(case.perp_neg, case.strength))
    guidance = Guidance(_Prior(predict, table), ViewPrompts(PROMPT, case.negative), settings)  # type: ignore[arg-type]
    latents, eps, t, u = case.state(dtype)
    t_plus = shift(t, 500, settings.asd.eta, u if settings.asd.random else None) if case.method == "asd" else t
    azimuth, elevation = (torch.tensor([math.radians(v) for v in a]) for a in (case.azimuth, case.elevation))
    return guidance.at(latents, azimuth, elevation[: case.batch], 0.0, Draw(t, t_plus, eps))
