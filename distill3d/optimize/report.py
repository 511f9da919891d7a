"""``report.json``: what was run, with what, how long each part took, and what came of it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy
import torch

from .. import __version__
from ..fields import backends
from ..render import marching
from .memory import peak_bytes

if TYPE_CHECKING:
    from .loop import Distillation


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    return {
        "distill3d": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def build(
    run: Distillation, *, mesh: Mapping[str, Any] | None = None, files: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The report of a run as plain JSON; seconds and bytes, and None for what is not finite."""
    last = run.last
    described: dict[str, Any] = getattr(run.prior, "describe", dict)()
    return {
        "prompt": run.prompts.prompt,
        "negative_prompt": run.prompts.negative,
        "method": run.settings.method,
        "seed": run.seed,
        "iterations": {"done": run.iteration, "planned": run.settings.iterations, "skipped": run.skipped},
        "seconds": {name: round(value, 3) for name, value in sorted(run.watch.total.items())},
        "seconds_to_first_step": None if run.first_seconds is None else round(run.first_seconds, 3),
        "peak_memory_bytes": peak_bytes(run.device),
        "threads": torch.get_num_threads(),
        "hash_grid": backends.choose(run.device, run.execution.hash_grid),
        "marching": marching.choose(run.device, run.execution.marching),
        "occupancy": run.occupancy.fraction,
        "opacity": _finite(last.opacity) if last else None,
        "loss": _finite(last.loss) if last else None,
        "warnings": list(run.warnings),
        "mesh": dict(mesh or {}),
        "files": dict(files or {}),
        "prior": described,
        "settings": run.settings_json,
        "versions": versions(),
    }
