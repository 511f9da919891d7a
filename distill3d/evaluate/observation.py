"""Everything a judgement looks at, taken from a field once and without knowing its prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Distill3DError
from ..fields.base import RadianceField
from ..mesh import MeshSettings, extract
from ..render.occupancy import OccupancyGrid
from ..render.volume import RenderSettings
from ..world.catalogue import WORLDS
from .colour import ColourReading, read_colour
from .fit import Fit, fit_all
from .fronts import Around, look_around
from .solid import Solid, sample_density, solidify
from .surface import mesh_opacity
from .thresholds import Thresholds
from .views import SIZE, Views, judging_cameras, look

RESOLUTION = 64
_RAW = MeshSettings(resolution=RESOLUTION, refine=0, component_share=0.0, face_budget=0)


@dataclass(frozen=True)
class MeshReading:
    """The exported mesh.

    Attributes:
        faces: triangles in the export.
        exported_share: share of the export's faces in its largest component.
        raw_share: the same of the surface on a 64^3 lattice before any clean-up.
        opacity: ``(12, 64, 64)`` silhouettes of the export.
        vertices: ``(V, 3)`` of the export.
        triangles: ``(F, 3)`` long, indices into ``vertices``.
    """

    faces: int
    exported_share: float
    raw_share: float
    opacity: Tensor
    vertices: Tensor
    triangles: Tensor


@dataclass(frozen=True)
class Observation:
    """What a field is and shows.

    Attributes:
        solid: its solid on 64^3 voxels.
        fits: every shape of the world in its best pose; empty when the solid is.
        views: the renders.
        colour: the hue reading of the 12 dark renders, weighted by opacity above 0.05.
        mesh: the exported mesh, or None with the reason in ``mesh_error``.
        around: a ring of 24 views for fronts and faces; None unless the world has objects with a front.
    """

    solid: Solid
    fits: dict[str, Fit]
    views: Views
    colour: ColourReading
    mesh: MeshReading | None
    mesh_error: str
    around: Around | None = None


def read_mesh(field: RadianceField, occupancy: OccupancyGrid | None, settings: MeshSettings) -> MeshReading:
    """Export as a user would, and once more without clean-up. Raises as ``mesh.extract``."""
    mesh = extract(field, occupancy=occupancy, settings=settings)
    raw = extract(field, occupancy=occupancy, settings=_RAW)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    return MeshReading(
        len(faces),
        float(mesh.report["largest_component_share"]),
        float(raw.report["largest_component_share"]),
        mesh_opacity(vertices, faces, judging_cameras(), SIZE),
        vertices.float(),
        faces.long(),
    )


@torch.no_grad()
def observe(
    field: RadianceField,
    *,
    occupancy: OccupancyGrid | None = None,
    render_settings: RenderSettings | None = None,
    mesh_settings: MeshSettings | None = None,
    thresholds: Thresholds | None = None,
    world: str = "plain",
) -> Observation:
    """Look at a field on the CPU; about 4 seconds on one thread in the plain world, three times that in the full one.

    ``occupancy`` and ``render_settings`` should be those the field was trained with: cells that training skipped are
    skipped here. A field that fills nothing gives an observation that no prompt accepts, not an error.
    ``world`` decides which shapes are tried on it, and whether it is looked at from all around.
    """
    thresholds = thresholds or Thresholds()
    solid = solidify(sample_density(field, occupancy, RESOLUTION))
    views = look(field, occupancy, render_settings or RenderSettings())
    colour = read_colour(views.colour(), views.opacity * (views.opacity > 0.05), thresholds.pale)
    mesh, reason = None, ""
    try:
        mesh = read_mesh(field, occupancy, mesh_settings or MeshSettings())
    except Distill3DError as error:
        reason = str(error)
    fits = fit_all(solid, world) if solid.inside.any() else {}
    around = look_around(field, occupancy, render_settings or RenderSettings()) if WORLDS[world].figures else None
    return Observation(solid, fits, views, colour, mesh, reason, around)
