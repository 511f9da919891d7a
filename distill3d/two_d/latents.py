"""One method's gradient pushed straight into latents or pixels: the quickest look at a method or a prompt.

The same seed gives every method the same start and noise, and the same timesteps where their windows agree.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import DivergedError, SettingsError
from ..methods import METHODS, lookup
from ..methods import preset as published
from ..methods.gradient import surrogate_loss
from ..methods.perp_neg import PerpNegSettings
from ..optimize import preset
from ..optimize.guidance import Draw, Guidance
from ..optimize.settings import Settings
from ..priors.base import Prior
from ..priors.freeu import FreeUSettings
from ..prompts import Sector, ViewPrompts, make_sectors
from ..render.cameras import orbit
from ..schedules import Linear, Schedule, TimestepWindow, parse

Points = list[tuple[float, float]]
VIEWS = {"none": None, "front": 0.0, "side": 90.0, "back": 180.0}
SPACES = ("latent", "image")
_PLAIN = (Sector("any", ""),)


@dataclass(frozen=True)
class Settings2D:
    """Settings of a run without 3D."""

    iterations: int = 200
    """Optimisation steps for every method."""
    batch: int = 2
    """Pictures optimised at once for every method, each with its own noise."""
    space: Literal["latent", "image"] = "latent"
    """What is optimised: latent (the model's own code, fastest), or image (pixels, through the encoder)."""
    rate: Schedule = field(default=Linear(0.05, 0.005))
    """Adam's learning rate over the run; latents have a spread of about 1."""
    start: float = 0.1
    """Spread of the random start around a blank latent or a grey image."""
    view: Literal["none", "front", "side", "back"] = "none"
    """Words of a view behind the prompt: none, front, side or back."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", parse(self.rate))
        for name in ("iterations", "batch"):
            if getattr(self, name) < 1:
                raise SettingsError(f"expected {name} of 1 or more, got {getattr(self, name)}: try 200 and 2")
        low, high = self.rate.extremes()
        if low < 0 or high == 0:
            raise SettingsError(f"expected a rate above 0, got {low:g} to {high:g}: try 0.05->0.005")
        if not 0 <= self.start <= 10:
            raise SettingsError(f"expected a start of 0 to 10, got {self.start}: latents have a spread of about 1")
        if self.space not in SPACES:
            raise SettingsError(f"expected space as {' or '.join(SPACES)}, got {self.space!r}: choose one")
        if self.view not in VIEWS:
            raise SettingsError(f"expected a view of {', '.join(VIEWS)}, got {self.view!r}: choose one")


@dataclass(frozen=True)
class Frame:
    """One iteration.

    Attributes:
        iteration: how many are done; ``progress`` is their share when the step was made.
        latents: ``(B, C, h, w)`` after the step, on the CPU; None where ``pictures.thinned`` dropped it.
        norm: mean L2 norm of the latent gradient of a sample; ``evaluations`` the noise predictions made.
        diagnostics: norms and cosines of the method's parts, and its own figures.
        errors: ``(timestep, mean square of e_y - eps)`` of each sample.
    """

    iteration: int
    progress: float
    latents: Tensor | None
    norm: float
    evaluations: int
    diagnostics: Mapping[str, float]
    errors: tuple[tuple[int, float], ...]


@dataclass
class Distilled:
    """What became of one method: ``frames`` of every iteration, ``start`` and final ``latents`` ``(B, C, h, w)``."""

    method: str
    settings: Settings
    start: Tensor
    frames: list[Frame] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def latents(self) -> Tensor:
        return self.at(len(self.frames))

    def at(self, iteration: int) -> Tensor:
        """Latents after so many iterations. Raises ``ValueError`` for those of a frame that were dropped."""
        found = self.frames[iteration - 1].latents if iteration else self.start
        if found is None:
            raise ValueError(f"the latents of iteration {iteration} were dropped: ask for one of pictures.moments")
        return found


def choose(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Known names in lower case; ``all``, in any case, is every method. Commas part names as blanks do.

    Raises:
        SettingsError: an unknown name, one twice, or others beside ``all``.
    """
    methods = tuple(name for text in methods for name in text.replace(",", " ").split())
    written = " ".join(methods) or "none"
    if any(name.strip().lower() == "all" for name in methods):
        if len(methods) > 1:
            raise SettingsError(f"expected all alone or the names of methods, got {written}: leave one of them out")
        return tuple(name.lower() for name in METHODS)
    names = tuple(lookup(name).method.name.lower() for name in methods)
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"expected methods without repetition and at least one, got {written}: or write all alone")
    return names


