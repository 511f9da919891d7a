"""``distill3d bench quality``: prompts x methods x seeds on a prior, each result judged against exact truth.

Every job runs in its own process on one thread, leaves its own folder, and is never repeated while its settings, prior
and judge stay the same: stop the benchmark at any time and call it again. Jobs that were at work then start anew. A job
that crashes is recorded and the others go on; it is tried again on the next call.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import OutputError, SettingsError
from ..evaluate import world_of
from ..files import make_folder, write_json
from ..locks import claimed
from ..optimize import Settings, preset
from ..optimize.codec import to_json
from ..optimize.report import versions
from ..priors.load import load_prior, resolve_device
from ..scorer import Loaded, load_scorer
from ..two_d.latents import choose
from ..world import WORLD_VERSION
from .quality_archive import ARCHIVE, add_to_archive, take_over
from .quality_job import (
    RESULT,
    Job,
    controls,
    digest,
    failure,
    is_done,
    job_of,
    judge_key,
    perform,
    prior_key,
    read_json,
    read_result,
)
from .quality_report import summarise, write_report
from .scoring import SCORE_VERSION, control_scores
from .variants import PLAIN, applied, check_variants, compare, label, write_table

PROMPTS = (
    "a red cube",
    "a green cone",
    "a blue torus",
    "a yellow sphere",
    "an orange cylinder",
    "a purple pyramid",
    "a cyan capsule",
    "a pink octahedron",
    "a blue cube",
    "a yellow torus",
    "a pink cone",
    "a green cylinder",
)
"""Twelve of the plain world: all eight shapes and all eight colours, the four hard shapes twice."""
FULL_PROMPTS = (
    "a purple cylinder",
    "an orange cone",
    "a cyan torus",
    "a pink pyramid",
    "a yellow capsule",
    "a red star",
    "a purple heart",
    "a cyan bowl",
    "a striped yellow sphere",
    "a striped blue cube",
    "a striped pink octahedron",
    "a striped green dome",
    "a striped orange arch",
    "a dotted pink cube",
    "a dotted yellow cylinder",
    "a dotted pink cross",
    "a checkered purple sphere",
    "a checkered red capsule",
    "a red smiley",
    "an orange and white ball",
    "a yellow mug",
    "a green chair",
    "a cyan house",
    "a blue arrow",
)
"""Twenty-four of the full world, chosen before any run: every shape, every pattern and all six objects with a front, in
combinations that training leaves out (``world.is_held_out``)."""
METHODS = ("sds", "csd", "asd", "tbsd")
UNWRITTEN = 74
"""Exit status of a job's process that could not write its folder, ``EX_IOERR`` of sysexits.h."""
MOST_ON_WINDOWS = 30
"""Jobs at the same time there: each takes two of the 63 handles that one wait may have."""


@dataclass(frozen=True)
class QualitySettings:
    """What the benchmark runs."""

    prompts: tuple[str, ...] = FULL_PROMPTS
    """Prompts that name one colour and one object of the procedural world; with --world plain another twelve."""
    methods: tuple[str, ...] = METHODS
    """Distillation methods to compare: all, or any of sds csd asd tbsd nfsd bridge bsd."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each prompt is run once per method, variant and seed."""
    variants: tuple[str, ...] = (PLAIN,)
    """Changes to each method's preset: preset (none), static-cfg, dynamic-cfg, freeu, dynamic-freeu, perp-neg,
    no-smoothness, no-tint, or several joined by +. Put preset among them to have the others compared with it."""
    preset: str = "draft"
    """Preset of the runs: draft, standard or fine."""
    out: Path = Path("output/quality")
    """Folder for results. Jobs found there with the same settings are not repeated."""
    processes: int = 0
    """Jobs at the same time, one thread each; 0 means one for each core this process may use, and only one where
    the device is not the CPU."""
    model: Path | None = None
    """Another prior, trained on the same world; the bundled one when left out."""
    device: str = "cpu"
    """Where the runs compute: cpu, cuda or auto. Judging is always on the CPU."""

    world: Literal["plain", "full"] = "full"
    """World the default prompts are of: full, or plain for a --model that knows no more. A result is compared with all
    shapes of the smallest world that holds its prompts."""
    score: bool = True
    """Also Sim and R@1, from 120 views of each result; it takes longer than judging does."""
    scorer: Path | None = None
    """Another image-text scorer for Sim and R@1, made by distill3d train-scorer; the bundled one when left out."""
    earlier: tuple[Path, ...] = ()
    """Files results.json of runs before or elsewhere. What they hold of the same settings, prior, judge and scorer is
    not run again, so that several machines can share one benchmark."""

    def __post_init__(self) -> None:
        if self.world == "plain" and self.prompts == FULL_PROMPTS:
            object.__setattr__(self, "prompts", PROMPTS)
        object.__setattr__(self, "methods", choose(self.methods))
        for name in ("prompts", "seeds"):
            values = getattr(self, name)
            if not values:
                raise SettingsError(f"expected at least one of {name}, got none: leave --{name} out for the default")
            if len(set(values)) != len(values):
                raise SettingsError(f"expected {name} without repetition, got {values}: leave out what is twice")
        world_of(self.prompts)
        if self.processes < 0:
            raise SettingsError(f"expected processes of 0 or more, got {self.processes}: 0 uses every core")
        check_variants(self.variants)
        preset(self.preset)


