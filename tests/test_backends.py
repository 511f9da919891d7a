"""Every encoder backend against the float64 reference and finite differences; the choice among them and its reasons."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from distill3d.errors import BackendError
from distill3d.fields import backends, interpolate
from distill3d.fields.hashgrid import HashGrid, HashGridSettings, encode, layout

CPU = torch.device("cpu")
TINY = HashGridSettings(levels=4, log2_table_size=9, base_resolution=4, finest_resolution=21)
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own with TRITON_INTERPRET=1")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
OPTIONAL = (
    pytest.param("numba", "cpu", marks=needs_numba),
    pytest.param("triton", "cpu", marks=[needs_triton, interpreted]),
    pytest.param("triton", "cuda", marks=[needs_triton, on_cuda]),
    pytest.param("batched", "cuda", marks=on_cuda),
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_probed", {})
    monkeypatch.setattr(backends, "_chosen", {})


def run(route: str, sizes: HashGridSettings, points: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Features and both gradients at random points, the corners of the cube and points outside it."""
    grid, draw = layout(sizes), torch.Generator().manual_seed(1)
    x = torch.rand(points, 3, generator=draw, dtype=torch.float64)
    x[:4] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.999], [-0.5, 0.25, 1.5]])
    params = torch.rand(grid.entries * grid.features, generator=draw, dtype=torch.float64) - 0.5
    upstream = torch.randn(points, grid.levels * grid.features, generator=draw, dtype=torch.float64)
    a, b, u = (v.to(device, dtype) for v in (x, params, upstream))
    a.requires_grad_(), b.requires_grad_()
    out = encode(a, b, grid, route=route)  # type: ignore[arg-type]
    return [v.detach().cpu() for v in (out, *torch.autograd.grad(out, (a, b), u))]


@pytest.mark.parametrize(("route", "device"), OPTIONAL)
@pytest.mark.parametrize("features", [1, 2, 4])
def test_values_and_gradients_match_the_torch_loop(route: str, device: str, features: int) -> None:
    sizes = HashGridSettings(4, features, 9, 4, 21)
    assert 0 < layout(sizes).dense < 4
    for name, ours, theirs in zip(
        ("features", "positions", "table"),
        run(route, sizes, 300, device, torch.float32),
        run("loop", sizes, 300, "cpu", torch.float64),
        strict=True,
    ):
        difference = (ours - theirs).abs().max() / theirs.abs().max()
        assert difference < (1e-5 if name == "features" else 5e-5), (name, difference)


@pytest.mark.parametrize(("route", "device"), OPTIONAL)
def test_gradients_match_float64_finite_differences(route: str, device: str) -> None:
    grid, draw = layout(HashGridSettings(2, 2, 4, 2, 4)), torch.Generator().manual_seed(4)
    assert grid.dense == 1
    x = torch.rand(3, 3, generator=draw, dtype=torch.float64).mul(0.9).add(0.05).to(device).requires_grad_()
    params = torch.randn(grid.entries * 2, generator=draw, dtype=torch.float64).to(device).requires_grad_()
    call = lambda a, b: encode(a, b, grid, route=route)  # type: ignore[arg-type]  # noqa: E731
    slow = route == "triton" and device == "cpu"  # the interpreter
    assert torch.autograd.gradcheck(call, (x, params), eps=1e-7, nondet_tol=1e-12, fast_mode=slow)
    assert slow or torch.autograd.gradgradcheck(call, (x, params), eps=1e-7, nondet_tol=1e-12)


