"""One job of the quality benchmark, in a process of its own: distil, keep the field, judge it, leave a JSON.

The job's folder holds ``result.json`` (written last), ``field.safetensors``, ``preview.png`` and ``views.png``, and has
the hash of all that decides the field in its name, so that nothing of another run lies in it. A kept field is judged
again without distilling when only the judge has changed, and scored again without judging when only the scorer has.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from .. import __version__
from ..errors import Distill3DError, DivergedError, OutputError, PriorError
from ..evaluate import Thresholds, accepts, judge, observe, parse_object, world_of
from ..evaluate.controls import SPOILED, others
from ..evaluate.observation import Observation
from ..fields.density import DensityField
from ..files import make_folder, real, write_bytes, write_json
from ..mesh import MeshSettings
from ..optimize import Distillation, Settings, Step
from ..optimize.codec import from_json, to_json
from ..optimize.memory import peak_bytes
from ..optimize.report import versions
from ..priors.diffusers_prior import DiffusersPrior
from ..priors.load import bundled_prior_path, load_prior
from ..render.cameras import orbit
from ..render.occupancy import OccupancyGrid
from ..render.pictures import contact_sheet, write_png
from ..scorer import VIEWS, load_scorer
from ..world import WORLD_VERSION
from .scoring import SCORE_VERSION, VIEWS_FILE, blank_fields, read_views, scores, views_of

RESULT, FIELD, PREVIEW = "result.json", "field.safetensors", "preview.png"
RUN_VERSION = 1
"""Raised by hand when the same settings distil another field, so that it is made again; 1 is in no key, as in those
published before there was a version."""
LATER: dict[str, dict[str, Any]] = {
    "cameras": {
        "focus": {"kind": "constant", "value": 0.0},
        "level": {"kind": "constant", "value": 0.0},
        "focus_elevation": 35.0,
    },
    "field": {"color_grid": "shared"},
    "losses": {"tint": {"kind": "constant", "value": 0.0}},
}
"""Settings that came later, by their group, with the value that changes nothing: no run's key has it, so that what was
published before is not run again."""
JUDGE_VERSION = 8
"""Raised by hand when the judge measures anything differently, so that kept fields are judged again."""
PREVIEW_SIZE = 96
LONGEST_NAME = 100
"""Most characters of a prompt in the name of its job's folder."""
VERDICT = ("passed", "failures", "judgement", "others", "judging_seconds")
"""What a result says of the judge's work; ``others`` says of each other prompt whether it was taken for that."""

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One prompt, method and seed, and everything its result depends on beside the versions of library, run, judge and
    scoring; plain data, so that it can cross processes.

    Attributes:
        settings: a run's ``Settings`` as JSON.
        fingerprint: the prior's, see ``prior_key``.
        others: prompts of the benchmark that name another object, for which its result must be refused.
        device: where it computes, e.g. cpu or cuda:1; auto is resolved before.
        scorer: file of the image-text scorer, the bundled one when None; ``scorer_key`` is its fingerprint, empty when
            nothing is to be scored.
    """

    prompt: str
    method: str
    seed: int
    settings: dict[str, Any]
    fingerprint: str
    others: tuple[str, ...]
    model: str | None
    device: str
    folder: str
    scorer: str | None = None
    scorer_key: str = ""

    @property
    def name(self) -> str:
        return f"{self.method}, {self.prompt!r}, seed {self.seed}"

    @property
    def world(self) -> str:
        """The world its prompts are of."""
        return world_of((self.prompt, *self.others))

    def run_key(self) -> str:
        """Hash of all that decides the field; a CPU is not named in it."""
        kind = torch.device(self.device).type
        more = {**({"device": kind} if kind != "cpu" else {}), **({"run": RUN_VERSION} if RUN_VERSION > 1 else {})}
        about = [self.prompt, self.method, self.seed, _keyed(self.settings), self.fingerprint, __version__]
        return digest([*about, more] if more else about)

    def judge_key(self) -> str:
        """Hash of all that decides the verdict on it."""
        return judge_key(self.world)

    def views_key(self) -> str:
        """Hash of all that decides the views that are scored."""
        return digest([self.run_key(), VIEWS, SCORE_VERSION])

    def score_key(self) -> str:
        """Hash of all that decides their scores."""
        return digest([self.views_key(), self.scorer_key, self.prompt, self.world])

    def keys(self) -> dict[str, str]:
        """All of them that apply, as a result carries them."""
        scored = {"views_key": self.views_key(), "score_key": self.score_key()} if self.scorer_key else {}
        return {"run_key": self.run_key(), "judge_key": self.judge_key(), **scored}


def _keyed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those of ``LATER`` that are as everything was before there was a choice."""
    changed = {
        group: {k: v for k, v in settings[group].items() if k not in later or v != later[k]}
        for group, later in LATER.items()
        if group in settings
    }
    return {**settings, **changed}