@dataclass(frozen=True)
class Progress:
    """Where the benchmark stands.

    Attributes:
        done: jobs with a result, of ``total``; ``failed`` of them ended without a verdict.
        passed: jobs that passed.
        running: name and share done, 0..1, of the jobs at work.
        taken: jobs whose result this call took from ``earlier`` files; None without such files.
        seconds: since the start.
    """

    done: int
    total: int
    failed: int
    passed: int
    running: tuple[tuple[str, float], ...]
    seconds: float
    taken: int | None = None

    def __str__(self) -> str:
        work = ", ".join(f"{name} {share:.0%}" for name, share in self.running)
        failed = f", {self.failed} without a verdict" if self.failed else ""
        taken = "" if self.taken is None else f", {self.taken} taken over"
        return f"{self.done}/{self.total} done{taken}, {self.passed} passed{failed}" + (f"; {work}" if work else "")


OnProgress = Callable[[Progress], None]


@dataclass
class _Running:
    job: Job
    process: SpawnProcess
    receiver: Connection
    share: float = 0.0


@dataclass
class _Board:
    """Results so far by the jobs' folders, and the news for whoever watches."""

    jobs: Sequence[Job]
    notify: OnProgress
    began: float = field(default_factory=time.monotonic)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: dict[str, _Running] = field(default_factory=dict)

    def tell(self) -> None:
        found = self.results.values()
        self.notify(
            Progress(
                len(found),
                len(self.jobs),
                sum(r["status"] == "failed" for r in found),
                sum(bool(r.get("passed")) for r in found),
                tuple((r.job.name, r.share) for r in self.running.values()),
                time.monotonic() - self.began,
            )
        )


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(device: torch.device) -> int:
    """Jobs that run at the same time when nobody says how many."""
    return cores() if device.type == "cpu" else 1


def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def _child(job: Job, sender: Connection) -> None:
    _one_thread()
    logging.disable(logging.WARNING)

    def report(done: int, total: int) -> None:
        if done % 5 == 0 or done == total:
            try:
                sender.send(done / total)
            except OSError as error:
                raise SystemExit("the benchmark that started this job is gone") from error

    try:
        perform(job, report)
    except OutputError as error:
        raise SystemExit(UNWRITTEN) from error


def _start(job: Job) -> _Running:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, sender), name=job.name, daemon=True)
    process.start()
    sender.close()
    return _Running(job, process, receiver)


def _finish(running: _Running) -> dict[str, Any]:
    """The result of a job whose process has ended; one that left no outcome of its own is recorded here.

    Raises:
        OutputError: the job could not write its folder, or its record cannot be written.
    """
    running.process.join()
    job = running.job
    if running.process.exitcode == UNWRITTEN:
        raise OutputError(
            f"could not write what the job {job.name} made into {make_folder(Path(job.folder))}: free some space and "
            "run the benchmark again, which goes on from here"
        )
    result = read_result(Path(job.folder))
    if result is not None and (running.process.exitcode == 0 or is_done(job)):
        return result
    code = running.process.exitcode or 0
    cause = f"was ended by signal {-code}, most often for want of memory" if code < 0 else f"ended with status {code}"
    result = failure(job, f"the job's process {cause}: use fewer processes, or run the benchmark again")
    write_json(make_folder(Path(job.folder)) / RESULT, result)
    return result


def _listen(running: _Running) -> None:
    try:
        while running.receiver.poll():
            running.share = float(running.receiver.recv())
    except (EOFError, OSError):
        running.receiver.close()


