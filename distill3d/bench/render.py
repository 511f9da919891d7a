"""Forward and backward of one picture, with what is empty skipped, against asking the same field everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..fields.backends import probe
from ..render.settings import RenderSettings
from .scene import Scene
from .timing import figures, one_thread, take_turns

SIZES = (64, 128, 256, 512)


def run(
    sizes: Sequence[int] = SIZES, samples: int = 128, share: float = 0.1, repeats: int = 5, dense_up_to: int = 128
) -> dict[str, Any]:
    """Measure every size on one thread.

    Args:
        sizes: pixels along each side.
        samples: steps along the diagonal of the box.
        share: occupied part of the box.
        repeats: timed rounds after one warm-up round; beside the dense query each run follows one of its own kind.
        dense_up_to: largest size that is also rendered densely, which takes seconds to minutes above 128.

    Returns:
        ``speedup_{size}_vs_dense`` with the torch loop and ``speedup_{size}_numba_vs_dense`` with numba where it works
        (processor time), ``cpu_ms_{size}_{dense,ours,numba}`` and ``wall_ms_...`` with their ``spread_...``.
    """
    settings = RenderSettings(samples_per_ray=samples)
    scene = Scene(share)
    refusal = probe("numba", "cpu")
    result: dict[str, Any] = {"benchmark": "render", "samples": samples, "share": share, "repeats": repeats}
    with one_thread():
        for size in sizes:
            runs: dict[str, Callable[[], Any]] = {"ours": partial(_step, scene, "loop", size, settings)}
            if refusal is None:
                runs["numba"] = partial(_step, scene, "numba", size, settings)
            if size <= dense_up_to:
                runs["dense"] = partial(_step, scene, "loop", size, settings, culled=False)
            found = figures(take_turns(runs, repeats, settle="dense" in runs), f"{size}_")
            if "dense" in runs:
                for mine, suffix in (("ours", ""), ("numba", "_numba")):
                    if mine in runs:
                        found[f"speedup_{size}{suffix}_vs_dense"] = (
                            found[f"cpu_ms_{size}_dense"] / found[f"cpu_ms_{size}_{mine}"]
                        )
            result |= found
    refused = {} if refusal is None else {"numba": refusal.reason}
    return {**result, "refused": refused, "torch": torch.__version__, "threads": 1}


def _step(scene: Scene, route: Any, size: int, settings: RenderSettings, *, culled: bool = True) -> None:
    scene.field.encoder.backend = route
    scene.step(size, settings, culled=culled)
