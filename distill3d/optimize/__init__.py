"""The distillation loop: settings and presets in, events and a radiance field out."""

from .events import Checkpointed, Event, Listener, Step, Warned
from .execution import Execution
from .loop import Distillation
from .presets import PRESETS, preset
from .remarks import remarks
from .settings import Settings

__all__ = [
    "PRESETS",
    "Checkpointed",
    "Distillation",
    "Event",
    "Execution",
    "Listener",
    "Settings",
    "Step",
    "Warned",
    "preset",
    "remarks",
]
