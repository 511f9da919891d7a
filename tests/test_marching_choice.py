"""The choice between our sampler and compositor and nerfacc's, its reasons, and what is believed of a package."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import nerfacc_stand_in as stand_in
import pytest
from small_run import SMALL, make_prior

from distill3d.errors import BackendError
from distill3d.optimize import Distillation, Execution
from distill3d.render import marching
from distill3d.render.marching import TORCH

pytestmark = pytest.mark.usefixtures("nerfacc_untried")


def test_auto_is_torch_says_why_and_imports_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "nerfacc", raising=False)
    with caplog.at_level("INFO", "distill3d.render.marching"):
        run = Distillation(make_prior(), "a red ball", SMALL)
        run.step()
        assert marching.choose("cpu") == "torch"
    assert caplog.text.count("rays on cpu: torch; nerfacc: refused: it computes on cuda, and this is cpu") == 1
    assert run.marching is TORCH
    assert "nerfacc" not in sys.modules and "distill3d.render.march_nerfacc" not in sys.modules


def test_on_cuda_too_auto_is_torch_and_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())
    monkeypatch.setattr(marching, "_try", lambda *_: pytest.fail("it was tried"))
    assert marching.choose("cuda") == marching.choose("cuda", "torch") == "torch"
    assert marching.report("cuda") == {
        "torch": "chosen",
        "nerfacc": "not tried: auto does not take it, name it to use it",
    }


def test_a_cpu_is_refused_in_words() -> None:
    with pytest.raises(BackendError, match=r"nerfacc cannot be used on cpu: it computes on cuda.*Choose auto"):
        Distillation(make_prior(), "a red ball", SMALL, execution=Execution(marching="nerfacc"))
    assert marching.report("cpu")["nerfacc"] == "refused: it computes on cuda, and this is cpu"


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(BackendError, match=r"nerfacc is not installed: pip install nerfacc") as caught:
        marching.choose("cuda", "nerfacc")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert marching.report("cuda")["nerfacc"].startswith("refused: nerfacc is not installed")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(BackendError, match=r"unknown marching 'nonsense': expected one of auto, torch, nerfacc"):
        marching.choose("cpu", "nonsense")  # type: ignore[arg-type]


def no_kernels(*_: Any, **__: Any) -> Any:
    """What nerfacc does without nvcc: it prints, and its functions are attributes of None."""
    sys.stdout.write("NerfAcc: No CUDA toolkit found. NerfAcc will be disabled.\n")
    return getattr(None, "ray_aabb_intersect")  # noqa: B009


def test_functions_of_none_are_explained_and_what_was_printed_is_told(
    nerfacc_on_cpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.install(monkeypatch, traverse_grids=no_kernels)
    with pytest.raises(BackendError, match=r"compiled part is missing.*nvcc.*it says: NerfAcc: No CUDA") as caught:
        marching.choose("cpu", "nerfacc")
    assert isinstance(caught.value.__cause__, AttributeError) and "NoneType" in str(caught.value.__cause__)
    assert capsys.readouterr().out == ""
    assert marching.choose("cpu") == "torch" and "compiled part" in marching.report("cpu")["nerfacc"]


def test_the_true_cause_of_a_failed_compilation_is_raised(
    nerfacc_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError("CUDA_HOME environment variable is not set")

    stand_in.install(monkeypatch, traverse_grids=fails)
    with pytest.raises(BackendError, match="OSError: CUDA_HOME environment variable") as caught:
        marching.choose("cpu", "nerfacc")
    assert isinstance(caught.value.__cause__, OSError)


def test_another_release_is_named(nerfacc_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stand_in.install(monkeypatch)
    monkeypatch.delattr(module, "traverse_grids")
    monkeypatch.setattr(marching, "_version", lambda package: "0.3.5")
    with pytest.raises(BackendError, match=r"traverse_grids'; this release knows nerfacc 0.5.3, here is 0.3.5"):
        marching.choose("cpu", "nerfacc")


def bent(change: Any) -> Any:
    def traverse(*arguments: Any, **named: Any) -> Any:
        _, samples, last = stand_in.traverse_grids(*arguments, **named)
        return None, SimpleNamespace(**change(samples.vals, samples.ray_indices)), last

    return traverse


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v, r: {"vals": v[::2], "ray_indices": r[::2]}, r"it leaves out \d{3,} and has 0"),
        (lambda v, r: {"vals": v.flip(0), "ray_indices": r.flip(0)}, "not sorted"),
        (lambda v, r: {"vals": v + 5 * marching.STEP, "ray_indices": r}, "leaves out"),
        (lambda v, r: {"vals": v, "ray_indices": (r + 1) % marching.RAYS}, "not sorted|leaves out"),
    ],
)
def test_wrong_samples_are_refused(
    change: Any, reason: str, nerfacc_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.install(monkeypatch, traverse_grids=bent(change))
    with pytest.raises(BackendError, match=reason):
        marching.choose("cpu", "nerfacc")


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda t: 1.01 * t, "its weight is 1.0e-02 off"), (lambda t: t.detach() + 0 * t, "its density gradient is")],
)
def test_wrong_weights_and_gradients_are_refused(
    change: Any, reason: str, nerfacc_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any, **named: Any) -> Any:
        transmittance, alpha = stand_in.render_transmittance_from_density(*arguments, **named)
        return change(transmittance), alpha

    stand_in.install(monkeypatch, render_transmittance_from_density=wrong)
    with pytest.raises(BackendError, match=reason):
        marching.choose("cpu", "nerfacc")


def test_a_working_one_is_taken_by_name_and_tried_once(nerfacc_on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(len(arguments[0]))
        return stand_in.traverse_grids(*arguments, **named)

    stand_in.install(monkeypatch, traverse_grids=counted)
    assert marching.choose("cpu", "nerfacc") == marching.choose("cpu", "nerfacc") == "nerfacc"
    assert calls == [marching.RAYS]
    assert marching.choose("cpu") == "torch" and marching.report("cpu")["nerfacc"] == "usable"
