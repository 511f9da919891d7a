"""Jobs of the quality benchmark without a distillation: their keys and folders, what becomes of their processes, of a
damaged archive and of a disk that is full, and what the command says of it all."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from rich.console import Console  # noqa: E402

from distill3d.bench import quality, quality_job, quality_report, variants  # noqa: E402
from distill3d.bench.quality_archive import add_to_archive, read_archive, take_over, write_archive  # noqa: E402
from distill3d.bench.quality_job import RESULT, Job, job_of, perform, read_result  # noqa: E402
from distill3d.cli import bench as command  # noqa: E402
from distill3d.cli import main  # noqa: E402
from distill3d.errors import OutputError  # noqa: E402
from distill3d.evaluate.controls import others  # noqa: E402
from distill3d.optimize import Settings, preset  # noqa: E402
from distill3d.optimize.codec import to_json  # noqa: E402

PUBLISHED = Path(__file__).resolve().parents[1] / "benchmarks" / "quality"
PAIR = ("a red cube", "a blue torus")


def job(folder: Path, prompt: str = PAIR[0], others: tuple[str, ...] = PAIR[1:]) -> Job:
    return Job(prompt, "sds", 0, {"iterations": 2}, "prior", others, None, "cpu", str(folder))


def judged(about: Job, others: tuple[str, ...] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "status": "judged", "prompt": about.prompt, "method": about.method, "seed": about.seed, "passed": True,
        "failures": [], "judgement": {"measures": {"iou": {"cube": 0.9, "torus": 0.9}}}, "scores": None,
        "others": dict.fromkeys(about.others if others is None else others, False), "minutes": 1.0,
        "peak_memory_bytes": {}, "settings": about.settings, **about.keys(), **more,
    }  # fmt: skip


# ---- keys and folders


@pytest.mark.parametrize("path", sorted(PUBLISHED.rglob("*.json")), ids=lambda path: path.stem)
def test_published_results_keep_their_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in read_archive(path):
        monkeypatch.setattr(quality_job, "__version__", line["versions"]["distill3d"])
        asked = Job(line["prompt"], line["method"], line["seed"], line["settings"], line["prior"], (), None, "cpu", "")
        assert asked.run_key() == line["run_key"]


@pytest.mark.parametrize("name", sorted(path.stem for path in PUBLISHED.glob("*.json")))
def test_todays_settings_find_what_was_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in read_archive(PUBLISHED / f"{name}.json"):
        monkeypatch.setattr(quality_job, "__version__", line["versions"]["distill3d"])
        today = to_json(preset(name.split("-")[0], line["method"]))
        asked = Job(line["prompt"], line["method"], line["seed"], today, line["prior"], (), None, "cpu", "")
        assert asked.run_key() == line["run_key"]


def test_another_device_or_run_version_asks_for_a_new_run(monkeypatch: pytest.MonkeyPatch) -> None:
    here = job(Path())
    keys = [replace(here, device=device).run_key() for device in ("cpu", "cuda", "cuda:1", "mps")]
    assert keys[1] == keys[2] and len(set(keys)) == 3
    monkeypatch.setattr(quality_job, "RUN_VERSION", 2)
    assert not {replace(here, device=device).run_key() for device in ("cpu", "cuda")} & set(keys)


def test_any_prompt_has_a_folder_and_plain_words_keep_theirs(tmp_path: Path) -> None:
    def folder(prompt: str) -> Path:
        made = job_of(prompt, "sds", 0, Settings(), PAIR, "prior", model=None, device="cpu", folder=tmp_path)
        return Path(made.folder)

    assert re.fullmatch(r"sds-a-striped-red-cube-0-[0-9a-f]{8}", folder("a striped  Red cube").name)
    strange = [
        folder(prompt) for prompt in ("../a red cube: 1/2 <x>|?", "a red cube 1 2 x", "a red cube" + 300 * " é1")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]{1,200}", path.name) and path.parent == tmp_path for path in strange)
    assert len(set(strange)) == 3, "prompts that differ share a folder"


def test_off_the_cpu_one_job_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "cores", lambda: 7)
    assert [quality.at_once(torch.device(kind)) for kind in ("cpu", "cuda", "mps")] == [7, 1, 1]


# ---- what becomes of a job's process


class Ended:
    """A process that has ended."""

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode

    def join(self) -> None:
        pass


def finish(about: Job, exitcode: int) -> dict[str, Any]:
    return quality._finish(quality._Running(about, Ended(exitcode), None))  # type: ignore[arg-type]


def test_what_cannot_be_written_is_no_result_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ends so stops the benchmark: on a full disk every further one would be made and thrown away."""

    def full(*_: object) -> dict[str, Any]:
        raise OutputError("the disk is full")

    here = job(tmp_path)
    monkeypatch.setattr(quality_job, "_perform", full)
    with pytest.raises(OutputError, match="the disk is full"):
        perform(here, lambda done, total: None)
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    monkeypatch.setattr(quality, "_one_thread", lambda: None)
    monkeypatch.setattr(logging, "disable", lambda level: None)
    with pytest.raises(SystemExit) as ended:
        quality._child(here, sender)
    receiver.close()
    assert read_result(tmp_path) is None
    with pytest.raises(OutputError, match="free some space"):
        finish(here, ended.value.code)  # type: ignore[arg-type]
    assert read_result(tmp_path) is None