def run_jobs(
    jobs: Sequence[Job],
    processes: int,
    notify: OnProgress,
    keep: Callable[[list[dict[str, Any]]], object] = lambda results: None,
) -> list[dict[str, Any]]:
    """Results of all jobs, in their order; those already done are read. Children end with an interrupt of this one.

    Args:
        keep: given all results there are, at the start and after each job.

    Raises:
        OutputError: something could not be written; jobs that were at work then have ended by themselves.
    """

    def found() -> list[dict[str, Any]]:
        return [board.results[job.folder] for job in jobs if job.folder in board.results]

    board = _Board(jobs, notify)
    processes = min(processes, MOST_ON_WINDOWS) if sys.platform == "win32" else processes
    waiting: list[Job] = []
    unwritten: list[OutputError] = []
    for job in jobs:
        if is_done(job):
            board.results[job.folder] = read_result(Path(job.folder)) or {}
        else:
            waiting.append(job)
    waiting.reverse()
    board.tell()
    keep(found())
    try:
        while waiting or board.running:
            while waiting and len(board.running) < processes:
                job = waiting.pop()
                board.running[job.folder] = _start(job)
            open_pipes = [r.receiver for r in board.running.values() if not r.receiver.closed]
            wait([*open_pipes, *(r.process.sentinel for r in board.running.values())], timeout=1.0)
            for folder, running in list(board.running.items()):
                if not running.receiver.closed:
                    _listen(running)
                if running.process.exitcode is not None:
                    del board.running[folder]
                    try:
                        board.results[folder] = _finish(running)
                        keep(found())
                    except OutputError as error:
                        unwritten.append(error)
                        waiting.clear()
            board.tell()
    finally:
        for running in board.running.values():
            running.process.terminate()
            running.process.join()
    if unwritten:
        raise unwritten[0]
    return found()


def _cached(path: Path, key: str, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` returns, kept in a file under a hash of what it depends on."""
    earlier = read_json(path)
    if earlier and earlier.get("key") == key:
        return dict(earlier[name])
    found = make()
    write_json(path, {"key": key, name: found})
    return found


def _controls(settings: Settings, prompts: tuple[str, ...], out: Path, scorer: Loaded | None) -> dict[str, Any]:
    """The controls' outcome; each with Sim and R@1 where the scorer was asked of it."""
    about = [to_json(settings.field), to_json(settings.render), settings.occupancy_resolution]
    judged = _cached(
        out / "controls.json", digest([*about, prompts, judge_key(world_of(prompts))]), "controls",
        lambda: controls(settings, prompts),
    )  # fmt: skip
    if scorer is None:
        return judged
    model = scorer.scorer
    scored_by = [*about, prompts, scorer.fingerprint, SCORE_VERSION, WORLD_VERSION]
    scored = _cached(
        out / "control-scores.json", digest(scored_by), "scores", lambda: control_scores(model, settings, prompts)
    )
    return {name: {**found, **scored.get(name, {})} for name, found in judged.items()}


def run(
    quality: QualitySettings,
    on_progress: OnProgress = lambda progress: None,
    settings_for: Callable[[str], Settings] | None = None,
) -> dict[str, Any]:
    """Run what is missing, judge, and write into ``out``: ``quality.json``, ``quality.md``, ``comparison.md``,
    ``results.json`` and ``sheet-<method>.png``.

    Args:
        on_progress: called about once a second and whenever a job moves.
        settings_for: run settings of a method; by default the preset's.

    Returns:
        The object that ``quality.json`` holds: see ``quality_report.summarise`` and ``variants.compare``.

    Raises:
        PriorError: the prior or the scorer cannot be loaded.
        OutputError: the folder cannot be written, or another process works in it.
    """
    with claimed(make_folder(quality.out)):
        return _run(quality, on_progress, settings_for)


def _run(
    quality: QualitySettings, on_progress: OnProgress, settings_for: Callable[[str], Settings] | None
) -> dict[str, Any]:
    out = quality.out
    of_method = settings_for or (lambda method: preset(quality.preset, method))
    device = resolve_device(quality.device)
    fingerprint = prior_key(load_prior(quality.model, device=device))
    scorer = load_scorer(quality.scorer) if quality.score else None
    jobs = [
        job_of(
            prompt, label(method, variant), seed, applied(of_method(method), variant), quality.prompts, fingerprint,
            model=quality.model, device=str(device), folder=out / "jobs",
            scorer=quality.scorer, scorer_key=scorer.fingerprint if scorer else "",
        )
        for method in quality.methods for variant in quality.variants
        for seed in quality.seeds for prompt in quality.prompts
    ]  # fmt: skip
    taken = take_over(jobs, quality.earlier) if quality.earlier else None
    began = time.monotonic()
    results = run_jobs(
        jobs, quality.processes or at_once(device), lambda progress: on_progress(replace(progress, taken=taken)),
        lambda found: add_to_archive(out / ARCHIVE, found),
    )  # fmt: skip
    about = {
        "preset": quality.preset if settings_for is None else None, "prompts": list(quality.prompts),
        "world": world_of(quality.prompts),
        "seeds": list(quality.seeds), "prior": fingerprint, "scorer": scorer.fingerprint if scorer else None,
        "seconds": time.monotonic() - began, "versions": versions(),
    }  # fmt: skip
    scored = results if scorer else [{**result, "scores": None} for result in results]
    summary = summarise(scored, _controls(of_method(quality.methods[0]), quality.prompts, out, scorer), about)
    summary["comparison"] = compare(summary["jobs"])
    write_json(out / "quality.json", summary)
    write_table(out, summary["comparison"])
    write_report(out, summary, results, [Path(job.folder) for job in jobs])
    return summary
