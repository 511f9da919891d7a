"""Finished runs beside each other, from their reports: a table's rows, curves, and what was not the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..plots import Points, chart, stack

if TYPE_CHECKING:
    from PIL.Image import Image

Report = Mapping[str, Any]
ALIKE = ("prompt", "negative_prompt", "seed")


def row(report: Report) -> dict[str, Any]:
    """What a table says of one run; plain JSON values. A report without curves has 0 for their mean.

    The opacity is the last that was read, None where none was.
    """
    done, seconds = max(report["iterations"]["done"], 1), sum(report["seconds"].values())
    norms, opacities = ([v for _, v in _series(report, name)] for name in ("gradient_norm", "opacity"))
    opacity = report["opacity"]
    if opacity is None and opacities:
        opacity = opacities[-1]
    return {
        "method": report["method"],
        "iterations": report["iterations"]["done"],
        "seconds": round(seconds, 1),
        "ms_an_iteration": round(1000 * seconds / done, 1),
        "gradient_norm_mean": sum(norms) / max(len(norms), 1),
        "opacity": opacity,
        "occupancy": report["occupancy"],
        "ended": "finished" if report["iterations"]["done"] == report["iterations"]["planned"] else "stopped",
    }


def curves(reports: Mapping[str, Report]) -> Image:
    """Gradient lengths, opacity and the noise-prediction error e(t) of every run, each under its label."""
    norms, opacity = (
        {label: _series(r, name) for label, r in reports.items()} for name in ("gradient_norm", "opacity")
    )
    errors = {label: r.get("curves", {}).get("noise_error", []) for label, r in reports.items()}
    return stack(
        [
            chart(norms, title="latent gradient of the batch, L2 norm", x="iteration", log=True),
            chart(opacity, title="mean rendered opacity", x="iteration"),
            chart(errors, title="noise-prediction error e(t) over the run", x="timestep", log=True),
        ]
    )


def labels(reports: Sequence[Report]) -> list[str]:
    """The method of each run in capitals, numbered where several have the same."""
    names = [str(report["method"]).upper() for report in reports]
    return [f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def differences(reports: Sequence[Report]) -> list[str]:
    """One line for everything that should be the same in a comparison of methods and is not."""
    found = [(name, [report.get(name) for report in reports]) for name in ALIKE]
    for name in ("iterations", "batch", "resolution", "field"):
        found.append((name, [report["settings"].get(name) for report in reports]))
    found.append(("prior", [report["prior"].get("source") for report in reports]))
    return [f"{name} is not the same for all: {_listed(values)}" for name, values in found if len(_unique(values)) > 1]


def _unique(values: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values))


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(text if len(text) < 60 else "..." for text in _unique(values))


def _series(report: Report, name: str) -> Points:
    points: Points = report.get("curves", {}).get("series", {}).get(name, [])
    return points
