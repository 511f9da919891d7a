"""Settings cut down to a limit of memory or time, and what the estimates rest on."""

from __future__ import annotations

import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import SMALL, make_prior
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill3d.cli import main
from distill3d.errors import SettingsError
from distill3d.optimize import Distillation, preset
from distill3d.optimize.fit import Cost, continued, cost_of, field_bytes, fit, gigabytes, largest_render, time_steps
from distill3d.priors import small_encoder
from distill3d.priors.load import load_prior
from distill3d.schedules import Linear

SD15 = Cost(weights=1_900_000_000, encoder=3_100_000_000, row=300_000_000)


def test_what_fits_stays_and_what_does_not_is_cut_down_in_order() -> None:
    settings = replace(preset("fine", bundled=False), batch=4)
    roomy = fit(settings, SD15, vram_gb=80)
    assert roomy.settings == settings and roomy.changes == () and roomy.gigabytes < 80
    previous = roomy.gigabytes
    for gb in (16, 10, 6.2):
        tight = fit(settings, SD15, vram_gb=gb)
        assert tight.gigabytes <= gb and tight.gigabytes <= previous and tight.changes
        assert tight.gigabytes == pytest.approx(gigabytes(tight.settings, SD15, tight.max_batch))
        previous = tight.gigabytes
    assert tight.settings.batch == 1 and tight.max_batch == 1 and tight.settings.render.memory_gb < 2
    assert tight.settings.resolution == settings.resolution
    with pytest.raises(SettingsError, match=r"vram_gb of at least \d.*weights take 1.9 GB.*TAESD"):
        fit(settings, SD15, vram_gb=3)


@pytest.mark.parametrize("color_grid", ["shared", "own"])
def test_the_field_weighs_what_its_tables_with_gradient_and_moments_do(color_grid: Any) -> None:
    settings = replace(SMALL, field=replace(SMALL.field, color_grid=color_grid))
    run = Distillation(make_prior(), "a red ball", settings)
    tables = run.field.parameter_groups()["encoder"]
    run.step()
    moments = [run.optimizer.state[table] for table in tables]
    kept = [*tables, *tables, *(m[name] for m in moments for name in ("exp_avg", "exp_avg_sq"))]
    assert field_bytes(settings) == sum(tensor.numel() * tensor.element_size() for tensor in kept)


def test_a_second_grid_counts_in_the_field_and_in_renders() -> None:
    one = preset("draft", bundled=False)
    two = replace(one, field=replace(one.field, color_grid="added"))
    assert largest_render(two).mode == largest_render(one).mode
    renders = (largest_render(two).bytes - largest_render(one).bytes) / 1e9
    tables = (field_bytes(two) - field_bytes(one)) / 1e9
    cost = replace(SD15, row=0)  # else the UNet's rows are the peak, and renders do not count
    assert gigabytes(two, cost, None) - gigabytes(one, cost, None) == pytest.approx(renders + tables)
    assert renders > 0.2 * largest_render(one).bytes / 1e9


def test_a_time_budget_cuts_iterations() -> None:
    settings = replace(preset("draft"), iterations=300)
    assert fit(settings, SD15, minutes=60, seconds_per_step=0.2).settings == settings
    short = fit(settings, SD15, minutes=0.5, seconds_per_step=0.2)
    assert short.settings.iterations == 150 and short.seconds == pytest.approx(30)
    assert short.changes == ("150 iterations instead of 300",)
    with pytest.raises(SettingsError, match=r"time_budget of at least 0.2 minutes \(50 steps"):
        fit(settings, SD15, minutes=0.1, seconds_per_step=0.2)
    with pytest.raises(SettingsError, match="seconds_per_step"):
        fit(settings, SD15, minutes=1)


@pytest.mark.parametrize("gb", [80, 16, 10, 6.2])
def test_a_resumed_run_keeps_what_the_limits_made_of_it(gb: float) -> None:
    settings = replace(preset("fine", bundled=False), batch=4)
    begun = fit(settings, SD15, vram_gb=gb, minutes=30, seconds_per_step=1.0)
    again = continued(settings, begun.settings, SD15, vram_gb=gb, minutes=30)
    assert (again.settings, again.max_batch, again.gigabytes) == (begun.settings, begun.max_batch, begun.gigabytes)
    assert sorted(again.changes) == sorted(begun.changes) and again.seconds is None


def test_what_no_limit_cut_still_differs_from_the_checkpoint() -> None:
    settings = replace(preset("draft"), batch=2, iterations=100)
    stored = replace(settings, batch=4, iterations=200, render=replace(settings.render, memory_gb=9.0))
    assert continued(settings, stored, SD15, vram_gb=80, minutes=1).settings == settings
    cut = replace(settings, batch=1, iterations=50)
    assert continued(settings, cut, SD15).settings == settings, "no limit was given"
    assert continued(settings, cut, SD15, minutes=1).settings == replace(settings, iterations=50)
    other = replace(cut, occupancy_every=3)
    assert continued(settings, other, SD15, vram_gb=80, minutes=1).settings == cut


