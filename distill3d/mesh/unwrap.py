"""Texture coordinates for a mesh: xatlas in a child process with a time limit, or box projection.

xatlas (https://github.com/jpcy/xatlas) makes few, low-distortion charts, but its time grows faster than the number of
faces and it cannot be stopped from inside. So it gets at most 40,000 faces and a time limit, runs where it can be
killed, and its answer is checked; whenever it does not deliver, :mod:`.boxmap` does, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import child
from .boxmap import box_atlas
from .types import Floats, Ints, TextureSettings

MOST_FACES = 40_000
"""xatlas is not asked to unwrap more faces than this."""


@dataclass(frozen=True)
class Atlas:
    """A mesh cut open along its seams.

    Attributes:
        source: ``(V',)`` the vertex that each new vertex copies.
        faces: ``(F, 3)`` the same faces in the same order, over the new vertices.
        uvs: ``(V', 2)`` in 0..1 from the upper left corner of the texture, v downwards, as glTF has it.
        charts: how many pieces there are.
        method: 'xatlas' or 'box'.
        reason: why it is not xatlas, for the user; empty otherwise.
    """

    source: Ints
    faces: Ints
    uvs: Floats
    charts: int
    method: str
    reason: str = ""


def unwrap(
    vertices: np.ndarray, faces: Ints, settings: TextureSettings, poll: Callable[[float], None] | None = None
) -> Atlas:
    """Texture coordinates without overlaps.

    Args:
        vertices: ``(V, 3)``; faces: ``(F, 3)``.
        poll: called often with a share 0..1; may raise, which ends the child process too.
    """
    reason = ""
    if settings.unwrap != "box":
        if len(faces) > MOST_FACES:
            reason = f"it has {len(faces)} faces and xatlas takes at most {MOST_FACES}"
        else:
            try:
                return _xatlas(vertices, faces, settings, poll)
            except child.ChildError as error:
                reason = f"xatlas did not finish: {error}"
    if poll is not None:
        poll(0.0)
    source, triangles, uvs, charts = box_atlas(vertices.astype(np.float64), faces, settings.size, settings.padding)
    if poll is not None:
        poll(1.0)
    return Atlas(source, triangles, uvs.astype(np.float32), charts, "box", reason)


def _xatlas(
    vertices: np.ndarray, faces: Ints, settings: TextureSettings, poll: Callable[[float], None] | None
) -> Atlas:
    arrays = {"vertices": vertices, "faces": faces, "size": settings.size, "padding": settings.padding}
    found = child.run("unwrap", arrays, settings.unwrap_seconds, poll)
    source, triangles = found["source"].astype(np.int64), found["faces"].astype(np.int64).reshape(-1, 3)
    uvs = found["uvs"].astype(np.float32)
    if int(found["pages"]) != 1:
        raise child.ChildError(f"it made {int(found['pages'])} pages instead of one")
    if triangles.shape != faces.shape or not np.array_equal(source[triangles], faces):
        raise child.ChildError("it changed the faces")
    if not np.isfinite(uvs).all():
        raise child.ChildError("its coordinates are not finite")
    return Atlas(source, triangles, np.clip(uvs, 0, 1), int(found["charts"]), "xatlas")
