"""From rendered latents to a latent gradient: one evaluation list, one batch, one call of the denoiser a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..methods.gradient import process
from ..methods.weights import weight
from ..priors.base import Prior
from ..prompts import ViewPrompts
from ..render.cameras import Cameras
from .settings import Settings


@dataclass(frozen=True)
class Guided:
    """One step's answer.

    Attributes:
        gradient: ``(B, C, h, w)``, the G of the method: weighted, cleaned, clipped, normalised; detached.
        finite: ``()`` bool, whether G was finite before it was cleaned.
        timesteps: ``(B,)`` long; ``bounds`` is the window they were drawn from.
        evaluations: noise predictions made, ``B`` of them for every entry of the method's list.
        diagnostics: the method's own figures; empty unless asked for.
    """

    gradient: Tensor
    finite: Tensor
    timesteps: Tensor
    bounds: tuple[int, int]
    evaluations: int
    diagnostics: Mapping[str, float] = field(default_factory=dict)


class Guidance:
    """A method bound to a prior and to the embeddings of its prompts, which are made once."""

    def __init__(self, prior: Prior, prompts: ViewPrompts, settings: Settings) -> None:
        self.prior, self.prompts, self.settings = prior, prompts, settings
        self.method = settings.make_method()
        by_view = [self.method.texts(text, prompts.negative) for text in prompts.texts]
        texts = list(dict.fromkeys(text for kinds in by_view for text in kinds.values()))
        embedded = dict(zip(texts, prior.embed(texts), strict=True))
        self._cond = {kind: torch.stack([embedded[kinds[kind]] for kinds in by_view]) for kind in by_view[0]}

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
        prior, method, settings = self.prior, self.method, self.settings
        bounds = settings.window.bounds(progress, prior.T)
        t = settings.window.sample(len(latents), progress, generators["timesteps"], prior.T)
        eps = torch.randn(latents.shape, generator=generators["noise"], device=latents.device)
        t_plus = method.shift(t, bounds[0], generators["shift"], prior.T)
        alpha, sigma = prior.alpha_sigma(t)
        view = self.prompts.select(cameras.azimuth, cameras.elevation)

        x_t = alpha * latents + sigma * eps
        alpha_plus, sigma_plus = prior.alpha_sigma(t_plus)
        x_t_plus = alpha_plus * latents + sigma_plus * eps
        evaluations = method.evaluations(progress)
        if evaluations:
            predicted = prior.predict_noise(
                torch.cat([x_t_plus if e.shifted else x_t for e in evaluations]),
                torch.cat([t_plus if e.shifted else t for e in evaluations]),
                torch.cat([self._cond[e.prompt][view] for e in evaluations]),
            ).split(len(latents))
        else:
            predicted = ()
        e = dict(zip(evaluations, predicted, strict=True))

        w = weight(settings.gradient.weighting, alpha, sigma)
        raw = method.gradient(e, eps, w, progress)
        return Guided(
            gradient=process(raw, settings.gradient, progress),
            finite=torch.isfinite(raw).all(),
            timesteps=t,
            bounds=bounds,
            evaluations=len(evaluations) * len(latents),
            diagnostics=method.diagnostics(e, eps, progress) if diagnose else {},
        )
