"""``distill3d turntable``: a film or a contact sheet of a run or of a mesh file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from ..errors import SettingsError
from ..files import make_folder, real
from ..mesh import MeshView, read_parts
from ..mesh.beside import parts_of
from ..mesh.load import SUFFIXES
from ..render.cameras import ring
from ..render.pictures import KINDS, contact_sheet, turntable, write_animation, write_png
from . import app
from .results import refuse_long, saved_run

DESCRIPTION = """Show a run, or any GLB, glTF, OBJ, PLY, STL or OFF file, from all round.

--out decides what is made: .mp4, .gif and .webp are one full turn, .png is a contact sheet with a row for every kind of
picture. A mesh that is too large or too small for the frame is scaled to be seen; the file is not changed."""

FILMS = (".mp4", ".gif", ".webp")
GREY = 0.92


@dataclass(frozen=True)
class Turntable:
    """Flags of ``distill3d turntable``."""

    source: tyro.conf.Positional[Path]
    """Output folder of a run, its checkpoint, or a mesh file."""
    out: Path | None = None
    """File to write; .mp4, .gif, .webp or .png. By default turntable.mp4 in the run's folder, or beside the mesh."""
    frames: int = 48
    """Frames of a film's turn."""
    views: int = 4
    """Views of a contact sheet."""
    size: int = 256
    """Side of a picture in pixels."""
    kind: Literal["colour", "shaded", "normal", "opacity"] = "shaded"
    """What a film shows: plain colour, colour lit from the camera, normals, or opacity. A sheet shows all of them."""
    elevation: float = 15.0
    """Degrees the camera stands above the horizon."""
    fps: float = 24.0
    """Frames a second."""
    background: Literal["white", "grey", "black"] = "white"
    """Colour behind the object."""

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= 2000 or not 1 <= self.views <= 64:
            raise SettingsError(
                f"expected 1 to 2000 frames and 1 to 64 views, got {self.frames} and {self.views}: try 48 and 4"
            )
        if not 8 <= self.size <= 4096:
            raise SettingsError(f"expected a picture of 8 to 4096 pixels, got {self.size}: try 256")
        if not -89 <= self.elevation <= 89:
            raise SettingsError(f"expected an elevation of -89 to 89 degrees, got {self.elevation}: try 15")
        if not 1 <= self.fps <= 240:
            raise SettingsError(f"expected 1 to 240 frames a second, got {self.fps}: try 24")


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    flags = app.parse(Turntable, "turntable", arguments, DESCRIPTION)
    path = flags.out or _beside(flags.source)
    if path.suffix.lower() not in (*FILMS, ".png"):
        raise SettingsError(f"expected a file ending in .mp4, .gif, .webp or .png, got {path.name!r}: rename it")
    refuse_long(path)
    if real(path) in parts_of(flags.source):
        raise SettingsError(f"expected a new file, got {path.name!r}, which belongs to {flags.source.name}: rename it")
    shown, options = _opened(flags.source, console)
    level = {"white": 1.0, "grey": GREY, "black": 0.0}[flags.background]
    options["background"] = torch.full((3,), level)
    make_folder(path.parent)
    with app.unwritten(), console.status("rendering") as status:
        if path.suffix.lower() == ".png":
            cameras = ring(flags.views, flags.elevation)
            write_png(path, contact_sheet(shown, cameras, size=flags.size, kinds=KINDS, **options))
        else:
            frames = turntable(
                shown,
                frames=flags.frames,
                size=flags.size,
                elevation=flags.elevation,
                kind=flags.kind,
                on_frame=lambda done, total: status.update(f"frame {done} of {total}"),
                **options,
            )
            write_animation(path, frames, flags.fps)
    app.say(console, f"  {'sheet' if path.suffix.lower() == '.png' else 'turntable':<9} {path}")
    return 0


def _beside(source: Path) -> Path:
    if source.is_dir():
        return source / "turntable.mp4"
    return source.with_name(f"{source.stem}-turntable.mp4")


def _opened(source: Path, console: Console) -> tuple[Any, dict[str, Any]]:
    """What is shown, and the rendering options that go with it."""
    if source.suffix.lower() in SUFFIXES or (source.is_file() and source.suffix.lower() != ".safetensors"):
        parts = read_parts(source)
        app.warn(console, parts[0].report.get("warnings", ()))
        return MeshView(parts, fit=True), {}
    saved = saved_run(source, "turntable")
    return saved.field, {"occupancy": saved.occupancy}
