"""``distill3d generate``: a prompt becomes a GLB, a contact sheet and a turntable."""

from __future__ import annotations

import re
import shlex
import signal
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ..errors import OutputError, PriorError, SettingsError
from ..files import make_folder
from ..mesh import MeshSettings, TextureSettings
from ..methods import METHODS
from ..optimize import PRESETS, Distillation, Execution, Settings, preset
from ..optimize import checkpoint as checkpoints
from ..optimize.curves import Recorder
from ..optimize.fit import cost_of, fit
from ..optimize.state import described
from ..priors.diffusers_prior import DiffusersPrior
from ..priors.load import bundled_prior_path, load_prior
from . import app
from .progress import ProgressLine, clock
from .results import MeshFormat, write_results

#: Steps timed for --time-budget; the first does not count.
TIMED_STEPS = 4

DESCRIPTION = """Turn a prompt into a 3D object by score distillation.

Without --model the bundled tiny prior is used: it knows plain coloured solids ("a red cube", "a blue torus") and needs
no download and no GPU. --model takes a Stable Diffusion 1.x or 2.x folder in diffusers layout, or a .safetensors file.

The preset sets every other flag; flags you give change it. A SCHEDULE is a number (7.5), a line over the run (100->60),
or cosine(100, 60), step(0.98, 0.5, at=0.2), piecewise(0:0, 0.5:-1). Ctrl-C stops, keeps the state and prints the
command that continues it."""


