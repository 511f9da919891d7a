"""Readers of mesh files: what a file holds, part by part, in its own numbers; see ``mesh.load`` for what becomes of it.

trimesh reads them all. A reader prepares a file for it, so that nothing is lost or taken for something else, and gives
it bytes alone: trimesh opens no file, and none outside the folder of the given one is read. Each reader is a function
of a path that gives :class:`~.part.Contents` and raises ``ValueError`` in words where the file is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .gltf import read_gltf
from .obj import read_obj
from .part import Contents
from .ply import read_off, read_ply
from .stl import read_stl

READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}

__all__ = ["READERS", "Contents"]
