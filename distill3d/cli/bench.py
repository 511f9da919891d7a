"""``distill3d bench``: measurements anyone can repeat, each printed as one JSON object or as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..bench import compare, encoder, export, memory, quality, render, scaling, step, world
from ..bench.quality_report import markdown
from ..bench.variants import table as comparison
from ..errors import SettingsError
from ..optimize import Execution
from ..optimize.settings import MethodName
from . import app

DESCRIPTION = """Measure, and print one JSON object on standard output with --json.

encoder: our hash grid, in every backend that works here, against straightforward vectorised torch, a per-level gather,
and nerfstudio's torch encoding where it can be imported; forward and backward.
render: a picture and its gradient at several sizes, empty space skipped, against asking the same field everywhere.
step: one distillation step, the share of each part, and the whole against its bare model calls in the same run.
memory: peak memory of a large render in one graph, in chunks, and in tiles, each in a process of its own.
scaling: how time grows with points, rays, samples and faces.
compare A.json B.json: what became slower or larger from A to B than noise explains, and what B no longer measures; exit
status 3 if anything became worse.
quality: prompts x seeds x methods on the bundled prior, judged against exact truth, with controls. It keeps every
finished job in --out and goes on from there when it is called again; exit status 3 if a job ended without a verdict or
a control was not refused.
export: surface to written GLB, ours against the naive route (256^3, no decimation, xatlas straight): time by stage,
peak memory, faces, and likeness to direct renderings of the field. The naive route takes many minutes.
world: training images rendered a second, the full world against the plain one."""

#: Exit status of compare when something became slower.
SLOWER = 3
#: Exit status of quality when its figures are not to be relied on.
UNSOUND = 3


@dataclass(frozen=True)
class Encoder:
    """Flags of ``distill3d bench encoder``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    repeats: int = 5
    """Timed runs of each variant, in turns; medians are reported."""
    points: int = 1 << 18
    """Points encoded in each run."""
    nerfstudio: Path | None = None
    """A checkout of nerfstudio to measure beside ours; what is installed when left out."""
    device: str = "cpu"
    """Device, cpu or cuda: there torch alone, and triton and tinycudann where they work."""


@dataclass(frozen=True)
class Render:
    """Flags of ``distill3d bench render``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    sizes: tuple[int, ...] = render.SIZES
    """Pixels along each side."""
    samples: int = 128
    """Steps along the diagonal of the box."""
    share: float = 0.1
    """Occupied part of the box."""
    repeats: int = 5
    """Timed runs of each variant, in turns; medians are reported."""
    dense_up_to: int = 128
    """Largest size that is also rendered densely."""
    device: str = "cpu"
    """Device, cpu or cuda: there with nerfacc's sampler and compositor beside ours where it works."""


@dataclass(frozen=True)
class Step:
    """Flags of ``distill3d bench step``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    iterations: int = 40
    """Timed steps, after a warm-up of a quarter as many."""
    method: MethodName = "sds"
    """Distillation method."""
    model: Path | None = None
    """Another prior on your disk; the bundled tiny one when left out."""
    device: str = "auto"
    """Auto (cuda where there is one, else cpu), cpu, cuda, mps."""
    size: step.Model = "tiny"
    """Tiny is the bundled prior, sd15 random weights of Stable Diffusion 1.5's size: 8 GB, a minute a step on a CPU."""
    side: int | None = None
    """Pixels of the renders; the draft preset's when left out."""
    width: int = 320
    """Channels of sd15's first level: smaller ones try it out."""
    execution: Execution = field(default_factory=Execution)


@dataclass(frozen=True)
class Memory:
    """Flags of ``distill3d bench memory``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    size: int = 512
    """Pixels along each side."""
    samples: int = 512
    """Steps along the diagonal of the box."""
    share: float = 0.1
    """Occupied part of the box."""
    graph: int = 1 << 17
    """Most points in one graph, in chunks and in tiles."""
    whole: bool = True
    """Also everything in one graph: 0.6 kB for each point."""


@dataclass(frozen=True)
class Scaling:
    """Flags of ``distill3d bench scaling``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    repeats: int = 3
    """Timed runs of each size, in turns; medians are reported."""
    largest: int = 1 << 18
    """Most points for the encoder."""
    size: int = 128
    """Largest picture side."""
    cells: tuple[int, ...] = (24, 48, 96)
    """Cells along each side of the box, for the surfaces whose faces are counted."""


@dataclass(frozen=True)
class Compare:
    """Flags of ``distill3d bench compare``."""

    before: tyro.conf.Positional[Path]
    """File that bench --json printed."""
    after: tyro.conf.Positional[Path]
    """A later one."""
    json: bool = False
    """Print one JSON object instead of a table."""
    tolerance: float = 0.05
    """Changes up to this share, 0 or more, never count."""


