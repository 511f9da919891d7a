"""A radiance field from a checkpoint, saved and loaded: Save and Load Radiance Field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..distill3d.errors import CheckpointError, SettingsError
from ..distill3d.fields.background import Background
from ..distill3d.files import write_json
from ..distill3d.optimize import checkpoint as checkpoints
from ..distill3d.optimize.checkpoint import Checkpoint
from ..distill3d.optimize.saved import SavedField
from ..distill3d.optimize.state import under
from .host import folders
from .host.tell import tell
from .types import FieldType, RadianceField
from .words import in_words

KEPT = ("field.", "background.", "occupancy.")


def from_checkpoint(checkpoint: Checkpoint) -> RadianceField:
    """The object of a run's checkpoint, without what only training needs. Raises ``CheckpointError``."""
    with torch.inference_mode(False):
        tensors = {k: v.detach().cpu().clone() for k, v in checkpoint.tensors.items() if k.startswith(KEPT)}
        light = Checkpoint(tensors, checkpoint.meta)
        saved = SavedField.load(light)
        background = Background(saved.settings.background, generator=torch.Generator())
        try:
            background.load_state_dict(under(tensors, "background"))
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint's background is of another version of distill3d ({error})"
            ) from error
    for module in (saved.field, saved.occupancy, background):
        module.requires_grad_(False)
    return RadianceField(saved, background, light)


def expect_field(value: Any) -> RadianceField:
    """``value``, once it is a radiance field. Raises ``SettingsError`` for anything else."""
    if not isinstance(value, RadianceField):
        mesh = " A MESH, ComfyUI's own or ComfyUI-3D-Pack's, is no radiance field." if _is_mesh(value) else ""
        raise SettingsError(
            f"expected a radiance field, got {type(value).__name__}: wire NeRF Optimizer or Load Radiance Field here."
            f"{mesh}"
        )
    return value


def _is_mesh(value: Any) -> bool:
    """Whether ``value`` looks like a mesh: the host's has ``vertices``, ComfyUI-3D-Pack's ``v`` and ``f``."""
    return hasattr(value, "vertices") or (hasattr(value, "v") and hasattr(value, "f"))


class SaveField(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SaveRadianceField",
            display_name="Save Radiance Field",
            category="Distill3D",
            description="Keeps a radiance field in the output folder (safetensors and JSON, no pickle).",
            search_aliases=["save nerf", "export field"],
            inputs=[
                FieldType.Input("field", tooltip="From NeRF Optimizer."),
                io.String.Input(
                    "prefix",
                    default=f"{folders.FIELDS}/field",
                    tooltip="Folder and name inside the output folder; a number is added.",
                ),
            ],
            outputs=[
                io.String.Output("path", display_name="path", tooltip="The folder, relative to the output folder.")
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, prefix: str | None = None) -> bool | str:
        return folders.bad_prefix(prefix) or True

    @classmethod
    @in_words
    def execute(cls, field: Any, prefix: str) -> io.NodeOutput:
        held = expect_field(field)
        folder = folders.new_folder(prefix)
        checkpoints.save(folder, held.checkpoint)
        write_json(folder / "field.json", {**held.saved.facts, "kind": "radiance field"})
        name = folders.shown(folder)
        tell(cls.hidden.unique_id, name)
        return io.NodeOutput(name, ui=ui.PreviewText(name))


class LoadField(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_LoadRadianceField",
            display_name="Load Radiance Field",
            category="Distill3D",
            description="A radiance field that was saved before, for Mesh Export and Render Turntable.",
            search_aliases=["load nerf", "import field"],
            inputs=[
                io.Combo.Input(
                    "field",
                    options=[folders.LATEST, *folders.found(folders.FIELDS)],
                    default=folders.LATEST,
                    tooltip="Which field, newest first; latest is whatever is newest when the graph runs. Press R to "
                    "refresh.",
                ),
            ],
            outputs=[FieldType.Output("field", display_name="field", tooltip="For Mesh Export and Render Turntable.")],
        )

    @classmethod
    def validate_inputs(cls, field: str | None) -> bool | str:
        return folders.refused(field, folders.FIELDS) or True

    @classmethod
    def fingerprint_inputs(cls, field: str | None) -> str | float:
        return folders.stamp(field, folders.FIELDS)

    @classmethod
    @in_words
    def execute(cls, field: str) -> io.NodeOutput:
        return io.NodeOutput(load(folders.inside(field, folders.FIELDS)))


def load(folder: Path) -> RadianceField:
    """The field in ``folder``. Raises ``CheckpointError``."""
    return from_checkpoint(checkpoints.load(folder))