def test_a_whole_result_outlives_a_process_that_ends_badly(tmp_path: Path) -> None:
    here = job(tmp_path)
    for exitcode in (1, -11):
        (tmp_path / RESULT).write_text(json.dumps(judged(here)))
        assert finish(here, exitcode) == judged(here) == read_result(tmp_path)
    (tmp_path / RESULT).write_text(json.dumps({**judged(here), "run_key": "of other settings"}))
    assert finish(here, 1)["status"] == "failed" and "status 1" in str(read_result(tmp_path))


def test_a_measure_that_is_no_number_is_a_failure_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = job(tmp_path)
    monkeypatch.setattr(quality_job, "_perform", lambda *_: judged(here, minutes=float("nan")))
    found = perform(here, lambda done, total: None)
    assert found["status"] == "failed" and "not JSON compliant" in found["error"] and read_result(tmp_path) == found


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Processes that ``run_jobs`` started: the first ends at once, the others after three seconds."""
    processes: list[Any] = []
    context = multiprocessing.get_context("spawn")

    def start(about: Job) -> quality._Running:
        receiver, _ = context.Pipe(duplex=False)
        process = context.Process(target=time.sleep, args=(3.0 if processes else 0.0,), daemon=True)
        process.start()
        processes.append(process)
        return quality._Running(about, process, receiver)

    monkeypatch.setattr(quality, "_start", start)
    return processes


def test_a_full_disk_starts_no_more_jobs_and_lets_those_at_work_end(tmp_path: Path, started: list[Any]) -> None:
    def keep(results: list[dict[str, Any]]) -> None:
        if results:
            raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="the disk is full"):
        quality.run_jobs([job(tmp_path / name) for name in "abcd"], 2, lambda progress: None, keep)
    assert [process.exitcode for process in started] == [0, 0], "a job at work was ended, or another one begun"
    assert "status 0" in str(read_result(tmp_path / "b")), "what ended later was not recorded"


def test_an_interrupt_ends_the_jobs_at_work(tmp_path: Path, started: list[Any]) -> None:
    def stop(progress: quality.Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        quality.run_jobs([job(tmp_path / name) for name in "abcd"], 2, stop)
    assert started[0].exitcode == 0 and all(process.exitcode for process in started[1:]), "a process was left behind"
    assert not (tmp_path / "b").exists() and time.monotonic() - began < 60


# ---- archives


def test_a_damaged_archive_is_moved_aside_and_an_absent_one_is_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, line = tmp_path / "results.json", judged(job(tmp_path))
    add_to_archive(path, [line])
    assert read_archive(path) == [line] and not caplog.records
    damaged = ['{"settings": {', "[]", 5000 * "[", '{"settings": {"a": {}}, "results": [{"settings": "a"}]}']
    damaged.append('{"settings": {"a": {}}, "results": [{"settings": "a", "status": "judged", "minutes": NaN}]}')
    for number, text in enumerate(damaged):
        aside = f"results.json.bad{number + 1 if number else ''}"
        path.write_text(text)
        add_to_archive(path, [line])
        assert (tmp_path / aside).read_text() == text and aside in caplog.text and read_archive(path) == [line]
    add_to_archive(path, [{**line, "run_key": "other"}])
    assert {r["run_key"] for r in read_archive(path)} == {line["run_key"], "other"}


def test_of_several_results_elsewhere_the_one_tried_for_every_prompt_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ("a red cube", "a blue torus", "a green cone")
    jobs = [replace(job(tmp_path / str(seed), others=prompts[1:]), seed=seed) for seed in range(8)]
    few = [judged(j, ("a blue torus",)) for j in jobs]
    many = [judged(j) for j in jobs[:4]]
    archives = [write_archive(tmp_path / f"{name}.json", found) for name, found in (("few", few), ("many", many))]
    asked: list[str] = []
    keys = Job.keys
    monkeypatch.setattr(Job, "keys", lambda self: asked.append(self.folder) or keys(self))
    assert take_over(jobs, archives) == 8
    assert len(asked) < 5 * len(jobs), "every job was held against every result"
    found = [read_result(Path(j.folder)) for j in jobs]
    assert [set(r["others"]) == set(prompts[1:]) for r in found if r] == [True] * 4 + [False] * 4


# ---- what is said of it


def summary(*results: dict[str, Any]) -> dict[str, Any]:
    made = quality_report.summarise(results, {"grey ball": {"judged": 1, "taken_for": []}}, {})
    return {**made, "comparison": variants.compare(made["jobs"])}


def test_one_object_in_two_wordings_is_nobody_s_wrong_answer(tmp_path: Path) -> None:
    prompts = ("a red cube", "a shiny red cube", "a blue torus")
    made = [job_of(p, "sds", 0, Settings(), prompts, "f", model=None, device="cpu", folder=tmp_path) for p in prompts]
    assert [j.others for j in made] == [prompts[2:], prompts[2:], prompts[:2]]
    results = [judged(j) for j in made]
    results[0]["others"] = {"a shiny red cube": True, **results[0]["others"]}
    found = summary(*results)
    assert found["controls_refused"]
    assert found["controls"]["shuffled prompts"] == {"judged": 4, "of": 4, "taken_for": []}


def test_the_bare_solid_is_no_wrong_answer_for_an_object_that_lost_its_face_or_stripes() -> None:
    prompts = ("a red smiley", "a red sphere", "a striped red cube", "a red cube", "a blue sphere")
    assert others("a red smiley", prompts) == ("a striped red cube", "a red cube", "a blue sphere")
    assert others("a striped red cube", prompts) == ("a red smiley", "a red sphere", "a blue sphere")
    assert "a red smiley" in others("a red sphere", prompts)


def test_a_bar_in_a_prompt_divides_no_cell(tmp_path: Path) -> None:
    lines = quality_report.markdown(summary(judged(job(tmp_path, "a red cube | shiny", ())))).splitlines()
    assert lines[2] == r"| a red cube \| shiny | pass (0.90) |"


FAILED = {"status": "failed", "prompt": PAIR[1], "method": "sds", "seed": 0, "error": "killed"}


@pytest.mark.parametrize(
    ("results", "status", "said"),
    [
        (lambda here: [judged(here)], 0, ""),
        (lambda here: [judged(here), FAILED], 3, "1 of 2 jobs ended without a verdict"),
        (lambda here: [FAILED], 3, "1 of 1 jobs ended without a verdict"),
        (lambda here: [judged(here), judged(job(Path(), PAIR[1], ()))], 3, "a control was accepted, or not judged"),
    ],
)
def test_the_command_says_and_returns_what_its_figures_lack(
    results: Callable[[Job], list[dict[str, Any]]], status: int, said: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(quality, "run", lambda *_: summary(*results(job(tmp_path))))
    for flags in ([], ["--json"]):
        assert main(["bench", "quality", *flags]) == status
        out, err = capsys.readouterr()
        assert ("warning" in err) == bool(said) and said in err
    assert json.loads(out)["benchmark"] == "quality"


def test_brackets_in_a_prompt_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: quality.QualitySettings, on_progress: quality.OnProgress) -> dict[str, Any]:
        on_progress(quality.Progress(0, 1, 0, 0, (("sds, 'a red cube [/shiny]', seed 0", 0.5),), 1.0))
        return {}

    monkeypatch.setattr(quality, "run", run)
    shown = io.StringIO()
    command._quality(command.Quality(), Console(file=shown, force_terminal=True, width=200))
    assert "a red cube [/shiny]" in shown.getvalue()
