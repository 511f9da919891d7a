"""Textures for an unwrapped mesh: base colour, tangent-space normals, ambient occlusion.

Every texel that a triangle touches is looked up once, at the middle of what it covers. Texels whose neighbours have
another colour are then looked up again at ``supersample^2`` points and averaged, which is where it shows. Texels
outside the charts copy the nearest one inside, so that filtering and mip maps meet no seam. Work goes band by band:
memory does not grow with the texture beyond the texture itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from .occlusion import Visibility
from .paint import Paint
from .raster import rasterise
from .types import Bytes, Floats, Ints, TextureSettings

BAND_SAMPLES = 1 << 20
"""Samples held at once."""
CONTRAST = 3 / 255
"""Texels whose colour differs by more than this from one beside them are supersampled."""


@dataclass(frozen=True)
class Baked:
    """Textures ``(S, S, 3)`` or ``(S, S)`` uint8, and the share of texels that lie on the mesh."""

    texture: Bytes
    normal_map: Bytes | None
    occlusion: Bytes | None
    coverage: float


@dataclass(frozen=True)
class Open:
    """An unwrapped mesh: ``(V, 3)`` vertices and normals, ``(V, 4)`` tangents, ``(V, 2)`` uvs, ``(F, 3)`` faces."""

    vertices: Floats
    normals: Floats
    tangents: Floats
    uvs: Floats
    faces: Ints


@dataclass(frozen=True)
class _Band:
    """Samples ``(n,)`` of a band of texels: the texel of each, its face and barycentric weights."""

    texel: NDArray[np.int64]
    face: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __getitem__(self, rows: NDArray) -> _Band:
        return _Band(self.texel[rows], self.face[rows], self.weight[rows])

    def of(self, values: Floats, faces: Ints) -> Floats:
        """``values`` ``(V, C)`` interpolated at the samples, ``(n, C)`` float32."""
        return cast(Floats, np.einsum("nk,nkc->nc", self.weight, values[faces[self.face]]).astype(np.float32))


def tangents(vertices: Floats, normals: Floats, uvs: Floats, faces: Ints) -> Floats:
    """``(V, 4)`` direction in which u grows, at right angles to the normal, and the sign of the bitangent.

    ``w cross(normal, tangent)`` points up in the texture, against v (glTF 2.0, section 3.7.2.1). Each vertex takes the
    mean over its faces, weighted by area (Lengyel, "Computing Tangent Space Basis Vectors for an Arbitrary Mesh").
    """
    corner, uv = vertices[faces].astype(np.float64), uvs[faces].astype(np.float64)
    e1, e2, d1, d2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    turn = d1[:, 0] * d2[:, 1] - d2[:, 0] * d1[:, 1]
    area = np.linalg.norm(np.cross(e1, e2), axis=1, keepdims=True)
    sign = np.sign(turn)[:, None]
    along = _unit(sign * (d2[:, 1:] * e1 - d1[:, 1:] * e2)) * area
    upward = -_unit(sign * (d1[:, :1] * e2 - d2[:, :1] * e1)) * area
    total, up = np.zeros((len(vertices), 3)), np.zeros((len(vertices), 3))
    for k in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, k], along[:, axis], len(vertices))
            up[:, axis] += np.bincount(faces[:, k], upward[:, axis], len(vertices))
    n = normals.astype(np.float64)
    t = total - n * (n * total).sum(1, keepdims=True)
    side = np.eye(3)[np.abs(n).argmin(1)]
    fallback = side - n * (n * side).sum(1, keepdims=True)
    t = _unit(np.where(np.linalg.norm(t, axis=1, keepdims=True) > 1e-12, t, fallback))
    w = np.where((np.cross(n, t) * up).sum(1) < 0, -1.0, 1.0)
    return cast(Floats, np.concatenate([t, w[:, None]], 1).astype(np.float32))


def bake(mesh: Open, paint: Paint, settings: TextureSettings, poll: Callable[[float], None] | None = None) -> Baked:
    """Paint the textures.

    Args:
        mesh: with charts that do not overlap.
        paint: colours and fine normals.
        poll: called with a share 0..1 after each band; may raise to cancel.

    Raises:
        DivergedError: a colour is not finite.
    """
    size, tell = settings.size, poll or (lambda share: None)
    color = np.zeros((size * size, 3), np.uint8)
    normal = np.zeros((size * size, 3), np.uint8) if settings.normal_map else None
    light = np.zeros(size * size, np.uint8) if settings.occlusion else None
    seen = Visibility(mesh.vertices, mesh.faces) if settings.occlusion else None
    known = np.zeros(size * size, bool)
    for share, band in _bands(mesh, size, settings.supersample):
        texels, middle = _middles(band)
        points, normals = middle.of(mesh.vertices, mesh.faces), _unit32(middle.of(mesh.normals, mesh.faces))
        found, fine = paint.texels(points, normals)
        color[texels] = _bytes(found)
        known[texels] = True
        if normal is not None:
            normal[texels] = _bytes(0.5 + 0.5 * _in_tangent_space(middle, mesh, normals, fine))
        if light is not None and seen is not None:
            light[texels] = _bytes(seen.share(points, normals))
        tell(0.6 * share)
    if settings.supersample > 1:
        rough = _contrasting(color.reshape(size, size, 3), known.reshape(size, size)).reshape(-1)
        for share, band in _bands(mesh, size, settings.supersample):
            fine_band = band[rough[band.texel]]
            if len(fine_band.texel):
                _smooth(color, fine_band, mesh, paint)
            tell(0.6 + 0.35 * share)
    nearest = _nearest(known.reshape(size, size))
    filled = [None if v is None else _filled(v, nearest, size) for v in (color, normal, light)]
    tell(1.0)
    assert filled[0] is not None
    return Baked(filled[0], filled[1], filled[2], float(known.mean()))


def _bands(mesh: Open, size: int, fine: int) -> Iterator[tuple[float, _Band]]:
    corners = torch.from_numpy(mesh.uvs[mesh.faces].astype(np.float64)) * (size * fine)
    rows = max(1, BAND_SAMPLES // (size * fine * fine))
    for begin in range(0, size, rows):
        end = min(begin + rows, size)
        found = rasterise(corners, size * fine, size * fine, (begin * fine, end * fine))
        row, column = found.pixel // (size * fine) // fine, found.pixel % (size * fine) // fine
        yield end / size, _Band((row * size + column).numpy(), found.face.numpy(), found.weight.numpy())


def _middles(band: _Band) -> tuple[NDArray[np.int64], _Band]:
    """One sample for each texel: the one in the middle of those in its first face."""
    order = np.lexsort((band.face, band.texel))
    texel, begin, count = np.unique(band.texel[order], return_index=True, return_counts=True)
    sorted_faces = band.face[order]
    owner = np.repeat(np.arange(len(texel)), count)
    mine = sorted_faces == sorted_faces[begin][owner]
    total = np.zeros((len(texel), 3))
    for k in range(3):
        total[:, k] = np.bincount(owner[mine], band.weight[order][mine, k], len(texel))
    number = np.bincount(owner[mine], minlength=len(texel))
    return texel, _Band(texel, sorted_faces[begin], total / number[:, None])


def _smooth(color: Bytes, band: _Band, mesh: Open, paint: Paint) -> None:
    """Replace the colours of the band's texels by the mean over all their samples."""
    texel, where = np.unique(band.texel, return_inverse=True)
    found, _ = paint.texels(band.of(mesh.vertices, mesh.faces), _unit32(band.of(mesh.normals, mesh.faces)))
    count = np.bincount(where)
    mean = np.stack([np.bincount(where, found[:, k]) / count for k in range(3)], -1)
    color[texel] = _bytes(mean)


