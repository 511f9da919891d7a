"""What travels on our own wires. Every type's name carries our prefix; MODEL, MESH and the like are the host's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..distill3d.fields.background import Background
from ..distill3d.methods import MethodSettings
from ..distill3d.optimize.checkpoint import Checkpoint
from ..distill3d.optimize.saved import SavedField
from ..distill3d.prompts import ViewPrompts
from ..distill3d.schedules import Schedule

FieldType = io.Custom("DISTILL3D_FIELD")
PromptsType = io.Custom("DISTILL3D_PROMPTS")
ScheduleType = io.Custom("DISTILL3D_SCHEDULE")
LossType = io.Custom("DISTILL3D_LOSS")
CheckpointType = io.Custom("DISTILL3D_CHECKPOINT")

FILES = (io.File3DAny, io.File3DGLB, io.File3DGLTF, io.File3DOBJ, io.File3DPLY, io.File3DSTL)
MESHES = [io.Mesh, *FILES]
"""What a mesh may come in as: the host's MESH, or a file that ``mesh.read_parts`` reads."""


@dataclass(frozen=True)
class Prompts:
    """View prompts and the text encoder that reads them; what it has read so far is kept in ``known``."""

    views: ViewPrompts
    clip: Any
    known: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A schedule and what it runs over: ``iterations`` or ``timesteps``."""

    schedule: Schedule
    over: str = "iterations"


@dataclass(frozen=True)
class Loss:
    """A MODEL, prompts and a method: everything that says where an object should go.

    Attributes:
        method: sds, csd ...; ``chosen`` holds the settings that differ from the preset's.
        window: lowest and highest timestep, as text; "auto" takes the preset's. ``gradient`` likewise.
        plan: the CFG schedule, or None for the method's own.
        perp_neg: settings of Perp-Neg that differ from the preset's; empty without it.
        extras: a CONDITIONING whose ControlNet and hooks belong to every view.
    """

    model: Any
    prompts: Prompts
    method: str
    chosen: Mapping[str, Any]
    window: Mapping[str, str] = field(default_factory=dict)
    gradient: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    extras: Any = None
    settings_type: type[MethodSettings] = MethodSettings
    perp_neg: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RadianceField:
    """An object: its field and occupancy on the CPU, its background, and the tensors they came from.

    Attributes:
        report: of the run that made it, with its curves; empty where that is not at hand.
    """

    saved: SavedField
    background: Background
    checkpoint: Checkpoint
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stopped:
    """A run that can be continued: the checkpoint and the folder it lies in."""

    checkpoint: Checkpoint
    folder: Path
