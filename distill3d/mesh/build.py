"""From a field to a clean mesh with colours and, where asked for, a texture.

The order is fixed: surface, components, weld, smooth, decimate, unwrap, bake, scale. Each stage tells its progress and
may be cancelled by an exception from the callback.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from ..devices import device_of
from . import clean, color
from .bake import Open, bake, tangents
from .paint import FieldPaint, Paint
from .surface import Surface, find_surface
from .types import Floats, Ints, MeshSettings, OnStage, SurfaceMesh, TextureSettings
from .unwrap import unwrap

if TYPE_CHECKING:
    from ..fields.base import RadianceField
    from ..render.occupancy import OccupancyGrid

log = logging.getLogger(__name__)

TINY_CELLS = 8
"""A surface fewer cells across than this is hardly a shape."""


@dataclass(frozen=True)
class _Solid:
    """A surface before and after decimation, float32, what :func:`clean.inspect` says of the latter, and of how many
    parts smoothing stopped early."""

    dense: tuple[Floats, Ints]
    vertices: Floats
    faces: Ints
    facts: dict
    coarse: int


def extract(
    field: RadianceField,
    *,
    occupancy: OccupancyGrid | None = None,
    settings: MeshSettings | None = None,
    device: torch.device | str | None = None,
    on_stage: OnStage | None = None,
) -> SurfaceMesh:
    """The field's surface as a closed mesh with vertex colours: :func:`build` without a texture."""
    return build(field, occupancy=occupancy, settings=settings, device=device, on_stage=on_stage)


def build(
    field: RadianceField,
    *,
    occupancy: OccupancyGrid | None = None,
    settings: MeshSettings | None = None,
    texture: TextureSettings | None = None,
    device: torch.device | str | None = None,
    on_stage: OnStage | None = None,
) -> SurfaceMesh:
    """The field's surface as a closed mesh with vertex colours, and with a texture where asked for.

    Args:
        field: anything with ``density(x)``, ``field(x) -> (density, albedo)`` and ``normals(x)``. One that also has
            ``sdf(x)`` (signed distance, negative inside) is cut at zero distance instead of at a density.
        occupancy: limits the sampling to the box it knows to be occupied. Where the surface reaches the sides of
            that box the whole unit box is sampled instead, so a stale grid costs time and never cuts the object.
        settings: defaults to ``MeshSettings()``.
        texture: ``None``, or a size of 0, leaves vertex colours only.
        device: where the field lives; defaults to its first parameter's device, or the CPU.
        on_stage: called with 'sample', 'surface', 'clean', 'color', and for a texture 'unwrap' and 'bake', and a share
            0..1; may raise to cancel.

    Raises:
        EmptySurfaceError: nothing crosses the level, or matter fills the box; the message has the smallest and
            largest density, the level and what to do.
        DivergedError: a density or a colour is not finite.
    """
    settings = settings or MeshSettings()
    device = device_of(field) if device is None else torch.device(device)
    notify: OnStage = on_stage or _ignore
    surface = find_surface(field, occupancy, settings, device, on_stage)
    solid, found, kept = _cleaned(surface, settings, notify)

    notify("color", 0.0)
    normals = color.face_weighted_normals(solid.vertices, solid.faces)
    spacing = 2 / settings.resolution
    colors = color.vertex_colors(field, solid.vertices, normals, spacing, settings.chunk, device)
    if settings.normals == "field":
        normals = color.field_normals(field, solid.vertices, normals, settings.chunk, device)
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
        "faces_found": len(surface.faces),
        **solid.facts,
    }
    report["warnings"] = _warnings(surface, report, spacing) + smoothing_warnings(solid.coarse)
    mesh = SurfaceMesh(solid.vertices, solid.faces, normals, colors, level, report)
    if texture is not None and texture.size:
        dense_normals = color.face_weighted_normals(*solid.dense)
        if settings.normals == "field":
            dense_normals = color.field_normals(field, solid.dense[0], dense_normals, settings.chunk, device)
        paint = FieldPaint(field, solid.dense[0], dense_normals, spacing, settings.chunk, device)
        mesh = textured(mesh, paint, texture, notify)
    for text in report["warnings"]:
        log.warning(text)
    return placed(mesh, settings)


def _cleaned(surface: Surface, settings: MeshSettings, notify: OnStage) -> tuple[_Solid, int, int]:
    """Components, weld, smooth, decimate; and how many components were found and kept."""
    notify("clean", 0.0)
    vertices, faces, found, kept = clean.keep_components(surface.vertices, surface.faces, settings.component_share)
    vertices, faces = clean.weld(vertices, faces)
    vertices, coarse = clean.smooth(vertices, faces, settings.smooth)
    vertices = np.clip(vertices, -1, 1)
    notify("clean", 0.2)
    low, low_faces = clean.decimate(
        vertices, faces, settings.face_budget, lambda share: notify("clean", 0.2 + 0.7 * share)
    )
    facts = clean.inspect(low, low_faces)
    notify("clean", 1.0)
    dense = np.ascontiguousarray(vertices, np.float32), faces
    return _Solid(dense, np.ascontiguousarray(low, np.float32), low_faces, facts, coarse), found, kept


