"""Render Turntable: a radiance field, MESH or 3D file turned once around, as IMAGE frames, a preview and a file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import comfy.model_management as manager
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from comfy_api.latest._ui import SavedImages, SavedResult

from ..distill3d.errors import SettingsError
from ..distill3d.render.cameras import ring
from ..distill3d.render.pictures import KINDS, contact_sheet, turntable, write_animation, write_png, write_webp
from .host import folders
from .mesh_widgets import index_input, mesh_input
from .types import FieldType, RadianceField
from .words import in_words

KEEP = ("nothing", "mp4", "webp", "gif", "png")
FRAMES_PER_SECOND = 24.0
SHEET_VIEWS = 4
PREVIEW_SIZE = 512
"""Largest side of the preview in pixels: a WebP of larger ones takes minutes, which nothing can interrupt."""


def shown_of(value: Any, index: int) -> tuple[Any, dict[str, Any]]:
    """What ``render.pictures`` draws, and the options that go with it.

    Raises:
        SettingsError, MeshFileError: what came in cannot be drawn.
    """
    if isinstance(value, RadianceField):
        options: dict[str, Any] = {"occupancy": value.saved.occupancy}
        if value.saved.settings.background.mode == "learned":
            options["background"] = lambda direction: value.background(direction, None)
        return value.saved.field, options
    if isinstance(value, torch.Tensor) or not hasattr(value, "__dict__"):
        raise SettingsError(
            f"expected a radiance field, a MESH or a 3D file, got {type(value).__name__}: wire NeRF Optimizer, Mesh "
            "Export or Load 3D here"
        )
    from ..distill3d.mesh import MeshView
    from .host.meshes import parts_of

    return MeshView(parts_of(value, index), fit=True), {}


def _small(frames: torch.Tensor) -> torch.Tensor:
    """``(F, S, S, 3)`` uint8 at no more than the preview's size, a frame at a time."""
    if frames.shape[1] <= PREVIEW_SIZE:
        return frames
    pictures = (frame.permute(2, 0, 1)[None].float() for frame in frames)
    less = (torch.nn.functional.interpolate(p, size=(PREVIEW_SIZE, PREVIEW_SIZE), mode="area") for p in pictures)
    return torch.stack([p[0].permute(1, 2, 0).round().to(torch.uint8) for p in less])


class RenderTurntable(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RenderTurntable",
            display_name="Render Turntable",
            category="Distill3D",
            description=(
                "One turn around a radiance field, a MESH or a 3D file: frames for other nodes, and on request a film "
                "or a contact sheet in the output folder."
            ),
            search_aliases=["turntable", "render", "orbit", "video", "views", "contact sheet", "gif", "mp4"],
            inputs=[
                mesh_input(
                    "field",
                    "From NeRF Optimizer or Load Radiance Field; or a MESH, or a {}. A mesh of any size is scaled to "
                    "be seen.",
                    FieldType,
                ),
                io.Int.Input(
                    "frames", default=24, min=1, max=600, tooltip="Frames of one full turn; 24 to 60 is smooth."
                ),
                io.Int.Input(
                    "size",
                    default=192,
                    min=16,
                    max=2048,
                    step=8,
                    tooltip="Side of a frame in pixels; time grows with its square.",
                ),
                io.Float.Input(
                    "elevation",
                    default=15.0,
                    min=-80.0,
                    max=80.0,
                    step=1.0,
                    tooltip="Height of the camera in degrees, 0 is level.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="colour",
                    tooltip="colour (unlit), shaded (lit from the camera), normal (shape alone) or opacity "
                    "(white is solid).",
                ),
                io.Float.Input(
                    "radius",
                    default=3.0,
                    min=1.5,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Distance of the camera; the object lies in -1..1.",
                ),
                io.Float.Input(
                    "fov",
                    default=42.0,
                    min=5.0,
                    max=120.0,
                    step=1.0,
                    advanced=True,
                    tooltip="Field of view in degrees.",
                ),
                io.Combo.Input(
                    "keep",
                    optional=True,
                    options=list(KEEP),
                    default=KEEP[0],
                    tooltip="A file in the output folder: mp4, webp or gif is the turn, png a contact sheet of four "
                    "views in every kind of picture.",
                ),
                io.String.Input(
                    "prefix",
                    optional=True,
                    default=f"{folders.ROOT}/turntable",
                    tooltip="Folder and name of that file inside the output folder; a number is added.",
                    advanced=True,
                ),
                io.Float.Input(
                    "fps",
                    optional=True,
                    default=FRAMES_PER_SECOND,
                    min=1.0,
                    max=240.0,
                    step=1.0,
                    advanced=True,
                    tooltip="Frames a second of that file.",
                ),
                index_input(),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="images", tooltip="The frames; the last is a step short of the first."
                ),
                io.String.Output(
                    "path", display_name="path", tooltip="The kept file, relative to the output folder; or nothing."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, prefix: str | None = None) -> bool | str:
        return folders.bad_prefix(prefix) or True

    @classmethod
    @in_words
    def execute(
        cls,
        field: Any,
        frames: int,
        size: int,
        elevation: float,
        kind: str,
        radius: float = 3.0,
        fov: float = 42.0,
        keep: str = KEEP[0],
        prefix: str = f"{folders.ROOT}/turntable",
        fps: float = FRAMES_PER_SECOND,
        index: int = 0,
    ) -> io.NodeOutput:
        bar = comfy.utils.ProgressBar(frames, node_id=cls.hidden.unique_id)
        path = folders.new_file(prefix, keep)[0] if keep != KEEP[0] else None

        look = manager.throw_exception_if_processing_interrupted

        def on_frame(done: int, total: int) -> None:
            look()
            bar.update_absolute(done, total)

        with torch.inference_mode(False):
            drawn, options = shown_of(field, index)
            orbit: dict[str, Any] = {"elevation": elevation, "radius": radius, "fov": fov}
            shown = turntable(
                drawn,
                frames=frames,
                size=size,
                kind=kind,  # type: ignore[arg-type]
                on_frame=on_frame,
                **orbit,
                **options,
            )
            path = path and folders.unused(path)
            if path is not None and keep == "png":
                cameras = ring(SHEET_VIEWS, **orbit)
                write_png(path, contact_sheet(drawn, cameras, size=size, kinds=KINDS, on_picture=look, **options))
            elif path is not None:
                write_animation(path, shown, fps, look)
        folder = Path(folder_paths.get_temp_directory())
        folder.mkdir(parents=True, exist_ok=True)
        name = f"distill3d_{random.getrandbits(40):010x}.webp"
        write_webp(folder / name, _small(shown), 12.0, look)
        preview = SavedImages([SavedResult(name, "", io.FolderType.temp)], is_animated=frames > 1)
        kept = "" if path is None else path.relative_to(folders.output()).as_posix()
        return io.NodeOutput(shown.float().div_(255), kept, ui=preview)
