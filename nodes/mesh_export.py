"""Mesh Export: a radiance field as a mesh, in the host's own types and as a file in the output folder."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from .field import expect_field
from .host import folders
from .mesh_widgets import TEXTURE, chosen, format_input, outputs, prefix_input, widgets
from .types import FieldType
from .words import in_words

HIDDEN = ("level", "chunk")
STAGES = {"sample": (0, 30), "surface": (30, 45), "clean": (45, 60), "color": (60, 65), "unwrap": (65, 80)}
"""Percent of the progress bar for each stage; the rest is baking."""


class MeshExport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_MeshExport",
            display_name="Mesh Export",
            category="Distill3D",
            description=(
                "The surface of a radiance field as a mesh with a texture: the host's MESH for its own tools, and a "
                "file in the output folder. A GLB carries this workflow: drop it on the page to get the "
                "graph back."
            ),
            search_aliases=["glb", "obj", "ply", "marching cubes", "isosurface", "nerf to mesh", "save mesh"],
            inputs=[
                FieldType.Input("field", tooltip="From NeRF Optimizer, Load Radiance Field or Resume."),
                prefix_input("mesh"),
                format_input(
                    "glb opens everywhere and keeps the workflow; obj for older programs, usdz for Apple's; ply keeps "
                    "vertex colours and no texture, stl the shape alone, for printing."
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
                *widgets("MeshSettings", skip=HIDDEN),
                *widgets("TextureSettings", TEXTURE),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, prefix: str | None = None) -> bool | str:
        return folders.bad_prefix(prefix) or True

    @classmethod
    @in_words
    def execute(cls, field: Any, prefix: str, format: str, level: float = 0.0, **more: Any) -> io.NodeOutput:
        from ..distill3d.mesh import MeshSettings, TextureSettings, build
        from .host.meshes import Place, listener, saved

        held = expect_field(field)
        settings = MeshSettings(level=level or None, **chosen(MeshSettings, more))
        texture = TextureSettings(**chosen(TextureSettings, more, TEXTURE))
        place = Place.of(prefix, format)
        with torch.inference_mode(False):
            surface = build(
                held.saved.field,
                occupancy=held.saved.occupancy,
                settings=settings,
                texture=texture,
                on_stage=listener(cls.hidden.unique_id, STAGES),
            )
        return saved(surface, place, held.saved.facts, cls.hidden)
