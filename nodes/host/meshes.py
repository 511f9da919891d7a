"""Meshes between the library and the host: MESH and FILE_3D in and out, and files in the output folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management as manager
import comfy.utils
import torch
from comfy.cli_args import args
from comfy_api.latest import Types, io
from comfy_api.latest._ui import SavedResult

from ...distill3d.errors import SettingsError
from ...distill3d.mesh import OnStage, from_core, read_parts, to_core, write
from ...distill3d.mesh.types import SurfaceMesh
from ...distill3d.optimize.report import versions
from . import folders
from .tell import tell


def to_mesh(surface: SurfaceMesh) -> Any:
    """A batch of one, in the layout of ``to_core``: coloured vertices, or UVs with texture and normal map."""
    return Types.MESH(**to_core(surface))


def to_file(path: Path) -> Any:
    return Types.File3D(str(path), path.suffix[1:])


def parts_of(value: Any, index: int = 0) -> list[SurfaceMesh]:
    """The parts of a MESH or of a FILE_3D; the object that came in is not changed.

    Raises:
        MeshFileError: it holds no triangles, cannot be read, or is no such thing.
        SettingsError: the batch has no mesh of this index.
    """
    if not isinstance(value, Types.File3D):
        held = getattr(value, "vertices", None)
        if isinstance(held, torch.Tensor) and held.ndim == 3 and not 0 <= index < len(held):
            raise SettingsError(f"expected an index of 0 to {len(held) - 1}, for that many meshes came in, got {index}")
        return [from_core(value, index)]
    source = value.get_source()
    if isinstance(source, str):
        return read_parts(source)
    with tempfile.TemporaryDirectory(prefix="distill3d-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"file.{value.format or 'glb'}"
        path.write_bytes(value.get_data().getvalue())
        return read_parts(path)


def workflow(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as the host's own save nodes put them into a file; empty when its user turned that off."""
    if args.disable_metadata:
        return {}
    found = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    return found | {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}


@dataclass(frozen=True)
class Place:
    """Where a file of the output folder goes: proven writable before the work begins."""

    path: Path
    subfolder: str

    @classmethod
    def of(cls, prefix: str, suffix: str) -> Place:
        """The next numbered name. Raises ``OutputError``."""
        return cls(*folders.new_file(prefix, suffix))

    @property
    def relative(self) -> str:
        """As the host's menus show it."""
        return folders.shown(self.path)


def listener(node_id: Any, stages: Mapping[str, tuple[int, int]]) -> OnStage:
    """Stages as percent of a progress bar; what is not in ``stages`` takes the rest. Cancel ends the work."""
    bar, rest = comfy.utils.ProgressBar(100, node_id=node_id), max(end for _, end in stages.values())

    def on_stage(stage: str, share: float) -> None:
        manager.throw_exception_if_processing_interrupted()
        begin, end = stages.get(stage, (rest, 100))
        bar.update_absolute(int(begin + (end - begin) * share), 100)

    return on_stage


def saved(surface: SurfaceMesh, place: Place, facts: Mapping[str, Any], hidden: Any) -> io.NodeOutput:
    """Write the file; gives MESH, FILE_3D and the path, and shows the file. A GLB also carries the workflow."""
    place = replace(place, path=folders.unused(place.path))
    carried = workflow(hidden) if place.path.suffix == ".glb" else {}
    about = {"generator": "distill3d", **facts, "versions": versions(), "mesh": surface.report}
    write(surface, place.path, {**about, **carried})
    shown = SavedResult(place.path.name, place.subfolder, io.FolderType.output)
    closed = ", closed" if surface.report.get("watertight") else ""
    counts = f"{len(surface.vertices)} vertices, {len(surface.faces)} faces{closed}"
    text = "\n".join([place.relative, counts, *surface.report.get("warnings", ())])
    tell(hidden.unique_id, text)
    file = to_file(place.path)
    return io.NodeOutput(to_mesh(surface), file, place.relative, ui={"3d": [shown], "text": (text,)})
