"""Distillation without 3D: the toy with a known answer, the pictures, and the commands that compare methods."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distill3d.bench.quality import QualitySettings
from distill3d.cli import compare as compare_module
from distill3d.cli import distill2d as distill2d_module
from distill3d.cli import main
from distill3d.errors import DivergedError, SettingsError
from distill3d.methods import METHODS, GradientSettings
from distill3d.optimize import loop
from distill3d.optimize.curves import Recorder
from distill3d.optimize.events import Checkpointed, Step
from distill3d.plots import chart, log_ticks, ticks
from distill3d.priors.freeu import dynamic
from distill3d.priors.load import load_prior
from distill3d.schedules import DYNAMIC_GUIDANCE, WINDOWS, Constant, Linear
from distill3d.two_d import TARGET_TEXT, Settings2D, distil, mixture_prior, settings_for
from distill3d.two_d.latents import choose, mean_norm, noise_errors, norms_over_timesteps
from distill3d.two_d.mixture import density, distance_to_mode, modes, ring
from distill3d.two_d.pictures import curves, moments, sheet, smoothed, thinned

ALL = tuple(name.lower() for name in METHODS)
TINY = ["--render.samples-per-ray", "24", "--field.grid.levels", "4", "--field.grid.log2-table-size", "12"]


def published(method: str):
    return settings_for(method, bundled=False)


@pytest.mark.parametrize("method", ["sds", "csd", "asd", "nfsd"])
def test_points_of_the_toy_run_to_the_modes_of_the_target(method: str) -> None:
    run = Settings2D(iterations=120, batch=16)
    got = distil(mixture_prior(), TARGET_TEXT, published(method), run, start=ring(16))
    before, after = (distance_to_mode(p.flatten(1)).mean().item() for p in (got.start, got.latents))
    assert before > 1.4 and after < 0.5 * before
    assert density(modes()).min() > 0.9 and density(torch.zeros(1, 2)).isfinite().all()


def test_every_method_sees_the_same_start_and_noise_and_repeats_itself() -> None:
    run = Settings2D(iterations=3, batch=4)
    results = [distil(mixture_prior(), TARGET_TEXT, published(m), run, seed=3) for m in (*ALL, "sds")]
    assert all(torch.equal(r.start, results[0].start) for r in results)
    assert torch.equal(results[0].latents, results[-1].latents)
    fixed = [r for r in results if r.settings.window == WINDOWS["fixed"]]
    assert len(fixed) > 2
    times = [[t for t, _ in r.frames[0].errors] for r in fixed]
    errors = [[e for _, e in r.frames[0].errors] for r in fixed if r.method in ("sds", "csd", "nfsd")]
    assert all(t == times[0] for t in times) and all(e == pytest.approx(errors[0]) for e in errors)
    assert not torch.equal(distil(mixture_prior(), TARGET_TEXT, published("sds"), run, seed=4).start, results[0].start)


def test_sds_at_100_pushes_ten_times_harder_than_asd_on_one_state_of_the_toy() -> None:
    runs = {m: published(m) for m in ("sds", "asd", "csd")}
    for latents in (ring(32), ring(32, 1.0), modes().reshape(3, 2, 1, 1)):
        found = norms_over_timesteps(mixture_prior(), TARGET_TEXT, runs, latents)
        assert [t for t, _ in found["sds"]] == [t for t, _ in found["asd"]] and len(found["sds"]) == 32 * len(latents)
        norms = {name: mean_norm(points) for name, points in found.items()}
        assert norms["sds"] >= 10 * norms["asd"] and norms["asd"] > norms["csd"]


def test_norms_on_one_state_leave_out_weighting_clip_and_normalisation() -> None:
    changed = replace(published("sds"), gradient=GradientSettings("uniform", clip=Constant(0.1), normalise="norm"))
    found = norms_over_timesteps(mixture_prior(), TARGET_TEXT, {"a": published("sds"), "b": changed}, ring(4), draws=3)
    assert found["a"] == found["b"] and len({norm for _, norm in found["a"]}) == 12


def test_sds_at_100_pushes_ten_times_harder_than_asd_on_one_state_of_the_tiny_prior() -> None:
    prior = load_prior(device="cpu")
    latents = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    runs = {m: published(m) for m in ("sds", "asd")}
    found = norms_over_timesteps(prior, "a red cube", runs, latents, draws=6)
    assert mean_norm(found["sds"]) >= 10 * mean_norm(found["asd"])


def test_noise_error_falls_to_zero_for_a_perfect_model_at_high_noise() -> None:
    found = noise_errors(mixture_prior(), TARGET_TEXT, ring(8), points=9)
    assert [t for t, _ in found] == sorted(t for t, _ in found) and len(found) == 9
    assert found[0][1] > found[-1][1] and found[-1][1] < 0.02


def test_image_space_passes_gradients_through_the_encoder(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline, device="cpu")
    run = Settings2D(iterations=2, batch=1, space="image", view="front")
    got = distil(prior, "a red cube", published("asd"), run)
    assert not torch.equal(got.start, got.latents) and len(got.frames) == 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Settings2D(iterations=0), "iterations of 1 or more"),
        (lambda: Settings2D(space="voxel"), "latent or image"),
        (lambda: Settings2D(rate="0.05->-0.01"), "rate above 0, got -0.01 to 0.05"),
        (lambda: Settings2D(rate="0"), "rate above 0, got 0 to 0"),
        (lambda: Settings2D(start=float("nan")), "start of 0 to 10"),
        (lambda: Settings2D(view="top"), "none, front, side, back"),
        (lambda: choose(("sds", "SDS")), "without repetition"),
        (lambda: choose(("dds",)), "unknown method"),
        (lambda: choose(("all", "sds")), "all alone or the names of methods, got all sds"),
        (lambda: choose(()), "at least one, got none"),
        (lambda: QualitySettings(methods=("sds", "SDS")), "without repetition and at least one, got sds SDS"),
    ],
)
def test_mistakes_say_what_to_write_instead(make, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make()
    assert choose(("all",)) == choose(("ALL",)) == ALL == QualitySettings(methods=("All",)).methods


def test_distill2d_writes_a_sheet_curves_and_a_report_for_all_methods(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--iterations", "2", "--batch", "1", "--model", str(tiny_pipeline), "--negative", "blue ball"]
    assert main(["distill2d", "a red cube", "--out", str(tmp_path), *flags]) == 0
    assert capsys.readouterr().out.count("\n") == len(ALL) + 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["method"] for row in report["methods"]] == list(ALL)
    assert all(len(report["gradient_norm"][m]) == 2 for m in ALL)
    assert {"norm/generation", "norm/classifier"} <= set(report["methods"][0]["diagnostics_mean"])
    assert (
        Image.open(tmp_path / "sheet.png").height > len(ALL) * 128 and Image.open(tmp_path / "curves.png").height > 800
    )
    assert main(["distill2d", "", "--out", str(tmp_path)]) == 2
    assert main(["distill2d", "a cube", "--window", "wide", "--out", str(tmp_path)]) == 2


def test_a_sheet_needs_no_more_latents_than_are_kept(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline, device="cpu")
    full = distil(prior, "a red cube", published("sds"), Settings2D(iterations=11, batch=1))
    light = thinned(full)
    assert sheet(prior, [full]).tobytes() == sheet(prior, [light]).tobytes()
    assert [f.iteration for f in light.frames if f.latents is not None] == moments(11)[1:] == [3, 6, 8, 11]
    assert torch.equal(light.latents, full.latents) and full.at(2) is not None
    with pytest.raises(ValueError, match="iteration 2 were dropped"):
        light.at(2)


def test_distill2d_draws_the_toy(tmp_path: Path) -> None:
    assert (
        main(
            [
                "distill2d",
                "--prior",
                "mixture",
                "--iterations",
                "20",
                "--methods",
                "sds",
                "tbsd",
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(row["distance_to_mode"] > 0 and row["modes_reached"] >= 0 for row in report["methods"])
    assert len(Image.open(tmp_path / "sheet.png").convert("RGB").getcolors(1 << 20) or []) > 20


TOY = ["distill2d", "--prior", "mixture", "--methods", "sds", "csd", "asd"]


class _After(list):
    """Signals caught: none in the first so many questions, then one."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.left = questions

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_stopped_distill2d_writes_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distill2d_module, "stopped_by_signals", lambda console: nullcontext(_After(13)))
    out = tmp_path / "out"
    assert main([*TOY, "--iterations", "10", "--out", str(out)]) == 130
    report = json.loads((out / "report.json").read_text())
    assert report["iterations_done"] == {"sds": 10, "csd": 3}, "a question an iteration, and one a method"
    assert [row["method"] for row in report["methods"]] == ["sds", "csd"] and (out / "sheet.png").exists()
    assert {len(points) for points in report["noise_error"].values()} == {4}, "a short look"
    told = capsys.readouterr()
    assert told.out.count("\n") == 4 and "distilling with csd (2 of 3)" in told.err and "asd" not in told.err


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (["--rate", "1e20"], 1, "infinite or undefined ones with ASD at iteration 2"),
        (["--perp-neg.enabled", "True"], 2, "neither Perp-Neg nor FreeU"),
        (["--freeu.enabled", "True"], 2, "neither Perp-Neg nor FreeU"),
        (["--view", "front"], 2, "space latent and view none"),
        (["--space", "image"], 2, "space latent and view none"),
        (["--negative", "ugly"], 2, "no negative prompt"),
        (["--methods", "tbsd", "--tbsd.modifier", "blurry"], 2, "tbsd.modifier as it is"),
        (["--methods", "bridge", "--bridge.target", "sharp"], 2, "bridge.target as it is"),
    ],
)
def test_what_the_toy_cannot_do_is_said_and_leaves_no_folder(
    flags: list[str], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*TOY, "--iterations", "3", "--out", str(out), *flags]) == status
    assert says in capsys.readouterr().err.replace("\n", " ") and not out.exists()


