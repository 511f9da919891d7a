"""Trains tiny priors, Stable Diffusions of toy size, on renders of the procedural worlds."""

from .gates import GateError, Gates, gates_of
from .settings import RECIPES, TrainPriorSettings, recipe
from .train import train

__all__ = ["RECIPES", "GateError", "Gates", "TrainPriorSettings", "gates_of", "recipe", "train"]