@needs_numba
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch has no fused multiply-add here")
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("threads", [1, 3])
def test_numba_gives_the_bits_of_the_loop(features: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sizes = HashGridSettings(5, features, 10, 4, 60)
        for ours, theirs in zip(
            run("numba", sizes, 40_000, "cpu", torch.float32),
            run("loop", sizes, 40_000, "cpu", torch.float32),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("route", "device"), OPTIONAL)
def test_no_points_is_no_error(route: str, device: str) -> None:
    grid = layout(TINY)
    params = torch.zeros(grid.entries * 2, requires_grad=True, device=device)
    x = torch.zeros(0, 3, requires_grad=True, device=device)
    out = encode(x, params, grid, route=route)  # type: ignore[arg-type]
    assert out.shape == (0, 8)
    out.sum().backward()
    assert params.grad is not None and not params.grad.any() and x.grad is not None


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_triton_in_its_interpreter() -> None:
    """Triton decides when it is imported whether to interpret, so its tests run once more in a child process."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(here), "-k", "triton and cpu"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(here.parents[1]), *sys.path])},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout and "failed" not in done.stdout


# ---- the choice


def stand_in(monkeypatch: pytest.MonkeyPatch, forward: object, backward: object) -> None:
    """A package called numba whose route computes with these functions."""
    module = ModuleType("stand_in")
    module.forward, module.backward = forward, backward  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distill3d.fields.interpolate_numba", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())


def test_auto_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with caplog.at_level("INFO", "distill3d.fields.backends"):
        assert backends.choose(CPU) == "loop"
    assert "numba is not installed" in caplog.text
    assert backends.report(CPU)["numba"].startswith("refused: numba is not installed")
    assert backends.report(CPU)["loop"] == "chosen"
    with pytest.raises(BackendError, match=r"numba cannot be used on cpu.*pip install numba.*auto") as caught:
        backends.choose(CPU, "numba")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_the_true_cause_of_a_broken_package_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise ImportError("numpy.core.multiarray failed to import")

    stand_in(monkeypatch, broken, broken)
    assert backends.choose(CPU) == "loop"
    with pytest.raises(BackendError, match=r"multiarray failed") as caught:
        backends.choose(CPU, "numba")
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_backend_that_answers_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interpolate.kernels("loop")
    no_gradient = lambda x, p, g, *_: (torch.zeros_like(x), torch.zeros_like(p))  # noqa: E731
    stand_in(monkeypatch, right.forward, no_gradient)
    assert backends.choose(CPU) == "loop"
    with pytest.raises(BackendError, match=r"gradient is 1.0e\+00 off"):
        backends.choose(CPU, "numba")


def test_a_working_one_is_chosen_and_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, right = [], interpolate.kernels("loop")

    def forward(*arguments: object) -> Tensor:
        calls.append(len(arguments[0]))  # type: ignore[arg-type]
        return right.forward(*arguments)  # type: ignore[arg-type]

    stand_in(monkeypatch, forward, right.backward)
    assert backends.choose(CPU) == backends.choose(CPU, "numba") == "numba"
    assert calls == [backends.POINTS]
    assert backends.report(CPU)["numba"] == "chosen" and backends.report(CPU)["loop"] == "usable"


def test_one_that_found_no_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, right = [], interpolate.kernels("loop")

    def forward(*arguments: object) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
        return right.forward(*arguments)  # type: ignore[arg-type]

    stand_in(monkeypatch, forward, right.backward)
    assert [backends.choose(CPU) for _ in range(3)] == ["loop", "numba", "numba"]
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["triton", "tinycudann", "nonsense"])
def test_names_that_cannot_work_here_are_refused(name: str) -> None:
    if name == "triton" and INTERPRETED:
        pytest.skip("interpreted, it works here")
    field = HashGrid(TINY, generator=torch.Generator())
    with pytest.raises(BackendError, match=name):
        field.use(name)  # type: ignore[arg-type]
    assert field.backend == "auto"


def test_the_backend_is_not_part_of_the_state_and_may_change_any_time() -> None:
    grid, x = HashGrid(TINY, generator=torch.Generator().manual_seed(1)), torch.rand(50, 3)
    names = set(grid.state_dict())
    results = []
    for name in ("loop", "batched", "auto"):
        grid.use(name)  # type: ignore[arg-type]
        results.append(grid(x))
    assert set(grid.state_dict()) == names == {"params"}
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-9)


@on_cuda
def test_on_cuda_something_fast_is_chosen() -> None:
    assert backends.choose("cuda") in ("tinycudann", "triton", "batched")
    assert set(backends.report("cuda")) == set(backends.NAMES[1:])
