"""Procedural worlds of objects with known truth: shapes, colours, patterns, fronts, captions, and a sphere tracer.

``full`` is what the bundled prior was trained on; ``plain`` is a part of it: eight solids in eight
colours, without patterns and objects with a front.
"""

from .catalogue import CATALOGUE, FULL_SHAPES, WORLD_VERSION, WORLDS, World, solid_of
from .dataset import Renders, WorldSettings, render_dataset, view_word
from .figures import FIGURES
from .objects import COLOURS, Object, all_objects, is_held_out
from .paint import PATTERNS
from .shapes import SHAPES, Shape
from .trace import Looks, headlight, looks, normals, trace

__all__ = [
    "CATALOGUE",
    "COLOURS",
    "FIGURES",
    "FULL_SHAPES",
    "PATTERNS",
    "SHAPES",
    "WORLDS",
    "WORLD_VERSION",
    "Looks",
    "Object",
    "Renders",
    "Shape",
    "World",
    "WorldSettings",
    "all_objects",
    "headlight",
    "is_held_out",
    "looks",
    "normals",
    "render_dataset",
    "solid_of",
    "trace",
    "view_word",
]
