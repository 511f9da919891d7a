"""Where the time of one distillation step goes, and how far the whole is above the model calls it cannot do without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..optimize import Distillation, Execution, Settings, preset
from ..optimize.memory import peak_bytes
from ..optimize.report import versions
from ..priors.diffusers_prior import DiffusersPrior
from ..priors.load import load_prior
from ..schedules import Constant
from .sd15 import random_sd15
from .timing import at_least, figures

Model = Literal["tiny", "sd15"]


Laps = list[tuple[float, float]]
"""Processor and wall milliseconds of every run."""


def bare_calls(prior: DiffusersPrior, batch: int, rows: int) -> Callable[[], tuple[float, float]]:
    """A function that makes the model calls of one step and nothing else, and returns processor and wall milliseconds.

    One UNet call of ``rows`` rows and the encoder, forward and backward to ``batch`` images of its own size.
    """
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, prior.image_size, prior.image_size, generator=draw).to(prior.device).requires_grad_()
    x = torch.randn(rows, *prior.latent_shape, generator=draw).to(prior.device, prior.dtype)
    t = torch.full((rows,), 500, device=prior.device)
    cond = prior.embed(["a red cube"]).expand(rows, -1, -1).to(prior.dtype)

    def run() -> tuple[float, float]:
        began = _now(prior.device)
        with torch.no_grad():
            prior.unet(x, t, encoder_hidden_states=cond, return_dict=False)
        mean = prior.vae.encode((2 * images - 1).to(prior.vae_dtype)).latent_dist.mean
        mean.backward(torch.ones_like(mean))
        images.grad = None
        return _since(began, prior.device)

    return run


def _now(device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time(), time.perf_counter()


def _since(began: tuple[float, float], device: torch.device) -> tuple[float, float]:
    cpu, wall = _now(device)
    return 1e3 * (cpu - began[0]), 1e3 * (wall - began[1])


def _settings(size: Model, model: Path | None, method: str, side: int | None) -> Settings:
    settings = preset("draft", method, bundled=model is None and size == "tiny")
    if size == "sd15":
        settings = replace(settings, batch=1)
    return settings if side is None else replace(settings, resolution=Constant(side))


def run(
    iterations: int = 40,
    method: str = "sds",
    model: Path | None = None,
    device: str = "auto",
    size: Model = "tiny",
    side: int | None = None,
    execution: Execution | None = None,
    width: int = 320,
) -> dict[str, Any]:
    """Time ``iterations`` steps of the draft preset, each followed by the bare model calls, after a warm-up.

    Args:
        iterations: timed steps; a quarter as many, at least one, warm up.
        method: distillation method.
        model: a prior on disk.
        device: where.
        size: 'tiny' is the bundled prior, 'sd15' random weights of SD 1.5's size at one view a step (some 10 GB of
            memory, about a minute a step on a CPU); not used with ``model``.
        side: pixels of the renders; None is the preset's.
        execution: accelerators.
        width: of 'sd15', see :func:`sd15.random_sd15`.

    Returns:
        ``wall_ms_step``, ``wall_ms_limit`` (the bare sum of its UNet call and its encoder's forward and backward pass)
        and the same as ``cpu_ms_...``, all with ``spread_...``; ``speedup_limit_over_step`` (1 is no overhead),
        ``overhead`` and ``cpu_overhead``, which a busy CPU does not move; by part, ``ms`` (median) and ``share`` of the
        sum; and the circumstances.
    """
    at_least(1, iterations=iterations)
    if model is None and size == "sd15":
        where = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        dtype = torch.float16 if where.startswith("cuda") else torch.float32
        prior = random_sd15(where, dtype, width=width)
    else:
        prior = load_prior(model, device=device)
    settings = _settings(size, model, method, side)
    warm = max(1, iterations // 4)
    settings = replace(settings, iterations=warm + iterations)
    distillation = Distillation(prior, "a red cube", settings, execution=execution)
    rows = _rows(distillation)
    bare = bare_calls(prior, settings.batch, rows)
    laps: list[Mapping[str, float]] = []
    whole: Laps = []
    limit: Laps = []
    for _ in range(warm + iterations):
        began = _now(prior.device)
        laps.append(distillation.step().seconds)
        whole.append(_since(began, prior.device))
        limit.append(bare())
    laps = laps[warm:]
    times = figures({"step": whole[warm:], "limit": limit[warm:]})
    parts = sorted({name for lap in laps for name in lap})
    median = {name: 1000 * statistics.median(lap.get(name, 0.0) for lap in laps) for name in parts}
    return {
        "benchmark": "step",
        "method": method,
        "iterations": iterations,
        "batch": settings.batch,
        "rows": rows,
        **times,
        "speedup_limit_over_step": times["wall_ms_limit"] / times["wall_ms_step"],
        "overhead": times["wall_ms_step"] / times["wall_ms_limit"] - 1,
        "cpu_overhead": times["cpu_ms_step"] / times["cpu_ms_limit"] - 1,
        "ms_per_step": round(1000 * statistics.mean(sum(lap.values()) for lap in laps), 2),
        "ms": {name: round(value, 2) for name, value in median.items()},
        "share": {name: round(value / sum(median.values()), 4) for name, value in median.items()},
        "peak_memory_bytes": peak_bytes(prior.device),
        "prior": prior.fingerprint,
        "accelerators": prior.accelerators,
        "device": str(prior.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _rows(distillation: Distillation) -> int:
    """UNet rows of one step, counted at a first one."""
    prior: Any = distillation.prior
    counted: list[int] = []
    original = prior.predict_noise

    def predict_noise(x_t: Any, t: Any, cond: Any) -> Any:
        counted.append(len(x_t))
        return original(x_t, t, cond)

    prior.predict_noise = predict_noise
    try:
        distillation.step()
    finally:
        del prior.predict_noise
    return max(1, sum(counted))
