"""A mesh that came from elsewhere, through the stages a field's mesh goes through: clean, decimate, unwrap, bake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import MeshFileError
from . import clean, color
from .build import closedness_warnings, placed, smoothing_warnings, textured
from .clean import is_closed
from .load import merge
from .paint import SamplePaint
from .shade import creased, places
from .types import Floats, Ints, MeshSettings, OnStage, SurfaceMesh, TextureSettings
from .view import sample_texture

SAMPLES = 1_500_000
"""Most points scattered over the surface to carry its colours; a small texture needs fewer."""
INSET, TURN = 0.15, 25.0
"""A corner's normal is looked up this share of the way to the middle of its face; across a sharp edge two of them
differ by more than so many degrees."""
MARGIN = 0.9
"""Half the longest side while the mesh is worked on, so that tolerances mean the same for any unit of length."""


def convert(
    parts: SurfaceMesh | Sequence[SurfaceMesh],
    settings: MeshSettings | None = None,
    texture: TextureSettings | None = None,
    on_stage: OnStage | None = None,
    *,
    rebake: bool = False,
) -> SurfaceMesh:
    """A mesh within a face budget and with one texture.

    What already fits is left as it is: a single part within the budget keeps its vertices, its texture and its seams.
    Otherwise the parts are welded, small ones dropped, smoothed and decimated as the settings say, unwrapped, and
    colours and normals baked from the mesh that came in.

    Args:
        parts: a mesh, or what ``read_parts`` gives.
        settings: ``component_share``, ``smooth``, ``face_budget``, ``scale`` and ``metres`` are used.
        texture: ``None`` asks for none: one that is there is kept where the mesh is not changed, and becomes vertex
            colours where it is. A size of 0 makes it vertex colours in any case.
        rebake: paint a new texture also where the one that is there could stay, as for formats without its tint.
        on_stage: called with 'clean', 'unwrap' and 'bake' and a share 0..1; may raise to cancel.

    Raises:
        MeshFileError: there is no triangle with an area.
    """
    settings = settings or MeshSettings(component_share=0.0, face_budget=0)
    notify: OnStage = on_stage or (lambda name, share: None)
    pieces = [parts] if isinstance(parts, SurfaceMesh) else list(parts)
    if not any(clean.face_areas(piece.vertices.astype(np.float64), piece.faces).any() for piece in pieces):
        raise MeshFileError("expected triangles with an area, but all are lines or points: check what made the mesh")
    whole = merge(pieces)
    fits = settings.face_budget == 0 or len(whole.faces) <= settings.face_budget
    untouched = fits and settings.smooth == 0 and settings.component_share == 0
    wanted = texture is not None and texture.size > 0
    came_closed = is_closed(places(whole.vertices)[whole.faces])
    if untouched and not (wanted and (whole.texture is None or rebake)):
        kept = _copy(whole)
        if texture is not None:
            kept.image = texture.image
        if texture is not None and not wanted:
            kept.texture = kept.uvs = kept.tint = kept.normal_map = kept.tangents = kept.occlusion = None
        return placed(_described(kept, came_closed), settings)

    low, high = whole.vertices.min(0).astype(np.float64), whole.vertices.max(0).astype(np.float64)
    middle, factor = (low + high) / 2, 2 * MARGIN / max(float((high - low).max()), 1e-30)

    def inside(points: Floats) -> Floats:
        return cast(Floats, ((points - middle) * factor).astype(np.float32))

    paint = _paint(pieces, inside, texture if wanted else None)
    shrunk = _reduced(inside(whole.vertices), whole, settings, paint, notify)
    if wanted and texture is not None:
        shrunk = textured(shrunk, paint, texture, notify)
    shrunk.vertices = cast(Floats, (shrunk.vertices / factor + middle).astype(np.float32))
    return placed(_described(shrunk, came_closed), settings)


def _reduced(
    points: Floats, whole: SurfaceMesh, settings: MeshSettings, paint: SamplePaint, notify: OnStage
) -> SurfaceMesh:
    notify("clean", 0.0)
    vertices, faces = clean.weld(points.astype(np.float64), whole.faces)
    if len(faces) == 0:
        vertices, faces = points.astype(np.float64), whole.faces
    vertices, faces, _, _ = clean.keep_components(vertices, faces, settings.component_share)
    vertices, coarse = clean.smooth(vertices, faces, settings.smooth)
    vertices, faces = clean.decimate(vertices, faces, settings.face_budget, lambda share: notify("clean", share))
    notify("clean", 1.0)
    small = np.ascontiguousarray(vertices, np.float32)
    fine = None if settings.smooth else _source_normals(small, faces, paint)
    source, faces, sharp = creased(small, faces, 180.0 if fine is None else TURN, fine)
    small, normals = small[source], sharp.astype(np.float32)
    colors, _ = paint.texels(small, normals)
    report = {**whole.report, "warnings": [*whole.report.get("warnings", ()), *smoothing_warnings(coarse)]}
    return SurfaceMesh(small, faces, normals, colors, whole.level, report)


def _source_normals(vertices: Floats, faces: Ints, paint: SamplePaint) -> Floats:
    """``(F, 3, 3)`` the normals that the mesh before decimation has at each corner of each face, just inside it.

    Where they differ across an edge, the mesh that came in was sharp there, and stays so.
    """
    corners = vertices[faces]
    inside = corners + INSET * (corners.mean(1, keepdims=True) - corners)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float64)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    flat = np.repeat(normal, 3, 0).astype(np.float32)
    _, fine, _, _ = paint.dense.detail(inside.reshape(-1, 3).astype(np.float32), flat)
    fine = fine / np.maximum(np.linalg.norm(fine, axis=1, keepdims=True), 1e-12)
    return cast(Floats, fine.reshape(-1, 3, 3))


def _paint(
    pieces: Sequence[SurfaceMesh], place: Callable[[Floats], Floats], texture: TextureSettings | None
) -> SamplePaint:
    """Colours at the vertices and at points scattered evenly over all pieces."""
    wanted = SAMPLES if texture is None else min(SAMPLES, 2 * texture.size**2)
    areas = [clean.face_areas(piece.vertices.astype(np.float64), piece.faces) for piece in pieces]
    total = max(sum(float(area.sum()) for area in areas), 1e-30)
    points, normals, colors = [], [], []
    for number, (piece, area) in enumerate(zip(pieces, areas, strict=True)):
        p, n, c = scatter(piece, area, int(wanted * float(area.sum()) / total), seed=number)
        used = np.unique(piece.faces)
        points += [piece.vertices[used], p]
        normals += [piece.normals[used], n]
        colors += [_vertex_colors(piece)[used], c]
    return SamplePaint(place(np.concatenate(points)), np.concatenate(normals), np.concatenate(colors))


def scatter(piece: SurfaceMesh, area: NDArray[np.float64], count: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """``count`` points ``(n, 3)`` spread over a mesh by area, with normals and colours there; the seed fixes them."""
    share = area.cumsum() / max(float(area.sum()), 1e-30)
    random = np.random.default_rng(seed)
    spots = (np.arange(count) + random.random(count)) / max(count, 1)
    face = np.searchsorted(share, spots).clip(0, len(area) - 1)
    root, second = np.sqrt(random.random(count)), random.random(count)
    weight = np.stack([1 - root, root * (1 - second), root * second], -1)
    corners = piece.faces[face]

    def at(values: NDArray) -> Floats:
        return cast(Floats, np.einsum("nk,nkc->nc", weight, values[corners]).astype(np.float32))

    normals = at(piece.normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    if piece.texture is not None and piece.uvs is not None:
        picture = torch.from_numpy(piece.texture).float() / 255
        found = sample_texture(picture, torch.from_numpy(at(piece.uvs))).numpy()
        tint = None if piece.tint is None else at(piece.tint)
        return at(piece.vertices), normals, cast(Floats, color.tinted(found, tint).astype(np.float32))
    return at(piece.vertices), normals, at(piece.colors)


def _vertex_colors(piece: SurfaceMesh) -> Floats:
    if piece.texture is None or piece.uvs is None:
        return piece.colors
    picture = torch.from_numpy(piece.texture).float() / 255
    found = sample_texture(picture, torch.from_numpy(piece.uvs)).numpy()
    return cast(Floats, color.tinted(found, piece.tint).astype(np.float32))


def _copy(mesh: SurfaceMesh) -> SurfaceMesh:
    return SurfaceMesh(**{**vars(mesh), "vertices": mesh.vertices.copy(), "report": dict(mesh.report)})


def _described(mesh: SurfaceMesh, came_closed: bool) -> SurfaceMesh:
    """The mesh with the facts about its shape, seams closed."""
    vertices, faces = clean.weld(mesh.vertices.astype(np.float64), mesh.faces, _weld_distance(mesh))
    if len(faces):
        facts = clean.inspect(vertices, faces)
        cure = "; a higher face budget may avoid it" if came_closed else "; it came like that"
        mesh.report = {
            **mesh.report,
            **facts,
            "warnings": [*mesh.report.get("warnings", ()), *closedness_warnings(facts, cure)],
        }
    return mesh


def _weld_distance(mesh: SurfaceMesh) -> float:
    return clean.WELD_DISTANCE * max(float(np.ptp(mesh.vertices, axis=0).max()), 1e-30)
