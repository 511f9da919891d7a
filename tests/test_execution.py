"""Ways to compute faster: verified twins, small encoders, tiles in the loop, threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SMALL, make_prior, parameters
from torch import Tensor

from distill3d.errors import BackendError, PriorError, SettingsError
from distill3d.optimize import Distillation, Execution
from distill3d.optimize.execution import suggested_threads
from distill3d.optimize.settings import LossSettings
from distill3d.priors import small_encoder
from distill3d.priors.accelerate import Verified
from distill3d.priors.load import load_prior
from distill3d.render.shading import ShadingSettings
from distill3d.schedules import Constant, TimestepWindow

# ---- twins


def cube(x: Tensor) -> Tensor:
    return x**3


def asked(counts: list[str], name: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        counts.append(name)
        return function(x)

    return call


def test_a_twin_that_agrees_takes_over_after_one_comparison() -> None:
    calls: list[str] = []
    twin = Verified("test", asked(calls, "exact", cube), asked(calls, "fast", lambda x: x * x * x))
    x = torch.rand(5, requires_grad=True)
    twin(x).sum().backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2)
    calls.clear()
    twin(x), twin(torch.rand(5, requires_grad=True))
    assert calls == ["fast", "fast"] and not twin.refused
    twin(torch.rand(6))
    assert calls[2:] == ["fast", "exact", "exact"], "another shape is compared anew"


def fails(x: Tensor) -> Tensor:
    raise RuntimeError("no compiler\nwas found")


@pytest.mark.parametrize(
    ("fast", "reason"),
    [
        (lambda x: x**3 + 0.01 * x, "answer is"),
        (lambda x: (x**3).detach() + 0.0 * x, "gradient is 1.0e"),  # the compiler that gives zero gradients
        (lambda x: (x**3).detach(), "RuntimeError"),
        (fails, "no compiler was found"),
        (lambda x: x**3 * torch.nan, "answer is nan"),
    ],
)
def test_a_twin_that_is_wrong_is_left_out_and_the_answer_is_right(
    fast: Callable[[Tensor], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    twin = Verified("test", cube, fast)
    for _ in range(2):
        x = torch.full((4,), 2.0, requires_grad=True)
        twin(x).sum().backward()
        torch.testing.assert_close(x.grad, torch.full((4,), 12.0))
    assert reason in twin.refused and caplog.text.count("the plain way goes on") == 1


def test_running_out_of_memory_is_not_hidden() -> None:
    def hungry(x: Tensor) -> Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        Verified("test", cube, hungry)(torch.rand(2))


# ---- the prior


def test_a_prior_with_every_accelerator_answers_as_before(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(function: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    prior = load_prior(tiny_pipeline)
    images = torch.rand(1, 3, prior.image_size, prior.image_size, requires_grad=True)
    x, t, cond = torch.randn(2, *prior.latent_shape), torch.tensor([1, 900]), prior.embed(["a", "b"])
    before = prior.encode(images), prior.predict_noise(x, t, cond)
    fingerprint = prior.fingerprint
    prior.accelerate(channels_last=True, compile=True)
    after = prior.encode(images), prior.predict_noise(x, t, cond)
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert after[0].requires_grad
    assert set(prior.describe()["accelerators"].values()) == {"refused: RuntimeError: no compiler"}
    assert prior.accelerate().accelerators == {}
    del prior.__dict__["fingerprint"]
    assert prior.fingerprint == fingerprint


def test_what_one_run_asks_of_a_prior_ends_with_it(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline)
    images = torch.rand(1, 3, prior.image_size, prior.image_size, requires_grad=True)
    plain = prior.encode(images)
    Execution(bf16_encoder=True).apply(prior)
    assert prior.accelerators
    Execution().apply(prior)
    assert not prior.accelerators and torch.equal(prior.encode(images), plain)


def test_bf16_encoder_is_used_only_where_its_gradient_agrees(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline).accelerate(bf16_encoder=True)
    images = torch.rand(1, 3, prior.image_size, prior.image_size, requires_grad=True)
    for _ in range(2):
        latents = prior.encode(images)
        assert latents.dtype == torch.float32
    (state,) = prior.accelerators.values()
    assert state == "used" or state.startswith("refused: its")


def saved_autoencoder(prior: Any, folder: Path) -> Path:
    prior.vae.save_pretrained(folder)
    return folder


def test_a_small_encoder_that_agrees_gives_the_gradient(tiny_pipeline: Path, tmp_path: Path) -> None:
    plain = load_prior(tiny_pipeline)
    prior = load_prior(tiny_pipeline, encoder=saved_autoencoder(plain, tmp_path / "small"))
    images = torch.rand(2, 3, plain.image_size, plain.image_size, requires_grad=True)
    torch.testing.assert_close(prior.encode(images), plain.encode(images))
    (slope,) = torch.autograd.grad(prior.encode(images).square().sum(), images)
    assert slope.abs().max() > 0
    assert prior.fingerprint != plain.fingerprint and prior.describe()["gradient_encoder"] == str(tmp_path / "small")


def test_an_encoder_of_another_model_is_refused(tiny_pipeline: Path, make_pipeline: Any, tmp_path: Path) -> None:
    other = load_prior(make_pipeline(tmp_path / "other", seed=5))
    with pytest.raises(PriorError, match="belongs to another model"):
        load_prior(tiny_pipeline, encoder=saved_autoencoder(other, tmp_path / "small"))
    with pytest.raises(PriorError, match="got nothing"):
        load_prior(tiny_pipeline, encoder=tmp_path / "missing")


def test_a_taesd_file_is_read_like_its_folder(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tiny = diffusers.AutoencoderTiny()
    tiny.save_pretrained(tmp_path / "folder")
    save_file(tiny.encoder.layers.state_dict(), tmp_path / "taesd_encoder.safetensors")
    images = small_encoder.pictures(1, 32)
    found = [
        small_encoder.load_small_encoder(tmp_path / name, torch.device("cpu"), torch.float32)(images)
        for name in ("folder", "taesd_encoder.safetensors")
    ]
    assert found[0].shape == (1, 4, 4, 4)
    torch.testing.assert_close(found[0], found[1])
    save_file({"0.weight": torch.zeros(3)}, tmp_path / "wrong.safetensors")
    with pytest.raises(PriorError, match="TAESD"):
        small_encoder.load_small_encoder(tmp_path / "wrong.safetensors", torch.device("cpu"), torch.float32)


# ---- the loop


def test_switching_the_backend_in_the_middle_changes_next_to_nothing() -> None:
    runs = []
    for switch in (False, True):
        run = Distillation(make_prior(), "a red ball", SMALL, execution=Execution(hash_grid="loop"))
        for _ in range(SMALL.iterations):
            if switch and run.iteration == 4:
                run.field.encoder.use("batched")
            run.step()
        runs.append(parameters(run))
    assert (runs[1] - runs[0]).abs().max() < 5e-3  # Adam turns last digits into steps of up to the rate, 0.01
    assert (runs[1] - runs[0]).norm() < 1e-2 * runs[0].norm()


def test_a_resumed_run_may_choose_another_backend(tmp_path: Path) -> None:
    from distill3d.optimize import checkpoint

    settings = replace(SMALL, field=replace(SMALL.field, color_grid="own"))
    run = Distillation(make_prior(), "a red ball", settings)
    run.step(), run.save(tmp_path)
    again = Distillation.resume(make_prior(), checkpoint.load(tmp_path), execution=Execution(hash_grid="batched"))
    assert again.field.color_encoder is not None
    assert again.iteration == 1
    assert again.field.encoder.backend == again.field.color_encoder.backend == "batched"
    again.step()
    with pytest.raises(BackendError, match="tinycudann"):
        Distillation(make_prior(), "a red ball", SMALL, execution=Execution(hash_grid="tinycudann"))


def test_terms_of_normals_are_for_lit_steps() -> None:
    losses = LossSettings(orientation=Constant(0.1), smoothness=Constant(0.1))
    settings = replace(SMALL, losses=losses, shading=ShadingSettings(start=0.25, albedo_probability=0.0))
    run = Distillation(make_prior(), "a red ball", settings)
    steps = [run.step() for _ in range(4)]
    assert [{"orientation", "smoothness"} <= set(step.terms) for step in steps] == [False, False, True, True]


def test_a_run_in_tiles_learns_what_the_plain_run_learns() -> None:
    losses = LossSettings(**{name: Constant(0.1) for name, _ in LossSettings().schedules()})
    shading = ShadingSettings(start=0.0, albedo_probability=0.0, textureless_probability=0.0)
    low = TimestepWindow(Constant(0.02), Constant(0.3))
    base = replace(SMALL, losses=losses, shading=shading, window=low)
    base = replace(base, render=replace(SMALL.render, cull_below=0, cull_transmittance=0, normal_weight=0))
    steps = []
    for render in (base.render, replace(base.render, memory_gb=0, max_points=3000)):
        run = Distillation(make_prior(), "a red ball", replace(base, render=render))
        steps.append([run.step() for _ in range(3)])
    assert set(steps[0][0].terms) == set(steps[1][0].terms) >= {name for name, _ in losses.schedules()}
    for plain, tiled in zip(*steps, strict=True):
        assert tiled.loss == pytest.approx(plain.loss, rel=1e-3)
        for name, value in plain.terms.items():
            assert tiled.terms[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_threads_are_set_only_when_asked() -> None:
    before = torch.get_num_threads()
    try:
        Execution().apply(None)
        assert torch.get_num_threads() == before
        Execution(threads=-1).apply(None)
        assert torch.get_num_threads() == suggested_threads() >= 1
    finally:
        torch.set_num_threads(before)
    for wrong in (-2, 100_000):
        with pytest.raises(SettingsError, match="threads"):
            Execution(threads=wrong)


def test_the_report_does_not_call_used_what_nothing_called(tiny_pipeline: Path, tmp_path: Path) -> None:
    plain = load_prior(tiny_pipeline)
    assert plain.accelerate(bf16_encoder=True).accelerators == {"bf16 of the encoder": "not used: never called"}
    prior = load_prior(tiny_pipeline, encoder=saved_autoencoder(plain, tmp_path / "small"))
    prior.accelerate(bf16_encoder=True).encode(torch.rand(1, 3, prior.image_size, prior.image_size))
    assert "small encoder" in prior.accelerators["bf16 of the encoder"]
