"""Seconds a run spends in each of its parts, measured without making the device wait."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch


class Stopwatch:
    """Adds up seconds by name. On CUDA it records events and reads at ``lap`` those that are over, without waiting."""

    def __init__(self, device: torch.device) -> None:
        self.total: dict[str, float] = defaultdict(float)
        self._device = device
        self._lap: dict[str, float] = defaultdict(float)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(torch.cuda.current_stream(self._device))
            yield
            end.record(torch.cuda.current_stream(self._device))
            self._pending.append((name, start, end))
        else:
            began = time.perf_counter()
            yield
            self._lap[name] += time.perf_counter() - began

    def lap(self, wait: bool = False) -> dict[str, float]:
        """Seconds by name since the last lap, which are added to ``total``; ``wait`` for what CUDA still works on."""
        later = []
        for name, start, end in self._pending:
            if not wait and not end.query():
                later.append((name, start, end))
                continue
            end.synchronize()
            self._lap[name] += start.elapsed_time(end) / 1000
        self._pending = later
        lap, self._lap = dict(self._lap), defaultdict(float)
        for name, seconds in lap.items():
            self.total[name] += seconds
        return lap
