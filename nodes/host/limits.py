"""Limits of a run: what the host's MODEL and VAE cost, settings that keep within a memory and a time, and their report.

Weights are as the host's manager counts them, all of them on the device, though it can keep parts of a model in main
memory where they find no room.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...distill3d.optimize import Settings
from ...distill3d.optimize.checkpoint import Checkpoint
from ...distill3d.optimize.fit import (
    ENCODER_WIDTH,
    Cost,
    Fit,
    continued,
    encoder_bytes,
    fit,
    picture_bytes,
    row_bytes,
)
from ...distill3d.optimize.state import described
from .encoder import DECODERS


@dataclass(frozen=True)
class Limits:
    """Most ``vram_gb`` gigabytes on the device, most ``minutes`` of optimisation; 0 for no limit."""

    vram_gb: float = 0.0
    minutes: float = 0.0

    def given(self) -> dict[str, float | None]:
        """As arguments of ``fit``: None for no limit."""
        return {"vram_gb": self.vram_gb or None, "minutes": self.minutes or None}


def cost_of(model: Any, vae: Any, image_size: int) -> Cost:
    """The cost of a run on MODEL and VAE, the differentiable copy of the encoder included.

    A UNet's activations are estimated as the library does; those of other networks by the host.
    """
    source = vae.first_stage_model
    decoder = {id(p) for name in DECODERS if hasattr(source, name) for p in getattr(source, name).parameters()}
    copied = [p for p in source.parameters() if id(p) not in decoder]
    weights = model.model_size() + vae.model_size() + sum(p.numel() * p.element_size() for p in copied)
    width = next((len(p) for p in copied if p.ndim == 4), ENCODER_WIDTH)
    side = image_size // int(vae.downscale_ratio)
    channels = model.model.model_config.unet_config.get("model_channels")
    if channels:
        row = row_bytes(side * side, int(channels), model.model.get_dtype_inference())
    else:
        row = int(model.memory_required([1, int(model.model.latent_format.latent_channels), side, side]))
    pixels, dtype = image_size**2, vae.vae_dtype
    return Cost(int(weights), encoder_bytes(pixels, width, dtype), row, picture=picture_bytes(pixels, width, dtype))


class Budget:
    """A run's settings within its limits: for memory at once, for time when its steps were timed.

    Attributes:
        fit: settings, UNet rows at once, estimates and changes.
        times: whether steps have to be timed. A resumed run keeps the iterations it was started with.

    Raises:
        SettingsError: nothing keeps within the memory; the message says what the least is.
        CheckpointError: ``resume`` does not describe a run.
    """

    def __init__(self, cost: Cost, limits: Limits, settings: Settings, resume: Checkpoint | None = None) -> None:
        self._cost, self._limits = cost, limits
        if resume is None:
            self.fit = fit(settings, cost, vram_gb=limits.given()["vram_gb"])
        else:
            self.fit = continued(settings, described(resume)[0], cost, **limits.given())
        self.times = resume is None and bool(limits.minutes)

    def timed(self, seconds: float) -> Fit:
        """``fit`` with the iterations there is time for; ``seconds`` of a step. Raises ``SettingsError`` for none."""
        earlier = self.fit
        cost = replace(self._cost, max_batch=earlier.max_batch)
        found = fit(earlier.settings, cost, minutes=self._limits.given()["minutes"], seconds_per_step=seconds)
        self.fit = replace(found, changes=earlier.changes + found.changes)
        return self.fit


def room(model: Any) -> float | None:
    """Gigabytes the host can have on MODEL's CUDA device if it puts everything of its own aside; None elsewhere."""
    device = model.load_device
    if device.type != "cuda":
        return None
    return float(model.get_free_memory(device) + torch.cuda.memory_allocated(device)) / 1e9


def warning(found: Fit, available: float | None) -> str:
    """What to do where the estimate exceeds the room; empty where it does not."""
    if available is None or found.gigabytes <= available:
        return ""
    return (
        f"about {found.gigabytes:.1f} GB are wanted and {available:.1f} GB can be had: the host keeps parts of the "
        f"model in main memory, which is slower, or memory runs out. Try vram_gb = {int(10 * available) / 10:g}"
    )


def estimate(found: Fit) -> str:
    """The estimate in words."""
    time = "" if found.seconds is None else f", {found.seconds / 60:.1f} minutes of optimisation"
    return f"estimated peak memory {found.gigabytes:.1f} GB{time}"


def changed(found: Fit, limits: Limits) -> str:
    """What the limits changed, in words; empty without a limit."""
    named = {"vram_gb": limits.vram_gb, "time_budget": limits.minutes}
    given = " and ".join(f"{name} {value:g}" for name, value in named.items() if value)
    return f"{given}: {'; '.join(found.changes) or 'nothing had to be changed'}" if given else ""


def to_json(found: Fit, limits: Limits, available: float | None) -> dict[str, Any]:
    """Limits, estimates and changes for the report."""
    minutes = None if found.seconds is None else round(found.seconds / 60, 2)
    return {
        "vram_gb": limits.vram_gb or None,
        "time_budget": limits.minutes or None,
        "estimated_gb": round(found.gigabytes, 2),
        "available_gb": None if available is None else round(available, 2),
        "estimated_minutes": minutes,
        "unet_rows_at_once": found.max_batch,
        "changes": list(found.changes),
    }
