"""The quality benchmark on a toy prior: jobs are done once, crashes are recorded, reports are well formed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from safetensors.torch import load, load_file, save_file  # noqa: E402

from distill3d.bench import quality, quality_job, quality_report, variants  # noqa: E402
from distill3d.bench.quality import FULL_PROMPTS, METHODS, PROMPTS, QualitySettings  # noqa: E402
from distill3d.bench.quality_archive import read_archive, take_over, write_archive  # noqa: E402
from distill3d.bench.quality_job import RESULT, Job, failure, job_of, perform, prior_key, read_result  # noqa: E402
from distill3d.bench.quality_summary import THIN  # noqa: E402
from distill3d.errors import PriorError, SettingsError  # noqa: E402
from distill3d.evaluate import parse_object, parse_prompt  # noqa: E402
from distill3d.evaluate.controls import SPOILED  # noqa: E402
from distill3d.fields.density import FieldSettings  # noqa: E402
from distill3d.fields.layout import HashGridSettings  # noqa: E402
from distill3d.optimize import Settings, preset  # noqa: E402
from distill3d.priors.load import load_prior  # noqa: E402
from distill3d.render.volume import RenderSettings  # noqa: E402
from distill3d.schedules import Constant  # noqa: E402
from distill3d.scorer.model import Architecture, Scorer, load_scorer, save_scorer  # noqa: E402
from distill3d.world import CATALOGUE, COLOURS, PATTERNS, SHAPES, WORLDS, is_held_out  # noqa: E402

TINY = Settings(
    iterations=2,
    batch=1,
    resolution=Constant(16),
    field=FieldSettings(grid=HashGridSettings(levels=2, log2_table_size=10, base_resolution=4, finest_resolution=8)),
    render=RenderSettings(samples_per_ray=32),
    occupancy_resolution=16,
)
PAIR = ("a red cube", "a blue torus")


def tiny_settings(method: str) -> Settings:
    return replace(TINY, method=method)


@pytest.fixture
def job(tiny_pipeline: Path, tmp_path: Path) -> Job:
    fingerprint = prior_key(load_prior(tiny_pipeline, device="cpu"))
    return job_of(
        PAIR[0], "sds", 3, TINY, PAIR, fingerprint, model=tiny_pipeline, device="cpu", folder=tmp_path / "jobs"
    )


@pytest.fixture
def scorers(tmp_path: Path) -> tuple[Path, Path]:
    """Two scorers of the smallest size, with different random weights."""
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(save_scorer(Scorer(Architecture((4, 8), 2, 8, 8)), tmp_path / f"scorer-{seed}.safetensors", {}))
    return paths[0], paths[1]


def nothing(done: int, total: int) -> None:
    pass


def test_the_plain_prompts_cover_their_world():
    pairs = [parse_prompt(p) for p in PROMPTS]
    assert len(set(PROMPTS)) == 12 and METHODS == ("sds", "csd", "asd", "tbsd")
    assert {s for s, _ in pairs} == set(SHAPES) and {c for _, c in pairs} == set(COLOURS)


def test_the_full_world_s_prompts_were_held_out_from_training():
    chosen = QualitySettings().prompts
    things = [parse_object(p) for p in chosen]
    assert chosen == FULL_PROMPTS and len(set(chosen)) == 24 and all(o.caption() in chosen for o in things)
    assert all(is_held_out(o) for o in things)
    assert {o.shape for o in things} == set(CATALOGUE) and {o.pattern for o in things} == set(PATTERNS)
    assert {o.colour for o in things} == set(COLOURS) and sum(o.has_front for o in things) == 6
    own = QualitySettings(world="plain", prompts=("a red mug", "a red cube"))
    assert own.prompts == ("a red mug", "a red cube")
    assert QualitySettings(world="plain").prompts == PROMPTS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": ()}, "at least one of prompts"),
        ({"prompts": ("a red cube", "a red cube")}, "repetition"),
        ({"prompts": ("a red dragon",)}, "exactly one shape"),
        ({"methods": ("sdss",)}, "sdss"),
        ({"seeds": ()}, "at least one of seeds"),
        ({"variants": ("freeu+freeu",)}, "each once"),
        ({"variants": ("freeu", "preset+freeu")}, "none of them preset"),
        ({"processes": -1}, "processes"),
        ({"prompts": ("a striped red mug",)}, "at most one pattern"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        QualitySettings(**change)


def test_a_missing_prior_is_an_error_before_any_job(tmp_path):
    with pytest.raises(PriorError):
        quality.run(QualitySettings(out=tmp_path / "q", model=tmp_path / "absent"))
    assert not (tmp_path / "q" / "jobs").exists()


def test_the_whole_benchmark_runs_resumes_and_reports(tiny_pipeline, scorers, tmp_path, monkeypatch):
    chosen = QualitySettings(
        prompts=PAIR[:1], methods=("sds",), out=tmp_path, processes=1, model=tiny_pipeline, scorer=scorers[0]
    )
    seen = []
    summary = quality.run(chosen, seen.append, tiny_settings)
    assert summary["comparison"]["sds"]["runs"] == 1 and "| sds | 0 of 1 |" in (tmp_path / "comparison.md").read_text()
    assert (seen[0].done, seen[-1].done, seen[-1].total, seen[-1].failed) == (0, 1, 1, 0)
    assert any(p.running for p in seen) and "1/1 done" in str(seen[-1])

    stored = json.loads((tmp_path / "quality.json").read_text())
    assert stored == json.loads(json.dumps(summary, allow_nan=False))
    assert stored["benchmark"] == "quality" and stored["controls_refused"]
    assert (stored["methods"]["sds"]["passed"], stored["methods"]["sds"]["of"]) == (0, 1)
    assert set(stored["controls"]) == {
        "untrained field",
        "grey ball",
        *SPOILED,
        "shuffled prompts",
    }
    for name, (_, wanted) in SPOILED.items():
        assert stored["controls"][name]["judged"] == len(wanted) and not stored["controls"][name]["taken_for"]
    assert stored["thresholds"]["ball_margin"] == 0.1
    (folder,) = (tmp_path / "jobs").iterdir()
    result = read_result(folder)
    assert folder.name == f"sds-a-red-cube-0-{result['run_key'][:8]}"
    assert result["status"] == "judged" and not result["passed"] and result["failures"]
    assert result["settings"]["iterations"] == 2 and result["minutes"] > 0
    assert result["peak_memory_bytes"]["process"] > 1e7
    table = (tmp_path / "quality.md").read_text()
    assert "| a red cube | fail:" in table and "| Sim |" in table and "| R@1 of the true objects |" in table
    assert 0 <= result["scores"]["r_at_1"] <= 1 and -1 <= result["scores"]["sim"] <= 1
    assert stored["methods"]["sds"]["figures"]["sim"]["mean"] == pytest.approx(result["scores"]["sim"])
    assert all("sim" in stored["controls"][c] for c in ("untrained field", "grey ball", "two-faced head"))
    assert stored["methods"]["sds"]["goals"]["shape_right"] == {
        "relation": ">=", "asked": 0.85, "value": 0.0, "met": False
    }  # fmt: skip

    from PIL import Image

    with Image.open(tmp_path / "sheet-sds.png") as sheet, Image.open(folder / "preview.png") as preview:
        assert sheet.width > preview.width == 5 * 96 and sheet.height == preview.height

    before = (folder / RESULT).stat().st_mtime_ns
    again = quality.run(chosen, settings_for=tiny_settings)
    assert (folder / RESULT).stat().st_mtime_ns == before, "a finished job ran again"
    assert again["jobs"] == summary["jobs"]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("controls.json", "control-scores.json"):
        shutil.copy(tmp_path / name, elsewhere)
    shared = replace(chosen, out=elsewhere, earlier=(tmp_path / "results.json",))
    assert quality.run(shared, seen.append, tiny_settings)["jobs"] == summary["jobs"]
    assert "1/1 done, 1 taken over" in str(seen[-1])

    class Stopped(Exception):
        pass

    def stop(progress: quality.Progress) -> None:
        raise Stopped

    monkeypatch.setattr(quality_job, "JUDGE_VERSION", quality_job.JUDGE_VERSION + 1)
    for seed in (0, 1):
        with pytest.raises(Stopped):
            quality.run(replace(chosen, seeds=(seed,)), stop, tiny_settings)
        kept = read_archive(tmp_path / "results.json")
        assert [r["run_key"] for r in kept] == [result["run_key"]], "a stopped call took the verdict along"


def short(method: str) -> Settings:
    return replace(preset("draft", method), iterations=120)


def test_short_runs_on_the_bundled_prior_make_the_objects_they_are_asked_for(tmp_path):
    """A small run of the real benchmark: real distillation, the real judge, its fixed thresholds and controls."""
    chosen = QualitySettings(("a yellow sphere", "a blue capsule"), ("sds",), out=tmp_path, score=False)
    summary = quality.run(chosen, settings_for=short)
    assert [(j["prompt"], j["passed"], j["failures"]) for j in summary["jobs"]] == [
        ("a yellow sphere", True, []),
        ("a blue capsule", True, []),
    ]
    assert all(c["judged"] and not c["taken_for"] for c in summary["controls"].values()), summary["controls"]
    assert summary["methods"]["sds"]["mean_iou"] > 0.8


def test_a_job_repeats_exactly_and_is_judged_again_from_its_kept_field(job, monkeypatch):
    first = perform(job, nothing)
    assert first["status"] == "judged" and quality_job.is_done(job)
    assert first["others"] == dict.fromkeys(job.others, False) and quality_job.is_done(replace(job, others=()))
    assert not quality_job.is_done(replace(job, others=("a yellow mug",))), "judged among the shapes of another world"
    more = replace(job, others=(*job.others, "a green cone"))
    assert not quality_job.is_done(more), "the kept field is there to be tried for one more"
    field = (Path(job.folder) / "field.safetensors").read_bytes()

    def forbidden(*_: object) -> None:
        raise AssertionError("distilled again")

    monkeypatch.setattr(quality_job, "_distil", forbidden)
    monkeypatch.setattr(quality_job, "JUDGE_VERSION", quality_job.JUDGE_VERSION + 1)
    assert not quality_job.is_done(job)
    second = perform(job, nothing)
    assert second["status"] == "judged" and second["judgement"] == first["judgement"]
    assert second["judge_key"] != first["judge_key"] and second["minutes"] == first["minutes"]
    monkeypatch.undo()

    for found in (None, json.dumps(failure(job, "boom"))):
        if found is None:
            (Path(job.folder) / RESULT).unlink()
        else:
            (Path(job.folder) / RESULT).write_text(found)
        monkeypatch.setattr(quality_job, "_distil", forbidden)
        assert perform(job, nothing)["judgement"] == first["judgement"], "a kept field needs no result beside it"
        monkeypatch.undo()

    path = Path(job.folder) / "field.safetensors"
    for damaged in (field[: len(field) // 2], b"", field.replace(b"run_key", b"run_kez")):
        path.write_bytes(damaged)
        (Path(job.folder) / RESULT).unlink()
        again = perform(job, nothing)
        assert again["judgement"] == first["judgement"]
        kept, whole = (load(data) for data in (path.read_bytes(), field))
        assert all(torch.equal(kept[name], whole[name]) for name in whole)


def test_another_scorer_reads_the_kept_views_and_asks_for_no_new_judgement(job, scorers, monkeypatch):
    asked = [replace(job, scorer=str(p), scorer_key=load_scorer(p).fingerprint) for p in scorers]
    assert perform(job, nothing)["scores"] is None
    assert quality_job.is_done(job) and not quality_job.is_done(asked[0])
    first = perform(asked[0], nothing)
    assert quality_job.is_done(asked[0]) and not quality_job.is_done(asked[1]) and quality_job.is_done(job)

    def forbidden(*_: object) -> None:
        raise AssertionError("done again")

    for name in ("_distil", "_verdict", "views_of"):
        monkeypatch.setattr(quality_job, name, forbidden)
    second = perform(asked[1], nothing)
    assert second["status"] == "judged" and second["judgement"] == first["judgement"]
    assert second["scores"]["sim"] != first["scores"]["sim"]
    assert perform(asked[0], nothing)["scores"] == first["scores"]


def test_priors_that_differ_in_their_text_encoder_are_two_and_the_bundled_one_keeps_its_name(tiny_pipeline, tmp_path):
    bundled = load_prior(None, device="cpu")
    assert prior_key(bundled) == bundled.fingerprint == "tiny-prior float32 9704aabf"
    other = shutil.copytree(tiny_pipeline, tmp_path / tiny_pipeline.name)
    weights = other / "text_encoder" / "model.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights)
    first, second = (load_prior(path, device="cpu") for path in (tiny_pipeline, other))
    assert first.fingerprint == second.fingerprint and prior_key(first) != prior_key(second)
    second.unload_text_encoder()
    with pytest.raises(PriorError, match="unloaded"):
        prior_key(second)


def test_changed_settings_seed_or_prior_ask_for_a_new_run(job):
    keys = {job.run_key()}
    own = {**job.settings, "field": {**job.settings["field"], "color_grid": "own"}}
    clean = {**job.settings, "losses": {**job.settings["losses"], "tint": {"kind": "constant", "value": 20.0}}}
    others = ({**job.settings, "iterations": 3}, own, clean)
    for change in ({"seed": 4}, {"fingerprint": "other"}, *({"settings": other} for other in others)):
        keys.add(replace(job, **change).run_key())
    assert len(keys) == 6
    assert replace(job, folder="elsewhere").run_key() == job.run_key()
    folders = {
        job_of("a red cube", "sds", seed, settings, PAIR, "f", model=None, device="cpu", folder=Path("q")).folder
        for seed in (0, 1)
        for settings in (TINY, replace(TINY, iterations=3))
    }
    assert len(folders) == 4, "another preset in the same folder writes over nothing"


def test_an_error_in_a_job_is_its_result(job, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(quality_job, "_distil", broken)
    result = perform(job, nothing)
    assert result["status"] == "failed" and "boom" in result["error"] and not quality_job.is_done(job)
    assert read_result(Path(job.folder)) == result


def test_a_run_that_loses_its_object_is_an_outcome_and_is_not_tried_again(job):
    """To a guard that wants an opaque view nearly any object has vanished."""
    lossy = replace(TINY, guards=replace(TINY.guards, opacity_low=0.99, opacity_high=1.0, patience=1))
    lost = job_of(
        job.prompt, "sds", 0, lossy, PAIR, job.fingerprint, model=Path(job.model), device="cpu",
        folder=Path(job.folder).parent,
    )  # fmt: skip
    result = perform(lost, nothing)
    assert result["status"] == "lost" and "vanished" in result["error"] and quality_job.is_done(lost)
    summary = quality_report.summarise([result], {}, {})
    assert summary["methods"]["sds"]["goals"]["shape_right"]["met"] is False


def test_a_prior_that_changed_since_the_benchmark_began_makes_no_field(job):
    result = perform(replace(job, fingerprint="other"), nothing)
    assert result["status"] == "failed" and "the prior that the benchmark began with" in result["error"]
    assert not (Path(job.folder) / "field.safetensors").exists()


class _Dead:
    """A process that was killed before it could write anything."""

    exitcode = -9

    def join(self) -> None:
        pass


def test_a_killed_process_is_recorded_and_tried_again(job):
    result = quality._finish(quality._Running(job, _Dead(), None))  # type: ignore[arg-type]
    assert result["status"] == "failed" and "signal 9" in result["error"]
    assert read_result(Path(job.folder)) == result and not quality_job.is_done(job)


def test_a_damaged_result_is_not_taken_for_a_finished_job(job):
    Path(job.folder).mkdir(parents=True)
    (Path(job.folder) / RESULT).write_text('{"status": "judg')
    assert not quality_job.is_done(job)


def made_result(prompt: str, method: str, passed: bool, taken_for: list[str]) -> dict[str, object]:
    return {
        "status": "judged", "prompt": prompt, "method": method, "seed": 0, "passed": passed,
        "failures": [] if passed else ["shape: IoU 0.50, best is sphere 0.60, ball 0.60"],
        "judgement": {"measures": {"iou": dict.fromkeys(SHAPES, 0.5)}},
        "others": {p: p in taken_for for p in PAIR if p != prompt},
        "minutes": 2.0, "peak_memory_bytes": {"process": 500_000_000}, "scores": None,
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\x89PNGxxxx", None])
def test_a_damaged_preview_is_an_empty_row(content, tmp_path):
    if content is not None:
        (tmp_path / "preview.png").write_bytes(content)
    sheet = quality_report.method_sheet([made_result(PAIR[0], "sds", True, [])], [tmp_path])
    assert np.asarray(sheet)[:, sheet.width // 2 :].std() == 0


def test_the_report_counts_passes_failures_and_controls():
    results = [
        made_result(PAIR[0], "sds", True, []),
        made_result(PAIR[1], "sds", False, ["a red cube"]),
        {"status": "failed", "prompt": PAIR[0], "method": "asd", "seed": 0, "error": "Traceback\nRuntimeError: boom"},
        made_result(PAIR[1], "asd", True, []),
    ]
    controls = {"grey ball": {"judged": 2, "taken_for": []}}
    summary = quality_report.summarise(results, controls, {})
    assert summary["methods"]["sds"]["passed"] == 1 and summary["methods"]["asd"]["without_verdict"] == 1
    shuffled = summary["controls"]["shuffled prompts"]
    assert shuffled == {"judged": 3, "of": 3, "taken_for": ["sds a blue torus taken for a red cube"]}
    assert not summary["controls_refused"]
    table = quality_report.markdown(summary).splitlines()
    alone = quality_report.summarise([{**r, "others": {}} for r in (results[0], results[3])], controls, {})
    assert not alone["controls_refused"] and "| shuffled prompts | 0 of 2 | 0 |" in quality_report.markdown(alone)
    assert table[0] == "| prompt | sds | asd |"
    assert table[2] == "| a red cube | pass (0.50) | no verdict |"
    assert table[3] == "| a blue torus | fail: shape (0.50) | pass (0.50) |"
    assert table[4] == "| **passed** | **1 of 2** | **1 of 2** |"
    assert "| shuffled prompts | 3 | 1 |" in table and "| grey ball | 2 | 0 |" in table


def full_result(
    prompt: str, seed: int, chamfer: float, fronts: int | None = None, hue: bool = True, placed: bool = True
) -> dict[str, object]:
    made = made_result("a red cube", "sds", True, [])
    measures = {"iou": {"sphere": 0.9, "cube": 0.8, "mug": 0.7}, "chamfer": chamfer, "normal_consistency": 0.95}
    checks = [{"name": "shape", "passed": True}, {"name": "colour", "passed": hue}]
    if fronts is not None:
        measures["fronts"] = fronts
        checks.append({"name": "fronts", "passed": fronts == 1 and placed})
    return {**made, "prompt": prompt, "seed": seed, "judgement": {"measures": measures, "checks": checks}}


def test_the_report_gives_spread_between_seeds_and_the_janus_rate():
    results = [
        full_result("a yellow smiley", 0, 0.01, fronts=1), full_result("a red cube", 0, 0.03),
        full_result("a yellow smiley", 1, 0.03, fronts=2), full_result("a red cube", 1, 0.05, hue=False),
        full_result("a yellow smiley", 2, 0.05, fronts=0), full_result("a blue smiley", 2, 0.07, fronts=2),
    ]  # fmt: skip
    summary = quality_report.summarise(results, {}, {})
    found = summary["methods"]["sds"]
    assert found["janus"] == {
        "judged": 4, "one_front": 0.25, "front_elsewhere": 0, "janus_rate": 0.5, "no_front": 0.25
    }  # fmt: skip
    chamfer = found["figures"]["chamfer"]
    assert chamfer["mean"] == pytest.approx(0.04) and chamfer["seed_means"] == pytest.approx([0.02, 0.04, 0.06])
    assert chamfer["deviation"] == pytest.approx(0.02)
    assert found["figures"]["iou"]["mean"] == pytest.approx((4 * 0.9 + 2 * 0.8) / 6), "a smiley's solid is a sphere"
    assert found["figures"]["hue_right"]["mean"] == pytest.approx(5 / 6)
    one = found["figures"]["one_front"]
    assert one["mean"] == 0.25 and one["seed_means"] == [1, 0, 0] and one["deviation"] == pytest.approx(3**-0.5)
    goals = found["goals"]
    assert goals["hue_right"]["met"] is False and goals["shape_right"]["met"] and not goals["one_front"]["met"]
    table = quality_report.markdown(summary)
    assert "| Chamfer, share of the box | 0.0400 ± 0.0200 |" in table and "| Janus rate | 50% ± 50% |" in table
    assert "| one front, of objects with a front | >= 80% | no |" in table
    assert "After ±" in table
    astray = quality_report.summarise([full_result("a yellow smiley", 0, 0.01, fronts=1, placed=False)], {}, {})
    assert astray["methods"]["sds"]["janus"]["front_elsewhere"] == 1
    assert astray["methods"]["sds"]["goals"]["one_front"]["value"] == 0
    single = quality_report.summarise(results[:2], {}, {})
    assert single["methods"]["sds"]["figures"]["chamfer"]["deviation"] is None
    assert "±" not in quality_report.markdown(single)


def test_what_is_lost_or_empty_counts_and_what_has_no_verdict_leaves_the_goals_open():
    kept = full_result("a yellow smiley", 0, 0.01, fronts=1)
    bare: dict[str, object] = {
        "measures": {"spots": 0.0, "fronts": 0},
        "checks": [{"name": name, "passed": False} for name in ("shape", "colour", "fronts")],
    }
    empty = {**kept, "seed": 1, "passed": False, "failures": ["shape: none"], "judgement": bare}
    lost = {"status": "lost", "prompt": "a red mug", "method": "sds", "seed": 2, "error": "the object vanished"}
    summary = quality_report.summarise([kept, empty, lost], {}, {})
    found = summary["methods"]["sds"]
    means = {name: figure["mean"] for name, figure in found["figures"].items()}
    assert found["passed"] == 1 and found["without_object"] == 2 and means["iou"] == pytest.approx(0.3)
    assert means["shape_right"] == means["hue_right"] == means["one_front"] == pytest.approx(1 / 3)
    assert means["chamfer"] == 0.01 and means["janus"] == 0 and not found["goals"]["shape_right"]["met"]
    table = quality_report.markdown(summary)
    assert "| no object | 2 |" in table and "| a red mug | lost |" in table
    assert variants.compare(summary["jobs"])["sds"]["mean_iou"] == pytest.approx(0.3)

    assert means["spots"] is None, "what cannot be seen has no spots to count"
    assert means["r_at_1"] is None
    scored = {**kept, "scores": {"r_at_1": 0.9, "sim": 0.5}}
    figures = quality_report.summarise([scored, lost], {}, {})["methods"]["sds"]["figures"]
    assert figures["r_at_1"]["mean"] == pytest.approx(0.45) and figures["sim"]["mean"] == 0.5

    crashed = {**lost, "status": "failed", "error": "killed"}
    goals = quality_report.summarise([kept, crashed], {}, {})["methods"]["sds"]["goals"]
    assert goals["shape_right"]["value"] == 1 and goals["shape_right"]["met"] is None, "half of the jobs are missing"


def test_thin_parts_are_left_out_of_the_second_chamfer_and_are_those_no_ball_fits_into():
    results = [full_result("a red cube", 0, 0.01), full_result("a yellow mug", 0, 0.09, fronts=1)]
    figures = quality_report.summarise(results, {}, {})["methods"]["sds"]["figures"]
    assert figures["chamfer"]["mean"] == pytest.approx(0.05)
    assert figures["chamfer_solid"]["mean"] == pytest.approx(0.01)

    from scipy.ndimage import distance_transform_edt as distance

    axis = (torch.arange(96) + 0.5) * (2.2 / 96) - 1.1
    points = torch.cartesian_prod(axis, axis, axis)
    thin = set()
    for solid in WORLDS["full"].solids:
        inside = (CATALOGUE[solid].sdf(*points.unbind(-1)) <= 0).view(96, 96, 96).numpy()
        core = distance(inside, sampling=2.2 / 96) >= 0.1
        opened = (distance(~core, sampling=2.2 / 96) <= 0.1) & inside if core.any() else core
        if opened.sum() < 0.5 * inside.sum():
            thin.add(solid)
    assert thin == set(THIN)


def test_a_job_done_elsewhere_is_taken_over_and_only_with_the_same_settings_and_scorer(job, scorers, tmp_path):
    scored = replace(job, scorer=str(scorers[0]), scorer_key=load_scorer(scorers[0]).fingerprint)
    first = perform(scored, nothing)
    archive = write_archive(tmp_path / "published.json", [first, failure(job, "boom")])
    assert read_archive(archive) == [json.loads(json.dumps(first))]

    here = replace(scored, folder=str(tmp_path / "here"))
    rescored = replace(here, scorer=str(scorers[1]), scorer_key=load_scorer(scorers[1]).fingerprint)
    for other in (replace(here, seed=4), replace(here, fingerprint="other"), rescored):
        assert take_over([other], [archive]) == 0 and not Path(here.folder).exists()
    assert take_over([replace(here, others=())], [archive]) == 1, "a verdict does not depend on the other prompts"
    shutil.rmtree(here.folder)
    assert take_over([here], [archive]) == 1 and quality_job.is_done(here)
    assert read_result(Path(here.folder)) == json.loads(json.dumps(first)) and take_over([here], [archive]) == 0
    (Path(here.folder) / RESULT).unlink()
    shutil.copy(Path(job.folder) / "field.safetensors", here.folder)
    assert take_over([here], [archive]) == 0, "what has a field of its own is judged by that"
    again = perform(rescored, nothing)
    assert again["judgement"] == first["judgement"] and again["scores"]["sim"] != first["scores"]["sim"]


@pytest.mark.parametrize("text", ["", "[]", '{"jobs": []}', '{"settings": {}, "results": [{"settings": "a"}]}'])
def test_a_file_that_holds_no_results_is_refused_before_any_job(tiny_pipeline, tmp_path, text):
    wrong = tmp_path / "quality.json"
    wrong.write_text(text)
    asked = QualitySettings(out=tmp_path / "q", model=tiny_pipeline, score=False, earlier=(wrong,))
    with pytest.raises(SettingsError, match=r"expected in --earlier a results\.json"):
        quality.run(asked)
    assert not (tmp_path / "q" / "jobs").exists()
