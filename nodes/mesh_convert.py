"""Mesh Convert: a MESH or a 3D file of the user's own, cleaned, decimated, textured and saved by the library's code."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from .host import folders
from .mesh_widgets import TEXTURE, chosen, format_input, index_input, mesh_input, outputs, prefix_input, widgets
from .words import in_words

TAKEN = {"face_budget": 0, "component_share": 0.0, "smooth": 0, "scale": "world", "metres": 1.0}
"""Settings of a mesh that apply to one that is there already, with defaults that leave it as it is."""
UNUSED = ("resolution", "level", "refine", "fill_cavities", "normals", "chunk")
STAGES = {"clean": (5, 30), "unwrap": (30, 60)}


def named(setting: str) -> str:
    """The input that sets ``texture.size``."""
    return setting.replace("texture.", TEXTURE)


class MeshConvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_MeshConvert",
            display_name="Mesh Convert",
            category="Distill3D",
            description=(
                "A MESH or a 3D file in another format, within a face budget, at another size. What need not change "
                "stays as it is; a mesh that is cut down gets a new texture and a normal map from the one that came in."
            ),
            search_aliases=["convert mesh", "decimate", "export mesh", "save mesh", "glb", "obj", "stl", "usdz"],
            inputs=[
                mesh_input("mesh", "A MESH, or a {} from Load 3D or another node."),
                prefix_input("converted"),
                format_input(
                    "As in Mesh Export: glb, obj and usdz carry a texture, ply vertex colours, stl the shape."
                ),
                *widgets("MeshSettings", skip=UNUSED, defaults=TAKEN),
                *widgets("TextureSettings", TEXTURE),
                index_input(),
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
    def execute(cls, mesh: Any, prefix: str, format: str, index: int = 0, **more: Any) -> io.NodeOutput:
        from ..distill3d.mesh import TEXTURED, MeshSettings, TextureSettings, convert_for
        from ..distill3d.mesh.plan import lost
        from .host.meshes import Place, listener, parts_of, saved

        settings = MeshSettings(**{**TAKEN, **chosen(MeshSettings, more)})
        texture = TextureSettings(**chosen(TextureSettings, more, TEXTURE))
        place = Place.of(prefix, format)
        with torch.inference_mode(False):
            parts = parts_of(mesh, index)
            on_stage = listener(cls.hidden.unique_id, STAGES)
            # the MESH that goes on has its texture, whatever the file can hold
            kind = f".{format}" if f".{format}" in TEXTURED else ".glb"
            surface = convert_for(kind, parts, settings, texture, on_stage, named)
            surface.report["warnings"] += lost(f".{format}", parts)
        return saved(surface, place, {}, cls.hidden)
