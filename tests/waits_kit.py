"""Counts how often a step makes the host wait for the device, on a CPU that plays both parts.

Tensors of the "device" are marked: parameters, buffers, what is uploaded, what the device's generators draw, and all
that is computed from them. Reading a number of one, or an operation whose result's size depends on one, is a wait.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from distill3d import devices
from distill3d.fields import background
from distill3d.methods import base, nfsd, tbsd
from distill3d.optimize import Distillation, evaluations, guidance, loop
from distill3d.priors import analytic, diffusers_prior, freeu
from distill3d.render import cameras, occupancy, sampling, scan, volume

SIZED = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2", "bincount")
MODULES = (background, base, nfsd, tbsd, evaluations, guidance, loop, analytic, diffusers_prior, freeu)
MODULES += (cameras, occupancy, sampling, volume)


class Waits(TorchDispatchMode):
    """Counts waits while it is on; ``places`` says where."""

    def __init__(self, *seeds: Tensor, generators: tuple[torch.Generator, ...] = ()) -> None:
        super().__init__()
        self.marked: Any = WeakIdKeyDictionary()
        self.generators = generators
        self.places: list[str] = []
        for tensor in seeds:
            self.marked[tensor] = True

    def on_device(self, values: Any) -> bool:
        return any(isinstance(v, Tensor) and v in self.marked for v in tree_leaves(values))

    def wait(self, what: str) -> None:
        ours = [f for f in traceback.extract_stack() if "distill3d" in f.filename and "tests" not in f.filename]
        self.places.append(f"{what} at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else what)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        drawn = any(kwargs.get("generator") is g for g in self.generators) if kwargs.get("generator") else False
        marked = drawn or self.on_device((args, kwargs))
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in (args[1] or ()) if i is not None
        )
        if marked and (name in SIZED or by_mask):
            self.wait(name)
        out = func(*args, **kwargs)
        if marked:
            for value in tree_leaves(out):
                if isinstance(value, Tensor):
                    self.marked[value] = True
        return out


def watch(waits: Waits, patch: pytest.MonkeyPatch, modules: Sequence[Any], arrived: Any = ()) -> None:
    """What ``modules`` upload is marked, and reading a whole marked tensor counts, but for those in ``arrived``."""

    def upload(value: Tensor, device: Any) -> Tensor:
        copy = value.clone()
        waits.marked[copy] = True
        return copy

    def watched(name: str, original: Any) -> Any:
        def call(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self in waits.marked and self not in arrived:
                waits.wait(name)
            return original(self, *args, **kwargs)

        return call

    for module in modules:
        if hasattr(module, "upload"):
            patch.setattr(module, "upload", upload)
    for name in ("tolist", "numpy", "cpu"):
        patch.setattr(Tensor, name, watched(name, getattr(Tensor, name)))


@contextmanager
def counted(run: Distillation, monkeypatch: pytest.MonkeyPatch, *more: torch.nn.Module) -> Iterator[Waits]:
    modules = (run.field, run.occupancy, run.background, *more)
    seeds = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    waits = Waits(*seeds, run.guidance.conditions.table, generators=tuple(run.generators[n] for n in loop._DEVICE))

    arrived: Any = WeakIdKeyDictionary()

    def numbers(self: devices.Numbers, values: Tensor) -> None:
        self._values, self._ready = values.clone(), None
        arrived[self._values] = run.iteration

    def read(self: devices.Numbers) -> list[float]:
        if arrived[self._values] == run.iteration:  # of this very step: it has to be waited for
            waits.wait("read")
        return self._values.tolist()

    with monkeypatch.context() as patch:
        patch.setattr(devices.Numbers, "__init__", numbers)
        patch.setattr(devices.Numbers, "read", read)
        watch(waits, patch, MODULES, arrived)
        with waits:
            yield waits


def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The routes of a GPU, on the CPU."""
    for module in (occupancy, sampling, scan):
        monkeypatch.setattr(module, "remote", lambda device: True)
    monkeypatch.setattr(loop, "reads_late", lambda device: True)
