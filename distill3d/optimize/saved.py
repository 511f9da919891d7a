"""A field read back from a checkpoint, without the prior that made it: what export and pictures need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CheckpointError
from ..fields.density import DensityField
from ..render.occupancy import OccupancyGrid
from .checkpoint import Checkpoint
from .settings import Settings
from .state import described, under


@dataclass(frozen=True)
class SavedField:
    """A run's field and occupancy on the CPU, with what describes the run.

    Attributes:
        facts: prompt, method, seed and iterations.
    """

    field: DensityField
    occupancy: OccupancyGrid
    settings: Settings
    facts: dict[str, Any]
    device: torch.device = torch.device("cpu")

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> SavedField:
        """Raises ``CheckpointError`` when the checkpoint does not hold a field of this version."""
        settings, identity = described(checkpoint)
        field = DensityField(settings.field, generator=torch.Generator())
        occupancy = OccupancyGrid(settings.occupancy_resolution)
        try:
            field.load_state_dict(under(checkpoint.tensors, "field"))
            occupancy.load_state_dict(under(checkpoint.tensors, "occupancy"))
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint does not hold a field of this version of distill3d ({error}): "
                "export with the version that wrote it"
            ) from error
        facts = {"prompt": identity["prompt"], "method": settings.method, "seed": identity["seed"]}
        return cls(field, occupancy, settings, {**facts, "iterations": checkpoint.meta.get("iteration")})
