"""Settings that fit a graphics card and an evening: estimates before a run, and what to change when they are too high.

The figures are models of memory, measured on the bundled prior and counted on Stable Diffusion 1.5, not promises: a run
that runs out of memory still goes on with smaller chunks.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import SettingsError
from ..fields.layout import layout
from ..render.memory import WHOLE_BYTES, RenderMemory, estimate
from .settings import Settings

if TYPE_CHECKING:
    from .loop import Distillation

#: Numbers SD's encoder keeps of each pixel for its backward pass; other encoders in proportion to their first layer.
ENCODER_NUMBERS, ENCODER_WIDTH = 3000, 128
#: Numbers alive at once for each pixel of a picture that a VAE decodes without gradient, for each channel of its first
#: layer: counted on Stable Diffusion's and the bundled one.
DECODER_NUMBERS = 6
#: Bytes of activations in one UNet row of SD 1.5 at 64 x 64 latents in half precision; others in proportion.
UNET_ROW, UNET_WIDTH, UNET_LATENTS = 300_000_000, 320, 64 * 64
#: Share of a ray's lattice that lies in occupied cells: an object filling a tenth of the box.
OCCUPIED = 0.12
#: Memory of a point in a render with a grid of its own for the colour, relative to one grid: 1.25 and 1.36 measured.
SECOND_GRID = 1.35
#: Fewest iterations worth starting.
FEWEST = 50
#: Steps timed for a time budget; the first does not count.
TIMED_STEPS = 4
#: What the host, the driver and fragmentation take.
RESERVE_GB = 0.6


@dataclass(frozen=True)
class Cost:
    """What the model needs, in bytes.

    Attributes:
        weights: of everything that stays on the device.
        encoder: kept by the encoder for the backward pass of one view.
        row: activations of one row of the UNet's batch.
        max_batch: most rows at once; None for all.
        picture: of one picture that is decoded.
    """

    weights: int
    encoder: int
    row: int
    max_batch: int | None = None
    picture: int = 0


@dataclass(frozen=True)
class Fit:
    """Settings that fit, and why.

    Attributes:
        settings: what to run.
        max_batch: most UNet rows at once, for the prior; None for all.
        gigabytes: estimated peak.
        seconds: estimated time of the optimisation; None when no step was timed.
        render: the memory of the largest render.
        changes: what was changed, one sentence each.
    """

    settings: Settings
    max_batch: int | None
    gigabytes: float
    seconds: float | None
    render: RenderMemory
    changes: tuple[str, ...] = ()


def cost_of(prior: Any) -> Cost:
    """The cost of a diffusers prior, from its parts; of anything else nothing but what it says in ``weights_bytes``.

    A small encoder that the gradient goes through counts in place of the VAE's backward pass; the weights of both stay.
    """
    if not hasattr(prior, "unet"):
        return Cost(int(getattr(prior, "weights_bytes", 0)), 0, 0)
    small = getattr(prior, "small_encoder", None)
    pixels, (_, h, w) = prior.image_size**2, prior.latent_shape
    encoder = encoder_bytes(pixels, _first_width(prior.vae if small is None else small), prior.vae_dtype)
    row = row_bytes(h * w, prior.unet.config.block_out_channels[0], prior.dtype)
    picture = picture_bytes(pixels, _first_width(prior.vae), prior.vae_dtype)
    return Cost(prior.weights_bytes, encoder, row, getattr(prior, "max_batch", None), picture)


def _first_width(autoencoder: Any) -> int:
    """Channels of the first convolution of its encoder."""
    return next(len(p) for p in autoencoder.encoder.parameters() if p.ndim == 4)


def encoder_bytes(pixels: int, channels: int, dtype: torch.dtype) -> int:
    """What an encoder whose first layer has so many channels keeps of one view's pixels for its backward pass."""
    return int(ENCODER_NUMBERS * pixels * (channels / ENCODER_WIDTH) * dtype.itemsize)


def picture_bytes(pixels: int, channels: int, dtype: torch.dtype) -> int:
    """What a decoder of an encoder whose first layer has so many channels holds at once for one picture."""
    return DECODER_NUMBERS * channels * pixels * dtype.itemsize