def settings_for(
    method: str,
    *,
    bundled: bool,
    overrides: Mapping[str, Any] | None = None,
    window: TimestepWindow | None = None,
    perp_neg: PerpNegSettings | None = None,
    freeu: FreeUSettings | None = None,
) -> Settings:
    """A method's published window and gradient, with the scales that suit the bundled prior where it is used."""
    source = published(method)
    base = preset("draft", method, bundled=bundled)
    own = {method: (overrides or {}).get(method, getattr(base, method))}
    return Settings(
        method=base.method,
        window=window or source.window,
        gradient=source.gradient,
        perp_neg=perp_neg or PerpNegSettings(),
        freeu=freeu or FreeUSettings(),
        **own,
    )


def seeded(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """A generator of its own for each purpose, the same for every method."""
    return torch.Generator(device).manual_seed(zlib.crc32(f"2d {seed} {purpose}".encode()))


def prompts_for(prompt: str, negative: str, settings: Settings, view: str) -> ViewPrompts:
    """View words only where a view is asked for or Perp-Neg needs them."""
    plain = view == "none" and not settings.perp_neg.enabled
    return ViewPrompts(prompt, negative, _PLAIN if plain else make_sectors())


def distil(
    prior: Prior,
    prompt: str,
    settings: Settings,
    run: Settings2D,
    *,
    negative: str = "",
    seed: int = 0,
    start: Tensor | None = None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    stop: Callable[[], bool] = lambda: False,
) -> Distilled:
    """Optimise with one method.

    Args:
        start: ``(B, C, h, w)`` latents to start from; by default noise of spread ``run.start``, the same for a seed.
        stop: asked after every iteration; True ends the run there.

    Raises:
        DivergedError: numbers that are no longer finite.
    """
    device = prior.device
    guidance = Guidance(prior, prompts_for(prompt, negative, settings, run.view), settings)
    generators = {name: seeded(seed, name, device) for name in ("start", "timesteps", "noise", "shift")}
    parameter, encode = _parameter(prior, run, generators["start"], start)
    optimizer = torch.optim.Adam([parameter], lr=0.0, betas=(0.9, 0.99), eps=1e-15)
    cameras = orbit([VIEWS[run.view] or 0.0] * len(parameter), 0).to(device)
    done = Distilled(settings.method, settings, _kept(encode(parameter)))
    began = time.monotonic()
    for i in range(run.iterations):
        progress = i / run.iterations
        latents = encode(parameter)
        guided = guidance(latents.detach(), cameras, progress, generators, diagnose=True)
        surrogate_loss(latents, guided.gradient).backward()
        optimizer.param_groups[0]["lr"] = run.rate(progress)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        frame = Frame(
            i + 1,
            progress,
            _kept(encode(parameter)),
            float(guided.gradient.flatten(1).norm(dim=1).mean()),
            guided.evaluations,
            guided.diagnostics,
            guided.errors,
        )
        _check_finite(frame, settings.method, bool(guided.finite))
        done.frames.append(frame)
        on_frame(frame)
        if stop():
            break
    done.seconds = time.monotonic() - began
    return done


def _check_finite(frame: Frame, method: str, gradient: bool) -> None:
    numbers = [frame.norm, *frame.diagnostics.values(), *(error for _, error in frame.errors)]
    latents = frame.latents is None or bool(frame.latents.isfinite().all())
    if not (gradient and latents and all(map(math.isfinite, numbers))):
        raise DivergedError(
            f"expected finite numbers, got infinite or undefined ones with {method.upper()} at iteration "
            f"{frame.iteration}: lower the learning rate, or this method's scales"
        )


def _kept(latents: Tensor) -> Tensor:
    return latents.detach().to("cpu", copy=True)


def _parameter(
    prior: Prior, run: Settings2D, generator: torch.Generator, start: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What is optimised, and how it becomes latents."""
    size = prior.image_size
    shape = (run.batch, 3, size, size) if run.space == "image" else (run.batch, *prior.latent_shape)
    noise = run.start * torch.randn(shape, generator=generator, device=prior.device)
    if run.space == "image":
        if start is not None:
            raise SettingsError("expected no start latents in image space, got some: use space latent")
        return noise.requires_grad_(), lambda pixels: prior.encode(pixels.sigmoid())
    first = noise if start is None else start.to(prior.device).clone()
    return first.requires_grad_(), lambda latents: latents


def norms_over_timesteps(
    prior: Prior,
    prompt: str,
    runs: Mapping[str, Settings],
    latents: Tensor,
    *,
    negative: str = "",
    draws: int = 32,
    seed: int = 0,
    on_draw: Callable[[], None] = lambda: None,
) -> dict[str, Points]:
    """``(t, ||G||)`` of every method at the same latents ``(B, C, h, w)``, timesteps (0.02 to 0.98) and noise.

    Read at mid-run, with the weight sigma squared for all, before clipping or normalising: what ScaleDreamer's figure 2
    compares. ``B draws`` points a method, in the order of t; ``on_draw`` is called after every draw.
    """
    t_generator, n_generator = (seeded(seed, purpose, prior.device) for purpose in ("same t", "same noise"))
    window = TimestepWindow()
    guidances = {}
    for name, settings in runs.items():
        plain = replace(settings, window=window, gradient=type(settings.gradient)())
        guidances[name] = Guidance(prior, prompts_for(prompt, negative, plain, "none"), plain)
    found: dict[str, Points] = {name: [] for name in guidances}
    angle = torch.zeros(len(latents), device=prior.device)
    for draw in range(draws):
        t = window.sample(len(latents), 0.5, t_generator, prior.T)
        eps = torch.randn(latents.shape, generator=n_generator, device=latents.device)
        for name, guidance in guidances.items():
            same_u = seeded(seed, f"same u {draw}", prior.device)
            t_plus = guidance.method.shift(t, window.bounds(0.5, prior.T)[0], same_u, prior.T)
            G = guidance.at(latents, angle, angle, 0.5, Draw(t, t_plus, eps)).gradient
            found[name] += zip(t.tolist(), G.flatten(1).norm(dim=1).tolist(), strict=True)
        on_draw()
    return {name: sorted(points) for name, points in found.items()}


def mean_norm(points: Sequence[tuple[float, float]]) -> float:
    """The mean length over all timesteps, of one method's ``norms_over_timesteps``."""
    return sum(norm for _, norm in points) / len(points)


def noise_errors(
    prior: Prior,
    prompt: str,
    latents: Tensor,
    *,
    points: int = 16,
    draws: int = 4,
    seed: int = 0,
    on_point: Callable[[], None] = lambda: None,
) -> Points:
    """``(t, e(t))``: mean square of ``e_y - eps`` at ``(B, C, h, w)`` latents over timesteps (ScaleDreamer, fig. 1)."""
    generator = seeded(seed, "noise error", prior.device)
    cond = prior.embed([prompt]).expand(len(latents) * draws, -1, -1)
    x = latents.to(prior.device).repeat(draws, 1, 1, 1)
    eps = torch.randn(x.shape, generator=generator, device=prior.device)
    found = []
    for i in range(points):
        t = round((0.02 + 0.96 * i / max(points - 1, 1)) * (prior.T - 1))
        at = torch.full((len(x),), t, dtype=torch.long, device=prior.device)
        alpha, sigma = prior.alpha_sigma(at)
        e_y = prior.predict_noise(alpha * x + sigma * eps, at, cond)
        found.append((float(t), float((e_y - eps).square().mean())))
        on_point()
    return found
