"""A field read back from a checkpoint, without the prior that made it: what export and pictures need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..errors import CheckpointError, SettingsError
from ..fields.density import DensityField
from ..render.occupancy import OccupancyGrid
from .checkpoint import Checkpoint
from .codec import from_json
from .settings import Settings


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
        try:
            identity = checkpoint.meta["identity"]
            settings = from_json(Settings, identity["settings"])
            field = DensityField(settings.field, generator=torch.Generator())
            occupancy = OccupancyGrid(settings.occupancy_resolution)
            for prefix, module in (("field", field), ("occupancy", occupancy)):
                cut = len(prefix) + 1
                module.load_state_dict(
                    {k[cut:]: v for k, v in checkpoint.tensors.items() if k.startswith(f"{prefix}.")}
                )
            facts = {
                "prompt": identity["prompt"],
                "method": settings.method,
                "seed": identity["seed"],
                "iterations": checkpoint.meta["iteration"],
            }
        except (KeyError, RuntimeError, SettingsError) as error:
            raise CheckpointError(
                f"the checkpoint does not hold a field of this version of distill3d ({error}): "
                "export with the version that wrote it"
            ) from error
        return cls(field, occupancy, settings, facts)
