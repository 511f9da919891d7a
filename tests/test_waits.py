"""How often a step makes the host wait for the device, counted by ``waits_kit``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SMALL, make_prior, parameters
from torch import Tensor
from waits_kit import Waits, as_gpu, counted

from distill3d.methods.asd import ASDSettings
from distill3d.methods.nfsd import NFSDSettings
from distill3d.methods.perp_neg import PerpNegSettings
from distill3d.methods.sds import SDSSettings
from distill3d.methods.tbsd import TBSDSettings
from distill3d.optimize import Distillation, Execution, Settings, checkpoint
from distill3d.optimize.settings import LossSettings
from distill3d.priors.freeu import FreeUSettings
from distill3d.priors.load import load_prior
from distill3d.priors.looks import Looks
from distill3d.render.settings import RenderSettings
from distill3d.render.shading import ShadingSettings
from distill3d.schedules import Constant, Linear, TimestepWindow

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


OVER = {"guidance": Linear(9, 5), "guidance_over": "timesteps"}
GUIDED = {
    "sds": {"sds": SDSSettings(**OVER)},
    "asd": {"asd": ASDSettings(**OVER)},
    "nfsd": {"nfsd": NFSDSettings(**OVER)},
    "tbsd": {"tbsd": TBSDSettings(time="timestep", end=0.9, opening="sds", start=0.3)},
    "tbsd, fixed": {"tbsd": TBSDSettings(time="timestep", weight=Constant(0.3))},
    "sds with freeu": {"sds": SDSSettings(), "freeu": FreeUSettings(enabled=True, s1=Linear(0.9, 0.2))},
    "sds with perp-neg": {"sds": SDSSettings(), "perp_neg": PerpNegSettings(enabled=True)},
    "sds with tint": {
        "losses": LossSettings(tint=Constant(1.0)),
        "window": TimestepWindow(Constant(0.02), Constant(0.3)),
    },
}


@pytest.mark.parametrize("kind", GUIDED)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_what_runs_over_timesteps_waits_for_nothing_more(
    kind: str, prediction_type: str, make_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_gpu(monkeypatch)
    prior = load_prior(make_pipeline(tmp_path / "model", prediction_type=prediction_type))
    settings: Settings = replace(PLAIN, method=kind[:4].rstrip(" "), **GUIDED[kind])
    run = Distillation(prior, "a red ball", settings, execution=Execution(hash_grid="batched"))
    run.step()
    monkeypatch.setattr(run.guidance, "at", _undiagnosed(run.guidance.at))
    monkeypatch.setattr(type(prior), "_looks", lambda self: False)
    with counted(run, monkeypatch, prior.unet, prior.vae) as waits:
        run.step()
    assert len(waits.places) == 1 and waits.places[0].startswith("nonzero at sampling.py"), waits.places


def test_answers_are_looked_at_three_times_and_once_in_a_hundred(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = load_prior(tiny_pipeline)
    assert all(prior._looks() for _ in range(10)), "every one on a CPU"
    monkeypatch.setattr(type(prior), "device", torch.device("meta"))
    prior._looked = Looks()
    assert [i for i in range(1, 301) if prior._looks()] == [1, 2, 3, 100, 200, 300]
    patched = [prior.with_freeu(FreeUSettings(enabled=True)) for _ in range(100)]  # as a run asks for it each step
    assert [i for i, each in enumerate(patched, 301) if each._looks()] == [400]


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
    run.step()
    first = run.first_seconds
    assert first is not None and first >= sum(run.watch.total.values()), "of which the step's parts are a part"
    run.step()
    assert calls == [len(set(run.prompts.texts) | {""})] and run.first_seconds == first
    Distillation(prior, "a red ball", PLAIN).step()
    assert len(calls) == 1
