"""Mesh Export: a radiance field as a mesh, in the host's own types and as a file in the output folder."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path
from typing import Any

import comfy.model_management as manager
import comfy.utils
import torch
from comfy_api.latest import io
from comfy_api.latest._ui import SavedResult

from . import reflect
from .field import expect_field
from .host import folders
from .types import FieldType
from .words import in_words

FORMATS = ("glb", "obj", "ply")
HIDDEN, SHOWN = ("level", "chunk"), ("resolution", "face_budget", "texture_size")
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


def _settings(owner: str, prefix: str = "") -> list[Any]:
    """Inputs for a settings class of the mesh floor, read from its source: importing it would cost seconds at start-up.

    New settings come last, so that the widgets of saved workflows keep their places.
    """
    made: list[Any] = []
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    for own, kind, value, tip in _fields(owner):
        name = prefix + own
        if name in HIDDEN:
            continue
        advanced = name not in SHOWN or None
        if kind.startswith("Literal["):
            options = [str(v) for v in ast.literal_eval(f"({kind[8:-1]},)")]
            made.append(
                io.Combo.Input(name, options=options, default=str(value), tooltip=tip, advanced=advanced, optional=True)
            )
        elif kind in kinds:
            made.append(reflect.widget(name, kinds[kind], value, tip, advanced=bool(advanced)))
    order = {"resolution": 0, "face_budget": 1}
    return sorted((item for item in made if item is not None), key=lambda item: order.get(item.id, 9))


def _chosen(owner: type, values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What of ``values`` belongs to ``owner``, under its own names."""
    return {name: values[prefix + name] for name in reflect.defaults(owner) if prefix + name in values}


class MeshExport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_MeshExport",
            display_name="Mesh Export",
            category="Distill3D",
            description=(
                "The surface of a radiance field as a mesh with a texture: the host's MESH for its own tools, and a "
                "GLB, OBJ or PLY in the output folder. A GLB carries this workflow: drop it on the page to get the "
                "graph back."
            ),
            search_aliases=["glb", "obj", "ply", "marching cubes", "isosurface", "nerf to mesh", "save mesh"],
            inputs=[
                FieldType.Input("field", tooltip="From NeRF Optimizer, Load Radiance Field or Resume."),
                io.String.Input(
                    "prefix",
                    default=f"{folders.ROOT}/mesh",
                    tooltip="Folder and name inside the output folder; a number is added.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="glb",
                    tooltip="glb opens everywhere and keeps the workflow; obj and ply for older programs, the latter "
                    "without a texture.",
                ),
                io.Float.Input(
                    "level",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Density at which the surface stands; 0 lets the field's own opacity decide, "
                    "which is best.",
                    advanced=True,
                ),
                *_settings("MeshSettings"),
                *_settings("TextureSettings", TEXTURE),
            ],
            outputs=[
                io.Mesh.Output("mesh", display_name="MESH", tooltip="For Decimate, Unwrap, SaveGLB and the like."),
                io.File3DAny.Output("file", display_name="file", tooltip="The saved file, for Preview 3D."),
                io.String.Output("path", display_name="path", tooltip="The file, relative to the output folder."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @in_words
    def execute(cls, field: Any, prefix: str, format: str, level: float = 0.0, **more: Any) -> io.NodeOutput:
        from ..distill3d.mesh import MeshSettings, TextureSettings, build, write
        from ..distill3d.optimize.report import versions
        from .host.meshes import to_file, to_mesh, workflow

        held = expect_field(field)
        settings = MeshSettings(level=level or None, **_chosen(MeshSettings, more))
        texture = TextureSettings(**_chosen(TextureSettings, more, TEXTURE))
        folder, name, number, subfolder = folders.numbered(prefix)
        bar = comfy.utils.ProgressBar(100, node_id=cls.hidden.unique_id)
        stages = {"sample": (0, 30), "surface": (30, 45), "clean": (45, 60), "color": (60, 65), "unwrap": (65, 80)}

        def on_stage(stage: str, share: float) -> None:
            manager.throw_exception_if_processing_interrupted()
            begin, end = stages.get(stage, (80, 98))
            bar.update_absolute(int(begin + (end - begin) * share), 100)

        with torch.inference_mode(False):
            surface = build(
                held.saved.field,
                occupancy=held.saved.occupancy,
                settings=settings,
                texture=texture,
                on_stage=on_stage,
            )
        path = folder / f"{name}_{number:05}_.{format}"
        metadata = {"generator": "distill3d", **held.saved.facts, "versions": versions()}
        write(surface, path, {**metadata, **(workflow(cls.hidden) if format == "glb" else {})})
        bar.update_absolute(100, 100)
        relative = path.relative_to(folders.output()).as_posix()
        saved = SavedResult(path.name, subfolder, io.FolderType.output)
        facts = {key: surface.report[key] for key in ("watertight", "texture", "warnings") if key in surface.report}
        text = f"{relative}\n{len(surface.vertices)} vertices, {len(surface.faces)} faces\n{json.dumps(facts)}"
        return io.NodeOutput(to_mesh(surface), to_file(path), relative, ui={"3d": [saved], "text": (text,)})
