"""The library's mesh as the host's MESH and FILE_3D."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy.cli_args import args
from comfy_api.latest import Types

from ...distill3d.mesh.core import to_core
from ...distill3d.mesh.types import SurfaceMesh


def to_mesh(surface: SurfaceMesh) -> Any:
    """A batch of one, in the layout of ``to_core``: coloured vertices, or UVs with texture and normal map."""
    return Types.MESH(**to_core(surface))


def to_file(path: Path) -> Any:
    return Types.File3D(str(path), path.suffix[1:])


def workflow(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as the host's own save nodes put them into a file; empty when its user turned that off."""
    if args.disable_metadata:
        return {}
    found = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    return found | {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}
