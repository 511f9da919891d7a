"""Readers of mesh files: what a file holds, part by part, in its own numbers; see ``mesh.load`` for what becomes of it.

Each is a function of a path that gives :class:`~.part.Contents` and raises ``ValueError`` in words where the file is
damaged. None reads a file outside the folder of the one it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .gltf import read_gltf
from .obj import read_obj
from .part import Contents
from .plain import read_off, read_stl
from .ply import read_ply

READERS: Mapping[str, Callable[[Path], Contents]] = {
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}

__all__ = ["READERS", "Contents"]