def test_a_method_that_diverges_takes_no_other_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([*TOY, "--iterations", "3", "--sds.guidance", "1e30", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "sds has no result: expected finite numbers, got infinite or undefined ones with SDS at iteration 1" in said
    report = json.loads((out / "report.json").read_text())
    assert [row["method"] for row in report["methods"]] == ["csd", "asd"] and list(report["failed"]) == ["sds"]
    assert (out / "sheet.png").exists() and (out / "curves.png").exists()


def test_numbers_that_are_not_finite_end_a_run_in_the_plane() -> None:
    with pytest.raises(DivergedError, match="at iteration 2: lower the learning rate"):
        distil(mixture_prior(), TARGET_TEXT, published("sds"), Settings2D(iterations=5, rate=1e20), start=ring(2))


def test_no_command_writes_over_the_results_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, "--iterations", "2", "--out", str(tmp_path)]) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for arguments in (TOY, ["compare", "a red cube"], ["generate", "a red cube"]):
        assert main([*arguments, "--iterations", "2", "--out", str(tmp_path)]) == 1
        assert "results in it (report.json)" in capsys.readouterr().err.replace("\n", " ")
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_stopped_comparison_goes_on_where_it_was(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def arguments(out: Path) -> list[str]:
        given = ["compare", "a red cube", "--methods", "sds", "bsd", "--out", str(out), "--model", str(tiny_pipeline)]
        return [*given, "--iterations", "3", "--resolution", "16", "--size", "32", *TINY]

    out, whole = tmp_path / "stopped", tmp_path / "whole"
    monkeypatch.setattr(compare_module, "stopped_by_signals", lambda console: nullcontext(_After(6)))
    assert main(arguments(out)) == 130
    monkeypatch.undo()
    again = capsys.readouterr().err.replace("\n", " ")
    assert f"distill3d compare 'a red cube' --methods sds bsd --model {tiny_pipeline}" in again
    assert again.rstrip().endswith(f"--out {out}") and not (out / "compare.json").exists()
    assert (out / "sds" / "report.json").exists() and not (out / "bsd" / "report.json").exists()
    made = (out / "sds" / "checkpoint.safetensors").stat().st_mtime_ns
    assert main([*arguments(out), "--seed", "4"]) == 1
    assert "choose another --out" in capsys.readouterr().err.replace("\n", " ")
    assert main(arguments(out)) == main(arguments(whole)) == 0
    assert (out / "sds" / "checkpoint.safetensors").stat().st_mtime_ns == made, "what is finished is not made again"
    rows, expected = (json.loads((f / "compare.json").read_text())["methods"] for f in (out, whole))
    timed = ("seconds", "ms_an_iteration")
    assert [{k: v for k, v in r.items() if k not in timed} for r in rows] == [
        {k: v for k, v in r.items() if k not in timed} for r in expected
    ]
    assert (out / "sheet.png").read_bytes() == (whole / "sheet.png").read_bytes()
    assert not list(tmp_path.rglob(".lock"))


def test_compare_runs_methods_from_one_field_with_one_set_of_cameras(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--iterations", "2", "--resolution", "16", "--size", "32", *TINY, "--perp-neg.enabled", "True"]
    arguments = [
        "compare",
        "a red cube",
        "--methods",
        "sds",
        "bsd",
        "--model",
        str(tiny_pipeline),
        "--out",
        str(tmp_path),
    ]
    assert main([*arguments, *flags]) == 0
    assert "| bsd | 2 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "compare.json").read_text())
    assert [row["method"] for row in found["methods"]] == ["sds", "bsd"]
    reports = [json.loads((tmp_path / m / "report.json").read_text()) for m in ("sds", "bsd")]
    assert [r["method"] for r in reports] == ["sds", "bsd"] and reports[0]["seed"] == reports[1]["seed"]
    assert all(r["settings"]["perp_neg"]["enabled"] for r in reports)
    opacity = [r["curves"]["series"]["opacity"][0][1] for r in reports]
    assert opacity[0] == opacity[1], "the first render is of the same field from the same cameras"
    assert reports[0]["curves"]["noise_error"] and (tmp_path / "sds" / "checkpoint.safetensors").exists()
    assert Image.open(tmp_path / "sheet.png").width >= 4 * 32 and (tmp_path / "curves.png").exists()
    assert main(["compare", "", "--model", str(tiny_pipeline)]) == 2


def test_methods_that_diverge_are_rows_without_an_opacity_and_end_with_an_error(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every render is not a number, as where the encoder overflows in half precision."""
    plain = loop.render

    def burnt(*arguments: Any, **named: Any) -> Any:
        made = plain(*arguments, **named)
        return replace(made, rgb=made.rgb * float("nan"))

    monkeypatch.setattr(loop, "render", burnt)
    given = ["compare", "a red cube", "--methods", "sds", "bsd", "--out", str(tmp_path), "--model", str(tiny_pipeline)]
    assert main([*given, "--iterations", "12", "--resolution", "16", "--size", "32", *TINY]) == 1
    rows = json.loads((tmp_path / "compare.json").read_text())["methods"]
    assert [(row["method"], row["iterations"]) for row in rows] == [("sds", 9), ("bsd", 9)]
    report = json.loads((tmp_path / "sds" / "report.json").read_text())
    assert report["loss"] is None and report["iterations"]["skipped"] == 9


def test_recorder_bins_errors_and_skips_bad_steps() -> None:
    recorder = Recorder()
    step = Step(1, 9, 2.0, {}, 3.0, 0.5, 0.1, (20, 980), 64, {}, {"norm/classifier": 1.0, "lambda": 0.5})
    for i, errors in enumerate((((10, 1.0), (40, 3.0)), ((999, 7.0),))):
        recorder(replace(step, iteration=i + 1, errors=errors))
    bad = {"norm/classifier": float("nan"), "lambda": 0.25}
    recorder(replace(step, skipped=True, iteration=3, loss=float("nan"), diagnostics=bad, errors=((5, float("inf")),)))
    assert recorder.error_over_timesteps() == [(25.0, 2.0), (975.0, 7.0)]
    series = recorder.to_json()["series"]
    assert series["gradient_norm"] == [[1, 3.0], [2, 3.0]] and series["lambda"][-1] == [3, 0.25]
    assert series["norm/classifier"] == [[1, 1.0], [2, 1.0]], "figures of a dropped update are read one by one"
    assert recorder.picture("a cube").height > 600
    for i in range(1000):
        recorder(replace(step, iteration=i + 3))
    assert len(recorder.to_json()["series"]["loss"]) <= 200


def test_a_resumed_recorder_goes_on_where_the_checkpoint_stands(tmp_path: Path) -> None:
    def step(i: int) -> Step:
        return Step(i, 9, float(i), {}, 3.0, 0.5, 0.1, (20, 980), 64, {}, errors=((10 * i, 0.5 * i),))

    whole, first = Recorder(), Recorder(tmp_path)
    for i in range(1, 9):
        whole(step(i))
    for i in range(1, 5):
        first(step(i))
    first(Checkpointed(tmp_path / "checkpoint.safetensors", 4))
    first(step(5))
    again = Recorder(tmp_path, 4)
    for i in range(5, 9):
        again(step(i))
    assert again.series == whole.series and again.errors == whole.errors and again.to_json() == whole.to_json()
    older = Recorder(tmp_path, 2)
    assert older.series["loss"] == [(1, 1.0), (2, 2.0)], "no further than the run is"
    assert older.errors == [(10, 0.5), (20, 1.0)]
    assert Recorder(tmp_path, 0).series == {}, "a new run begins at its own start"
    (tmp_path / "curves.json").write_text('{"series": {"loss": [[1')
    assert Recorder(tmp_path, 4).series == {}
    first(replace(step(6), loss=float("inf")))
    first(Checkpointed(tmp_path / "checkpoint.safetensors", 6))
    assert [i for i, _ in Recorder(tmp_path, 6).series["loss"]] == [1, 2, 3, 4, 5]


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and ticks(-3, 7) == [-2, 0, 2, 4, 6]
    assert ticks(5, 5) == [5]
    assert [10**v for v in log_ticks(-0.2, 1.1)] == pytest.approx([1, 2, 5, 10])
    assert [10**v for v in log_ticks(-3, 2.5)] == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])
    assert 2 <= len(log_ticks(0.31, 0.38)) <= 8, "a narrow range has ticks too"


def test_a_falling_schedule_is_drawn_falling_and_all_schedules_have_a_picture() -> None:
    image = Linear(100, 60).plot("CFG").convert("RGB")
    blue = [(x, y) for x in range(image.width) for y in range(image.height) if _blue(image.getpixel((x, y)))]
    left, right = min(blue), max(blue)
    curve = [y for x, y in blue if abs(x - left[0] - 2) < 3], [y for x, y in blue if abs(x - right[0] + 2) < 3]
    assert min(curve[0]) < min(curve[1]) or max(curve[0]) < max(curve[1])
    for picture in (
        WINDOWS["sliding"].plot(),
        dynamic(1.4, 1.6).plot(),
        *(s.plot() for s in DYNAMIC_GUIDANCE.values()),
    ):
        assert picture.size == (480, 240) and len(picture.getcolors(1 << 20) or []) > 3
    assert chart({}).size == (560, 300)
    assert all(s(0) > s(1) and 0.55 < s(1) / s(0) < 0.65 for s in DYNAMIC_GUIDANCE.values())


def test_curves_are_smoothed_and_mgda_weights_drawn_where_there_are_any() -> None:
    assert smoothed([(1, 4.0), (2, 2.0), (3, 0.0)], 2) == [(1, 4.0), (2, 3.0), (3, 1.0)]
    assert smoothed([(1, 4.0), (2, 2.0)], 1) == [(1, 4.0), (2, 2.0)] and smoothed([], 5) == []
    run = Settings2D(iterations=4, batch=2)
    pictured = {
        m: curves([distil(mixture_prior(), TARGET_TEXT, published(m), run, start=ring(2))], {}, {}).height
        for m in ("sds", "tbsd", "bsd")
    }
    assert pictured["tbsd"] == pictured["bsd"] == pictured["sds"] + chart({}).height


def test_a_line_without_points_keeps_its_colour_from_the_others() -> None:
    def colours(lines: dict[str, list[tuple[float, float]]]) -> tuple[bool, bool]:
        found = [c for _, c in chart(lines).convert("RGB").getcolors(1 << 20)]
        return any(map(_blue, found)), any(r > 180 and g < 90 and b < 90 for r, g, b in found)

    assert colours({"a": [], "b": [(0, 0), (1, 1)], "c": [(0, 1)]}) == (False, True)
    assert colours({"a": [(0, 0), (1, 1)], "c": []}) == (True, False)


def _blue(pixel: tuple[int, int, int]) -> bool:
    red, green, blue = pixel
    return blue > 140 and red < 90 and green < 160