def _in_tangent_space(band: _Band, mesh: Open, normal: Floats, fine: Floats) -> Floats:
    """Fine normals in the basis that a viewer rebuilds at each texel: tangent, bitangent, normal."""
    t = band.of(mesh.tangents[:, :3], mesh.faces)
    t = _unit32(t - normal * (normal * t).sum(1, keepdims=True))
    w = mesh.tangents[mesh.faces[band.face, 0], 3:]
    b = w * np.cross(normal, t)
    local = np.stack([(fine * v).sum(1) for v in (t, b, normal)], -1)
    local[:, 2] = np.maximum(local[:, 2], 0.05)
    return _unit32(local.astype(np.float32))


def _contrasting(color: Bytes, known: NDArray) -> NDArray:
    """Texels with a neighbour, among the known ones, of a visibly different colour."""
    rough = np.zeros(known.shape, bool)
    for axis in (0, 1):
        first, second = (
            tuple(slice(*s) if a == axis else slice(None) for a in (0, 1)) for s in ((1, None), (None, -1))
        )
        step = np.abs(color[first].astype(np.int16) - color[second].astype(np.int16)).max(-1) > CONTRAST * 255
        step &= known[first] & known[second]
        rough[first] |= step
        rough[second] |= step
    result: NDArray = rough & known
    return result


def _nearest(known: NDArray) -> NDArray[np.int64] | None:
    """Flat index of the nearest known texel, or None where there is none at all."""
    if not known.any():
        return None
    where = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return cast("NDArray[np.int64]", (where[0] * known.shape[1] + where[1]).reshape(-1))


def _filled(values: Bytes, nearest: NDArray | None, size: int) -> Bytes:
    filled = values if nearest is None else values[nearest]
    return filled.reshape(size, size, *values.shape[1:])


def _bytes(values: NDArray) -> Bytes:
    return cast(Bytes, np.round(np.clip(values, 0, 1) * 255).astype(np.uint8))


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
    return unit


def _unit32(vectors: Floats) -> Floats:
    return cast(Floats, _unit(vectors).astype(np.float32))
