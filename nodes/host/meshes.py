"""The library's mesh as the host's MESH and FILE_3D."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import Types

from ...distill3d.mesh.color import srgb_to_linear
from ...distill3d.mesh.types import SurfaceMesh


def to_mesh(surface: SurfaceMesh) -> Any:
    """A batch of one: vertices, faces, normals, linear vertex colours, UVs and texture where there are any."""
    linear = srgb_to_linear(np.clip(surface.colors.astype(np.float64), 0, 1)).astype(np.float32)
    more: dict[str, Any] = {}
    uvs, texture = getattr(surface, "uvs", None), getattr(surface, "texture", None)
    if uvs is not None and texture is not None:
        pixels = np.asarray(texture)
        scale = 255 if pixels.dtype == np.uint8 else 1
        more = {"uvs": _batch(uvs), "texture": _batch(pixels.astype(np.float32) / scale)}
    return Types.MESH(
        _batch(surface.vertices),
        torch.from_numpy(surface.faces.astype(np.int64))[None],
        vertex_colors=_batch(linear),
        normals=_batch(surface.normals),
        **more,
    )


def _batch(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]


def to_file(path: Path) -> Any:
    return Types.File3D(str(path), path.suffix[1:])


def workflow(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as the host's own save nodes put them into a file; empty when its user turned that off."""
    if args.disable_metadata:
        return {}
    found = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    return found | {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}
