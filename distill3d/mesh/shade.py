"""Normals for what comes without: faces that meet at a sharp edge keep normals of their own, others share one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .clean import Points, half_edges, unique_rows
from .types import Ints

CREASE = 40.0
"""Degrees between two faces' normals above which their common edge is sharp: a cube's is, a pipe's of 12 sides not."""


def places(points: NDArray) -> Ints:
    """``(V,)`` the same number for rows ``(V, k)`` that are equal to the last bit."""
    columns = [np.unique(points[:, axis], return_inverse=True)[1].reshape(-1) for axis in range(points.shape[1])]
    return unique_rows(np.stack(columns, 1).astype(np.int64))[1]


def creased(
    vertices: NDArray, faces: Ints, angle: float = CREASE, corner_normals: NDArray | None = None
) -> tuple[Ints, Ints, Points]:
    """A mesh split along its sharp edges, with normals that are smooth between them.

    Edges are looked for between places, so that a seam of texture coordinates is no edge. One with other than two
    faces, or whose faces disagree on which side is out, is sharp.

    Args:
        angle: degrees above which an edge is sharp.
        corner_normals: ``(F, 3, 3)``, unit, to measure that angle between, at both ends of the edge; those of the faces
            where left out.

    Returns:
        The vertex that each new one comes from ``(N,)``, in order; the faces in new vertices ``(F, 3)``; and unit
        normals ``(N, 3)``, the mean of the faces around, weighted by area.
    """
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    weighted = np.repeat(np.cross(b - a, c - a), 3, 0)
    if corner_normals is None:
        normal = weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-300)
    else:
        normal = corner_normals.reshape(-1, 3)
    # a node for each corner of each face, as in faces.reshape(-1); a smooth edge joins the corners at both its ends
    corner = np.arange(3 * len(faces)).reshape(-1, 3)
    begin, end = half_edges(corner).T
    edges = half_edges(places(vertices)[faces])
    _, edge, uses = unique_rows(np.sort(edges, 1))
    order = np.argsort(edge, kind="stable")
    first = np.cumsum(uses)[uses == 2] - 2
    one, two = order[first], order[first + 1]
    limit = math.cos(math.radians(angle))
    smooth = edges[one, 0] == edges[two, 1]
    for x, y in ((begin[one], end[two]), (end[one], begin[two])):
        smooth &= (normal[x] * normal[y]).sum(1) >= limit
    one, two = one[smooth], two[smooth]
    rows, columns = np.concatenate([begin[one], end[one]]), np.concatenate([end[two], begin[two]])
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(corner.size,) * 2)
    group = connected_components(graph, directed=False)[1].astype(np.int64)
    kept, number, _ = unique_rows(np.stack([faces.reshape(-1), group], 1))
    normals = np.stack([np.bincount(group, weighted[:, axis]) for axis in range(3)], -1)[group[kept]]
    size = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(size > 1e-300, normals / np.maximum(size, 1e-300), [0.0, 1.0, 0.0])
    return faces.reshape(-1)[kept], number.reshape(-1, 3), normals
