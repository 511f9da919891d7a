"""From rendered latents to a latent gradient: one evaluation list, one batch, one call of the denoiser a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..devices import upload
from ..errors import SettingsError
from ..methods import diagnostics
from ..methods.base import TARGET, Evaluation
from ..methods.gradient import process
from ..methods.weights import weight
from ..priors.base import Prior
from ..prompts import ViewPrompts
from ..render.cameras import Cameras
from .evaluations import Conditions
from .settings import Settings


@dataclass(frozen=True)
class Guided:
    """One step's answer.

    Attributes:
        gradient: ``(B, C, h, w)``, the G of the method: weighted, cleaned, clipped, normalised; detached.
        finite: ``()`` bool, whether G was finite before it was cleaned.
        timesteps: ``(B,)`` long, on the host; ``bounds`` is the window they were drawn from.
        evaluations: noise predictions made: rows of the one denoiser call.
        diagnostics: the method's own figures, and norms and cosines of its parts; empty unless asked for.
        errors: ``(timestep, mean square of e_y - eps)`` of each view; empty unless asked for.
        expected: ``(B, C, h, w)``, the clean latents ``(x_t - sigma e_y) / alpha`` that the prior expects of the prompt
            alone; None where the method asks for no such prediction.
    """

    gradient: Tensor
    finite: Tensor
    timesteps: Tensor
    bounds: tuple[int, int]
    evaluations: int
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[tuple[int, float], ...] = ()
    expected: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """What is random in a step: ``(B,)`` long timesteps and their shifted ones, ``(B, C, h, w)`` noise."""

    t: Tensor
    t_plus: Tensor
    eps: Tensor


class Guidance:
    """A method bound to a prior and to the embeddings of its prompts, which are made once."""

    def __init__(self, prior: Prior, prompts: ViewPrompts, settings: Settings) -> None:
        """Raises ``SettingsError`` for Perp-Neg without its sectors, or FreeU on a prior that has none."""
        self.prior, self.prompts, self.settings = prior, prompts, settings
        self.method = settings.make_method()
        self.conditions = Conditions(prior, prompts, self.method, settings.perp_neg)
        if settings.freeu.enabled and not hasattr(prior, "with_freeu"):
            raise SettingsError(
                "expected a prior with FreeU, got one without: ",
                advice="turn {freeu.enabled} off, or patch the model itself",
            )

    def draw(self, latents: Tensor, progress: float, generators: Mapping[str, torch.Generator]) -> Draw:
        """Timesteps, shifts and noise of a step, each from the generator of its name."""
        prior, window = self.prior, self.settings.window
        t = window.sample(len(latents), progress, generators["timesteps"], prior.T)
        eps = torch.randn(latents.shape, generator=generators["noise"], device=latents.device)
        t_plus = self.method.shift(t, window.bounds(progress, prior.T)[0], generators["shift"], prior.T)
        return Draw(t, t_plus, eps)

    def __call__(
        self,
        latents: Tensor,
        cameras: Cameras,
        progress: float,
        generators: Mapping[str, torch.Generator],
        *,
        diagnose: bool = False,
    ) -> Guided:
        """The gradient at ``(B, C, h, w)`` latents seen from ``B`` cameras; draws timesteps, noise and shifts."""
        drawn = self.draw(latents, progress, generators)
        return self.at(latents, cameras.azimuth, cameras.elevation, progress, drawn, diagnose=diagnose)

    def at(
        self,
        latents: Tensor,
        azimuth: Tensor,
        elevation: Tensor,
        progress: float,
        drawn: Draw,
        *,
        diagnose: bool = False,
    ) -> Guided:
        """The gradient at given timesteps and noise, for ``(B,)`` views in radians: nothing random is left."""
        prior, method, settings = self.prior, self.method, self.settings
        device, eps = latents.device, drawn.eps
        t, t_plus = drawn.t.cpu(), drawn.t_plus.cpu()
        alpha, sigma = (upload(v, device) for v in prior.alpha_sigma(t))
        time = t.to(alpha.dtype) / prior.T
        rows = self.conditions.rows(azimuth.cpu(), elevation.cpu(), progress, t, t_plus, time)
        e: dict[Evaluation, Tensor] = {}
        measured = e
        if len(rows):
            sample = torch.tensor(rows.sample, dtype=torch.long)
            at = torch.where(torch.tensor(rows.shifted), t_plus[sample], t[sample])
            a, s = (upload(v, device) for v in prior.alpha_sigma(at))
            sample = upload(sample, device)
            x = a * latents[sample] + s * eps[sample]
            more = {"samples": rows.sample} if getattr(prior, "takes_samples", False) else {}
            plain, guided = self._predict(x, at, self.conditions.embeddings(rows), more)
            measured = e = self.conditions.collect(rows, plain)
            if guided is not plain:
                e = self.conditions.collect(rows, guided)
                e |= {evaluation: e_plus for evaluation, e_plus in measured.items() if evaluation.shifted}

        times = time.reshape(-1, 1, 1, 1)
        raw = method.gradient(e, eps, weight(settings.gradient.weighting, alpha, sigma), progress, times)
        figures: dict[str, float] = {}
        errors: tuple[tuple[int, float], ...] = ()
        if diagnose and e:
            figures = diagnostics.figures(measured, eps) | method.diagnostics(e, eps, progress, times)
            if TARGET in e:
                errors = tuple(zip(t.tolist(), diagnostics.noise_error(measured[TARGET], eps).tolist(), strict=True))
        return Guided(
            gradient=process(raw, settings.gradient, progress),
            finite=torch.isfinite(raw).all(),
            timesteps=t,
            bounds=settings.window.bounds(progress, prior.T),
            evaluations=len(rows),
            diagnostics=figures,
            errors=errors,
            expected=latents - sigma / alpha * (measured[TARGET] - eps) if TARGET in measured else None,
        )

    def _predict(self, x: Tensor, at: Tensor, cond: Tensor, more: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The predictions as the model gives them, and as a patch on guidance has them: the same where there is none.

        A patch is meant for what is guided. ASD's second prediction is not, and shares its row with the target where
        the shift is 0; nor is what is measured.
        """
        prior: Any = self.prior
        if self.settings.freeu.enabled:
            prior = prior.with_freeu(self.settings.freeu)
        if getattr(prior, "guide", None) is not None:
            plain, guided = prior.predict_guided(x, at, cond, **more)
            return plain, guided
        plain = prior.predict_noise(x, at, cond, **more)
        return plain, plain
