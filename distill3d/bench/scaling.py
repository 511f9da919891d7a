"""How time grows with points, rays, samples and faces: measured times, and the exponent of a power law through them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from ..errors import SettingsError
from ..fields.hashgrid import HashGrid
from ..fields.layout import HashGridSettings
from ..mesh import MeshSettings, extract
from ..render.settings import RenderSettings
from .export_job import KnownField
from .scene import Scene
from .timing import at_least, figures, one_thread, take_turns


def exponent(sizes: list[float], times: list[float]) -> float:
    """Slope of ``log time`` over ``log size``, by least squares.

    >>> round(exponent([1, 2, 4], [3, 6, 12]), 6)
    1.0
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(times, float))
    return float(np.polyfit(x, y, 1)[0])


def run(
    repeats: int = 3, largest: int = 1 << 18, size: int = 128, cells: tuple[int, ...] = (24, 48, 96)
) -> dict[str, Any]:
    """Measure on one thread.

    Args:
        repeats: timed rounds after one warm-up round.
        largest: most points for the encoder; four sizes, each four times the one before.
        size: largest picture side; three sizes, each twice the one before.
        cells: along each side of the box, for the surfaces whose faces are counted.

    Returns:
        ``cpu_ms_{points,rays,samples,faces}_{n}`` with ``spread_...``, and ``exponent_{...}`` of each row.

    Raises:
        SettingsError: too little to see a power law.
    """
    at_least(64, largest=largest)
    at_least(4, size=size)
    at_least(8, cells=min(cells, default=0))
    if len(set(cells)) < 2:
        raise SettingsError(f"expected two or more --cells, got {cells}: an exponent needs two sizes")
    with one_thread():
        rows = {
            "points": _points(largest),
            "rays": _rays(size),
            "samples": _samples(size // 2),
            "faces": _faces(cells),
        }
        result: dict[str, Any] = {"benchmark": "scaling", "repeats": repeats, "points": largest, "size": size}
        for name, runs in rows.items():
            found = figures(take_turns({str(n): run for n, run in runs.items()}, repeats), f"{name}_")
            result |= found
            if name == "faces":
                counts = {n: _face_count(n) for n in runs}
                result |= {f"face_count_{n}": count for n, count in counts.items()}
                sizes = [float(counts[n]) for n in runs]
            else:
                sizes = [float(n) ** (2 if name == "rays" else 1) for n in runs]
            result[f"exponent_{name}"] = exponent(sizes, [found[f"cpu_ms_{name}_{n}"] for n in runs])
    middle = statistics.median([result[f"exponent_{name}"] for name in rows])
    return {**result, "exponent_median": middle, "torch": torch.__version__, "threads": 1}


def _points(largest: int) -> Mapping[int, Callable[[], Any]]:
    grid = HashGrid(HashGridSettings(), generator=torch.Generator().manual_seed(0))
    x01 = torch.rand(largest, 3, generator=torch.Generator().manual_seed(1))

    def step(n: int) -> None:
        grid(x01[:n]).sum().backward()

    return {n: partial(step, n) for n in (largest // 64, largest // 16, largest // 4, largest)}


def _rays(size: int) -> Mapping[int, Callable[[], Any]]:
    scene, settings = Scene(), RenderSettings(samples_per_ray=96)
    return {n: partial(scene.step, n, settings) for n in (size // 4, size // 2, size)}


def _samples(size: int) -> Mapping[int, Callable[[], Any]]:
    scene = Scene()
    return {n: partial(scene.step, size, RenderSettings(samples_per_ray=n)) for n in (64, 128, 256)}


def _faces(cells: tuple[int, ...]) -> Mapping[int, Callable[[], Any]]:
    return {n: partial(_extract, n) for n in cells}


def _extract(cells: int) -> Any:
    return extract(KnownField("torus", softness=0.02), settings=MeshSettings(resolution=cells, face_budget=0))  # type: ignore[arg-type]


def _face_count(cells: int) -> int:
    return len(_extract(cells).faces)
