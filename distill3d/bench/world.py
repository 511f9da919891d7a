"""How fast training images are rendered: the full world against the plain one, in turns, on this process's threads."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from ..errors import SettingsError
from ..optimize.report import versions
from ..world import WORLDS, WorldSettings, render_dataset


def run(count: int = 1024, repeats: int = 3, image_size: int = 64) -> dict[str, Any]:
    """Render ``count`` captioned images of each world ``repeats`` times.

    Returns:
        ``images_per_second`` by wall clock and ``images_per_cpu_second`` by process time (medians; the second is fair
        on a busy machine), for each world, and their ratio full / plain.

    Raises:
        SettingsError: nothing to render.
    """
    if count < 1 or repeats < 1:
        raise SettingsError(f"expected one image and one run or more, got {count} and {repeats}")
    wall: dict[str, list[float]] = {name: [] for name in WORLDS}
    busy: dict[str, list[float]] = {name: [] for name in WORLDS}
    for name in WORLDS:
        render_dataset(min(count, 64), 0, WorldSettings(name=name, image_size=image_size))  # type: ignore[arg-type]
    for repeat in range(repeats):
        for name in WORLDS:
            began, worked = time.perf_counter(), time.process_time()
            render_dataset(count, repeat, WorldSettings(name=name, image_size=image_size))  # type: ignore[arg-type]
            wall[name].append(count / (time.perf_counter() - began))
            busy[name].append(count / (time.process_time() - worked))
    cpu = {name: round(statistics.median(values), 1) for name, values in busy.items()}
    return {
        "benchmark": "world",
        "images": count,
        "image_size": image_size,
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in wall.items()},
        "images_per_cpu_second": cpu,
        "full_over_plain": round(cpu["full"] / cpu["plain"], 3),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
