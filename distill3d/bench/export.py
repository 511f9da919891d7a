"""The mesh export against the naive route, each in a process of its own so that peak memory can be told apart.

naive: marching cubes at 256^3 over the whole box, no decimation, xatlas straight, one colour look-up a texel, GLB.
ours: ``mesh.build`` with default settings, GLB. Both start from the same known object as a smooth radiance field.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..world.shapes import SHAPES

VARIANTS = ("ours", "naive")


@dataclass(frozen=True)
class ExportSettings:
    """What ``distill3d bench export`` measures."""

    shape: str = "torus"
    """Shape of the object: one of the procedural world's."""
    resolution: int = 128
    """Cells along each side for ours; the naive route uses 256."""
    texture: int = 1024
    """Side of the texture in texels, for both."""
    faces: int = 20000
    """Face budget for ours; the naive route has none."""
    views: int = 24
    """Views for the comparison with direct renderings of the field; 0 leaves it out."""
    view_size: int = 128
    """Side of these views in pixels."""
    limit: float = 3600.0
    """Seconds after which a route is stopped and reported as unfinished."""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise SettingsError(f"expected a shape from {', '.join(SHAPES)}, got {self.shape!r}")
        if self.views < 0 or self.view_size < 8 or self.limit <= 0:
            raise SettingsError("expected views of 0 or more, a view size of 8 or more and a time limit above 0")


def run(settings: ExportSettings) -> dict[str, Any]:
    """Measure both routes, one after the other.

    Returns:
        For each of 'ours' and 'naive': seconds in all and by stage, faces, peak memory in MB (of the process and of its
        children), file size, and the PSNR of the written mesh against the field; or 'stopped after s'.
    """
    result: dict[str, Any] = {name: _measure(name, settings) for name in VARIANTS}
    ours, naive = result["ours"], result["naive"]
    if "seconds" in ours and "seconds" in naive:
        result["speedup"] = naive["seconds"] / ours["seconds"]
    return {**result, **vars(settings)}


def _measure(name: str, settings: ExportSettings) -> dict[str, Any]:
    package = __package__ or "distill3d.bench"
    with tempfile.TemporaryDirectory(prefix="distill3d-") as folder:
        out = Path(folder) / "result.json"
        job = json.dumps({"variant": name, "out": str(out), **vars(settings)})
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
