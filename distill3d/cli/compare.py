"""``distill3d compare``: several methods on one prompt with the same seed, cameras, noise and initial field."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from ..errors import CheckpointError, Distill3DError, SettingsError
from ..files import make_folder, write_json
from ..locks import claimed
from ..methods import METHODS
from ..optimize import Distillation, Settings, compared, remarks, report
from ..optimize import checkpoint as checkpoints
from ..optimize.curves import Recorder
from ..plots import stack
from ..priors.base import Prior
from ..render.pictures import contact_sheet, write_png
from ..two_d.latents import choose
from ..two_d.pictures import table
from . import app
from .model import ModelFlags, PresetName, preset_of
from .progress import ProgressLine
from .resume import COMPARED, REPORT, refuse_filled
from .stopping import stopped_by_signals

DESCRIPTION = """Run several methods on the same prompt, side by side in 3D: the same cameras, noise, initial field, and
timesteps where the windows agree.

Each method starts from the preset's settings for it; flags you give hold for all of them (--method is ignored, use
--methods). Every run keeps its checkpoint and report in a folder of its own, from which distill3d export writes a mesh.
sheet.png has one row a method, curves.png the gradient norms, the noise-prediction error and the opacity. Ctrl-C stops
and prints the command that goes on: what is finished is not made again."""


@dataclass(frozen=True)
class Compare:
    """Flags of ``distill3d compare``."""

    prompt: tyro.conf.Positional[str] = ""
    """What to build: one object, without view words, for instance "a red cube"."""
    methods: tuple[str, ...] = ("sds", "csd", "asd", "tbsd")
    """Methods to compare: all, or any of sds csd asd tbsd nfsd bridge bsd."""
    preset: PresetName = "draft"
    """Preset of every run."""
    seed: int = 0
    """The one seed of all runs."""
    out: Path | None = None
    """Folder for the results; by default output/compare-<prompt>-<seed>, numbered when that exists. A comparison that
    was stopped there goes on."""
    source: Annotated[ModelFlags, tyro.conf.arg(name="")] = field(default_factory=ModelFlags)
    size: int = 160
    """Side of a picture in the sheet, in pixels."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    first = _parse(arguments, "sds")
    prompt = app.checked_prompt(first.prompt, "compare")
    methods = choose(first.methods)
    flags = {method: _parse(arguments, method) for method in methods}
    if first.out is not None:
        refuse_filled(first.out, [f"{name.lower()}/{checkpoints.FILE_NAME}" for name in METHODS])
    if not 16 <= first.size <= 1024:
        raise SettingsError(f"expected pictures of 16 to 1024 pixels, got {first.size}: 160 is usual")
    runs = [replace(flags[method].settings, method=method) for method in methods]  # type: ignore[arg-type]
    app.warn(console, [*remarks(runs, first.source.negative), *first.source.unknown(prompt)])
    with console.status("loading the model"):
        prior = first.source.load()
    folder = first.out or app.free_folder(Path("output") / f"compare-{app.slug(prompt)}-{first.seed}")
    make_folder(folder)
    reports, sheets, failed = {}, [], []
    with claimed(folder), stopped_by_signals(console) as stopped, suppress(KeyboardInterrupt):
        for method in methods:
            app.say(console, f"{first.prompt!r}, {method}, seed {first.seed}")
            make_folder(folder / method)
            with claimed(folder / method):
                found, sheet, error = _one(flags[method], method, prior, folder / method, console, stopped)
            reports[method.upper()] = found
            sheets.append(sheet)
            failed += [error] if error is not None else []
            if stopped:
                break
    if stopped or len(reports) < len(methods):
        app.say(console, "stopped; everything so far is kept. Continue with:")
        app.say(console, f"  {_again(arguments, folder)}")
        return 130
    rows = [compared.row(found) for found in reports.values()]
    write_png(folder / "sheet.png", stack(sheets))
    write_png(folder / "curves.png", compared.curves(reports))
    write_json(folder / COMPARED, {"prompt": first.prompt, "seed": first.seed, "methods": rows})
    sys.stdout.write(table(rows))
    app.say(console, f"  results {folder}")
    return failed[-1].exit_code if len(failed) == len(methods) else 0


def _again(arguments: Sequence[str], folder: Path) -> str:
    """The line that goes on with the comparison in ``folder``."""
    kept, skip = [], False
    for text in arguments:
        if not skip and text != "--out" and not text.startswith("--out="):
            kept.append(text)
        skip = text == "--out"
    return app.command_line(["distill3d", "compare", *kept, "--out", str(folder)])


def _one(
    flags: Compare, method: str, prior: Prior, folder: Path, console: Console, stopped: Sequence[int]
) -> tuple[dict[str, Any], Any, Distill3DError | None]:
    """One run's report, its row of pictures, and what ended it early; it goes on from the checkpoint in ``folder``."""
    settings = replace(flags.settings, method=method)  # type: ignore[arg-type]
    distillation = Distillation(prior, flags.prompt, settings, negative=flags.source.negative, seed=flags.seed)
    _take_up(distillation, folder)
    recorder = Recorder(folder, distillation.iteration)
    found, failure = _report_of(folder) if distillation.done else None, None
    if distillation.iteration:
        app.say(console, f"{'done before' if found else f'goes on from iteration {distillation.iteration}'}: {folder}")
    if found is None:
        try:
            with ProgressLine(console) as line:
                distillation.run(listeners=(line, recorder), folder=folder, stop=lambda: bool(stopped))
        except Distill3DError as error:
            failure = error
            console.print(f"[yellow]{method} stopped:[/] ", end="")
            app.say(console, error.told(app.flag))
        found = report.build(distillation) | {"curves": recorder.to_json(prior.T)}
        if distillation.done or not stopped:
            write_json(folder / REPORT, found)
    sheet = contact_sheet(
        distillation.field,
        size=flags.size,
        kinds=("colour", "normal"),
        occupancy=distillation.occupancy,
        title=f"{method.upper()}, {flags.prompt}, seed {flags.seed}",
    )
    return found, sheet, failure


def _take_up(distillation: Distillation, folder: Path) -> None:
    """Load the checkpoint in ``folder``, if there is one. Raises ``CheckpointError`` where it is of another run."""
    if not (folder / checkpoints.FILE_NAME).exists():
        return
    try:
        distillation.load(checkpoints.load(folder))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error.message}", advice="Set them back, or choose another {out}") from error


def _report_of(folder: Path) -> dict[str, Any] | None:
    """The report a finished run left; None where there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        compared.row(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def _parse(arguments: Sequence[str], method: str) -> Compare:
    """The user's flags over the preset's settings for this method."""
    name, settings = preset_of(arguments, method)
    return app.parse(Compare, "compare", arguments, DESCRIPTION, Compare(preset=name, settings=settings))
