"""``distill3d generate``: a prompt becomes a GLB, a contact sheet and a turntable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..errors import SettingsError
from ..files import make_folder
from ..locks import claimed
from ..mesh import MeshSettings, TextureSettings
from ..optimize import Distillation, Execution, Settings, remarks
from ..optimize import checkpoint as checkpoints
from ..optimize.curves import Recorder
from ..optimize.fit import check_limits, continued, cost_of, fit, time_steps
from ..optimize.memory import device_gigabytes
from ..optimize.state import described
from ..priors.diffusers_prior import DiffusersPrior
from . import app, resume
from .model import ModelFlags, PresetName, preset_of
from .progress import ProgressLine, clock
from .results import MeshFormat, tell_mesh, write_results
from .stopping import stopped_by_signals

DESCRIPTION = """Turn a prompt into a 3D object by score distillation.

Without --model the bundled tiny prior is used: it knows coloured solids, bare or patterned, and a few figures ("a
striped red cube", "a blue house") and needs no download and no GPU. --model takes a Stable Diffusion 1.x or 2.x folder
in diffusers layout, or a .safetensors file.

The preset sets every other flag; flags you give change it. A SCHEDULE is a number (7.5), a line over the run (100->60),
or cosine(100, 60), step(0.98, 0.5, at=0.2), piecewise(0:0, 0.5:-1). Ctrl-C stops, keeps the state and prints the
command that continues it."""


@dataclass(frozen=True)
class Generate:
    """Flags of ``distill3d generate``."""

    prompt: tyro.conf.Positional[str] = ""
    """What to build: one object, without view words, for instance "a red cube"."""
    preset: PresetName = "draft"
    """Draft takes a minute or two with the bundled prior, standard a few minutes, fine the longest."""
    seed: int = 0
    """Same seed, same settings, same CPU: same object. On a GPU sums are made in any order, and runs drift apart."""
    out: Path | None = None
    """Folder for the results; by default output/<prompt>-<method>-<seed>, numbered when that exists."""
    resume: Path | None = None
    """Continue a stopped run from its output folder, with the settings it was started with."""
    source: Annotated[ModelFlags, tyro.conf.arg(name="")] = field(default_factory=ModelFlags)
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


MODEL_KEPT = ("device", "dtype", "tokenizer", "prediction_type", "image_size")
KEPT = ("encoder", "vram_gb", "mesh_format", "turntable_frames", "execution", "mesh", "texture")
"""Flags beside the settings, of the model and of the rest: a resumed run takes them from its folder."""


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    with ExitStack() as held:
        return _held(arguments, console, held)


def _held(arguments: Sequence[str], console: Console, held: ExitStack) -> int:
    """``run``, with the run's folder kept to this process by ``held``."""
    arguments = app.lowered(arguments, "method")
    resumed = resume.opened(arguments)
    if resumed is not None:
        held.enter_context(claimed(resumed[1]))
        # once more: until now another process may have gone on with it
        resumed = resume.opened(arguments)
    flags = _parse(arguments, resumed)
    _check(flags, resumed is not None)
    if resumed and (
        app.given(arguments, "preset", "")
        or (flags.time_budget, flags.vram_gb) != (None, resume.kept(resumed[1], Generate, KEPT).get("vram_gb"))
    ):
        raise SettingsError(
            "expected --preset, --vram-gb and --time-budget for a new run only: a resumed one keeps its settings"
        )
    app.warn(console, remarks([flags.settings], flags.source.negative))
    if resumed is None:
        app.warn(console, flags.source.unknown(flags.prompt))
    else:
        kept = (resume.kept(resumed[1], ModelFlags, MODEL_KEPT), resume.kept(resumed[1], Generate, KEPT))
        app.warn(console, resume.lost(resumed[1], *kept))
    with console.status("loading the model"):
        prior = flags.source.load(encoder=flags.encoder)
        flags = _fitted(flags, prior, console)
        distillation = _distillation(flags, prior)
        if resumed:
            distillation.load(resumed[0])
    folder = resumed[1] if resumed else _folder(flags)
    make_folder(folder)
    if resumed is None:
        held.enter_context(claimed(folder))
    resume.keep(folder, (flags.source, MODEL_KEPT), (flags, KEPT))
    label = f"{flags.prompt!r}, {flags.settings.method}, seed {flags.seed}, {prior.device}"
    again = f" from iteration {distillation.iteration}" if resumed else ""
    if distillation.iteration >= flags.settings.iterations:
        app.say(console, f"{label}: finished before; its pictures and mesh are made anew in {folder}")
    else:
        app.say(console, f"{label}: {flags.settings.iterations} iterations{again} into {folder}")
    try:
        return _run(flags, distillation, folder, console)
    except KeyboardInterrupt:
        held.close()
        if not (folder / checkpoints.FILE_NAME).exists():
            resume.discard(folder)
            app.say(console, "interrupted before the first iteration was done: nothing to keep")
            return 130
        app.say(console, "interrupted; what the last checkpoint holds is kept. Continue with:")
        app.say(console, f"  {resume.command(folder)}")
        return 130


def _run(flags: Generate, distillation: Distillation, folder: Path, console: Console) -> int:
    recorder = Recorder(folder, distillation.iteration)
    with ProgressLine(console) as line, stopped_by_signals(console) as stopped:
        finished = distillation.run(listeners=(line, recorder), folder=folder, stop=lambda: bool(stopped))
    if not finished:
        app.say(console, f"stopped at iteration {distillation.iteration}; everything so far is kept. Continue with:")
        app.say(console, f"  {resume.command(folder)}")
        app.say(console, f"or see what there is with:\n  {app.command_line(['distill3d', 'turntable', str(folder)])}")
        return 130
    began, again = time.monotonic(), " in all" if flags.resume else ""
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
    spent, rest = sum(distillation.watch.total.values()), time.monotonic() - began
    app.say(console, f"done: {clock(spent)} of optimisation{again}, {clock(rest)} for pictures and mesh")
    for kind in (k for k in ("sheet", "turntable", "curves", "report") if k in files):
        app.say(console, f"  {kind:<9} {files[kind]}")
    tell_mesh(console, files["mesh"])
    return 0


def _check(flags: Generate, resumed: bool) -> None:
    app.checked_prompt(flags.prompt, "generate")
    if not 1 <= flags.turntable_frames <= 2000:
        raise SettingsError(f"expected 1 to 2000 --turntable-frames, got {flags.turntable_frames}: 48 is usual")
    if resumed and flags.out is not None:
        raise SettingsError("expected --out for a new run only: a resumed one goes on in its own folder")
    if flags.out is not None:
        resume.refuse_filled(flags.out, [resume.FILE_NAME])


def _distillation(flags: Generate, prior: DiffusersPrior) -> Distillation:
    return Distillation(
        prior, flags.prompt, flags.settings, negative=flags.source.negative, seed=flags.seed, execution=flags.execution
    )


def _fitted(flags: Generate, prior: DiffusersPrior, console: Console) -> Generate:
    """``flags`` with settings that keep within ``--vram-gb`` and ``--time-budget``; says the estimate and the changes.

    Memory comes first, so that the steps that are timed fit too. Of a resumed run only the UNet's rows are fitted,
    which are no setting: the rest is what it was started with.
    """
    limited = flags.vram_gb is not None or flags.time_budget is not None
    check_limits(flags.vram_gb, flags.time_budget)
    cost = cost_of(prior)
    if flags.resume is None:
        fitted = fit(flags.settings, cost, vram_gb=flags.vram_gb)
    else:
        fitted = continued(flags.settings, flags.settings, cost, vram_gb=flags.vram_gb)
    prior.max_batch = fitted.max_batch
    flags, changes, minutes = replace(flags, settings=fitted.settings), fitted.changes, ""
    if flags.time_budget is not None:
        seconds = time_steps(_distillation(flags, prior))
        cost = replace(cost, max_batch=fitted.max_batch)
        fitted = fit(flags.settings, cost, minutes=flags.time_budget, seconds_per_step=seconds)
        flags, changes = replace(flags, settings=fitted.settings), changes + fitted.changes
        minutes = f", {fitted.seconds / 60:.1f} minutes of optimisation" if fitted.seconds is not None else ""
    changed = f"; {'; '.join(changes) or 'nothing had to be changed'}" if limited else ""
    app.say(console, f"estimate: {fitted.gigabytes:.1f} GB of memory for model and run{minutes}{changed}")
    app.warn(console, _too_large(fitted.gigabytes, device_gigabytes(prior.device)))
    return flags


def _too_large(wanted: float, available: float | None) -> list[str]:
    """What to do where a run is estimated to need more than the device has."""
    if available is None or wanted <= available:
        return []
    return [
        f"about {wanted:.1f} GB are wanted and the card has {available:.1f}, so memory may run out: start again with "
        f"--vram-gb {int(10 * available) / 10:g}, with a model of your own also with --encoder (TAESD) or a lower "
        "--image-size"
    ]


def _parse(arguments: Sequence[str], resumed: tuple[checkpoints.Checkpoint, Path] | None) -> Generate:
    """Flags over the preset's defaults, or over the run's own settings when it is continued."""
    if resumed is None:
        name, settings = preset_of(arguments, app.given(arguments, "method", "sds"))
        default = Generate(preset=name, settings=settings)
    else:
        stored, folder = resumed
        settings, identity = described(stored)
        default = Generate(
            identity["prompt"],
            seed=identity["seed"],
            source=ModelFlags(
                negative=identity["negative"],
                model=resume.model_of(stored, arguments),
                **resume.kept(folder, ModelFlags, MODEL_KEPT),
            ),
            settings=settings,
            **resume.kept(folder, Generate, KEPT),
        )
    return app.parse(Generate, "generate", arguments, DESCRIPTION, default)


def _folder(flags: Generate) -> Path:
    if flags.out is not None:
        return flags.out
    return app.free_folder(Path("output") / f"{app.slug(flags.prompt)}-{flags.settings.method}-{flags.seed}")