def row_bytes(latents: int, channels: int, dtype: torch.dtype) -> int:
    """Activations of one UNet row of ``latents`` places; ``channels`` of its first layer."""
    return int(UNET_ROW * (channels / UNET_WIDTH) * (latents / UNET_LATENTS) * dtype.itemsize / 2)


def time_steps(run: Distillation, between: Callable[[], object] = lambda: None) -> float:
    """Mean seconds of a step, of a few spread evenly over the plan, which spoil ``run``; ``between`` comes before each.

    A plan may begin with small pictures and without shading, so that its first steps are its cheapest.
    """
    seconds = []
    rows = getattr(run.prior, "max_batch", None)
    try:
        for index in range(TIMED_STEPS):
            between()
            if index:
                run.iteration = int(run.settings.iterations * (index - 0.5) / (TIMED_STEPS - 1))
            began = time.perf_counter()
            run.step()
            if run.device.type == "cuda":
                torch.cuda.synchronize(run.device)
            seconds.append(time.perf_counter() - began)
    finally:
        if hasattr(run.prior, "max_batch"):
            run.prior.max_batch = rows  # where memory ran out, the run itself finds that again, and says so
    return statistics.mean(seconds[1:])


def largest_render(settings: Settings) -> RenderMemory:
    """Memory of the run's largest render, by :mod:`render.memory`; a second grid's features come on top."""
    side = round(settings.resolution.extremes()[1])
    rays = settings.batch * side * side
    one = estimate(int(rays * settings.render.samples_per_ray * OCCUPIED), rays, settings.render)
    more = 1.0 if settings.field.color_grid == "shared" else SECOND_GRID
    return RenderMemory(int(more * one.whole), int(more * one.chunks), int(more * one.tiles), one.mode)


def field_bytes(settings: Settings) -> int:
    """The hash grids with their gradients and Adam's two moments."""
    grid = layout(settings.field.grid)
    return 16 * grid.entries * grid.features * (1 if settings.field.color_grid == "shared" else 2)


def gigabytes(settings: Settings, cost: Cost, max_batch: int | None) -> float:
    """Estimated peak of a step. UNet rows, the pictures tint looks at, and the render's backward pass come one after
    the other."""
    rows = (5 if settings.perp_neg.enabled else 3) * settings.batch
    rows = rows if max_batch is None else min(max_batch, rows)
    kept = cost.weights + field_bytes(settings) + settings.batch * cost.encoder
    pictures = min(settings.batch, max_batch or settings.batch) * cost.picture
    pictures *= settings.losses.tint.extremes()[1] > 0
    return (kept + max(rows * cost.row, largest_render(settings).bytes, pictures)) / 1e9 + RESERVE_GB


