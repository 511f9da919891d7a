"""The part of the stand-in host that nodes are written in, ComfyUI 0.33's ``comfy_api``: schemas, outputs, meshes."""

from __future__ import annotations

import enum
import types
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class Kept:
    """Keeps its arguments as attributes, so that tests can read a schema."""

    io_type = ""

    def __init__(self, id: Any = None, *positional: Any, **named: Any) -> None:
        self.id, self.positional = id, positional
        self.__dict__.update(named)


def kind(io_type: str) -> type:
    made = {part: type(part, (Kept,), {"io_type": io_type}) for part in ("Input", "Output")}
    return type(io_type, (), {**made, "io_type": io_type})


class Hidden(str, enum.Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class FolderType(str, enum.Enum):
    output = "output"
    temp = "temp"


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    not_idempotent: bool = False
    has_intermediate_output: bool = False


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None, expand: Any = None, block_execution: Any = None) -> None:
        self.args, self.ui, self.expand = args, ui, expand


class ComfyNode:
    hidden = types.SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)


class DynamicCombo:
    class Option(Kept):
        def __init__(self, key: str, inputs: list[Any]) -> None:
            super().__init__(key)
            self.key, self.inputs = key, inputs

    Input = type("Input", (Kept,), {"io_type": "COMFY_DYNAMICCOMBO_V3"})


class MultiType:
    class Input(Kept):
        def __init__(self, id: str, types: list[Any], **named: Any) -> None:
            super().__init__(id, **named)
            self.io_type = ",".join(kind.io_type for kind in types)


class Shown:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args


class PreviewImage(Shown):
    def __init__(self, image: Tensor, animated: bool = False, cls: Any = None, **kwargs: Any) -> None:
        super().__init__(image)


class PreviewText(Shown):
    def __init__(self, value: str, **kwargs: Any) -> None:
        super().__init__(value)


@dataclass
class MESH:
    vertices: Tensor
    faces: Tensor
    uvs: Tensor | None = None
    vertex_colors: Tensor | None = None
    texture: Tensor | None = None
    metallic_roughness: Tensor | None = None
    vertex_counts: Tensor | None = None
    face_counts: Tensor | None = None
    unlit: bool = False
    normals: Tensor | None = None
    tangents: Tensor | None = None
    normal_map: Tensor | None = None
    occlusion_in_mr: bool = False


class File3D:
    def __init__(self, source: Any, file_format: str = "") -> None:
        self.source, self.format = source, file_format

    def get_source(self) -> Any:
        return self.source

    def get_data(self) -> Any:
        return self.source
