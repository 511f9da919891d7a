"""A tiny image-text scorer trained on the procedural world: Sim and R@1 beside the judge's verdicts."""

from .model import Loaded, Scorer, bundled_scorer_path, load_scorer
from .views import CORPUS, VIEWS, field_pictures, true_pictures

__all__ = [
    "CORPUS",
    "VIEWS",
    "Loaded",
    "Scorer",
    "bundled_scorer_path",
    "field_pictures",
    "load_scorer",
    "true_pictures",
]