def check_limits(vram_gb: float | None, minutes: float | None) -> None:
    """Raises ``SettingsError`` for a limit that is no positive number; None is no limit."""
    for name, value in (("vram_gb", vram_gb), ("time_budget", minutes)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingsError(f"expected {name} above 0, got {value}: leave it out for no limit")


def fit(
    settings: Settings,
    cost: Cost,
    *,
    vram_gb: float | None = None,
    minutes: float | None = None,
    seconds_per_step: float | None = None,
) -> Fit:
    """Settings near ``settings`` that keep within a memory and a time.

    Memory is saved in the order of what it costs: renders in tiles, UNet rows one at a time, fewer views a step. Time
    is saved by fewer iterations, since every schedule runs over their share.

    Args:
        settings: what is wanted.
        cost: of the model, see :func:`cost_of`.
        vram_gb: most gigabytes on the device; None for no limit.
        minutes: most minutes of optimisation; None for no limit. Needs ``seconds_per_step``.
        seconds_per_step: measured time of a step with these settings.

    Raises:
        SettingsError: a limit that is no positive number, or that nothing fits; the message says what the least is.
    """
    check_limits(vram_gb, minutes)
    changes: list[str] = []
    wanted, rows = settings, cost.max_batch
    if vram_gb is not None:
        settings, rows = _within_memory(settings, cost, vram_gb, changes)
    if minutes is not None:
        if seconds_per_step is None or not seconds_per_step > 0:
            raise SettingsError(f"expected a measured seconds_per_step to keep a time budget, got {seconds_per_step}")
        settings = _within_time(settings, minutes, seconds_per_step * settings.batch / wanted.batch, changes)
    seconds = None
    if seconds_per_step is not None:
        seconds = settings.iterations * seconds_per_step * settings.batch / wanted.batch
    peak = gigabytes(settings, cost, rows)
    return Fit(settings, rows, peak, seconds, largest_render(settings), tuple(changes))


def continued(
    settings: Settings, stored: Settings, cost: Cost, *, vram_gb: float | None = None, minutes: float | None = None
) -> Fit:
    """What a resumed run takes: ``settings``, and where a limit may have cut them, what the checkpoint holds.

    Nothing is estimated anew, so that the run stays the one that was started; a checkpoint that has more than is
    wanted was cut by no limit, and is left to differ. UNet rows are no setting and follow the limit.

    Args:
        settings: what is wanted, without the limits' changes.
        stored: the checkpoint's.
    """
    changes, iterations = [], settings.iterations
    if minutes is not None and stored.iterations < iterations:
        changes.append(f"{stored.iterations} iterations instead of {iterations}")
        settings = replace(settings, iterations=stored.iterations)
    before, rows = settings, cost.max_batch
    if vram_gb is not None:
        share, points = stored.render.memory_gb, stored.render.max_points
        if share < settings.render.memory_gb and points <= settings.render.max_points:
            settings = replace(settings, render=replace(settings.render, memory_gb=share, max_points=points))
        if stored.batch < settings.batch:
            settings = replace(settings, batch=stored.batch)
        rows = rows if gigabytes(settings, cost, rows) <= vram_gb else 1
        changes += _described(before, cost, settings, rows)
    return Fit(settings, rows, gigabytes(settings, cost, rows), None, largest_render(settings), tuple(changes))


def _within_memory(settings: Settings, cost: Cost, vram_gb: float, changes: list[str]) -> tuple[Settings, int | None]:
    need, batch = math.inf, settings.batch
    while batch >= 1:
        views = replace(settings, batch=batch)
        for rows in (cost.max_batch, 1):
            for share in (settings.render.memory_gb, 1.0, 0.5, 0.25):
                trial = _smaller_renders(views, share)
                need = min(need, gigabytes(trial, cost, rows))
                if gigabytes(trial, cost, rows) <= vram_gb:
                    changes += _described(settings, cost, trial, rows)
                    return trial, rows
        batch //= 2
    raise SettingsError(
        f"expected vram_gb of at least {math.ceil(10 * need) / 10:g} for this model, got {vram_gb:g}: the weights "
        f"take {cost.weights / 1e9:.1f} GB, the encoder's backward pass {cost.encoder / 1e9:.1f} GB, driver and gaps "
        f"{RESERVE_GB:g} GB. Use fp16, a small gradient encoder (TAESD), or a smaller model"
    )


def _smaller_renders(settings: Settings, share: float) -> Settings:
    """At most ``share`` GB for a render, half of it for the graph."""
    render = settings.render
    if share >= render.memory_gb:
        return settings
    points = min(render.max_points, int(0.5e9 * share / WHOLE_BYTES))
    return replace(settings, render=replace(render, memory_gb=share, max_points=points))


def _described(before: Settings, cost: Cost, after: Settings, rows: int | None) -> list[str]:
    found = []
    if after.render.memory_gb < before.render.memory_gb:
        found.append(f"renders hold {after.render.memory_gb:g} GB at most and are made in tiles above that")
    if rows != cost.max_batch:
        found.append("the UNet evaluates one row at a time")
    if after.batch < before.batch:
        found.append(f"{after.batch} views a step instead of {before.batch}")
    return found


def _within_time(settings: Settings, minutes: float, seconds: float, changes: list[str]) -> Settings:
    most = int(60 * minutes / seconds)
    if most >= settings.iterations:
        return settings
    if most < FEWEST:
        raise SettingsError(
            f"expected a time_budget of at least {math.ceil(10 * FEWEST * seconds / 60) / 10:g} minutes "
            f"({FEWEST} steps of {seconds:.2g} s), got {minutes:g}: ",
            advice="allow more, or lower {batch} or {resolution}, or take a smaller model",
        )
    changes.append(f"{most} iterations instead of {settings.iterations}")
    return replace(settings, iterations=most)