@dataclass(frozen=True)
class Generate:
    """Flags of ``distill3d generate``."""

    prompt: tyro.conf.Positional[str] = ""
    """What to build: one object, without view words, for instance "a red cube"."""
    preset: Literal["draft", "standard", "fine"] = "draft"
    """Draft takes a minute or two with the bundled prior, standard a few minutes, fine the longest."""
    seed: int = 0
    """Same seed, same settings, same device: same object."""
    out: Path | None = None
    """Folder for the results; by default output/<prompt>-<method>-<seed>, numbered when that exists."""
    model: Path | None = None
    """Stable Diffusion model on your disk; the bundled tiny prior when left out. Never downloaded."""
    resume: Path | None = None
    """Continue a stopped run from its output folder, with the settings it was started with."""
    negative: str = ""
    """What to move away from, for instance "blurry, oversaturated"."""
    device: str = "auto"
    """Auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the diffusion model; auto is fp16 on CUDA and fp32 elsewhere."""
    tokenizer: Path | None = None
    """Folder with a CLIP tokenizer, for a single-file model that has none beside it."""
    mesh_format: MeshFormat = "glb"
    """File format of the mesh; glb, obj and usdz carry a texture."""
    turntable_frames: int = 48
    """Frames of the turntable, 24 a second."""
    encoder: Path | None = None
    """Small autoencoder on your disk (TAESD, or any that makes the same latents) for the gradient, instead of the VAE,
    whose backward pass costs more than the UNet."""
    vram_gb: float | None = None
    """Most memory on the device, in GB: renders, UNet rows and views are cut down to an estimate that fits."""
    time_budget: float | None = None
    """Most minutes of optimisation: a few steps are timed first, and iterations cut to what fits."""
    execution: Execution = field(default_factory=Execution)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    texture: TextureSettings = field(default_factory=TextureSettings)
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    stored = _stored(arguments)
    flags = _parse(arguments, stored)
    if not flags.prompt.strip():
        raise SettingsError(
            'expected a prompt, got an empty one: describe one object, e.g. distill3d generate "a red cube"'
        )
    folder = _folder(flags)
    with console.status("loading the model"):
        prior = load_prior(
            flags.model, device=flags.device, dtype=flags.dtype, tokenizer=flags.tokenizer, encoder=flags.encoder
        )
        flags = _fitted(flags, prior, console)
        distillation = _distillation(flags, prior)
        if stored:
            distillation.load(stored)
    make_folder(folder)

    label = f"{flags.prompt!r}, {flags.settings.method}, seed {flags.seed}, {prior.device}"
    again = f" from iteration {distillation.iteration}" if stored else ""
    console.print(f"{label}: {flags.settings.iterations} iterations{again} into {folder}", highlight=False)
    recorder = Recorder()
    with ProgressLine(console) as line, _stopped_by_signals(console) as stopped:
        finished = distillation.run(listeners=(line, recorder), folder=folder, stop=lambda: bool(stopped))
    if not finished:
        console.print(f"stopped at iteration {distillation.iteration}; everything so far is kept. Continue with:")
        console.print(f"  {_resume_command(folder)}", markup=False, highlight=False, soft_wrap=True)
        return 130
    with console.status("finishing") as status:
        files = write_results(
            distillation,
            folder,
            flags.mesh,
            texture=flags.texture,
            mesh_format=flags.mesh_format,
            turntable_frames=flags.turntable_frames,
            recorder=recorder,
            say=status.update,
        )
    console.print(f"done in {clock(sum(distillation.watch.total.values()))}")
    for kind in (k for k in ("sheet", "turntable", "curves", "report", "mesh") if k in files):
        console.print(f"  {kind:<9} {files[kind]}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _distillation(flags: Generate, prior: DiffusersPrior) -> Distillation:
    return Distillation(
        prior, flags.prompt, flags.settings, negative=flags.negative, seed=flags.seed, execution=flags.execution
    )


def _fitted(flags: Generate, prior: DiffusersPrior, console: Console) -> Generate:
    """``flags`` with settings that keep within ``--vram-gb`` and ``--time-budget``; says what was changed."""
    if flags.vram_gb is None and flags.time_budget is None:
        return flags
    if flags.resume is not None:
        raise SettingsError("expected --vram-gb and --time-budget for a new run only: a resumed one keeps its settings")
    seconds = None
    if flags.time_budget is not None:
        steps = [sum(run.step().seconds.values()) for run in [_distillation(flags, prior)] for _ in range(TIMED_STEPS)]
        seconds = statistics.median(steps[1:])
    fitted = fit(
        flags.settings,
        cost_of(prior),
        vram_gb=flags.vram_gb,
        minutes=flags.time_budget,
        seconds_per_step=seconds,
    )
    prior.max_batch = fitted.max_batch
    time = "" if fitted.seconds is None else f", {fitted.seconds / 60:.1f} minutes of optimisation"
    changed = "; ".join(fitted.changes) or "nothing had to be changed"
    console.print(f"estimate: {fitted.gigabytes:.1f} GB{time}; {changed}", highlight=False)
    return replace(flags, settings=fitted.settings)


def _stored(arguments: Sequence[str]) -> checkpoints.Checkpoint | None:
    path = app.given(arguments, "resume", "")
    return checkpoints.load(Path(path)) if path else None


def _parse(arguments: Sequence[str], stored: checkpoints.Checkpoint | None) -> Generate:
    """Flags over the preset's defaults, or over the checkpoint's own settings when a run is continued."""
    if stored is None:
        method, name = app.given(arguments, "method", "sds"), app.given(arguments, "preset", "draft")
        known = method.upper() in METHODS and name in PRESETS
        bundled = not app.given(arguments, "model", "")
        settings = preset(name, method, bundled=bundled) if known else Settings()
        default = Generate(preset=name if known else "draft", settings=settings)  # type: ignore[arg-type]
    else:
        settings, identity = described(stored)
        default = Generate(
            identity["prompt"],
            seed=identity["seed"],
            negative=identity["negative"],
            model=_stored_model(stored),
            settings=settings,
        )
    return app.parse(Generate, "generate", arguments, DESCRIPTION, default)


def _stored_model(stored: checkpoints.Checkpoint) -> Path | None:
    """The model the run was started with, where it still is; None for the bundled prior."""
    source = Path(str(stored.meta.get("source", "")))
    with suppress(PriorError):
        if source.resolve() == bundled_prior_path().resolve():
            return None
    return source if source.name and source.exists() else None


def _folder(flags: Generate) -> Path:
    if flags.resume is not None:
        return flags.resume if flags.resume.is_dir() else flags.resume.parent
    if flags.out is None:
        slug = re.sub(r"[^a-z0-9]+", "-", flags.prompt.lower()).strip("-")[:48] or "object"
        return app.free_folder(Path("output") / f"{slug}-{flags.settings.method}-{flags.seed}")
    if (flags.out / checkpoints.FILE_NAME).exists():
        raise OutputError(
            f"expected a fresh output folder, got one that holds a run: {flags.out}. Continue it with "
            f"--resume {shlex.quote(str(flags.out))}, or choose another --out"
        )
    return flags.out


def _resume_command(folder: Path) -> str:
    return shlex.join(["distill3d", "generate", "--resume", str(folder)])


@contextmanager
def _stopped_by_signals(console: Console) -> Iterator[list[int]]:
    """A list that fills on the first Ctrl-C or SIGTERM; the second one interrupts at once."""
    caught: list[int] = []

    def handle(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        console.print("stopping after this iteration (again to stop at once)")

    names = [n for n in (signal.SIGINT, signal.SIGTERM) if n is not None]
    before = {number: signal.signal(number, handle) for number in names}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
