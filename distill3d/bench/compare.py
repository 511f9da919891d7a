"""Two benchmark files side by side: what became slower, or larger, than noise explains."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError

#: Beginnings of names, or of parts of nested ones, that are better when small, and when large.
SMALLER = ("cpu_ms", "wall_ms", "ms", "cpu_s", "mb_", "seconds", "peak_")
LARGER = ("speedup", "images_per_")
#: What must agree for two files to be comparable.
CIRCUMSTANCES = (
    *("benchmark", "points", "size", "side", "samples", "share", "threads", "device", "prior", "method", "batch"),
    *("graph", "images", "image_size", "shape", "resolution", "texture", "faces", "input_faces", "preset", "world"),
)


@dataclass(frozen=True)
class Change:
    """One figure in both files.

    Attributes:
        ratio: after / before.
        allowed: largest ratio, or for a figure better when large the inverse, that noise explains.
        worse, better: beyond that.
    """

    name: str
    before: float
    after: float
    ratio: float
    allowed: float
    worse: bool
    better: bool


def read(path: Path) -> dict[str, Any]:
    """The JSON object that ``distill3d bench ... --json`` printed.

    Raises:
        SettingsError: no such file, or not one JSON object.
    """
    if not path.is_file():
        raise SettingsError(f"expected a file written by distill3d bench --json, got none at {path}: check the path")
    try:
        value = json.loads(path.read_bytes())  # of any Unicode encoding: PowerShell's > writes UTF-16
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"expected a file written by distill3d bench --json, got {path}: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f"expected one JSON object in {path}, got a {type(value).__name__}")
    if value.get("benchmark") == "quality":
        raise SettingsError(
            f"expected a file of figures that noise moves, got {path} of the benchmark quality, which judges: compare "
            "the tables it wrote, or name its results.json with --earlier in a run of it"
        )
    return value


def flat(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All finite numbers, with the names of nested ones joined by dots."""
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            yield f"{prefix}{name}", float(value)


def _better(name: str) -> tuple[str, ...]:
    """``SMALLER`` or ``LARGER``, whichever holds a beginning of ``name`` or of what follows a dot in it; or none."""
    parts = name.split(".")
    return next((side for side in (LARGER, SMALLER) if any(p.startswith(side) for p in parts)), ())


def compare(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = 0.05) -> list[Change]:
    """Every figure that has a better side, in the order of the first file.

    A change counts when it exceeds ``tolerance`` and three times the figure's two spreads together. For figures that
    have no spread, such as a speedup or the parts of a step, ``tolerance`` is doubled.

    Raises:
        SettingsError: the files measured different things, or ``tolerance`` is no share.
    """
    if not 0 <= tolerance < math.inf:
        raise SettingsError(f"expected a tolerance of 0 or more, got {tolerance}: 0.05 forgives 5 %")
    for name in CIRCUMSTANCES:
        # an object is a figure by parts, such as a step's share
        values = [result[name] for result in (before, after) if not isinstance(result.get(name), Mapping | None)]
        if len(values) == 2 and values[0] != values[1]:
            raise SettingsError(
                f"expected two files of one measurement, got {name} {before[name]} and {after[name]}: "
                "measure again alike"
            )
    a, b = dict(flat(before)), dict(flat(after))
    found = []
    for name, old in a.items():
        if name not in b or old <= 0 or b[name] <= 0:
            continue
        side = _better(name)
        if not side:
            continue
        small, spreads = side is SMALLER, (a.get(f"spread_{name}"), b.get(f"spread_{name}"))
        noise = 3 * ((spreads[0] or 0.0) / old + (spreads[1] or 0.0) / b[name])
        allowed = 1 + max(2 * tolerance if None in spreads else tolerance, noise)
        ratio = b[name] / old
        worse, better = (ratio > allowed, ratio < 1 / allowed) if small else (ratio < 1 / allowed, ratio > allowed)
        found.append(Change(name, old, b[name], ratio, allowed, worse, better))
    if not found:
        raise SettingsError("expected two files with figures in common, got none: measure the same benchmark twice")
    return found


def gone(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Figures that :func:`compare` would look at and that the second file lacks, such as those of a backend that no
    longer works."""
    there = dict(flat(after))
    return [name for name, _ in flat(before) if _better(name) and name not in there]
