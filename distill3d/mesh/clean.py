"""Make an extracted surface fit for use: drop floaters, weld, cut down to a face budget, and say what is left.

The order is fixed: components first (a floater must not use up the budget), then weld, then decimate. Decimation is
quadric edge collapse (Garland and Heckbert 1997) as fast-simplification implements it.
"""

from __future__ import annotations

from typing import Any

import fast_simplification
import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .types import Ints

Points = NDArray[np.float64]

WELD_DISTANCE = 1e-6
"""Vertices that round to the same multiple of this become one; the finest lattice's vertices stay 4 times apart."""
AGGRESSIVENESS = (5.0, 3.0, 1.0)
"""fast-simplification's haste, tried in turn until a closed surface stays closed and keeps its volume."""
VOLUME_CHANGE = 0.02
"""Largest relative change of volume that a decimation may make."""


def compact(vertices: Points, faces: Ints) -> tuple[Points, Ints]:
    """Drop vertices that no face uses."""
    used, flat = np.unique(faces, return_inverse=True)
    return vertices[used], flat.reshape(-1, 3).astype(np.int64)


def component_labels(faces: Ints, count: int) -> tuple[int, NDArray[np.int64]]:
    """Number of edge- or vertex-connected parts, and the part of each face ``(F,)``; numbered in order of vertices."""
    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, by_vertex = connected_components(graph, directed=False)
    parts, labels = np.unique(by_vertex[faces[:, 0]], return_inverse=True)
    return len(parts), labels.astype(np.int64)


def face_areas(vertices: Points, faces: Ints) -> NDArray[np.float64]:
    """``(F,)`` triangle areas."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    areas: NDArray[np.float64] = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
    return areas


def keep_components(vertices: Points, faces: Ints, share: float) -> tuple[Points, Ints, int, int]:
    """Keep the parts whose area is at least ``share`` of the largest part's.

    Returns:
        vertices, faces, parts found, parts kept.
    """
    found, labels = component_labels(faces, len(vertices))
    area = np.bincount(labels, weights=face_areas(vertices, faces), minlength=found)
    kept = area >= share * area.max()
    vertices, faces = compact(vertices, faces[kept[labels]])
    return vertices, faces, found, int(kept.sum())


def weld(vertices: Points, faces: Ints, distance: float = WELD_DISTANCE) -> tuple[Points, Ints]:
    """Merge vertices at the same place, then drop faces with a repeated corner and faces that appear twice.

    A thin triangle with three different corners stays: taking it out would leave a crack.
    """
    key = np.round(vertices / distance).astype(np.int64)
    _, first, merged = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    vertices, faces = vertices[first[order]], rank[merged.reshape(-1)][faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    if len(faces) == 0:
        return vertices[:0], faces
    _, single = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return compact(vertices, faces[np.sort(single)])


def is_closed(faces: Ints) -> bool:
    """Every directed edge appears once and meets its opposite once: no hole, no fold, one orientation."""
    if len(faces) == 0:
        return False
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    span = int(faces.max()) + 1
    forward, backward = edges[:, 0] * span + edges[:, 1], edges[:, 1] * span + edges[:, 0]
    unique = np.unique(forward)
    return len(unique) == len(forward) and bool(np.array_equal(unique, np.unique(backward)))


def signed_volume(vertices: Points, faces: Ints) -> float:
    """Volume by the divergence theorem, positive when a closed surface faces outward."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def decimate(vertices: Points, faces: Ints, budget: int) -> tuple[Points, Ints]:
    """At most ``budget`` faces, by the hastiest setting that keeps a closed surface closed and its volume.

    Where none does, the most careful result that holds any face is given back; the report then tells of the holes.
    """
    if budget == 0 or len(faces) <= budget:
        return vertices, faces
    closed, volume = is_closed(faces), signed_volume(vertices, faces)
    best = vertices, faces
    for haste in AGGRESSIVENESS:
        points, triangles = fast_simplification.simplify(
            np.ascontiguousarray(vertices), np.ascontiguousarray(faces.astype(np.int32)), target_count=budget, agg=haste
        )
        points, triangles = weld(np.asarray(points, np.float64), np.asarray(triangles, np.int64))
        if len(triangles) < 4:
            continue
        best = points, triangles
        if abs(signed_volume(points, triangles) - volume) > VOLUME_CHANGE * abs(volume):
            continue
        if is_closed(triangles) or not closed:
            break
    return best


def inspect(vertices: Points, faces: Ints) -> dict[str, Any]:
    """What another program would find: counts, closedness, holes, topology, size; JSON-ready.

    ``boundary_edges`` counts edges with one face only, ``euler`` is vertices - edges + faces (2 for a ball, 0 for a
    ring), ``volume`` means something only where ``watertight``.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    _, uses = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    parts, labels = component_labels(faces, len(vertices))
    return {
        "vertices": len(vertices),
        "faces": len(faces),
        "watertight": bool(mesh.is_watertight and mesh.is_winding_consistent),
        "boundary_edges": int((uses == 1).sum()),
        "euler": int(mesh.euler_number),
        "components": parts,
        "largest_component_share": float(np.bincount(labels).max() / len(faces)),
        "area": float(mesh.area),
        "volume": float(mesh.volume),
        "bounds": [[float(v) for v in corner] for corner in mesh.bounds],
    }
