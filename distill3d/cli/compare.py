"""``distill3d compare``: several methods on one prompt with the same seed, cameras, noise and initial field."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from ..errors import Distill3DError, OutputError, SettingsError
from ..files import make_folder, write_json
from ..optimize import Distillation, Settings, compared, report
from ..optimize.curves import Recorder
from ..plots import stack
from ..priors.base import Prior
from ..render.pictures import contact_sheet, write_png
from ..two_d.latents import choose
from ..two_d.pictures import table
from . import app
from .model import ModelFlags, PresetName, preset_of
from .progress import ProgressLine

DESCRIPTION = """Run several methods on the same prompt, side by side in 3D: the same cameras, noise, initial field, and
timesteps where the windows agree.

Each method starts from the preset's settings for it; flags you give hold for all of them (--method is ignored, use
--methods). Every run keeps its checkpoint and report in a folder of its own, from which distill3d export writes a mesh.
sheet.png has one row a method, curves.png the gradient norms, the noise-prediction error and the opacity."""


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
    """Folder for the results; by default output/compare-<prompt>-<seed>, numbered when that exists."""
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
    if first.out is not None and (first.out / "compare.json").exists():
        raise OutputError(
            f"expected a fresh folder, got one with a comparison in it: {first.out}. Choose another --out"
        )
    if not 16 <= first.size <= 1024:
        raise SettingsError(f"expected pictures of 16 to 1024 pixels, got {first.size}: 160 is usual")
    with console.status("loading the model"):
        prior = first.source.load()
    folder = first.out or app.free_folder(Path("output") / f"compare-{app.slug(prompt)}-{first.seed}")
    make_folder(folder)
    reports, sheets = {}, []
    for method in methods:
        app.say(console, f"{first.prompt!r}, {method}, seed {first.seed}")
        reports[method.upper()], sheet = _one(flags[method], method, prior, folder / method, console)
        sheets.append(sheet)
    rows = [compared.row(found) for found in reports.values()]
    write_png(folder / "sheet.png", stack(sheets))
    write_png(folder / "curves.png", compared.curves(reports))
    write_json(folder / "compare.json", {"prompt": first.prompt, "seed": first.seed, "methods": rows})
    sys.stdout.write(table(rows))
    app.say(console, f"  results {folder}")
    return 0


def _one(flags: Compare, method: str, prior: Prior, folder: Path, console: Console) -> tuple[dict[str, Any], Any]:
    settings = replace(flags.settings, method=method)  # type: ignore[arg-type]
    make_folder(folder)
    distillation = Distillation(prior, flags.prompt, settings, negative=flags.source.negative, seed=flags.seed)
    recorder = Recorder()
    try:
        with ProgressLine(console) as line:
            distillation.run(listeners=(line, recorder), folder=folder)
    except Distill3DError as error:
        console.print(f"[yellow]{method} stopped:[/] ", end="")
        app.say(console, error.told(app.flag))
    found = report.build(distillation) | {"curves": recorder.to_json(prior.T)}
    write_json(folder / "report.json", found)
    sheet = contact_sheet(
        distillation.field,
        size=flags.size,
        kinds=("colour", "normal"),
        occupancy=distillation.occupancy,
        title=f"{method.upper()}, {flags.prompt}, seed {flags.seed}",
    )
    return found, sheet


def _parse(arguments: Sequence[str], method: str) -> Compare:
    """The user's flags over the preset's settings for this method."""
    name, settings = preset_of(arguments, method)
    return app.parse(Compare, "compare", arguments, DESCRIPTION, Compare(preset=name, settings=settings))
