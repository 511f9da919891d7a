"""``distill3d bench``: measurements anyone can repeat, each printed as one JSON object or as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench import encoder, export, quality, step, world
from ..bench.quality_report import markdown
from ..errors import SettingsError
from ..optimize.settings import MethodName
from . import app

DESCRIPTION = """Measure, and print one JSON object on standard output with --json.

encoder: our hash grid against straightforward vectorised torch and against a per-level gather, forward and backward.
step: share of each part in one distillation step of the draft preset.
quality: prompts x seeds x methods on the bundled prior, judged against exact truth, with controls. It keeps every
finished job in --out and goes on from there when it is called again.
export: surface to written GLB, ours against the naive route (256^3, no decimation, xatlas straight): time by stage,
peak memory, faces, and likeness to direct renderings of the field. The naive route takes many minutes.
world: training images rendered a second, the full world against the plain one."""

_NAMES = ("encoder", "step", "quality", "export", "world")


@dataclass(frozen=True)
class Encoder:
    """Flags of ``distill3d bench encoder``."""

    json: bool = False
    """Print one JSON object instead of a table."""
    repeats: int = 5
    """Timed runs of each variant, in turns; medians are reported."""
    points: int = 1 << 18
    """Points encoded in each run."""


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
    """Auto, cpu, cuda, mps."""


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


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: distill3d bench {{{','.join(_NAMES)}}} [--json] [flags]\n\n{DESCRIPTION}\n")
        return 0
    name, rest = arguments[0], list(arguments[1:])
    if "--json" in rest and rest[rest.index("--json") + 1 :][:1] not in (["True"], ["False"]):
        rest.insert(rest.index("--json") + 1, "True")
    if name not in _NAMES:
        raise SettingsError(f"unknown benchmark {name!r}: expected one of {', '.join(_NAMES)}")
    kinds = {"encoder": Encoder, "step": Step, "quality": Quality, "export": Export, "world": World}
    kind: type[Any] = kinds[name]
    flags = app.parse(kind, f"bench {name}", rest, DESCRIPTION)
    if name == "quality":
        result = _quality(flags, console)
        text = markdown(result)
    else:
        with console.status(f"measuring: {name}"):
            result = _measure(name, flags)
        text = ""
    if flags.json:
        sys.stdout.write(json.dumps(result) + "\n")
    elif text:
        sys.stdout.write(text)
    else:
        Console().print(_table(name, result))
    return 0


def _measure(name: str, flags: Any) -> dict[str, Any]:
    if name == "encoder":
        return encoder.run(flags.repeats, flags.points)
    if name == "world":
        return world.run(flags.count, flags.repeats, flags.image_size)
    if name == "export":
        fields = export.ExportSettings.__dataclass_fields__
        return export.run(export.ExportSettings(**{field: getattr(flags, field) for field in fields}))
    return step.run(flags.iterations, flags.method, flags.model, flags.device)


def _quality(flags: Quality, console: Console) -> dict[str, Any]:
    settings = quality.QualitySettings(**{f: getattr(flags, f) for f in quality.QualitySettings.__dataclass_fields__})
    if console.is_terminal:
        with console.status("starting") as status:
            return quality.run(settings, lambda progress: status.update(str(progress)))
    last = [-1]

    def tell(progress: quality.Progress) -> None:
        if progress.done != last[0]:
            last[0] = progress.done
            console.print(str(progress), highlight=False, soft_wrap=True)

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
