"""What becomes of a mesh's texture in a file of some kind, and which of the user's wishes come to nothing there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from .convert import convert
from .load import GREY
from .types import MeshSettings, OnStage, SurfaceMesh, TextureSettings
from .writers import TEXTURED

Name = Callable[[str], str]
"""What a setting, ``texture.size``, is called where its user sets it."""


@dataclass(frozen=True)
class Plan:
    """What ``convert`` is asked for, and what the user should know of it."""

    texture: TextureSettings | None
    notes: tuple[str, ...]
    rebake: bool = False


def convert_for(
    suffix: str,
    parts: Sequence[SurfaceMesh],
    settings: MeshSettings,
    texture: TextureSettings,
    on_stage: OnStage | None = None,
    name: Name = str,
) -> SurfaceMesh:
    """:func:`convert` for a file ending in ``suffix``; what it costs, and what is not used, is in the warnings."""
    plan = planned(suffix, parts, settings, texture, name)
    mesh = convert(parts, settings, plan.texture, on_stage, rebake=plan.rebake)
    mesh.report = {**mesh.report, "warnings": [*mesh.report.get("warnings", ()), *plan.notes]}
    return mesh


def planned(
    suffix: str, parts: Sequence[SurfaceMesh], settings: MeshSettings, texture: TextureSettings, name: Name = str
) -> Plan:
    """The texture to ask ``convert`` for: one where a new one is needed or wanted, and none where the old one can stay.

    A setting of ``texture`` that is not its default counts as a wish.
    """
    asked, notes = _asked(texture), _scale_notes(settings, name)
    pictures = [part.texture for part in parts if part.texture is not None]
    if suffix not in TEXTURED:
        kind = suffix[1:].upper()
        notes += _unused(asked, f"{kind} carries no texture", name)
        return Plan(None, (*notes, *lost(suffix, parts)))
    stays = len(parts) == 1 and not _changed(parts, settings) and (parts[0].tint is None or suffix == ".glb")
    if pictures and stays:
        height, width = pictures[0].shape[:2]
        if texture.size:
            used = ("image",) if suffix == ".glb" else ()
            left = [wish for wish in asked if wish not in used]
            why = (
                f"the texture that is there, {width} x {height} texels, was kept; {name('face_budget')} below the "
                "mesh's faces has a new one baked"
            )
            notes += _unused(left, why, name)
        return Plan(texture, tuple(notes))
    baked = texture.size > 0 and (bool(asked) or bool(pictures) or _changed(parts, settings))
    if not baked:
        notes += _unused([wish for wish in asked if wish != "size"], "no texture is made", name)
    elif suffix != ".glb":
        notes += _unused([wish for wish in asked if wish == "image"], f"{suffix[1:].upper()} takes PNG", name)
    return Plan(texture if baked or (pictures and asked) else None, tuple(notes), rebake=bool(pictures))


def unused(suffix: str, settings: MeshSettings, texture: TextureSettings, name: Name = str) -> list[str]:
    """Which of the user's wishes come to nothing in a file ending in ``suffix`` that is made from a field."""
    asked, notes = _asked(texture), _scale_notes(settings, name)
    if suffix not in TEXTURED:
        return notes + _unused(asked, f"{suffix[1:].upper()} carries no texture", name)
    if texture.size == 0:
        return notes + _unused([wish for wish in asked if wish != "size"], "no texture is made", name)
    plain = suffix != ".glb"
    return notes + _unused(
        [wish for wish in asked if wish == "image" and plain], f"{suffix[1:].upper()} takes PNG", name
    )


def _asked(texture: TextureSettings) -> list[str]:
    return [f.name for f in fields(texture) if getattr(texture, f.name) != f.default]


def _scale_notes(settings: MeshSettings, name: Name) -> list[str]:
    if settings.scale == "metres" or settings.metres == MeshSettings.metres:
        return []
    return [f"{name('metres')} was not used: it is for {name('scale')} metres"]


def _changed(parts: Sequence[SurfaceMesh], settings: MeshSettings) -> bool:
    """Whether the shape does not stay as it is."""
    faces = sum(len(part.faces) for part in parts)
    return bool(0 < settings.face_budget < faces or settings.component_share or settings.smooth)


def _unused(wishes: Sequence[str], why: str, name: Name) -> list[str]:
    if not wishes:
        return []
    names = " and ".join(name(f"texture.{wish}") for wish in wishes)
    return [f"{names} {'were' if len(wishes) > 1 else 'was'} not used: {why}"]


def lost(suffix: str, parts: Sequence[SurfaceMesh]) -> list[str]:
    """What PLY and STL leave out of these parts."""
    if suffix in TEXTURED:
        return []
    pictures = any(part.texture is not None for part in parts)
    if suffix == ".ply":
        text = "PLY carries no texture: its colours were taken at the vertices, and what lies between them is lost"
        return [text] if pictures else []
    colors = any(np.abs(part.colors - GREY).max(initial=0) > 0.01 for part in parts)
    what = "texture" if pictures else "colours"
    return [f"STL carries the shape alone: the {what} of the mesh {'was' if pictures else 'were'} left out"] * (
        pictures or colors
    )
