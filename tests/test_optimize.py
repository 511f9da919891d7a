"""The loop against closed-form priors: it moves a field to the mode, repeats itself, and stops when it should."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SIDE, SMALL, make_prior, parameters, red_disc

from distill3d.errors import DivergedError, OutOfMemoryError, SettingsError
from distill3d.fields.density import DensityField
from distill3d.optimize import PRESETS, Distillation, Settings, Step, Warned, loop, preset
from distill3d.optimize import checkpoint as checkpoints
from distill3d.optimize.codec import from_json, to_json
from distill3d.optimize.events import Checkpointed
from distill3d.optimize.guards import GuardSettings
from distill3d.optimize.settings import LossSettings, OptimizerSettings
from distill3d.priors.analytic import GaussianPrior
from distill3d.render.cameras import CameraRanges, orbit, ring
from distill3d.render.volume import render
from distill3d.schedules import Constant, parse
from distill3d.world.catalogue import CATALOGUE


@pytest.fixture
def prior() -> GaussianPrior:
    return make_prior()


@pytest.mark.parametrize("method", ["sds", "asd"])
def test_a_field_becomes_the_ball_that_the_prior_dreams_of(prior: GaussianPrior, method: str) -> None:
    settings = replace(
        SMALL, iterations=120, method=method, optimizer=OptimizerSettings(Constant(0.03), Constant(0.003))
    )
    settings = replace(settings, sds=type(settings.sds)(Constant(1.0)), asd=type(settings.asd)(Constant(2.0)))
    run = Distillation(prior, "a red ball", settings)
    run.run()
    with torch.no_grad():
        image = render(
            run.field, ring(4, 20.0), SIDE, SIDE, background=torch.ones(3), settings=settings.render, normals=False
        )
    target = red_disc().permute(1, 2, 0)
    inside, outside = target[..., 1] < 0.1, target[..., 1] > 0.95
    assert image.opacity[:, inside].mean() > 0.8
    assert image.opacity[:, outside].mean() < 0.1
    red, green, blue = image.foreground[:, inside].mean((0, 1)).tolist()
    assert red > 3 * max(green, blue)


def test_the_same_seed_gives_the_same_field_bit_for_bit(prior: GaussianPrior) -> None:
    fields = []
    for seed in (3, 3, 4):
        run = Distillation(prior, "a red ball", SMALL, seed=seed)
        run.run()
        fields.append(parameters(run))
    assert torch.equal(fields[0], fields[1])
    assert not torch.equal(fields[0], fields[2])


def test_methods_share_cameras_noise_timesteps_and_the_initial_field(prior: GaussianPrior) -> None:
    seen: dict[str, list[Any]] = {}
    for method in ("sds", "asd"):
        run = Distillation(prior, "a red ball", replace(SMALL, method=method))
        original = prior.predict_noise

        def spy(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, method: str = method, f: Any = original) -> Any:
            seen.setdefault(method, []).append((x[:2].clone(), t[:2].clone()))
            return f(x, t, cond)

        prior.predict_noise = spy  # type: ignore[method-assign]
        run.run()
        prior.predict_noise = original  # type: ignore[method-assign]
    first = [calls[0] for calls in seen.values()]
    assert torch.equal(first[0][0], first[1][0])
    assert all(torch.equal(a[1], b[1]) for a, b in zip(*seen.values(), strict=True))
    assert all(len(calls) == SMALL.iterations for calls in seen.values()), "one call of the denoiser a step"


def test_latent_gradient_is_sds_with_the_gaussian_score(prior: GaussianPrior) -> None:
    run = Distillation(prior, "a red ball", replace(SMALL, sds=type(SMALL.sds)(Constant(1.0))))
    latents = torch.rand(2, 3, SIDE, SIDE)
    guided = run.guidance(latents, orbit([0, 90], 0), 0.0, run.generators)
    alpha, sigma = prior.alpha_sigma(guided.timesteps)
    variance = alpha**2 * 0.1**2 + sigma**2
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0).set_state(noise_state(prior)))
    x_t = alpha * latents + sigma * noise
    expected = sigma**2 * (sigma * (x_t - alpha * red_disc()) / variance - noise)
    torch.testing.assert_close(guided.gradient, expected, rtol=1e-4, atol=1e-5)


def noise_state(prior: GaussianPrior) -> torch.Tensor:
    return Distillation(prior, "a red ball", SMALL).generators["noise"].get_state()


class Spoiled(GaussianPrior):
    """Answers NaN from a chosen call on."""

    bad_from, bad_until, calls = 0, 10**9, 0

    def predict_noise(self, x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        answer = super().predict_noise(x_t, t, cond)
        return answer * float("nan") if self.bad_from < self.calls <= self.bad_until else answer


def spoiled(bad_from: int, bad_until: int = 10**9) -> Spoiled:
    prior = Spoiled({"a red ball": red_disc(), "": torch.full((3, SIDE, SIDE), 0.5)})
    prior.bad_from, prior.bad_until = bad_from, bad_until
    return prior


def test_not_finite_answers_are_skipped_then_slowed_then_stopped() -> None:
    settings = replace(SMALL, iterations=30, guards=GuardSettings(lower_after=2, stop_after=4))
    run = Distillation(spoiled(3), "a red ball", settings)
    events: list[Any] = []
    for _ in range(3):
        run.step()
    good = parameters(run).clone()
    with pytest.raises(DivergedError, match="noise prediction"):
        run.run(listeners=(events.append,))
    assert torch.equal(parameters(run), good), "the last good state is kept"
    assert torch.isfinite(good).all()
    assert [e for e in events if isinstance(e, Warned)] and run.guard.rate == 0.5
    assert all(e.skipped for e in events if isinstance(e, Step))


def test_a_single_not_finite_answer_costs_one_step_only() -> None:
    run = Distillation(spoiled(3, 4), "a red ball", SMALL)
    assert run.run()
    assert (run.skipped, run.guard.rate) == (1, 1.0)


def test_a_run_of_which_no_step_could_be_used_is_no_success(tmp_path: Path) -> None:
    run = Distillation(spoiled(0), "a red ball", replace(SMALL, iterations=2))
    with pytest.raises(DivergedError, match="as it began"):
        run.run(folder=tmp_path)
    assert run.skipped == 2 and (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("losses", "blob", "words"),
    [(LossSettings(sparsity=Constant(1e5)), 10.0, "vanished"), (LossSettings(), 4000.0, "fills the view")],
)
def test_lost_objects_stop_the_run_with_advice(
    prior: GaussianPrior, losses: LossSettings, blob: float, words: str
) -> None:
    field = replace(SMALL.field, blob_density=blob, blob="dreamfusion", blob_radius=2.0 if blob > 100 else 0.3)
    settings = replace(
        SMALL,
        iterations=200,
        losses=losses,
        field=field,
        sds=type(SMALL.sds)(Constant(0.0)),
        optimizer=OptimizerSettings(Constant(0.1 if blob < 100 else 0.0), Constant(0.1 if blob < 100 else 0.0)),
        cameras=CameraRanges(radius=(1.2, 1.2), fov=(30, 30)) if blob > 100 else SMALL.cameras,
        guards=GuardSettings(patience=5),
    )
    with pytest.raises(DivergedError, match=words) as error:
        Distillation(prior, "a red ball", settings).run()
    assert "losses.sparsity" in error.value.advice and "losses.sparsity" in str(error.value)


def test_an_object_that_vanishes_leaves_the_checkpoint_from_before(prior: GaussianPrior, tmp_path: Path) -> None:
    """And from there the run goes on to where it vanishes again, however often it is resumed."""
    settings = replace(
        SMALL, iterations=200, checkpoint_every=5, losses=LossSettings(sparsity=parse("step(0, 1e5, at=0.12)")),
        sds=type(SMALL.sds)(Constant(0.0)), optimizer=OptimizerSettings(Constant(0.1), Constant(0.1)),
        guards=GuardSettings(patience=12),
    )  # fmt: skip
    run = Distillation(prior, "a red ball", settings)
    with pytest.raises(DivergedError, match="vanished"):
        run.run(folder=tmp_path)
    ended = run.iteration
    for _ in range(2):
        checkpoint = checkpoints.load(tmp_path)
        again = Distillation.resume(prior, checkpoint)
        assert (again.guard.vanished, again.guard.filled) == (0, 0)
        assert 20 <= again.iteration <= ended - 12 and again.iteration % 5 == 0
        with pytest.raises(DivergedError, match="vanished"):
            again.run(folder=tmp_path)
        assert again.iteration == ended


def test_a_checkpoint_that_was_due_while_the_object_was_gone_is_made_up_for(
    prior: GaussianPrior, tmp_path: Path
) -> None:
    saved: list[int] = []

    def listen(event: Any) -> None:
        if isinstance(event, Checkpointed):
            saved.append(event.iteration)

    run = Distillation(prior, "a red ball", replace(SMALL, iterations=12, checkpoint_every=4))
    real = run.guard.check_opacity
    gone = iter([False, False, False, True, True, False])
    run.guard.check_opacity = lambda opacity: real(0.0 if next(gone, False) else opacity)  # type: ignore[method-assign]
    run.run(folder=tmp_path, listeners=(listen,))
    assert saved == [6, 8, 12]


def test_memory_that_ran_out_binds_the_prior_for_this_run_alone(prior: GaussianPrior) -> None:
    prior.max_batch = 7  # type: ignore[attr-defined]
    run = Distillation(prior, "a red ball", replace(SMALL, iterations=3))
    forward, failures, seen = run.field.forward, iter([True]), []

    def fails_once(x: torch.Tensor) -> Any:
        seen.append(prior.max_batch)  # type: ignore[attr-defined]
        if next(failures, False):
            raise torch.cuda.OutOfMemoryError("Allocation on device ")
        return forward(x)

    run.field.forward = fails_once  # type: ignore[method-assign]
    run.run(stop=lambda: run.iteration == 2)
    assert {7, 1} == set(seen) and prior.max_batch == 7  # type: ignore[attr-defined]
    seen.clear()
    run.run()
    assert set(seen) == {1} and prior.max_batch == 7, "the run goes on as small as it had to"  # type: ignore[attr-defined]


def test_out_of_memory_is_retried_once_with_smaller_chunks(prior: GaussianPrior) -> None:
    plain = Distillation(prior, "a red ball", SMALL)
    plain.run()
    run = Distillation(prior, "a red ball", SMALL)
    failures = iter([True])
    forward = run.field.forward

    def fails_once(x: torch.Tensor) -> Any:
        if len(x) > 2000 and next(failures, False):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(x)

    run.field.forward = fails_once  # type: ignore[method-assign]
    events: list[Any] = []
    assert run.run(listeners=(events.append,))
    assert any("memory" in e.message for e in events if isinstance(e, Warned))
    torch.testing.assert_close(parameters(run), parameters(plain), rtol=1e-3, atol=1e-4)


def test_out_of_memory_twice_names_the_settings_to_lower(prior: GaussianPrior) -> None:
    run = Distillation(prior, "a red ball", SMALL)

    def fails(x: torch.Tensor) -> Any:
        raise torch.cuda.OutOfMemoryError("out of memory")

    run.field.forward = fails  # type: ignore[method-assign]
    with pytest.raises(OutOfMemoryError, match="lower resolution, batch"):
        run.run()


@pytest.mark.parametrize("name", PRESETS)
def test_the_bundled_presets_begin_with_fog_wherever_an_object_may_be(name: str) -> None:
    """A field that has hardened does not grow: what lies outside of the first fog is cut off (docs/tuning.md)."""
    field = DensityField(preset(name).field, generator=torch.Generator().manual_seed(0))
    for shape in CATALOGUE.values():
        angle = torch.linspace(0, 6, 50)
        edge = shape.bound * torch.stack((angle.cos(), torch.zeros(50), angle.sin()), 1).clamp(-0.97, 0.97)
        assert field.density(edge).min() > 0.1, shape.word


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", ["sds", "csd", "asd", "tbsd"])
@pytest.mark.parametrize("bundled", [True, False])
def test_presets_survive_json(name: str, method: str, bundled: bool) -> None:
    import json

    settings = preset(name, method, bundled=bundled)
    assert settings.method == method
    assert from_json(Settings, json.loads(json.dumps(to_json(settings)))) == settings


def test_whole_numbers_may_be_written_as_floats_and_other_kinds_are_refused() -> None:
    stored = to_json(Settings())
    found = from_json(Settings, {**stored, "iterations": 500.0})
    assert found.iterations == 500 and type(found.iterations) is int
    for change in ({"iterations": 1.5}, {"iterations": "many"}, {"checkpoint_every": True}, {"method": "xyz"}):
        with pytest.raises(SettingsError):
            from_json(Settings, {**stored, **change})


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(SettingsError, match="iterations of 1 or more, got -5"):
        replace(SMALL, iterations=-5)
    with pytest.raises(SettingsError, match="unknown method 'dds'"):
        replace(SMALL, method="dds")
    with pytest.raises(SettingsError, match="unknown preset"):
        preset("best")
    with pytest.raises(SettingsError, match="unknown resolutoin"):
        from_json(Settings, {"resolutoin": 3})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": {"betas": (1.0, 1.0)}}, "betas"),
        ({"optimizer": {"eps": 0.0}}, "eps"),
        ({"optimizer": {"warmup": -1}}, "warmup"),
        ({"optimizer": {"rate_grid": Constant(-0.1)}}, "rate_grid"),
        ({"losses": {"sparsity": Constant(-1.0)}}, "sparsity"),
        ({"guards": {"patience": 0}}, "patience"),
        ({"guards": {"opacity_low": math.nan}}, "opacity_low"),
        ({"field": {"density_bias": math.nan}}, "field.density_bias"),
        ({"cameras": {"azimuth": (0.0, math.inf)}}, "cameras.azimuth"),
        ({"shading": {"ambient": math.nan}}, "shading.ambient"),
    ],
)
def test_numbers_that_cannot_work_are_refused_before_the_run(change: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        replace(SMALL, **{name: replace(getattr(SMALL, name), **parts) for name, parts in change.items()})


def test_a_field_too_large_for_any_memory_is_an_error_that_says_what_to_lower(prior: GaussianPrior) -> None:
    with pytest.raises(OutOfMemoryError, match="occupancy_resolution"):
        Distillation(prior, "a red ball", replace(SMALL, occupancy_resolution=10**6))


def test_memory_that_runs_out_in_the_update_ends_the_run_without_a_torn_checkpoint(
    prior: GaussianPrior, tmp_path: Path
) -> None:
    run = Distillation(prior, "a red ball", SMALL)

    def step() -> None:
        raise MemoryError

    run.step()
    run.optimizer.step = step  # type: ignore[method-assign, assignment]
    with pytest.raises(OutOfMemoryError, match="resolution"):
        run.run(folder=tmp_path)
    assert run.iteration == 1 and not list(tmp_path.iterdir())


def test_the_focus_of_cameras_follows_the_run(prior: GaussianPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    real = loop.sample

    def watched(*arguments: Any) -> Any:
        cameras = real(*arguments)
        drawn.extend(torch.rad2deg(cameras.azimuth).tolist())
        return cameras

    monkeypatch.setattr(loop, "sample", watched)
    Distillation(
        prior, "a red ball", replace(SMALL, iterations=6, batch=2, cameras=CameraRanges(focus="step(1, 0, at=0.5)"))
    ).run()
    in_the_middle = [abs(azimuth - 90 * round(azimuth / 90)) < 1e-3 for azimuth in drawn]
    assert in_the_middle == [True] * 6 + [False] * 6
