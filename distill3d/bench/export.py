"""The mesh export against the naive route, each in a process of its own so that peak memory can be told apart.

ours: ``mesh.build`` with default settings, GLB. vertices: the same with ten times the faces, vertex colours and no
texture. large: a file of 100,000 faces down to the budget, with a texture. whole: that file with all its faces and a
texture. naive: marching cubes at 256^3 over the whole box, no decimation, xatlas straight, one colour look-up a texel,
GLB. All show the same known object, a smooth radiance field, and are compared with direct renderings of it; the round
shapes of the plain world once more, with the texture and with vertex colours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import SettingsError
from ..mesh.types import MeshSettings, TextureSettings
from ..world.shapes import SHAPES

ROUTES = ("ours", "vertices", "large", "whole", "naive")
SMOOTH = ("sphere", "cylinder", "cone", "torus", "capsule")
"""The plain world's shapes that are round somewhere."""


@dataclass(frozen=True)
class ExportSettings:
    """What ``distill3d bench export`` measures."""

    shape: str = "torus"
    """Shape of the object: one of the procedural world's."""
    resolution: int = 128
    """Cells along each side for ours; the naive route uses 256."""
    texture: int = 1024
    """Side of the texture in texels, for every route that has one."""
    faces: int = 20000
    """Face budget for ours and for large; the naive route has none."""
    views: int = 24
    """Views for the comparison with direct renderings of the field; 0 leaves it out."""
    view_size: int = 128
    """Side of these views in pixels."""
    limit: float = 3600.0
    """Seconds after which a route is stopped and reported as unfinished."""
    routes: tuple[str, ...] = ROUTES
    """Routes to measure: ours, vertices (no texture, ten times the faces), large (a file of many faces, decimated),
    whole (that file as it is), and naive, which takes many minutes."""
    input_faces: int = 100_000
    """Faces of the file that the large and whole routes read."""
    likeness: tuple[str, ...] = SMOOTH
    """Shapes on which the texture, and vertex colours at ten times the faces, are compared with direct renderings."""

    def __post_init__(self) -> None:
        for shape in (self.shape, *self.likeness):
            if shape not in SHAPES:
                raise SettingsError(f"expected a shape from {', '.join(SHAPES)}, got {shape!r}: choose one")
        MeshSettings(resolution=self.resolution, face_budget=self.faces)
        TextureSettings(size=self.texture)
        if self.views < 0 or self.view_size < 8 or self.limit <= 0:
            raise SettingsError(
                f"expected views of 0 or more, a view size of 8 or more and a time limit above 0, got {self.views}, "
                f"{self.view_size} and {self.limit}: try 24, 128 and 3600"
            )
        if not 100 <= self.input_faces <= 4_000_000:
            raise SettingsError(f"expected an input of 100 to 4,000,000 faces, got {self.input_faces}: try 100000")
        unknown = [name for name in self.routes if name not in ROUTES]
        if unknown or not self.routes:
            raise SettingsError(
                f"expected routes of {', '.join(ROUTES)}, got {', '.join(unknown) or 'none'}: write e.g. ours large"
            )


class Target(NamedTuple):
    """A promise about a route: the figure of this key, at most (or at least) this much."""

    route: str
    figure: str
    bound: float
    least: bool = False


LIKE = 30.0
"""Decibels that pictures of a textured mesh reach against direct renderings."""
TARGETS = (
    Target("ours", "seconds", 15.0),
    Target("ours", "peak_mb", 1500.0),
    Target("ours", "psnr_db", LIKE, least=True),
    Target("large", "seconds", 60.0),
    Target("large", "peak_mb", 1500.0),
    Target("whole", "seconds", 60.0),
    Target("whole", "peak_mb", 1500.0),
)
"""What the export promises on two cores with default settings."""
BEHIND = 1.0
"""Decibels that a texture may stay behind vertex colours at ten times the faces."""


