"""Variants that take turns within one process, so that a busy machine slows them alike, and what is reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import SettingsError


def at_least(least: int, **values: int) -> None:
    """Raises ``SettingsError`` for the first of ``values`` that is smaller."""
    for name, value in values.items():
        if value < least:
            raise SettingsError(f"expected --{name} of {least} or more, got {value}: leave it out for the default")


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside, as before outside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def take_turns(
    variants: Mapping[str, Callable[[], Any]], repeats: int, *, settle: bool = False
) -> dict[str, list[tuple[float, float]]]:
    """Processor and wall milliseconds of every run; each variant runs once beforehand.

    ``settle`` runs each once more, untimed, right before every timed run, as a step of training follows its like: a
    variant that needs ten times the memory gives it back to the system, and the next one would pay to get its own.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    if repeats < 1:
        raise SettingsError(f"expected one round or more, got {repeats}: 3 to 5 are usual")
    for repeat in range(repeats + 1):
        for name, run in variants.items():
            if settle and repeat:
                run()
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if repeat:
                times[name].append((1e3 * cpu, 1e3 * wall))
    return times


def spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, or half the range of fewer than four values."""
    if len(values) < 4:
        return (max(values) - min(values)) / 2
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def figures(times: Mapping[str, Sequence[tuple[float, float]]], prefix: str = "") -> dict[str, float]:
    """``cpu_ms_...`` and ``wall_ms_...``, the medians, each with its ``spread_...``."""
    found: dict[str, float] = {}
    for name, measured in times.items():
        for kind, values in zip(("cpu_ms", "wall_ms"), zip(*measured, strict=True), strict=True):
            key = f"{kind}_{prefix}{name}"
            found[key], found[f"spread_{key}"] = statistics.median(values), spread(values)
    return found