def prior_key(prior: DiffusersPrior) -> str:
    """The prior's fingerprint, and of any but the bundled one its text encoder's too: priors that differ in that alone
    make other objects."""
    with suppress(PriorError):
        if real(Path(prior.source)) == real(bundled_prior_path()):
            return prior.fingerprint
    return f"{prior.fingerprint} text {prior.text_checksum()}"


def judge_key(world: str) -> str:
    """Hash of the judge itself and of the world whose shapes it compares a field with."""
    return digest([asdict(Thresholds()), world, JUDGE_VERSION, WORLD_VERSION])


def digest(value: Any) -> str:
    """SHA-256 of ``value``'s canonical JSON, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that can be read, or one with numbers that are none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in a job's folder, if any."""
    return read_json(folder / RESULT)


def is_done(job: Job) -> bool:
    """Whether the job's folder holds an outcome made with exactly these settings and this judge; beside a kept field it
    must have been tried for all the other prompts too, which takes no new run."""
    result = read_result(Path(job.folder))
    return result is not None and matches(job, result) and (tried(job, result) or not has_field(job))


def has_field(job: Job) -> bool:
    """Whether the field of an earlier run lies in the job's folder."""
    return (Path(job.folder) / FIELD).is_file()


def tried(job: Job, result: Mapping[str, Any]) -> bool:
    """Whether a result says of all the job's other prompts if it was taken for them."""
    return set(job.others) <= set(result.get("others", job.others))


def matches(job: Job, result: Mapping[str, Any]) -> bool:
    """Whether a result is an outcome of exactly this job's settings, judge and scorer; of a run that lost its object,
    of the settings."""
    keys = job.keys()
    if result.get("status") == "lost":
        return result.get("run_key") == keys["run_key"]
    return result.get("status") == "judged" and all(result.get(name) == key for name, key in keys.items())


def failure(job: Job, error: str, status: str = "failed") -> dict[str, Any]:
    """The result of a job that has no verdict: it ``failed`` and is to be tried again, or its object is ``lost``: gone,
    all over the view, or not a number."""
    return {
        "status": status, "prompt": job.prompt, "method": job.method, "seed": job.seed,
        "run_key": job.run_key(), "prior": job.fingerprint, "settings": job.settings, "error": error,
    }  # fmt: skip


def _keep(job: Job, field: DensityField, occupancy: OccupancyGrid, facts: Mapping[str, Any]) -> None:
    tensors = {f"field.{k}": v.cpu().contiguous() for k, v in field.state_dict().items()}
    tensors |= {f"occupancy.{k}": v.cpu().contiguous() for k, v in occupancy.state_dict().items()}
    metadata = {"run_key": job.run_key(), "facts": json.dumps(facts)}
    write_bytes(Path(job.folder) / FIELD, save_tensors(tensors, metadata=metadata))


