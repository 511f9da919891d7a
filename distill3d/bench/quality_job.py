"""One job of the quality benchmark, in a process of its own: distil, keep the field, judge it, leave a JSON.

The job's folder holds ``result.json`` (written last), ``field.safetensors``, ``preview.png`` and ``views.png``. A field
that was distilled with the same settings is judged again without distilling when only the judge has changed, and scored
again without judging when only the scorer has.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from .. import __version__
from ..errors import Distill3DError
from ..evaluate import Thresholds, accepts, grey_ball, judge, observe, parse_object, two_faced, world_of
from ..evaluate.controls import HEADS, PLUGGED, ROUGH, others, plugged, rough
from ..evaluate.observation import Observation
from ..fields.density import DensityField
from ..files import make_folder, write_bytes, write_json
from ..mesh import MeshSettings
from ..optimize import Distillation, Settings, Step
from ..optimize.codec import from_json, to_json
from ..optimize.memory import peak_bytes
from ..optimize.report import versions
from ..priors.load import load_prior
from ..render.cameras import orbit
from ..render.occupancy import OccupancyGrid
from ..render.pictures import contact_sheet, write_png
from ..scorer import VIEWS, load_scorer
from .scoring import SCORE_VERSION, VIEWS_FILE, read_views, scores, views_of

RESULT, FIELD, PREVIEW = "result.json", "field.safetensors", "preview.png"
JUDGE_VERSION = 5
"""Raised by hand when the judge measures anything differently, so that kept fields are judged again."""
PREVIEW_SIZE = 96
VERDICT = ("passed", "failures", "judgement", "shuffled_prompts", "taken_for", "judging_seconds")
"""What a result says of the judge's work."""

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One prompt, method and seed, and everything its result depends on; plain data, so that it can cross processes.

    Attributes:
        settings: a run's ``Settings`` as JSON.
        fingerprint: the prior's.
        others: the prompts its result must be refused for.
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
        """Hash of all that decides the field."""
        return digest([self.prompt, self.method, self.seed, self.settings, self.fingerprint, __version__])

    def judge_key(self) -> str:
        """Hash of all that decides the verdict on it."""
        return judge_key(self.others)

    def views_key(self) -> str:
        """Hash of all that decides the views that are scored."""
        return digest([self.run_key(), VIEWS, SCORE_VERSION])

    def score_key(self) -> str:
        """Hash of all that decides their scores."""
        return digest([self.views_key(), self.scorer_key, self.prompt, self.others])

    def keys(self) -> dict[str, str]:
        """All of them that apply, as a result carries them."""
        scored = {"views_key": self.views_key(), "score_key": self.score_key()} if self.scorer_key else {}
        return {"run_key": self.run_key(), "judge_key": self.judge_key(), **scored}


def judge_key(prompts: tuple[str, ...]) -> str:
    """Hash of the judge itself and of the prompts it compares a field with."""
    return digest([asdict(Thresholds()), prompts, JUDGE_VERSION])


def digest(value: Any) -> str:
    """SHA-256 of ``value``'s canonical JSON, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in a job's folder, if any."""
    return read_json(folder / RESULT)


def is_done(job: Job) -> bool:
    """Whether the job's folder holds a verdict made with exactly these settings and this judge."""
    result = read_result(Path(job.folder))
    return result is not None and result.get("status") == "judged" and matches(job, result)


def matches(job: Job, result: Mapping[str, Any]) -> bool:
    """Whether a result was made with exactly this job's settings, judge and scorer."""
    return all(result.get(name) == key for name, key in job.keys().items())


def failure(job: Job, error: str) -> dict[str, Any]:
    """The result of a job that ended without a verdict."""
    return {
        "status": "failed", "prompt": job.prompt, "method": job.method, "seed": job.seed,
        **job.keys(), "error": error,
    }  # fmt: skip


def _keep(job: Job, field: DensityField, occupancy: OccupancyGrid) -> None:
    tensors = {f"field.{k}": v.cpu().contiguous() for k, v in field.state_dict().items()}
    tensors |= {f"occupancy.{k}": v.cpu().contiguous() for k, v in occupancy.state_dict().items()}
    write_bytes(Path(job.folder) / FIELD, save_tensors(tensors, metadata={"run_key": job.run_key()}))


def _kept(job: Job, settings: Settings) -> tuple[DensityField, OccupancyGrid] | None:
    """The field an earlier run with the same settings left behind."""
    earlier = read_result(Path(job.folder))
    path = Path(job.folder) / FIELD
    same = earlier is not None and earlier.get("status") == "judged" and earlier["run_key"] == job.run_key()
    if not same or not path.is_file():
        return None
    tensors = load_tensors(path.read_bytes())
    field = DensityField(settings.field, generator=torch.Generator().manual_seed(0))
    occupancy = OccupancyGrid(settings.occupancy_resolution)
    for prefix, module in (("field.", field), ("occupancy.", occupancy)):
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    return field, occupancy


