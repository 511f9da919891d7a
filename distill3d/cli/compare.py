"""``distill3d compare``: several methods on one prompt with the same seed, cameras, noise and initial field."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from ..errors import Distill3DError
from ..files import make_folder, write_json
from ..optimize import Distillation, Settings, report
from ..optimize.curves import Recorder
from ..plots import chart, stack
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
    folder = first.out or app.free_folder(Path("output") / f"compare-{app.slug(prompt)}-{first.seed}")
    make_folder(folder)
    with console.status("loading the model"):
        prior = first.source.load()
    rows, sheets, recorders = [], [], {}
    for method in methods:
        console.print(f"{first.prompt!r}, {method}, seed {first.seed}", highlight=False)
        row, sheet, recorders[method] = _one(flags[method], method, prior, folder / method, console)
        rows.append(row)
        sheets.append(sheet)
    write_png(folder / "sheet.png", stack(sheets))
    write_png(folder / "curves.png", _curves(recorders, prior.T))
    write_json(folder / "compare.json", {"prompt": first.prompt, "seed": first.seed, "methods": rows})
    sys.stdout.write(table(rows))
    console.print(f"  results {folder}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _one(
    flags: Compare, method: str, prior: Prior, folder: Path, console: Console
) -> tuple[dict[str, Any], Any, Recorder]:
    settings = replace(flags.settings, method=method)  # type: ignore[arg-type]
    make_folder(folder)
    distillation = Distillation(prior, flags.prompt, settings, negative=flags.source.negative, seed=flags.seed)
    recorder = Recorder()
    ended = "finished"
    try:
        with ProgressLine(console) as line:
            distillation.run(listeners=(line, recorder), folder=folder)
    except Distill3DError as error:
        ended = error.told(app.flag)
        console.print(f"[yellow]{method} stopped:[/] ", end="")
        console.print(ended, markup=False, highlight=False, soft_wrap=True)
    write_json(folder / "report.json", report.build(distillation) | {"curves": recorder.to_json(prior.T)})
    sheet = contact_sheet(
        distillation.field,
        size=flags.size,
        kinds=("colour", "normal"),
        occupancy=distillation.occupancy,
        title=f"{method.upper()}, {flags.prompt}, seed {flags.seed}",
    )
    norms = [v for _, v in recorder.series.get("gradient_norm", [(0, 0.0)])]
    done = max(distillation.iteration, 1)
    row = {
        "method": method,
        "iterations": distillation.iteration,
        "seconds": round(sum(distillation.watch.total.values()), 1),
        "ms_an_iteration": round(1000 * sum(distillation.watch.total.values()) / done, 1),
        "gradient_norm_mean": sum(norms) / len(norms),
        "opacity": distillation.last.opacity if distillation.last else 0.0,
        "occupancy": distillation.occupancy.fraction,
        "ended": "finished" if ended == "finished" else "stopped",
    }
    return row, sheet, recorder


def _curves(recorders: dict[str, Recorder], T: int) -> Any:
    names = {method: method.upper() for method in recorders}
    norms = {names[m]: r.series.get("gradient_norm", []) for m, r in recorders.items()}
    opacity = {names[m]: r.series.get("opacity", []) for m, r in recorders.items()}
    errors = {names[m]: r.error_over_timesteps(T) for m, r in recorders.items()}
    return stack(
        [
            chart(norms, title="latent gradient of the batch, L2 norm", x="iteration", log=True),
            chart(opacity, title="mean rendered opacity", x="iteration"),
            chart(errors, title="noise-prediction error e(t) over the run", x="timestep", log=True),
        ]
    )


def _parse(arguments: Sequence[str], method: str) -> Compare:
    """The user's flags over the preset's settings for this method."""
    name, settings = preset_of(arguments, method)
    return app.parse(Compare, "compare", arguments, DESCRIPTION, Compare(preset=name, settings=settings))
