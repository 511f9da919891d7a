"""Trains the bundled tiny prior, a Stable Diffusion of toy size, on renders of the procedural world."""

from .gates import GateError, Gates
from .settings import TrainPriorSettings
from .train import train

__all__ = ["GateError", "Gates", "TrainPriorSettings", "train"]
