"""Two benchmark files side by side: what became slower, or larger, than noise explains."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError

#: Beginnings of names that are better when small, and when large.
SMALLER = ("cpu_ms", "wall_ms", "ms", "cpu_s", "mb_", "seconds", "peak_")
LARGER = ("speedup",)
#: What must agree for two files to be comparable.
CIRCUMSTANCES = ("benchmark", "points", "size", "samples", "threads", "device", "prior", "method", "batch", "graph")


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
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"expected a file written by distill3d bench --json, got {path}: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f"expected one JSON object in {path}, got a {type(value).__name__}")
    return value


def flat(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All finite numbers, with the names of nested ones joined by dots."""
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = 0.05) -> list[Change]:
    """Every figure that has a better side, in the order of the first file.

    A change counts when it exceeds ``tolerance`` and three times the figure's two spreads together. A ``speedup_...``
    has no spread: ``tolerance`` is doubled for it.

    Raises:
        SettingsError: the files measured different things, or ``tolerance`` is no share.
    """
    if not 0 <= tolerance < math.inf:
        raise SettingsError(f"expected a tolerance of 0 or more, got {tolerance}: 0.05 forgives 5 %")
    for name in CIRCUMSTANCES:
        if name in before and name in after and before[name] != after[name]:
            raise SettingsError(
                f"expected two files of one measurement, got {name} {before[name]} and {after[name]}: "
                "measure again alike"
            )
    a, b = dict(flat(before)), dict(flat(after))
    found = []
    for name, old in a.items():
        if name not in b or old <= 0 or b[name] <= 0:
            continue
        if not name.startswith(SMALLER + LARGER):
            continue
        small, large = name.startswith(SMALLER), name.startswith(LARGER)
        noise = 3 * (a.get(f"spread_{name}", 0.0) / old + b.get(f"spread_{name}", 0.0) / b[name])
        allowed = 1 + max(2 * tolerance if large else tolerance, noise)
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
    return [name for name, _ in flat(before) if name.startswith(SMALLER + LARGER) and name not in there]