@dataclass(frozen=True)
class Quality(quality.QualitySettings):
    """Flags of ``distill3d bench quality``."""

    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class Export(export.ExportSettings):
    """Flags of ``distill3d bench export``."""

    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class World:
    """Flags of ``distill3d bench world``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    count: int = 1024
    """Images in each run."""
    repeats: int = 3
    """Runs of each world, in turns; medians are reported."""
    image_size: int = 64
    """Side of the images in pixels."""


_KINDS: dict[str, type[Any]] = {
    "encoder": Encoder,
    "render": Render,
    "step": Step,
    "memory": Memory,
    "scaling": Scaling,
    "compare": Compare,
    "quality": Quality,
    "export": Export,
    "world": World,
}


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: distill3d bench {{{','.join(_KINDS)}}} [--json] [flags]\n\n{DESCRIPTION}\n")
        return 0
    name, rest = arguments[0], list(arguments[1:])
    if "--json" in rest and rest[rest.index("--json") + 1 :][:1] not in (["True"], ["False"]):
        rest.insert(rest.index("--json") + 1, "True")
    if name not in _KINDS:
        raise SettingsError(f"unknown benchmark {name!r}: expected one of {', '.join(_KINDS)}")
    flags = app.parse(_KINDS[name], f"bench {name}", rest, DESCRIPTION)
    if name == "compare":
        return _compare(flags)
    if name == "quality":
        result = _quality(flags, console)
        text = f"{markdown(result)}\n{comparison(result['comparison'])}"
    else:
        with console.status(f"measuring: {name}"):
            result = _measure(name, flags)
        text = export.markdown(result) if name == "export" else ""
    if flags.json:
        sys.stdout.write(json.dumps(result) + "\n")
    elif text:
        sys.stdout.write(text)
    else:
        Console().print(_table(name, result))
    doubts = _doubts(result) if name == "quality" else []
    app.warn(console, doubts)
    return UNSOUND if doubts else 0


def _measure(name: str, flags: Any) -> dict[str, Any]:
    chosen = {field_.name: getattr(flags, field_.name) for field_ in fields(flags) if field_.name != "json"}
    if name == "export":
        return export.run(export.ExportSettings(**chosen))
    module: Any = {
        "encoder": encoder,
        "render": render,
        "step": step,
        "memory": memory,
        "scaling": scaling,
        "world": world,
    }[name]
    result: dict[str, Any] = module.run(**chosen)
    return result


def _compare(flags: Compare) -> int:
    before, after = compare.read(flags.before), compare.read(flags.after)
    changes, gone = compare.compare(before, after, flags.tolerance), compare.gone(before, after)
    worse = [change for change in changes if change.worse]
    if flags.json:
        found = {"worse": [c.name for c in worse], "gone": gone, "changes": [asdict(c) for c in changes]}
        sys.stdout.write(json.dumps(found) + "\n")
        return SLOWER if worse else 0
    table = Table("figure", "before", "after", "ratio", "noise", "", title="compare")
    for c in changes:
        verdict = "[red]worse[/]" if c.worse else "[green]better[/]" if c.better else ""
        table.add_row(c.name, f"{c.before:.4g}", f"{c.after:.4g}", f"{c.ratio:.2f}", f"{c.allowed:.2f}", verdict)
    for name in gone:
        table.add_row(name, "", "gone", "", "", "")
    Console().print(table)
    return SLOWER if worse else 0


def _doubts(result: Mapping[str, Any]) -> list[str]:
    """Why the figures of ``quality`` are not to be relied on."""
    doubts = []
    if missing := sum(method["without_verdict"] for method in result["methods"].values()):
        doubts.append(f"{missing} of {len(result['jobs'])} jobs ended without a verdict: run the benchmark again")
    if not result["controls_refused"]:
        doubts.append("a control was accepted, or not judged for every prompt: see the table of controls")
    return doubts


def _quality(flags: Quality, console: Console) -> dict[str, Any]:
    settings = quality.QualitySettings(**{f: getattr(flags, f) for f in quality.QualitySettings.__dataclass_fields__})
    if console.is_terminal:
        with console.status("starting") as status:
            return quality.run(settings, lambda progress: status.update(Text(str(progress))))
    last = [-1]

    def tell(progress: quality.Progress) -> None:
        if progress.done != last[0]:
            last[0] = progress.done
            app.say(console, str(progress))

    return quality.run(settings, tell)


def _table(name: str, result: Mapping[str, Any]) -> Table:
    table = Table("figure", "value", title=name)
    for key, value in result.items():
        if isinstance(value, Mapping):
            for inner, number in value.items():
                table.add_row(f"{key}.{inner}", str(number))
        else:
            table.add_row(key, str(value))
    return table
