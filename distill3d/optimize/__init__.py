"""The distillation loop: settings and presets in, events and a radiance field out."""

from .events import Checkpointed, Event, Listener, Step, Warned
from .loop import Distillation
from .presets import PRESETS, preset
from .settings import Settings

__all__ = ["PRESETS", "Checkpointed", "Distillation", "Event", "Listener", "Settings", "Step", "Warned", "preset"]
