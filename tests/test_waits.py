"""How often a step makes the host wait for the device, counted on a CPU that plays both parts.

Tensors of the "device" are marked: parameters, buffers, what is uploaded, what the device's generators draw, and all
that is computed from them. Reading a number of one, or an operation whose result's size depends on one, is a wait.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SMALL, make_prior, parameters
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from distill3d import devices
from distill3d.fields import background
from distill3d.optimize import Distillation, Execution, checkpoint, evaluations, guidance, loop
from distill3d.priors.load import load_prior
from distill3d.render import cameras, occupancy, sampling, scan, volume
from distill3d.render.settings import RenderSettings
from distill3d.render.shading import ShadingSettings

SIZED = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2", "bincount")
MODULES = (background, evaluations, guidance, loop, cameras, occupancy, sampling, volume)


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


@contextmanager
def counted(run: Distillation, monkeypatch: pytest.MonkeyPatch, *more: torch.nn.Module) -> Iterator[Waits]:
    modules = (run.field, run.occupancy, run.background, *more)
    seeds = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    waits = Waits(*seeds, run.guidance.conditions.table, generators=tuple(run.generators[n] for n in loop._DEVICE))

    arrived: Any = WeakIdKeyDictionary()

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

    def numbers(self: devices.Numbers, values: Tensor) -> None:
        self._values, self._ready = values.clone(), None
        arrived[self._values] = run.iteration

    def read(self: devices.Numbers) -> list[float]:
        if arrived[self._values] == run.iteration:  # of this very step: it has to be waited for
            waits.wait("read")
        return self._values.tolist()

    with monkeypatch.context() as patch:
        for module in MODULES:
            if hasattr(module, "upload"):
                patch.setattr(module, "upload", upload)
        patch.setattr(devices.Numbers, "__init__", numbers)
        patch.setattr(devices.Numbers, "read", read)
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(Tensor, name, watched(name, getattr(Tensor, name)))
        with waits:
            yield waits


def as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The routes of a GPU, on the CPU."""
    for module in (occupancy, sampling, scan):
        monkeypatch.setattr(module, "remote", lambda device: True)
    monkeypatch.setattr(loop, "reads_late", lambda device: True)


PLAIN = replace(SMALL, render=RenderSettings(samples_per_ray=48, cull_below=0), diagnose_every=1000)


def test_the_counter_sees_waits() -> None:
    value = torch.rand(4)
    with Waits(value) as waits:
        (
            float((2 * value).sum()),
            (value > 0.5).nonzero(),
            value[value > 0.5],
            bool(value.any()),
            float(torch.ones(2).sum()),
        )
    assert [place.split()[0] for place in waits.places[:3]] == ["_local_scalar_dense", "nonzero", "index"]
    assert len(waits.places) == 4


@pytest.mark.parametrize("method", ["sds", "asd"])
def test_a_step_waits_once_and_a_refresh_never(
    method: str, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_gpu(monkeypatch)
    prior = load_prior(tiny_pipeline)
    run = Distillation(prior, "a red ball", replace(PLAIN, method=method), execution=Execution(hash_grid="batched"))
    run.step()
    monkeypatch.setattr(run.guidance, "at", _undiagnosed(run.guidance.at))
    monkeypatch.setattr(type(prior), "_looks", lambda self: False)
    with counted(run, monkeypatch, prior.unet, prior.vae) as waits:
        for _ in range(6):  # a refresh of the occupancy grid among them
            before = len(waits.places)
            run.step()
            assert len(waits.places) - before <= 1, waits.places[before:]
    assert len(waits.places) >= 5


def _undiagnosed(at: Any) -> Any:
    return lambda *args, **kwargs: at(*args, **{**kwargs, "diagnose": False})


def test_shading_and_culling_wait_once_more_each(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_gpu(monkeypatch)
    prior = load_prior(tiny_pipeline)
    lit = ShadingSettings(start=0.0, albedo_probability=0.0)
    settings = replace(PLAIN, shading=lit, render=RenderSettings(samples_per_ray=48, cull_below=2.0))
    run = Distillation(prior, "a red ball", settings, execution=Execution(hash_grid="batched"))
    run.step()
    monkeypatch.setattr(run.guidance, "at", _undiagnosed(run.guidance.at))
    monkeypatch.setattr(type(prior), "_looks", lambda self: False)
    with counted(run, monkeypatch, prior.unet, prior.vae) as waits:
        run.step()
    assert len(waits.places) <= 3, waits.places


def test_the_routes_of_a_gpu_learn_what_the_cpu_learns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = replace(PLAIN, occupancy_every=100)
    plain = Distillation(make_prior(), "a red ball", settings)
    steps = [plain.step() for _ in range(6)]
    as_gpu(monkeypatch)
    run = Distillation(make_prior(), "a red ball", settings)
    late = [run.step() for _ in range(6)]
    torch.testing.assert_close(parameters(run), parameters(plain), rtol=1e-3, atol=1e-4)
    assert [s.loss for s in late[2:]] == pytest.approx([s.loss for s in steps[1:-1]], rel=1e-4)
    run.save(tmp_path)
    assert run._unread is None
    again = Distillation.resume(make_prior(), checkpoint.load(tmp_path))
    assert torch.equal(parameters(again), parameters(run))
    again.step(), run.step()
    assert torch.equal(parameters(again), parameters(run))


def test_an_update_that_is_not_finite_is_left_out_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    as_gpu(monkeypatch)
    run = Distillation(make_prior(), "a red ball", PLAIN)
    run.step(), run.step()
    before, at = parameters(run), run.guidance.at

    def broken(*args: Any, **kwargs: Any) -> Any:
        return replace(at(*args, **kwargs), finite=torch.zeros((), dtype=torch.bool))

    with monkeypatch.context() as patch:
        patch.setattr(run.guidance, "at", broken)
        run.step()
    assert torch.equal(parameters(run), before) and run.skipped == 0
    assert run.step().skipped and run.skipped == 1 and run.guard.not_finite == 1
    assert not torch.equal(parameters(run), before)
    assert not run.step().skipped and run.guard.not_finite == 0


def test_a_run_encodes_its_texts_once_in_one_call(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, calls = load_prior(tiny_pipeline), []
    encoder = prior._text_encoder

    def counting(tokens: Tensor) -> Any:
        calls.append(len(tokens))
        return encoder(tokens)

    monkeypatch.setattr(prior, "_text_encoder", counting)
    run = Distillation(prior, "a red ball", PLAIN)
    run.step(), run.step()
    assert calls == [len(set(run.prompts.texts) | {""})]
    assert run.first_seconds is not None and run.first_seconds >= sum(run.watch.total.values()) / 2
    Distillation(prior, "a red ball", PLAIN).step()
    assert len(calls) == 1
