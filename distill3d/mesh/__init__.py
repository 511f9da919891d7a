"""Field to mesh to file.

``extract`` samples a radiance field, chooses the level of its surface from the opacity a viewer would see, and returns
a clean coloured triangle mesh; ``write`` saves it as GLB, OBJ or PLY.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import EmptySurfaceError
from . import clean, color
from .surface import Surface, find_surface
from .types import MeshSettings, OnStage, SurfaceMesh
from .writers import write

if TYPE_CHECKING:
    from ..fields.base import RadianceField
    from ..render.occupancy import OccupancyGrid

__all__ = ["EmptySurfaceError", "MeshSettings", "OnStage", "SurfaceMesh", "extract", "write"]

log = logging.getLogger(__name__)

TINY_CELLS = 8
"""A surface fewer cells across than this is hardly a shape."""


def extract(
    field: RadianceField,
    *,
    occupancy: OccupancyGrid | None = None,
    settings: MeshSettings | None = None,
    device: torch.device | str | None = None,
    on_stage: OnStage | None = None,
) -> SurfaceMesh:
    """The field's surface as a closed, coloured mesh.

    Args:
        field: anything with ``density(x)``, ``field(x) -> (density, albedo)`` and ``normals(x)``.
        occupancy: limits the sampling to the box it knows to be occupied. Where the surface reaches the sides of
            that box the whole unit box is sampled instead, so a stale grid costs time and never cuts the object.
        settings: defaults to ``MeshSettings()``.
        device: where the field lives; defaults to its first parameter's device, or the CPU.
        on_stage: called with 'sample', 'surface', 'clean' or 'color' and a share 0..1; may raise to cancel.

    Raises:
        EmptySurfaceError: nothing crosses the level, or matter fills the box; the message has the smallest and
            largest density, the level and what to do.
        DivergedError: a density or a colour is not finite.
    """
    settings = settings or MeshSettings()
    device = _device(field, device)
    notify: OnStage = on_stage or _ignore
    surface = find_surface(field, occupancy, settings, device, on_stage)

    notify("clean", 0.0)
    found_faces = len(surface.faces)
    vertices, faces, found, kept = clean.keep_components(surface.vertices, surface.faces, settings.component_share)
    vertices, faces = clean.weld(vertices, faces)
    vertices, faces = clean.decimate(vertices, faces, settings.face_budget)
    facts = clean.inspect(vertices, faces)
    notify("clean", 1.0)

    notify("color", 0.0)
    points = np.ascontiguousarray(vertices, np.float32)
    normals = color.face_weighted_normals(points, faces)
    spacing = 2 / settings.resolution
    colors = color.vertex_colors(field, points, normals, spacing, settings.chunk, device)
    if settings.normals == "field":
        normals = color.field_normals(field, points, normals, settings.chunk, device)
    notify("color", 1.0)

    choice = surface.choice
    level = choice.level or 0.0
    report = {
        "level": level,
        "level_rule": choice.rule,
        "level_band": list(choice.band),
        "silhouette_mismatch": choice.mismatch,
        "haze": choice.haze,
        "density": list(surface.density),
        "resolution": settings.resolution,
        "cut_share": surface.cut_share,
        "components_found": found,
        "components_kept": kept,
        "faces_found": found_faces,
        **facts,
    }
    report["warnings"] = warnings = _warnings(surface, report, spacing)
    for text in warnings:
        log.warning(text)
    return SurfaceMesh(points, faces, normals, colors, level, report)


def _warnings(surface: Surface, report: dict, spacing: float) -> list[str]:
    found = []
    reach = max(abs(value) for corner in report["bounds"] for value in corner)
    if surface.cut_share > 0 and reach > 1 - spacing:
        found.append(
            f"the object runs through {surface.cut_share:.1%} of the box's sides and is cut off flat there: "
            "train with a smaller initial blob or a stronger sparsity loss"
        )
    if surface.choice.rule == "faint":
        found.append(
            f"the object is faint (most opaque ray {surface.choice.opacity:.2f}): its surface is a guess; train longer"
        )
    if -np.expm1(-2 * surface.choice.haze) > 0.1:
        found.append(f"a haze of density {surface.choice.haze:.2g} fills the box and was left out of the mesh")
    if surface.choice.mismatch > 0.5:
        found.append(
            f"the field is foggy: mesh and rendering disagree on {surface.choice.mismatch:.0%} of the covered area; "
            "train longer or with a stronger opacity loss"
        )
    size = max(high - low for low, high in zip(*report["bounds"], strict=True))
    if size < TINY_CELLS * spacing:
        found.append(f"the surface is only {size / spacing:.1f} cells across: raise the resolution, or train longer")
    if not report["watertight"]:
        found.append(f"the mesh is not watertight ({report['boundary_edges']} boundary edges): raise the face budget")
    return found


def _device(field: object, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if isinstance(field, torch.nn.Module):
        for tensor in field.parameters():
            return tensor.device
    return torch.device("cpu")


def _ignore(name: str, fraction: float) -> None:
    pass