def _kept(job: Job, settings: Settings) -> tuple[DensityField, OccupancyGrid, dict[str, Any]] | None:
    """The field that these settings made before, and the facts of its run; None for none that can be read."""
    field = DensityField(settings.field, generator=torch.Generator().manual_seed(0))
    occupancy = OccupancyGrid(settings.occupancy_resolution)
    try:
        with safe_open(Path(job.folder) / FIELD, "pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["run_key"] != job.run_key():
            return None
        facts = json.loads(metadata["facts"])
        for prefix, module in (("field.", field), ("occupancy.", occupancy)):
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    return field, occupancy, facts


def _distil(job: Job, settings: Settings, report: Report) -> tuple[DensityField, OccupancyGrid, dict[str, Any]]:
    prior = load_prior(job.model, device=job.device)
    if prior_key(prior) != job.fingerprint:
        raise PriorError(_changed("prior"))
    run = Distillation(prior, job.prompt, settings, seed=job.seed)

    def listen(event: object) -> None:
        if isinstance(event, Step):
            report(event.iteration, event.iterations)

    began = time.monotonic()
    run.run(listeners=(listen,))
    facts = {
        "minutes": (time.monotonic() - began) / 60,
        "seconds": dict(run.watch.total),
        "peak_memory_bytes": peak_bytes(run.device),
        "occupancy": run.occupancy.fraction,
        "skipped": run.skipped,
        "warnings": list(run.warnings),
    }
    return run.field.cpu(), run.occupancy.cpu(), facts


def _changed(what: str) -> str:
    return f"expected the {what} that the benchmark began with, and its file has changed since: run it again"


def perform(job: Job, report: Report) -> dict[str, Any]:
    """Do the job and write its folder; returns the result. Anything else that goes wrong becomes a result too.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = make_folder(Path(job.folder))
    try:
        result = _perform(job, folder, report)
        write_json(folder / RESULT, result)
        return result
    except OutputError:
        raise
    except DivergedError as error:
        result = failure(job, str(error), "lost")
    except Distill3DError as error:
        result = failure(job, str(error))
    except Exception as error:
        result = failure(job, "".join(traceback.format_exception(error)))
    write_json(folder / RESULT, result)
    return result


def _perform(job: Job, folder: Path, report: Report) -> dict[str, Any]:
    settings = from_json(Settings, job.settings)
    kept = _kept(job, settings)
    earlier = (read_result(folder) or {}) if kept else {}
    if kept is None:
        kept = _distil(job, settings, report)
        _keep(job, *kept)
    field, occupancy, facts = kept
    field.requires_grad_(False)
    if earlier.get("judge_key") == job.judge_key() and tried(job, earlier):
        verdict = {k: earlier[k] for k in VERDICT}
    else:
        verdict = _verdict(job, settings, field, occupancy)
        _preview(folder, settings, field, occupancy)
    return {
        "status": "judged", "prompt": job.prompt, "method": job.method, "seed": job.seed,
        **verdict, "scores": _scores(job, folder, settings, field, occupancy, earlier), **facts,
        **job.keys(), "prior": job.fingerprint, "settings": job.settings, "versions": versions(),
    }  # fmt: skip


def _scores(
    job: Job,
    folder: Path,
    settings: Settings,
    field: DensityField,
    occupancy: OccupancyGrid,
    earlier: Mapping[str, Any],
) -> dict[str, Any] | None:
    if not job.scorer_key:
        return None
    path = folder / VIEWS_FILE
    pictures = read_views(path) if earlier.get("views_key") == job.views_key() else None
    if pictures is None:
        pictures = views_of(field, occupancy, settings.render, path)
    loaded = load_scorer(None if job.scorer is None else Path(job.scorer))
    if loaded.fingerprint != job.scorer_key:
        raise PriorError(_changed("scorer"))
    return scores(loaded.scorer, pictures, job.prompt, job.others, job.world)


def _verdict(job: Job, settings: Settings, field: DensityField, occupancy: OccupancyGrid) -> dict[str, Any]:
    began = time.monotonic()
    seen = observe(
        field, occupancy=occupancy, render_settings=settings.render, mesh_settings=MeshSettings(), world=job.world
    )
    judgement = judge(seen, job.prompt)
    taken_for = {p: accepts(seen, p) for p in job.others}
    judged_in = time.monotonic() - began
    return {
        "passed": judgement.passed, "failures": list(judgement.failures), "judgement": judgement.to_json(),
        "others": taken_for, "judging_seconds": judged_in,
    }  # fmt: skip


def _preview(folder: Path, settings: Settings, field: DensityField, occupancy: OccupancyGrid) -> None:
    sheet = contact_sheet(
        field, orbit([30.0, 120.0, 210.0, 300.0, 30.0], [15.0] * 4 + [80.0]), size=PREVIEW_SIZE, kinds=("shaded",),
        labels=[""] * 5, occupancy=occupancy, settings=settings.render,
    )  # fmt: skip
    write_png(folder / PREVIEW, sheet)


@contextmanager
def _silent() -> Iterator[None]:
    """No warnings: that the mesh of a spoiled field is poor is no news."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@_silent()
def controls(settings: Settings, prompts: tuple[str, ...]) -> dict[str, Any]:
    """Fields that no prompt may accept: how many each was wrongly taken for.

    An untrained field and a grey ball are judged for every prompt, spoiled objects for what they would be without.
    """
    blank, occupancy_of = blank_fields(settings)

    def seen_by_judge(field: Any, world: str) -> Observation:
        return observe(field, occupancy=occupancy_of(field), render_settings=settings.render, world=world)

    found = {}
    for name, field in blank.items():
        seen = seen_by_judge(field, world_of(prompts))
        found[name] = {"judged": len(prompts), "taken_for": [p for p in prompts if accepts(seen, p)]}
    for name, (spoil, wanted) in SPOILED.items():
        taken = [p for p in wanted if accepts(seen_by_judge(spoil(parse_object(p)), world_of([p])), p)]
        found[name] = {"judged": len(wanted), "taken_for": taken}
    return found


def job_of(
    prompt: str, method: str, seed: int, settings: Settings, prompts: tuple[str, ...], fingerprint: str,
    *, model: Path | None, device: str, folder: Path, scorer: Path | None = None, scorer_key: str = "",
) -> Job:  # fmt: skip
    """A job from settings objects; ``folder`` holds its folder, named by its prompt's letters and digits, method, seed
    and run key."""
    job = Job(
        prompt, method, seed, to_json(settings), fingerprint, others(prompt, prompts),
        None if model is None else str(model), device, str(folder),
        None if scorer is None else str(scorer), scorer_key,
    )  # fmt: skip
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:LONGEST_NAME]
    return replace(job, folder=str(folder / f"{method}-{words}-{seed}-{job.run_key()[:8]}"))
