"""An atlas by box projection: every face seen along the axis it faces most, in patches that never overlap.

The fallback for meshes that a better unwrapper cannot do in time. Texel density varies by at most sqrt(3) and nothing
is folded over, since a face turned less than 55 degrees from its axis keeps its winding. Patches of one direction that
cover each other (a mug's handle before its body) are found by rasterising the atlas, and the hidden faces move to
patches of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .clean import half_edges
from .raster import rasterise
from .types import Ints

Points = NDArray[np.float64]

ROUNDS = 8
"""Times that covered faces are moved to new patches before each is left alone in one."""
AXES = ((2, 1), (0, 2), (0, 1))
"""The axes that run to the side and upwards in a patch seen along x, y and z."""
MIRRORED = (True, True, False)
"""Whether side x up points against the axis, so that the side must be flipped to see the face from outside."""


def box_atlas(vertices: Points, faces: Ints, size: int, padding: int) -> tuple[Ints, Ints, Points, int]:
    """Unwrap by box projection.

    Args:
        vertices: ``(V, 3)``; faces: ``(F, 3)``.
        size: side of the texture in texels; padding: texels left free around every patch.

    Returns:
        ``source`` (V',) the vertex each new vertex copies, ``faces`` (F, 3), ``uvs`` (V', 2) in 0..1 with v downwards,
        and the number of patches.
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    axis = np.abs(normal).argmax(1)
    away = np.take_along_axis(normal, axis[:, None], 1)[:, 0] < 0
    flat = _project(vertices, faces, axis, away)
    depth = np.where(away, -1, 1) * np.take_along_axis(vertices[faces].mean(1), axis[:, None], 1)[:, 0]
    label = (2 * axis + away).astype(np.int64)
    patch, where = _laid_out(flat, faces, label, size, padding)
    for turn in range(ROUNDS + 1):
        hidden = _hidden(where, depth, size)
        if not len(hidden):
            break
        fresh = label.max() + 1
        label[hidden] = fresh + (label[hidden] if turn < ROUNDS else np.arange(len(hidden)))
        patch, where = _laid_out(flat, faces, label, size, padding)
    pair, first, index = np.unique(
        faces.reshape(-1) * (int(patch.max()) + 1) + patch.repeat(3), return_index=True, return_inverse=True
    )
    uvs = where.reshape(-1, 2)[first] / size
    source = pair // (int(patch.max()) + 1)
    return source, index.reshape(-1, 3).astype(np.int64), np.clip(uvs, 0, 1), int(patch.max()) + 1


def _project(vertices: Points, faces: Ints, axis: NDArray, away: NDArray) -> Points:
    """``(F, 3, 2)`` corners seen against their direction: x right, y down, counter-clockwise seen from outside."""
    right, up = (np.array([pair[k] for pair in AXES])[axis] for k in (0, 1))
    corner = vertices[faces]
    x = np.take_along_axis(corner, right[:, None, None].repeat(3, 1), 2)[..., 0]
    y = np.take_along_axis(corner, up[:, None, None].repeat(3, 1), 2)[..., 0]
    mirrored = np.array(MIRRORED)[axis] ^ away
    return np.stack([np.where(mirrored[:, None], -x, x), -y], -1)


def _laid_out(flat: Points, faces: Ints, label: NDArray, size: int, padding: int) -> tuple[NDArray, Points]:
    """Patch of each face ``(F,)`` and its corners in texels ``(F, 3, 2)``."""
    patch = connected_patches(faces, label)
    count = int(patch.max()) + 1
    low = np.full((count, 2), np.inf)
    high = np.full((count, 2), -np.inf)
    np.minimum.at(low, patch, flat.min(1))
    np.maximum.at(high, patch, flat.max(1))
    offset, scale = pack(high - low, size, padding)
    return patch, (flat - low[patch][:, None]) * scale + offset[patch][:, None]


def connected_patches(faces: Ints, label: NDArray) -> NDArray[np.int64]:
    """Number the groups of faces that share a label and hang together by edges, ``(F,)``."""
    edges = np.sort(half_edges(faces), 1)
    owner = np.tile(np.arange(len(faces)), 3)
    key = edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1]
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    one, other = owner[order][1:][same], owner[order][:-1][same]
    joined = label[one] == label[other]
    one, other = one[joined], other[joined]
    graph = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(len(faces), len(faces)))
    _, patch = connected_components(graph, directed=False)
    numbered: NDArray[np.int64] = patch.astype(np.int64)
    return numbered


def pack(extent: Points, size: int, padding: int) -> tuple[Points, float]:
    """Rows of boxes, the tallest first, at the largest scale that fits a square.

    Args:
        extent: ``(n, 2)`` width and height of the boxes.

    Returns:
        ``(n, 2)`` upper left corners in texels and texels per unit of ``extent``.
    """
    order = np.argsort(-extent[:, 1], kind="stable")
    low, high = 0.0, size / max(float(extent.max()), 1e-30)
    best = _shelves(extent[order] * low, size, 0)
    margin = padding if len(extent) * (padding + 1) ** 2 * 4 < size * size else 0
    for _ in range(24):
        middle = (low + high) / 2
        placed = _shelves(extent[order] * middle, size, margin)
        if placed is None:
            high = middle
        else:
            low, best = middle, placed
    offset = np.empty_like(extent)
    offset[order] = best if best is not None else 0.0
    return offset, low


def _shelves(boxes: Points, size: int, padding: int) -> Points | None:
    """Corners of boxes set side by side in rows, or None where they do not fit."""
    placed = np.empty_like(boxes)
    x = y = float(padding)
    row = 0.0
    for index, (width, height) in enumerate(boxes.tolist()):
        if x + width + padding > size:
            x, y, row = float(padding), y + row + 2 * padding, 0.0
        if x + width + padding > size or y + height + padding > size:
            return None
        placed[index] = x, y
        x, row = x + width + 2 * padding, max(row, height)
    return placed


def _hidden(where: Points, depth: NDArray, size: int) -> NDArray[np.int64]:
    """Faces that lie below another one in some texel of the atlas."""
    found = rasterise(torch.from_numpy(where), size, size)
    top = torch.full((size * size,), float("-inf"), dtype=torch.float64)
    level = torch.from_numpy(depth)[found.face]
    top = top.scatter_reduce(0, found.pixel, level, "amax")
    below = level < top[found.pixel]
    hidden: NDArray[np.int64] = found.face[below].unique().numpy()
    return hidden
