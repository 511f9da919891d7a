"""``distill3d convert``: a mesh file of the user's own through the clean-up, unwrapping, baking and writers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from ..errors import SettingsError
from ..files import make_folder, real
from ..mesh import MeshSettings, TextureSettings, convert_for, read_parts, write
from . import app
from .results import check_suffix, spoken, tell_mesh

DESCRIPTION = """Take a GLB, glTF, OBJ, PLY, STL or OFF file to GLB, OBJ, PLY, STL or USDZ.

Without flags shape, colours and colour texture stay as they are; normal and other maps are not read. A face budget
decimates, and then unwraps and bakes the colours and the fine normals of the original onto the result. --texture.*
flags give a mesh without a texture one; --texture.size 0 takes it away. What of a file is not read, and what the new
one cannot hold, is told."""


@dataclass(frozen=True)
class Convert:
    """Flags of ``distill3d convert``."""

    source: tyro.conf.Positional[Path]
    """Mesh file to read."""
    out: tyro.conf.Positional[Path]
    """Mesh file to write; its suffix decides the format."""
    face_budget: int = 0
    """Most triangles in the result, 100 or more; 0 keeps them all."""
    component_share: float = 0.0
    """Smallest part that is kept, as a share of the largest part's area; 0 keeps every part."""
    smooth: int = 0
    """Passes of smoothing that keeps the volume; try 5 for scans."""
    scale: Literal["world", "unit", "metres"] = "world"
    """World keeps the size, unit fits a box of side 1, metres makes the longest side --metres long, on the ground."""
    metres: float = 1.0
    """Longest side in metres where the scale is metres."""
    texture: TextureSettings = field(default_factory=TextureSettings)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    flags = app.parse(Convert, "convert", arguments, DESCRIPTION)
    check_suffix(flags.out)
    settings = MeshSettings(
        face_budget=flags.face_budget,
        component_share=flags.component_share,
        smooth=flags.smooth,
        scale=flags.scale,
        metres=flags.metres,
    )
    if real(flags.source) == real(flags.out):
        raise SettingsError(f"expected another file to write to, got the source itself, {flags.out}: give a new name")
    with app.unwritten(), console.status("reading") as status:
        parts = read_parts(flags.source)
        suffix = flags.out.suffix.lower()
        mesh = convert_for(suffix, parts, settings, flags.texture, spoken(status.update), app.flag)
        make_folder(flags.out.parent)
        status.update("writing")
        write(mesh, flags.out, {"generator": "distill3d", "source": flags.source.name, "mesh": mesh.report})
    app.warn(console, mesh.report.get("warnings", ()))
    console.print(f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces", highlight=False)
    tell_mesh(console, flags.out)
    return 0