def textured(mesh: SurfaceMesh, paint: Paint, settings: TextureSettings, notify: OnStage) -> SurfaceMesh:
    """The mesh cut open along seams, with a texture painted; a fall-back is told in ``report['warnings']``."""
    notify("unwrap", 0.0)
    atlas = unwrap(mesh.vertices, mesh.faces, settings, lambda share: notify("unwrap", 0.99 * share))
    notify("unwrap", 1.0)
    vertices, normals, colors = (v[atlas.source] for v in (mesh.vertices, mesh.normals, mesh.colors))
    basis = tangents(vertices, normals, atlas.uvs, atlas.faces)
    baked = bake(
        Open(vertices, normals, basis, atlas.uvs, atlas.faces),
        paint,
        settings,
        lambda share: notify("bake", share),
    )
    notify("bake", 1.0)
    facts = {"unwrap": atlas.method, "charts": atlas.charts, "size": settings.size, "coverage": baked.coverage}
    report = {**mesh.report, "texture": facts}
    if atlas.reason:
        report.setdefault("warnings", []).append(
            f"the mesh was unwrapped by box projection, with more seams, because {atlas.reason}"
        )
    return SurfaceMesh(
        vertices,
        atlas.faces,
        normals,
        colors,
        mesh.level,
        report,
        uvs=atlas.uvs,
        texture=baked.texture,
        normal_map=baked.normal_map,
        tangents=basis if baked.normal_map is not None else None,
        occlusion=baked.occlusion,
        image=settings.image,
    )


def placed(mesh: SurfaceMesh, settings: MeshSettings) -> SurfaceMesh:
    """The mesh at the size that ``settings.scale`` asks for; the report's lengths follow. A point has no size."""
    if settings.scale == "world":
        return mesh
    low, high = mesh.vertices.min(0).astype(np.float64), mesh.vertices.max(0).astype(np.float64)
    middle, size = (low + high) / 2, float((high - low).max())
    if size == 0:
        return mesh
    factor = (settings.metres if settings.scale == "metres" else 1.0) / size
    if settings.scale == "metres":
        middle[1] = low[1]
    mesh.vertices = cast(Floats, ((mesh.vertices - middle) * factor).astype(np.float32))
    report = mesh.report
    report["scaled_by"] = factor
    for name, power in (("area", 2), ("volume", 3)):
        if name in report:
            report[name] *= factor**power
    report["bounds"] = [mesh.vertices.min(0).tolist(), mesh.vertices.max(0).tolist()]
    return mesh


def _warnings(surface: Surface, report: dict, spacing: float) -> list[str]:
    found = []
    reach = max(abs(value) for corner in report["bounds"] for value in corner)
    if surface.cut_share > 0 and reach > 1 - spacing:
        share = f"{surface.cut_share:.1%}" if surface.cut_share >= 0.001 else "less than 0.1%"
        found.append(
            f"the object runs through {share} of the box's sides and is cut off flat there: "
            "train with a smaller initial blob or a stronger sparsity loss"
        )
    if surface.choice.rule == "faint":
        found.append(
            f"the object is faint (most opaque ray {surface.choice.opacity:.2f}): its surface is a guess; a new "
            "run with more iterations may make it solid"
        )
    if -np.expm1(-2 * surface.choice.haze) > 0.1:
        found.append(f"a haze of density {surface.choice.haze:.2g} fills the box and was left out of the mesh")
    if surface.choice.mismatch > 0.5:
        found.append(
            f"the field is foggy: mesh and rendering disagree on {surface.choice.mismatch:.0%} of the covered area; "
            "a new run with more iterations or a stronger opaque loss may make it solid"
        )
    size = max(high - low for low, high in zip(*report["bounds"], strict=True))
    if size < TINY_CELLS * spacing:
        found.append(
            f"the surface is only {size / spacing:.1f} cells across: raise the resolution, or "
            "start a new run with more iterations"
        )
    found += closedness_warnings(report)
    return found


def closedness_warnings(
    report: dict, cure: str = "; raise the face budget or the resolution to avoid them"
) -> list[str]:
    """What keeps a mesh from being a closed solid, in words, from the facts of ``clean.inspect``.

    ``cure`` is what the user may do about it; a mesh that came with its holes has none here.
    """
    if report["watertight"]:
        inward = "the surface faces inward, and printers take it for a hole: flip its faces where it was made"
        return [inward] if report["volume"] < 0 else []
    if report["boundary_edges"]:
        return [
            f"the mesh has {report['holes']} hole{'s' * (report['holes'] > 1)} ({report['boundary_edges']} open edges):"
            f" it renders well, and printing needs a repair{cure}"
        ]
    if report["shared_edges"]:
        return [
            f"the surface has no hole, but touches itself along {report['shared_edges']} edges with more than two"
            f" faces: it renders well, and printing or boolean operations may need a repair{cure}"
        ]
    return ["the mesh has no hole, but some faces look inward: recompute its normals where that matters"]


def smoothing_warnings(parts: int) -> list[str]:
    """What to say of parts that ``clean.smooth`` made fewer passes over than it was asked for."""
    if parts == 0:
        return []
    which = "1 part has" if parts == 1 else f"{parts} parts have"
    return [f"{which} so few faces that more smoothing would melt them: smoothed less than asked for"]


def _ignore(name: str, fraction: float) -> None:
    pass
