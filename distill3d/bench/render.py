"""Forward and backward of one picture, with what is empty skipped, against asking the same field everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..fields import backends
from ..priors.load import resolve_device
from ..render import marching
from ..render.settings import RenderSettings
from .scene import Scene
from .timing import at_least, figures, one_thread, take_turns

SIZES = (64, 128, 256, 512)


def run(
    sizes: Sequence[int] = SIZES,
    samples: int = 128,
    share: float = 0.1,
    repeats: int = 5,
    dense_up_to: int = 128,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure every size on one thread of the CPU, or on ``device``.

    Args:
        sizes: pixels along each side.
        samples: steps along the diagonal of the box.
        share: occupied part of the box.
        repeats: timed rounds after one warm-up round; beside the dense query each run follows one of its own kind.
        dense_up_to: largest size that is also rendered densely, which takes seconds to minutes above 128.
        device: auto, cpu, cuda or mps. Off the CPU ours is what 'auto' takes, and the ratios are of wall time.

    Returns:
        ``speedup_{size}_vs_dense`` with the torch loop and ``speedup_{size}_numba_vs_dense`` with numba where it works
        (processor time), ``cpu_ms_{size}_{dense,ours,numba,nerfacc}`` and ``wall_ms_...`` with their ``spread_...``.
        nerfacc, where it works, is ours with its sampler and compositor: ``speedup_{size}_nerfacc_vs_ours``.

    Raises:
        PriorError: no such device here.
        SettingsError: sizes, samples or a share that cannot be.
    """
    at_least(1, sizes=min(sizes, default=0))
    where = resolve_device(device)
    on_cpu = where.type == "cpu"
    settings = RenderSettings(samples_per_ray=samples)
    scene = Scene(share, device=where)
    route = "loop" if on_cpu else backends.choose(where)
    refusals = {"numba": backends.probe("numba", where), "nerfacc": marching.probe("nerfacc", where)}
    result: dict[str, Any] = {"benchmark": "render", "samples": samples, "share": share, "repeats": repeats}
    with one_thread():
        for size in sizes:
            runs: dict[str, Callable[[], Any]] = {"ours": partial(_step, scene, route, size, settings)}
            if refusals["numba"] is None:
                runs["numba"] = partial(_step, scene, "numba", size, settings)
            if refusals["nerfacc"] is None:
                theirs = marching.functions("nerfacc")
                runs["nerfacc"] = partial(_step, scene, route, size, settings, marching=theirs)
            if size <= dense_up_to:
                runs["dense"] = partial(_step, scene, route, size, settings, culled=False)
            found = figures(take_turns(runs, repeats, settle="dense" in runs), f"{size}_")
            took = f"{'cpu' if on_cpu else 'wall'}_ms_{size}_"
            for name, slower, quicker in (
                ("", "dense", "ours"),
                ("_numba", "dense", "numba"),
                ("_nerfacc", "ours", "nerfacc"),
            ):
                if {slower, quicker} <= set(runs):
                    found[f"speedup_{size}{name}_vs_{slower}"] = found[took + slower] / found[took + quicker]
            result |= found
    refused = {name: refusal.reason for name, refusal in refusals.items() if refusal is not None}
    return {**result, "refused": refused, "device": str(where), "torch": torch.__version__, "threads": 1}


def _step(scene: Scene, route: Any, size: int, settings: RenderSettings, **options: Any) -> None:
    scene.field.encoder.backend = route
    scene.step(size, settings, **options)
    if scene.device.type == "cuda":
        torch.cuda.synchronize(scene.device)
