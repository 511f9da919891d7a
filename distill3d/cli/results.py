"""From a finished field to files a person opens: mesh, contact sheet, turntable, report."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from ..errors import CheckpointError, OutputError, SettingsError
from ..files import output_error, real, write_json
from ..mesh import TEXTURED, MeshSettings, OnStage, SurfaceMesh, TextureSettings, build, write
from ..mesh.beside import parts_of
from ..mesh.load import SUFFIXES
from ..mesh.plan import unused
from ..optimize import Distillation, report
from ..optimize import checkpoint as checkpoints
from ..optimize.curves import Recorder
from ..optimize.saved import SavedField
from ..render.pictures import contact_sheet, turntable, write_animation, write_png
from . import app

log = logging.getLogger(__name__)
MeshFormat = Literal["glb", "obj", "ply", "stl", "usdz"]

STAGES = {
    "sample": "sampling the field",
    "surface": "finding the surface",
    "clean": "cleaning and decimating",
    "color": "colouring vertices",
    "unwrap": "unwrapping",
    "bake": "baking textures",
}


def check_suffix(path: Path) -> None:
    """Refuse a mesh file of an unknown kind, or a name no folder can hold, before any work is done.

    Raises:
        SettingsError, OutputError: what is wrong with the name.
    """
    known = [f".{name}" for name in get_args(MeshFormat)]
    if path.suffix.lower() not in known:
        raise SettingsError(f"expected a mesh file ending in {', '.join(known)}, got {path.name!r}: rename it")
    refuse_long(path)
    if path.is_dir():
        raise SettingsError(f"expected a file to write to, got the folder {path}: add a name to it")


def refuse_long(path: Path) -> None:
    """Raises ``OutputError`` where the file system takes no such long name."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise output_error(path, error) from error


def saved_run(path: Path, command: str) -> SavedField:
    """The field of a run, for commands that read one.

    Raises:
        SettingsError: it is a mesh file.
        CheckpointError: it is no run, or a damaged one.
    """
    if path.is_file() and path.suffix.lower() in (*SUFFIXES, ".usdz"):
        raise SettingsError(
            f"expected the output folder of a run, got the mesh file {path}: distill3d {command} needs the field that "
            f"a run leaves; distill3d convert {path.name} OUT takes a mesh to another format, texture or face budget"
        )
    try:
        return SavedField.load(checkpoints.load(path))
    except CheckpointError as error:
        if "{resume}" not in error.advice:
            raise
        raise CheckpointError(error.message, advice="Give the output folder of another run") from error


def tell_mesh(console: Console, path: Path) -> None:
    """A line with the mesh file's path, and one for each file that has to go where it goes."""
    app.say(console, f"  mesh      {path}")
    for part in sorted(parts_of(path) - {real(path)}):
        app.say(console, f"            {path.parent / part.name}")


def spoken(say: Callable[[str], None]) -> OnStage:
    """Stages of the mesh code as short texts with a percentage."""
    return lambda name, share: say(f"{STAGES.get(name, name)} {share:.0%}")


def _flag(setting: str) -> str:
    return app.flag(setting if "." in setting else f"mesh.{setting}")


def write_mesh(
    run: Distillation | SavedField,
    path: Path,
    settings: MeshSettings,
    texture: TextureSettings | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> SurfaceMesh:
    """Extract a run's surface, bake its texture if the format can carry one, and write it to ``path``.

    Raises ``EmptySurfaceError`` before any file exists.
    """
    for note in unused(path.suffix.lower(), settings, texture or TextureSettings(), _flag):
        log.warning(note)
    texture = texture if path.suffix.lower() in TEXTURED else None
    mesh = build(
        run.field, occupancy=run.occupancy, settings=settings, texture=texture, device=run.device, on_stage=spoken(say)
    )
    facts = {"generator": "distill3d", **run.facts, "versions": report.versions(), "mesh": mesh.report}
    write(mesh, path, facts)
    return mesh


def write_results(
    run: Distillation,
    folder: Path,
    mesh_settings: MeshSettings,
    *,
    texture: TextureSettings | None = None,
    mesh_format: MeshFormat = "glb",
    turntable_frames: int = 48,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Path]:
    """Write sheet, turntable, mesh and report into ``folder``; pictures come first, so an empty surface leaves them.

    Raises:
        EmptySurfaceError: the field holds no surface; everything but the mesh is written.
        OutputError: a file could not be written; all others are, where the mesh is not the one.
    """
    files: dict[str, Path] = {}
    unwritten: list[OutputError] = []

    def put(kind: str, name: str, write: Callable[[Path], object]) -> None:
        try:
            write(folder / name)
            files[kind] = folder / name
        except OutputError as error:  # most often a film that a player has open: no reason to have no mesh
            unwritten.append(error)

    background = None if run.settings.background.mode != "learned" else (lambda d: run.background(d, None))
    say("rendering the contact sheet and the turntable")
    sheet = contact_sheet(run.field, occupancy=run.occupancy, background=background, title=run.prompts.prompt)
    put("sheet", "sheet.png", lambda path: write_png(path, sheet))
    if recorder is not None and recorder.series:
        curves = recorder.picture(run.prompts.prompt, run.prior.T)
        put("curves", "curves.png", lambda path: write_png(path, curves))
    frames = turntable(
        run.field, frames=turntable_frames, kind="shaded", occupancy=run.occupancy, background=background
    )
    put("turntable", "turntable.mp4", lambda path: write_animation(path, frames))
    say("extracting the mesh")
    try:
        mesh = write_mesh(run, folder / f"mesh.{mesh_format}", mesh_settings, texture, say)
    except Exception:
        _write_report(run, folder, files, None, recorder)
        raise
    files["mesh"] = folder / f"mesh.{mesh_format}"
    files["report"] = _write_report(run, folder, files, mesh, recorder)
    if unwritten:
        raise unwritten[0]
    return files


def _write_report(
    run: Distillation, folder: Path, files: dict[str, Path], mesh: SurfaceMesh | None, recorder: Recorder | None
) -> Path:
    names = {kind: path.name for kind, path in files.items()}
    found = report.build(run, mesh=mesh.report if mesh else None, files=names)
    return write_json(folder / "report.json", found | ({"curves": recorder.to_json(run.prior.T)} if recorder else {}))
