"""The mesh floor's settings as widgets, and back, for Mesh Export and Mesh Convert."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from . import reflect
from .host import folders
from .types import MESHES

FILES = "GLB, glTF, OBJ, PLY, STL or OFF file"
FORMATS = ("glb", "obj", "ply", "stl", "usdz")
SHOWN = ("resolution", "face_budget", "texture_size")
BOUNDS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "MeshSettings": {
        "resolution": (8, 1024),
        "refine": (0, 20),
        "component_share": (0.0, 1.0),
        "smooth": (0, 200),
        "metres": (1e-6, 1e6),
    },
    "TextureSettings": {
        "size": (0, 8192),
        "supersample": (1, 8),
        "unwrap_seconds": (0.0, 1e6),
        "padding": (0, 64),
    },
}
"""What the settings take, so that a wrong number is refused before a run and not after it."""
TEXTURE = "texture_"
"""Begins the name of every input that belongs to ``TextureSettings``."""
_SOURCE = Path(__file__).resolve().parents[1] / "distill3d" / "mesh" / "types.py"


@functools.cache
def _fields(owner: str) -> tuple[tuple[str, str, Any, str], ...]:
    """Name, type, default and sentence of each field with a plain default; read once, for the host asks often."""
    source = _SOURCE.read_text(encoding="utf-8")
    said = reflect.docs_in(source)[owner]
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == owner).body
    return tuple(
        (node.target.id, ast.unparse(node.annotation), node.value.value, said.get(node.target.id, ""))
        for node in body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
    )


def widgets(
    owner: str, prefix: str = "", *, skip: tuple[str, ...] = (), defaults: Mapping[str, Any] | None = None
) -> list[Any]:
    """Inputs for a settings class of the mesh floor, read from its source: importing it would cost seconds at start-up.

    New settings come last, so that the widgets of saved workflows keep their places.
    """
    made: list[Any] = []
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    for own, kind, value, tip in _fields(owner):
        name = prefix + own
        if name in skip:
            continue
        value = (defaults or {}).get(own, value)
        advanced = name not in SHOWN or None
        if kind.startswith("Literal["):
            options = [str(v) for v in ast.literal_eval(f"({kind[8:-1]},)")]
            made.append(
                io.Combo.Input(name, options=options, default=str(value), tooltip=tip, advanced=advanced, optional=True)
            )
        elif kind in kinds:
            bounds = BOUNDS[owner].get(own)
            made.append(reflect.widget(name, kinds[kind], value, tip, advanced=bool(advanced), bounds=bounds))
    order = {"resolution": 0, "face_budget": 1}
    return sorted((item for item in made if item is not None), key=lambda item: order.get(item.id, 9))


def chosen(owner: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What of ``values`` belongs to ``owner``, under its own names; None through a wire is the default."""
    given = {name: values.get(prefix + name) for name in reflect.defaults(owner)}
    return {name: value for name, value in given.items() if value is not None}


def format_input(tooltip: str) -> Any:
    return io.Combo.Input("format", options=list(FORMATS), default="glb", tooltip=tooltip)


def prefix_input(name: str) -> Any:
    return io.String.Input(
        "prefix",
        default=f"{folders.ROOT}/{name}",
        tooltip="Folder and name inside the output folder; a number is added.",
    )


def mesh_input(name: str, tooltip: str, *others: Any) -> Any:
    """A MESH or a 3D file, or one of ``others``; ``host.meshes.parts_of`` takes what comes. The tooltip's braces get
    the kinds of file."""
    return io.MultiType.Input(name, types=[*others, *MESHES], tooltip=tooltip.format(FILES))


def index_input() -> Any:
    """Which mesh of a batch ``mesh_input`` means."""
    return io.Int.Input(
        "index",
        optional=True,
        default=0,
        min=0,
        max=4095,
        advanced=True,
        tooltip="Which mesh of a batch, the first being 0; a file holds one object.",
    )


def outputs() -> list[Any]:
    """What both nodes give; see ``host.meshes.saved``."""
    return [
        io.Mesh.Output("mesh", display_name="MESH", tooltip="For Decimate, Unwrap, SaveGLB and the like."),
        io.File3DAny.Output("file", display_name="file", tooltip="The saved file, for Preview 3D."),
        io.String.Output("path", display_name="path", tooltip="The file, relative to the output folder."),
    ]