def run(settings: ExportSettings) -> dict[str, Any]:
    """Measure the routes, one after the other.

    Returns:
        For each route: seconds in all and by stage, faces, peak memory in MB (of the process and of its children), file
        size, and the PSNR of the written mesh against the field; or 'stopped_after' in seconds; or why it 'failed'.
        ``likeness`` has for each of its shapes the decibels of the textured mesh and of the one with vertex colours.
        ``targets`` has what was promised, what was found, and whether that is met.
    """
    result: dict[str, Any] = {"likeness": {}}
    with tempfile.TemporaryDirectory(prefix="distill3d-") as folder:
        source = str(Path(folder) / "large.ply")
        if {"large", "whole"} & set(settings.routes):
            made = _measure("prepare", settings, source)
            if "failed" in made or "stopped_after" in made:
                return {**vars(settings), **result, "prepare": made, "targets": []}
        for name in settings.routes:
            result[name] = _measure(name, settings, source)
    if settings.views and settings.likeness:
        for shape in settings.likeness:
            result["likeness"][shape] = _measure("likeness", replace(settings, shape=shape), "")
    if "seconds" in result.get("ours", {}) and "seconds" in result.get("naive", {}):
        result["speedup"] = result["naive"]["seconds"] / result["ours"]["seconds"]
    return {**vars(settings), **result, "targets": judged(result, likeness=settings.views > 0)}


def judged(result: Mapping[str, Any], *, likeness: bool = True) -> list[dict[str, Any]]:
    """Every target whose route was measured: its bound, the figure, None where a route did not end, and ``met``.

    Args:
        likeness: whether pictures were compared.
    """
    rows = []
    for route, figure, bound, least in TARGETS:
        if route in result and (likeness or figure != "psnr_db"):
            value = result[route].get(figure)
            met = value is not None and (value >= bound if least else value <= bound)
            rows.append(_row(f"{route}.{figure}", "at least" if least else "at most", bound, value, met))
    textured, coloured = (result.get(route, {}).get("psnr_db") for route in ("ours", "vertices"))
    if textured is not None and coloured is not None:
        behind = coloured - textured
        rows.append(_row("vertices.psnr_db - ours.psnr_db", "at most", BEHIND, behind, behind <= BEHIND))
    for shape, found in result.get("likeness", {}).items():
        textured, coloured = found.get("textured_db"), found.get("vertices_db")
        behind = None if textured is None else coloured - textured
        rows.append(_row(f"{shape}: textured", "at least", LIKE, textured, textured is not None and textured >= LIKE))
        met = behind is not None and behind <= BEHIND
        rows.append(_row(f"{shape}: vertices - textured", "at most", BEHIND, behind, met))
    return rows


def _row(figure: str, bound: str, value: float, found: float | None, met: bool) -> dict[str, Any]:
    return {"figure": figure, "bound": bound, "value": value, "found": found, "met": met}


def markdown(result: Mapping[str, Any]) -> str:
    """Routes side by side, and the targets."""
    shown = [name for name in ROUTES if name in result]
    figures = list(dict.fromkeys(key for name in shown for key in result[name]))
    lines = [f"| {result['shape']} | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for figure in figures:
        cells = (result[name].get(figure, "") for name in shown)
        lines.append(f"| {figure.replace('_', ' ')} | {' | '.join(map(_cell, cells))} |")
    if result["targets"]:
        lines += ["", "| target | bound | found | met |", "|---|---|---|---|"]
        for row in result["targets"]:
            bound = f"{row['bound']} {row['value']:g}"
            lines.append(f"| {row['figure']} | {bound} | {_cell(row['found'])} | {'yes' if row['met'] else 'NO'} |")
    for shape, found in result.get("likeness", {}).items():
        if "textured_db" not in found:
            lines += ["", f"{shape} was not compared: {found}"]
    if "prepare" in result:
        lines += ["", f"The large input could not be made: {result['prepare']}"]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)


def _measure(name: str, settings: ExportSettings, source: str) -> dict[str, Any]:
    package = __package__ or "distill3d.bench"
    with tempfile.TemporaryDirectory(prefix="distill3d-") as folder:
        out = Path(folder) / "result.json"
        job = json.dumps({"route": name, "out": str(out), "source": source, **vars(settings)})
        began = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"{package}.export_job", job],
                timeout=settings.limit,
                capture_output=True,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"stopped_after": time.perf_counter() - began}
        if done.returncode != 0 or not out.exists():
            return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        found: dict[str, Any] = json.loads(out.read_text())
        return found
