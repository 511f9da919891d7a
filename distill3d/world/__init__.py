"""A procedural world of objects with known truth: shapes, colours, captions, and a sphere tracer to look at them."""

from .dataset import Renders, WorldSettings, render_dataset, view_word
from .objects import COLOURS, Object, all_objects
from .shapes import SHAPES, Shape
from .trace import headlight, normals, trace

__all__ = [
    "COLOURS",
    "SHAPES",
    "Object",
    "Renders",
    "Shape",
    "WorldSettings",
    "all_objects",
    "headlight",
    "normals",
    "render_dataset",
    "trace",
    "view_word",
]
