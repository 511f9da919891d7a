"""Where the time of one distillation step goes: render, encode, UNet, backward, the rest."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..optimize import Distillation, preset
from ..optimize.memory import peak_bytes
from ..optimize.report import versions
from ..priors.load import load_prior


def run(iterations: int = 40, method: str = "sds", model: Path | None = None, device: str = "auto") -> dict[str, Any]:
    """Time ``iterations`` steps of the draft preset after a warm-up of a quarter as many.

    Returns:
        ``ms_per_step`` and, by part, ``ms`` (median over the steps) and ``share`` of the sum; plus the circumstances.
    """
    prior = load_prior(model, device=device)
    settings = preset("draft", method, bundled=model is None)
    warm = max(1, iterations // 4)
    distillation = Distillation(prior, "a red cube", replace(settings, iterations=warm + iterations))
    laps = [distillation.step().seconds for _ in range(warm + iterations)][warm:]
    parts = sorted({name for lap in laps for name in lap})
    median = {name: 1000 * statistics.median(lap.get(name, 0.0) for lap in laps) for name in parts}
    total = 1000 * statistics.mean(sum(lap.values()) for lap in laps)
    return {
        "benchmark": "step",
        "method": method,
        "iterations": iterations,
        "batch": settings.batch,
        "ms_per_step": round(total, 2),
        "ms": {name: round(value, 2) for name, value in median.items()},
        "share": {name: round(value / sum(median.values()), 4) for name, value in median.items()},
        "peak_memory_bytes": peak_bytes(prior.device),
        "prior": prior.fingerprint,
        "device": str(prior.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
