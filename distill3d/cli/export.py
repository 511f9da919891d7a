"""``distill3d export``: the mesh of a finished or stopped run, written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from ..errors import SettingsError
from ..files import make_folder
from ..mesh import MeshSettings, TextureSettings
from . import app
from .results import MeshFormat, check_suffix, saved_run, tell_mesh, write_mesh

DESCRIPTION = """Write the mesh of a run again from its checkpoint: other resolution, level, face budget or format.

Needs no diffusion model. A run that was stopped can be exported as far as it came."""


@dataclass(frozen=True)
class Export:
    """Flags of ``distill3d export``."""

    run: tyro.conf.Positional[Path]
    """Output folder of a run, the one that holds checkpoint.safetensors."""
    out: Path | None = None
    """File to write; its suffix, .glb, .obj, .ply, .stl or .usdz, decides the format. By default mesh.<format> in the
    run's folder."""
    mesh_format: MeshFormat = "glb"
    """File format when --out is left out."""
    mesh: MeshSettings = field(default_factory=MeshSettings)
    texture: TextureSettings = field(default_factory=TextureSettings)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    flags = app.parse(Export, "export", arguments, DESCRIPTION)
    saved = saved_run(flags.run, "export")
    folder = flags.run if flags.run.is_dir() else flags.run.parent
    path = flags.out or folder / f"mesh.{flags.mesh_format}"
    check_suffix(path)
    asked = app.given(arguments, "mesh-format", "")
    if flags.out is not None and asked and path.suffix.lower() != f".{asked}":
        raise SettingsError(f"expected --out or --mesh-format, got {path.name!r} and {asked}: leave one out")
    make_folder(path.parent)
    with app.unwritten(), console.status("extracting the mesh") as status:
        mesh = write_mesh(saved, path, flags.mesh, flags.texture, status.update)
    console.print(f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces", highlight=False)
    tell_mesh(console, path)
    return 0