def test_steps_are_timed_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    render = replace(preset("draft").render, samples_per_ray=8)
    run = Distillation(make_prior(), "a red ball", replace(preset("draft"), batch=1, render=render))
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 302.0, 400.0, 403.0])
    monkeypatch.setattr("distill3d.optimize.fit.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(run, "step", lambda: setattr(run, "iteration", run.iteration + 1))
    heard: list[int] = []
    timed = [int(run.settings.iterations * share) for share in (1 / 6, 1 / 2, 5 / 6)]
    assert time_steps(run, lambda: heard.append(run.iteration)) == 2.0
    assert heard == [0, 1, *(i + 1 for i in timed[:-1])] and run.iteration == timed[-1] + 1


@pytest.mark.parametrize("wrong", [{"vram_gb": 0}, {"vram_gb": -1}, {"minutes": 0}, {"vram_gb": float("nan")}])
def test_limits_must_be_positive(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="above 0"):
        fit(preset("draft"), SD15, seconds_per_step=1.0, **wrong)


def test_the_cost_of_a_real_prior_is_read_off_its_parts(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline)
    cost = cost_of(prior)
    text = load_file(tiny_pipeline / "text_encoder" / "model.safetensors")
    held = sum(p.numel() for m in (prior.unet, prior.vae) for p in m.parameters())
    assert cost.weights == 4 * (held + sum(v.numel() for v in text.values()))
    assert cost.encoder > 0 and cost.row > 0
    assert cost_of(make_prior()) == Cost(0, 0, 0)
    prior.unload_text_encoder()
    assert cost_of(prior).weights == 4 * held


class Alive(TorchDispatchMode):
    """Counts the bytes that tensors made under it hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, Tensor) and (key := made.untyped_storage()._cdata) not in self.held:
                self.held.add(key)
                self.now += made.untyped_storage().nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(made, self._gone, key, made.untyped_storage().nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.held.discard(key)
        self.now -= size


def test_the_pictures_of_tint_are_estimated_as_what_they_hold() -> None:
    prior = load_prior(None)
    cost = cost_of(prior)
    with Alive() as decoding:
        prior.decode(torch.zeros(4, *prior.latent_shape))
    assert 0.8 * decoding.most < 4 * cost.picture < 1.5 * decoding.most
    big, views = replace(cost, picture=10**10), replace(SMALL, batch=2)
    assert gigabytes(views, big, None) == gigabytes(views, cost, None)
    late = replace(views, losses=replace(views.losses, tint=Linear(0.0, 20.0, begin=0.5)))
    assert 20 < gigabytes(late, big, None) < 21, "one for each view"
    assert 10 < gigabytes(late, big, 1) < 11, "one after the other"


def test_a_small_encoder_makes_a_run_fit_as_the_message_promises(tiny_pipeline: Path) -> None:
    import diffusers

    prior = load_prior(tiny_pipeline)
    plain = cost_of(prior)
    tiny = diffusers.AutoencoderTiny(encoder_block_out_channels=(2, 2), num_encoder_blocks=(1, 1))
    prior._small = small_encoder.SmallEncoder(tiny, Path("tiny"))
    small = cost_of(prior)
    assert small.weights == plain.weights + 4 * sum(p.numel() for p in tiny.parameters())
    assert small.encoder == pytest.approx(plain.encoder * 2 / prior.vae.config.block_out_channels[0], rel=1e-6)
    assert small.row == plain.row


def test_limits_on_the_command_line(tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--resolution", "16", "--render.samples-per-ray", "24", "--batch", "1", "--iterations", "60"]
    call = ["generate", "a red ball", "--model", str(tiny_pipeline), "--out", str(tmp_path / "out"), *small]
    assert main([*call, "--vram-gb", "0.1"]) == 2
    assert "vram_gb of at least" in capsys.readouterr().err
    assert main([*call, "--time-budget", "0.00001"]) == 2
    assert "time_budget of at least" in capsys.readouterr().err
    assert main([*call, "--execution.hash-grid", "tinycudann"]) == 2
    assert "tinycudann cannot be used on cpu" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_estimate_is_told_before_a_run_and_memory_is_fitted_before_steps_are_timed(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--resolution", "16", "--render.samples-per-ray", "24", "--iterations", "1", "--mesh.resolution", "16"]
    call = ["generate", "a red ball", "--model", str(tiny_pipeline), "--turntable-frames", "1", *small]
    seen = []

    def timed(run: Distillation) -> float:
        seen.append((run.settings.batch, run.settings.render.memory_gb, run.prior.max_batch))
        raise KeyboardInterrupt

    monkeypatch.setattr("distill3d.cli.generate.cost_of", lambda prior: SD15)
    monkeypatch.setattr("distill3d.cli.generate.time_steps", timed)
    assert main([*call, "--out", str(tmp_path / "a"), "--batch", "4", "--vram-gb", "6.2", "--time-budget", "9"]) == 130
    assert seen == [(1, 2.0, 1)], "after the limit cut views and rows"
    capsys.readouterr()
    assert main([*call, "--out", str(tmp_path / "a"), "--time-budget", "0"]) == 2 and len(seen) == 1
    assert main([*call, "--out", str(tmp_path / "b"), "--batch", "1"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"estimate: \d+\.\d GB of memory for model and run\n", said) and "--vram-gb" not in said
    monkeypatch.setattr("distill3d.cli.generate.device_gigabytes", lambda device: 4.25)
    assert main([*call, "--out", str(tmp_path / "c"), "--batch", "1"]) == 0
    assert "the card has 4.2, so memory may run out: start again with --vram-gb 4.2" in " ".join(
        capsys.readouterr().err.split()
    )
