"""From a finished field to files a person opens: mesh, contact sheet, turntable, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..files import write_json
from ..mesh import MeshSettings, SurfaceMesh, extract, write
from ..optimize import Distillation, report
from ..optimize.curves import Recorder
from ..optimize.saved import SavedField
from ..render.pictures import contact_sheet, turntable, write_animation, write_png

MeshFormat = Literal["glb", "obj", "ply"]


def write_mesh(run: Distillation | SavedField, path: Path, settings: MeshSettings) -> SurfaceMesh:
    """Extract a run's surface and write it to ``path``. Raises ``EmptySurfaceError`` before any file exists."""
    mesh = extract(run.field, occupancy=run.occupancy, settings=settings, device=run.device)
    write(mesh, path, {"generator": "distill3d", **run.facts, "versions": report.versions()})
    return mesh


def write_results(
    run: Distillation,
    folder: Path,
    mesh_settings: MeshSettings,
    *,
    mesh_format: MeshFormat = "glb",
    turntable_frames: int = 48,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Path]:
    """Write sheet, turntable, mesh and report into ``folder``; pictures come first, so an empty surface leaves them.

    Raises:
        EmptySurfaceError: the field holds no surface; everything but the mesh is written.
        OutputError: a file could not be written.
    """
    files = {"sheet": folder / "sheet.png"}
    background = None if run.settings.background.mode != "learned" else (lambda d: run.background(d, None))
    say("rendering the contact sheet and the turntable")
    sheet = contact_sheet(run.field, occupancy=run.occupancy, background=background, title=run.prompts.prompt)
    write_png(files["sheet"], sheet)
    if recorder is not None and recorder.series:
        files["curves"] = write_png(folder / "curves.png", recorder.picture(run.prompts.prompt, run.prior.T))
    frames = turntable(run.field, frames=turntable_frames, occupancy=run.occupancy, background=background)
    files["turntable"] = write_animation(folder / "turntable.mp4", frames)
    say("extracting the mesh")
    try:
        mesh = write_mesh(run, folder / f"mesh.{mesh_format}", mesh_settings)
    except Exception:
        _write_report(run, folder, files, None, recorder)
        raise
    files["mesh"] = folder / f"mesh.{mesh_format}"
    files["report"] = _write_report(run, folder, files, mesh, recorder)
    return files


def _write_report(
    run: Distillation, folder: Path, files: dict[str, Path], mesh: SurfaceMesh | None, recorder: Recorder | None
) -> Path:
    names = {kind: path.name for kind, path in files.items()}
    found = report.build(run, mesh=mesh.report if mesh else None, files=names)
    return write_json(folder / "report.json", found | ({"curves": recorder.to_json(run.prior.T)} if recorder else {}))
