"""Field to mesh to file, and files of meshes in.

``extract`` samples a radiance field, chooses the level of its surface from the opacity a viewer would see, and returns
a clean coloured triangle mesh; ``build`` also unwraps it and bakes a texture; ``write`` saves it as GLB, OBJ, PLY, STL
or USDZ. ``read`` and ``convert`` take a mesh that came from elsewhere through the same code, ``MeshView`` renders one,
and ``to_core`` and ``from_core`` speak ComfyUI's tensor layout.
"""

from __future__ import annotations

from ..errors import EmptySurfaceError
from . import clean, color
from .build import build, extract
from .convert import convert
from .core import from_core, to_core
from .load import read, read_parts
from .plan import convert_for
from .types import MeshSettings, OnStage, SurfaceMesh, TextureSettings
from .view import MeshView
from .writers import TEXTURED, write

__all__ = [
    "TEXTURED",
    "EmptySurfaceError",
    "MeshSettings",
    "MeshView",
    "OnStage",
    "SurfaceMesh",
    "TextureSettings",
    "build",
    "clean",
    "color",
    "convert",
    "convert_for",
    "extract",
    "from_core",
    "read",
    "read_parts",
    "to_core",
    "write",
]
