"""Ways to compute faster: verified twins, small encoders, tiles in the loop, settings that fit, comparing files."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import SMALL, make_prior, parameters
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill3d.bench import compare
from distill3d.cli import main
from distill3d.errors import BackendError, PriorError, SettingsError
from distill3d.optimize import Distillation, Execution, preset
from distill3d.optimize.execution import suggested_threads
from distill3d.optimize.fit import Cost, continued, cost_of, field_bytes, fit, gigabytes, largest_render, time_steps
from distill3d.optimize.settings import LossSettings
from distill3d.priors import small_encoder
from distill3d.priors.accelerate import Verified
from distill3d.priors.load import load_prior
from distill3d.render.shading import ShadingSettings
from distill3d.schedules import Constant, Linear, TimestepWindow

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


# ---- settings that fit

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


def test_the_report_does_not_call_used_what_nothing_called(tiny_pipeline: Path, tmp_path: Path) -> None:
    plain = load_prior(tiny_pipeline)
    assert plain.accelerate(bf16_encoder=True).accelerators == {"bf16 of the encoder": "not used: never called"}
    prior = load_prior(tiny_pipeline, encoder=saved_autoencoder(plain, tmp_path / "small"))
    prior.accelerate(bf16_encoder=True).encode(torch.rand(1, 3, prior.image_size, prior.image_size))
    assert "small encoder" in prior.accelerators["bf16 of the encoder"]


# ---- the regression guard

BEFORE = {
    "benchmark": "encoder",
    "points": 1000,
    "cpu_ms_l8_ours": 100.0,
    "spread_cpu_ms_l8_ours": 1.0,
    "cpu_ms_l8_numba": 50.0,
    "spread_cpu_ms_l8_numba": 10.0,
    "mb_tiles": 100.0,
    "speedup_l8_vs_gather": 8.0,
    "ms": {"render": 10.0},
    "gradient_difference_l8_numba": 1e-7,
}


def test_compare_names_what_became_slower_than_noise() -> None:
    after = {
        **BEFORE,
        "cpu_ms_l8_ours": 112.0,  # beyond 3 * (1 % + 0.9 %)
        "cpu_ms_l8_numba": 60.0,  # within its noise
        "mb_tiles": 104.0,  # within 5 %
        "speedup_l8_vs_gather": 6.0,
        "ms": {"render": 7.0},
        "gradient_difference_l8_numba": 1e-3,  # no speed
    }
    changes = {c.name: c for c in compare.compare(BEFORE, after)}
    assert [n for n, c in changes.items() if c.worse] == ["cpu_ms_l8_ours", "speedup_l8_vs_gather"]
    assert [n for n, c in changes.items() if c.better] == ["ms.render"]
    assert not any(c.worse or c.better for c in compare.compare(BEFORE, BEFORE))


def test_compare_reads_the_figures_of_every_benchmark() -> None:
    before = {"shape": "torus", "ours": {"seconds": 10.0, "peak_mb": 500.0, "faces": 20000}, "speedup": 9.0}
    after = {**before, "ours": {"seconds": 20.0, "peak_mb": 500.0, "faces": 10}}
    assert [c.name for c in compare.compare(before, after) if c.worse] == ["ours.seconds"]
    assert compare.gone(before, {"ours": {}}) == ["ours.seconds", "ours.peak_mb", "speedup"]
    world = {"benchmark": "world", "images_per_cpu_second": {"plain": 1400.0, "full": 180.0}}
    slower = {**world, "images_per_cpu_second": {"plain": 1350.0, "full": 90.0}}
    assert [c.name for c in compare.compare(world, slower) if c.worse] == ["images_per_cpu_second.full"]


@pytest.mark.parametrize("other", [{"share": 0.2}, {"side": 128}, {"image_size": 32}])
def test_other_circumstances_are_not_compared(other: dict[str, float]) -> None:
    figures = {"cpu_ms_a": 1.0, "share": 0.1, "side": 64, "image_size": 64}
    with pytest.raises(SettingsError, match=f"one measurement, got {next(iter(other))}"):
        compare.compare(figures, {**figures, **other})
    parts = {"cpu_ms_a": 1.0, "share": {"unet": 0.4}}
    assert compare.compare(parts, {"cpu_ms_a": 1.0, "share": {"unet": 0.5}}), "a step's share is a figure"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_in_the_encoding_its_shell_wrote(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps(BEFORE).encode(encoding))
    assert compare.read(tmp_path / "a.json") == BEFORE


def test_odd_numbers_and_depths_are_no_crash(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(SettingsError, match="written by distill3d bench"):
        compare.read(tmp_path / "deep.json")
    odd = {"cpu_ms_a": 10**400, "cpu_ms_b": float("nan"), "cpu_ms_c": 1.0}
    assert [c.name for c in compare.compare(odd, odd)] == ["cpu_ms_c"]


def test_compare_names_what_is_no_longer_measured() -> None:
    after = {name: value for name, value in BEFORE.items() if "numba" not in name}
    assert compare.gone(BEFORE, after) == ["cpu_ms_l8_numba"] and compare.gone(after, BEFORE) == []


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_share(tolerance: float) -> None:
    with pytest.raises(SettingsError, match="tolerance of 0 or more"):
        compare.compare(BEFORE, BEFORE, tolerance)


def test_compare_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(BEFORE))
    b.write_text(json.dumps({**BEFORE, "cpu_ms_l8_ours": 200.0}))
    assert main(["bench", "compare", str(a), str(a)]) == 0
    assert main(["bench", "compare", str(a), str(b), "--json"]) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["worse"] == ["cpu_ms_l8_ours"]
    b.write_text(json.dumps({"benchmark": "encoder", "cpu_ms_l8_ours": 100.0}))
    assert main(["bench", "compare", str(a), str(b)]) == 0
    assert "gone" in capsys.readouterr().out
    b.write_text(json.dumps({**BEFORE, "points": 5}))
    assert main(["bench", "compare", str(a), str(b)]) == 2
    b.write_text("no json")
    assert main(["bench", "compare", str(a), str(b)]) == 2


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
    assert re.search(r"estimate: \d+\.\d GB of memory for model and run\n", capsys.readouterr().err)
