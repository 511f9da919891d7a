"""Render Turntable: a radiance field turned once around, as IMAGE frames and a looping preview."""

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

from ..distill3d.render.pictures import KINDS, turntable, write_webp
from .field import expect_field
from .types import FieldType
from .words import in_words


class RenderTurntable(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RenderTurntable",
            display_name="Render Turntable",
            category="Distill3D",
            description="One turn around the object, as frames for Save Animated WEBP or Create Video.",
            search_aliases=["turntable", "render", "orbit", "video", "views"],
            inputs=[
                FieldType.Input("field", tooltip="From NeRF Optimizer, Load Radiance Field or Resume."),
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
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="images", tooltip="The frames; the last is a step short of the first."
                )
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

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
    ) -> io.NodeOutput:
        held = expect_field(field)
        bar = comfy.utils.ProgressBar(frames, node_id=cls.hidden.unique_id)

        def on_frame(done: int, total: int) -> None:
            manager.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        learned = held.saved.settings.background.mode == "learned"
        with torch.inference_mode(False):
            shown = turntable(
                held.saved.field,
                frames=frames,
                size=size,
                elevation=elevation,
                radius=radius,
                fov=fov,
                kind=kind,  # type: ignore[arg-type]
                occupancy=held.saved.occupancy,
                background=(lambda direction: held.background(direction, None)) if learned else None,
                on_frame=on_frame,
            )
        folder = Path(folder_paths.get_temp_directory())
        folder.mkdir(parents=True, exist_ok=True)
        name = f"distill3d_{random.getrandbits(40):010x}.webp"
        write_webp(folder / name, shown, fps=12.0)
        preview = SavedImages([SavedResult(name, "", io.FolderType.temp)], is_animated=frames > 1)
        return io.NodeOutput(shown.float() / 255, ui=preview)