def _distil(job: Job, settings: Settings, report: Report) -> tuple[DensityField, OccupancyGrid, dict[str, Any]]:
    prior = load_prior(job.model, device=job.device)
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


def perform(job: Job, report: Report) -> dict[str, Any]:
    """Do the job and write its folder; returns the result. Anything that goes wrong becomes a result too."""
    folder = make_folder(Path(job.folder))
    try:
        result = _perform(job, folder, report)
    except Distill3DError as error:
        result = failure(job, str(error))
    except Exception as error:
        result = failure(job, "".join(traceback.format_exception(error)))
    write_json(folder / RESULT, result)
    return result


def _perform(job: Job, folder: Path, report: Report) -> dict[str, Any]:
    settings = from_json(Settings, job.settings)
    kept = _kept(job, settings)
    earlier = {} if kept is None else read_result(folder) or {}
    if kept is None:
        field, occupancy, facts = _distil(job, settings, report)
        _keep(job, field, occupancy)
    else:
        field, occupancy = kept
        facts = {k: earlier[k] for k in ("minutes", "seconds", "peak_memory_bytes", "occupancy", "skipped", "warnings")}
    field.requires_grad_(False)
    if earlier.get("judge_key") == job.judge_key():
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
    scorer = load_scorer(None if job.scorer is None else Path(job.scorer)).scorer
    return scores(scorer, pictures, job.prompt, job.others, job.world)


def _verdict(job: Job, settings: Settings, field: DensityField, occupancy: OccupancyGrid) -> dict[str, Any]:
    began = time.monotonic()
    seen = observe(
        field, occupancy=occupancy, render_settings=settings.render, mesh_settings=MeshSettings(), world=job.world
    )
    judgement = judge(seen, job.prompt)
    taken_for = [p for p in job.others if accepts(seen, p)]
    judged_in = time.monotonic() - began
    return {
        "passed": judgement.passed, "failures": list(judgement.failures), "judgement": judgement.to_json(),
        "shuffled_prompts": len(job.others), "taken_for": taken_for, "judging_seconds": judged_in,
    }  # fmt: skip


def _preview(folder: Path, settings: Settings, field: DensityField, occupancy: OccupancyGrid) -> None:
    sheet = contact_sheet(
        field, orbit([30.0, 120.0, 210.0, 300.0, 30.0], [15.0] * 4 + [80.0]), size=PREVIEW_SIZE, kinds=("shaded",),
        labels=[""] * 5, occupancy=occupancy, settings=settings.render,
    )  # fmt: skip
    write_png(folder / PREVIEW, sheet)


def controls(settings: Settings, prompts: tuple[str, ...]) -> dict[str, Any]:
    """Fields that no prompt may accept: how many each was wrongly taken for.

    An untrained field and a grey ball are judged for every prompt; a head with a face on either side, in three colours,
    for the smiley of its colour; a cylinder with grain and a torus with a plug for what they would be without.
    """
    generator = torch.Generator().manual_seed(0)
    untrained = DensityField(settings.field, generator=generator).requires_grad_(False)

    def seen_by_judge(field: Any, world: str) -> Observation:
        occupancy = OccupancyGrid(settings.occupancy_resolution)
        occupancy.update(field, step_size=settings.render.step_size, generator=generator, warmup=True)
        return observe(field, occupancy=occupancy, render_settings=settings.render, world=world)

    found = {}
    for name, field in (("untrained field", untrained), ("grey ball", grey_ball())):
        seen = seen_by_judge(field, world_of(prompts))
        found[name] = {"judged": len(prompts), "taken_for": [p for p in prompts if accepts(seen, p)]}
    heads = [(p, seen_by_judge(two_faced(parse_object(p)), "full")) for p in HEADS]
    found["two-faced head"] = {"judged": len(heads), "taken_for": [p for p, seen in heads if accepts(seen, p)]}
    for name, prompt, spoil in (("rough cylinder", ROUGH, rough), ("plugged torus", PLUGGED, plugged)):
        seen = seen_by_judge(spoil(parse_object(prompt)), "plain")
        found[name] = {"judged": 1, "taken_for": [prompt] if accepts(seen, prompt) else []}
    return found


def job_of(
    prompt: str, method: str, seed: int, settings: Settings, prompts: tuple[str, ...], fingerprint: str,
    *, model: Path | None, device: str, folder: Path, scorer: Path | None = None, scorer_key: str = "",
) -> Job:  # fmt: skip
    """A job from settings objects; its folder is ``folder`` plus a name made of its prompt, method and seed."""
    slug = f"{method}-{'-'.join(prompt.lower().split())}-{seed}"
    return Job(
        prompt, method, seed, to_json(settings), fingerprint, others(prompt, prompts),
        None if model is None else str(model), device, str(folder / slug),
        None if scorer is None else str(scorer), scorer_key,
    )  # fmt: skip
