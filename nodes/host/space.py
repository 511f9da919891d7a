"""The host's noise levels as the library's: one table of sigmas, alpha and sigma of squares adding to 1.

The host keeps latents as ``x = x0 + s eps`` (EPS, V_PREDICTION, EDM and their kin) or ``x = (1 - s) x0 + s eps`` (flow:
CONST), whatever the network predicts, and always answers with x0. So ``eps = (x - x0) / s``, or
``(x - (1 - s) x0) / s``. Divided by the length of its two coefficients, x is variance preserving.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...distill3d.errors import SettingsError

STEPS = 1000


def _column(values: Tensor) -> Tensor:
    return values.float().reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Space:
    """``sigmas`` ``(T,)`` rising; ``flow`` says which of the two forms they belong to."""

    sigmas: Tensor
    flow: bool

    @classmethod
    def of(cls, sampling: object) -> Space:
        """The space of a MODEL's ``model_sampling``; tables longer than 1000 are thinned, so that T is at most that.

        Raises:
            SettingsError: a parameterisation whose x0 does not give eps (image to image models).
        """
        names = {kind.__name__ for kind in type(sampling).__mro__}
        if names & {"IMG_TO_IMG", "IMG_TO_IMG_FLOW", "X0"}:
            raise SettingsError("expected a text-to-image MODEL, got an image-to-image one: it predicts no noise")
        sigmas = torch.as_tensor(sampling.sigmas).detach().float().cpu().clone()  # type: ignore[attr-defined]
        if len(sigmas) > STEPS:
            sigmas = sigmas[torch.linspace(0, len(sigmas) - 1, STEPS).round().long()]
        return cls(sigmas, "CONST" in names)

    @property
    def T(self) -> int:
        return len(self.sigmas)

    def sigma(self, t: Tensor) -> Tensor:
        """``(B,)`` long -> ``(B,)`` the host's sigma. Raises ``SettingsError`` outside 0 .. T - 1."""
        index = t.detach().cpu()
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.T:
            raise SettingsError(
                f"expected timesteps in 0..{self.T - 1}, got {int(index.min())}..{int(index.max())}: "
                "check the timestep window"
            )
        return self.sigmas[index].to(t.device)

    def length(self, s: Tensor) -> Tensor:
        """``(B, 1, 1, 1)``: what the host's x is divided by to be variance preserving."""
        s = _column(s)
        return ((1 - s) ** 2 + s**2).sqrt() if self.flow else (1 + s**2).sqrt()

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Prior.alpha_sigma``."""
        s = self.sigma(t)
        length = self.length(s)
        return (1 - _column(s) if self.flow else torch.ones_like(length)) / length, _column(s) / length

    def noise(self, x: Tensor, x0: Tensor, s: Tensor) -> Tensor:
        """eps of the host's ``x`` and the ``x0`` it answered, at sigma ``(B,)``."""
        s = _column(s)
        return (x - (1 - s) * x0) / s if self.flow else (x - x0) / s

    def clean(self, x: Tensor, eps: Tensor, s: Tensor) -> Tensor:
        """x0 of ``x`` and ``eps``: the inverse of ``noise``. A flow model at s = 1 has none; its x0 is 0 there."""
        s = _column(s)
        return torch.where(s < 1, (x - s * eps) / (1 - s).clamp(min=1e-6), 0.0) if self.flow else x - s * eps
