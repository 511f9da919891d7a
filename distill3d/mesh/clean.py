"""Make an extracted surface fit for use: drop floaters, weld, cut down to a face budget, and say what is left.

The order is fixed: components first (a floater must not use up the budget), then weld, then decimate. Decimation is
quadric edge collapse (Garland and Heckbert 1997) as fast-simplification implements it; large meshes are decimated in a
child process, where it can be interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..errors import OutOfMemoryError
from . import child
from .types import Ints

Points = NDArray[np.float64]

WELD_DISTANCE = 1e-6
"""Vertices that round to the same multiple of this become one; the finest lattice's vertices stay 4 times apart."""
TAUBIN = (0.5, -0.53)
"""Factors ``lambda`` and ``mu`` of the smoothing."""
MELTED = 0.8
"""Share of a part's volume or area below which no pass of smoothing may take it; what is lost is scaled back."""
AGGRESSIVENESS = (5.0, 3.0, 1.0)
"""fast-simplification's haste, tried in turn until a closed surface stays closed and keeps its volume."""
CHILD_FACES = 200_000
"""Above this many faces decimation takes seconds and runs where it can be killed."""
CHILD_SECONDS = 600.0
"""Longest time for one decimation."""
VOLUME_CHANGE = 0.02
"""Largest relative change of volume that a decimation may make."""


def unique_rows(rows: Ints) -> tuple[Ints, Ints, Ints]:
    """First index of each different row ``(n, k)``, each row's number, and how often each comes.

    As ``np.unique(axis=0)``, in the same order, and several times as fast where a row fits one 64-bit number.
    """
    if len(rows) == 0:
        return (np.zeros(0, np.int64),) * 3
    low = rows.min(0)
    span = [int(high) + 1 for high in rows.max(0) - low]
    if math.prod(span) < 2**63:
        key = np.ravel_multi_index(tuple((rows - low).T), span)
        _, first, number, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    else:
        _, first, number, count = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
    return first, number.reshape(-1), count


def first_seen(rows: Ints) -> tuple[Ints, Ints]:
    """Different rows ``(n, k)`` in the order in which they come: where each is first, and each row's number."""
    first, number, _ = unique_rows(rows)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[number]


def half_edges(faces: Ints) -> Ints:
    """``(3 F, 2)`` the directed edges of the faces: all first ones, all second ones, all third ones."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


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
    first, number = first_seen(np.round(vertices / distance).astype(np.int64))
    vertices, faces = vertices[first], number[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    if len(faces) == 0:
        return vertices[:0], faces
    single, _, _ = unique_rows(np.sort(faces, axis=1))
    return compact(vertices, faces[np.sort(single)])


def _paired(faces: Ints) -> NDArray[np.bool_]:
    """``(3 F,)`` of each half edge, whether it comes once and so does its opposite."""
    edges = half_edges(faces)
    span = int(faces.max()) + 1
    forward, backward = edges[:, 0] * span + edges[:, 1], edges[:, 1] * span + edges[:, 0]
    keys, number, count = np.unique(forward, return_inverse=True, return_counts=True)
    single = keys[count == 1]
    return np.asarray((count[number.reshape(-1)] == 1) & np.isin(backward, single))


def is_closed(faces: Ints) -> bool:
    """Every directed edge appears once and meets its opposite once: no hole, no fold, one orientation."""
    return len(faces) > 0 and bool(_paired(faces).all())


def signed_volume(vertices: Points, faces: Ints) -> float:
    """Volume by the divergence theorem, positive when a closed surface faces outward."""
    return float(_cones(vertices, faces).sum())


def _cones(vertices: Points, faces: Ints) -> NDArray[np.float64]:
    """``(F,)`` signed volumes between each face and the origin."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    volumes: NDArray[np.float64] = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
    return volumes


def part_volumes(vertices: Points, faces: Ints) -> NDArray[np.float64]:
    """``(parts,)`` signed volume of each part that hangs together; below 0 one that is closed and faces inward."""
    count, labels = component_labels(faces, len(vertices))
    volumes: NDArray[np.float64] = np.bincount(labels, _cones(vertices, faces), count).astype(np.float64)
    return volumes


def decimate(
    vertices: Points, faces: Ints, budget: int, poll: Callable[[float], None] | None = None
) -> tuple[Points, Ints]:
    """At most ``budget`` faces, by the hastiest setting that keeps a closed surface closed and its volume.

    Where none does, the most careful result that holds any face is given back; the report then tells of the holes.

    Args:
        poll: called with a share 0..1; may raise to cancel.

    Raises:
        OutOfMemoryError: the child process that does it for many faces was ended, or took too long.
    """
    if budget == 0 or len(faces) <= budget:
        return vertices, faces
    closed, volume = is_closed(faces), signed_volume(vertices, faces)
    best = vertices, faces
    for turn, haste in enumerate(AGGRESSIVENESS):
        if poll is not None:
            poll(turn / len(AGGRESSIVENESS))
        points, triangles = weld(*_collapse(vertices, faces, budget, haste, poll))
        if len(triangles) < 4 or len(best[1]) <= budget < len(triangles):
            continue  # nothing left, or too careful to reach the budget that a hastier try kept
        best = points, triangles
        if closed and abs(signed_volume(points, triangles) - volume) > VOLUME_CHANGE * abs(volume):
            continue
        if is_closed(triangles) or not closed:
            break
    return best


def _collapse(
    vertices: Points, faces: Ints, budget: int, haste: float, poll: Callable[[float], None] | None
) -> tuple[Points, Ints]:
    points, triangles = np.ascontiguousarray(vertices), np.ascontiguousarray(faces.astype(np.int32))
    if len(faces) > CHILD_FACES:
        arrays = {"vertices": points, "faces": triangles, "budget": budget, "haste": haste}
        try:
            # a share of the time limit says nothing about the work done, so the stage's own share stays where it is
            found = child.run("decimate", arrays, CHILD_SECONDS, None if poll is None else lambda share: poll(0.0))
            return found["vertices"].astype(np.float64), found["faces"].astype(np.int64)
        except child.ChildError as error:
            if error.hopeless:
                raise OutOfMemoryError(
                    f"making {len(faces)} faces fewer was given up, because {error}: ask for a lower resolution, or "
                    "for no face budget"
                ) from error
    points, triangles = fast_simplification.simplify(points, triangles, target_count=budget, agg=haste)
    return np.asarray(points, np.float64), np.asarray(triangles, np.int64)


def smooth(vertices: Points, faces: Ints, passes: int) -> tuple[Points, int]:
    """Taubin smoothing; every closed part is then scaled about its middle to the volume that it had.

    "A Signal Processing Approach To Fair Surface Design" (Taubin 1995): a step towards the neighbours' mean with
    factor ``lambda`` and one away from it with ``mu``, which passes low frequencies unchanged. Borders of open sheets
    stay where they are. A part of few large faces is all high frequencies and would melt: before a pass takes its
    volume (its area, where it is open) below ``MELTED``, it is left as it is.

    Returns:
        the vertices, and of how many parts fewer passes were made.
    """
    if passes == 0:
        return vertices, 0
    edges, uses = _edges(faces)
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    degree = np.bincount(rows, minlength=len(vertices)).clip(1)
    mean = coo_matrix((1 / degree[rows], (rows, columns)), shape=(len(vertices),) * 2).tocsr()
    count, labels = component_labels(faces, len(vertices))
    part = np.zeros(len(vertices), np.int64)
    part[faces] = labels[:, None]
    moves = np.ones((len(vertices), 1))
    moves[edges[uses == 1]] = 0
    closed = np.bincount(np.tile(labels, 3), ~_paired(faces), count) == 0

    def sizes(points: Points) -> NDArray[np.float64]:
        volume = np.abs(np.bincount(labels, _cones(points - middle[part], faces), count))
        return np.where(closed, volume, np.bincount(labels, face_areas(points, faces), count))

    middle = np.zeros((count, 3))
    np.add.at(middle, part, vertices)
    middle /= np.bincount(part, minlength=count)[:, None]
    wanted, points, going = sizes(vertices), vertices, np.ones(count, bool)
    for _ in range(passes):
        moved = points
        for factor in TAUBIN:
            moved = moved + factor * moves * (mean @ moved - moved)
        going &= sizes(moved) >= MELTED * wanted
        if not going.any():
            break
        points = np.where(going[part, None], moved, points)
    grown = np.where(closed, np.cbrt(wanted / np.maximum(sizes(points), 1e-300)), 1.0)
    points = middle[part] + grown[part, None] * (points - middle[part])
    return points, int((~going).sum())


def drop_cavities(vertices: Points, faces: Ints, poll: Callable[[float], None] | None = None) -> tuple[Points, Ints]:
    """Take out closed parts that face inward, the walls of hollows, and every part that lies inside one of them.

    Args:
        poll: called with a share 0..1; may raise to cancel.
    """
    count, labels = component_labels(faces, len(vertices))
    if count == 1:
        return vertices, faces
    drop = part_volumes(vertices, faces) < 0
    by_part = faces[np.argsort(labels, kind="stable")]
    starts = np.cumsum([0, *np.bincount(labels, minlength=count)])
    point = vertices[by_part[starts[:-1], 0]]
    cavities = drop.nonzero()[0]
    for done, cavity in enumerate(cavities):
        if poll is not None and done % 64 == 0:
            poll(done / len(cavities))
        corners = vertices[by_part[starts[cavity] : starts[cavity + 1]]]
        low, high = corners.min((0, 1)), corners.max((0, 1))
        within = ~drop & (point > low).all(1) & (point < high).all(1)
        for part in within.nonzero()[0]:
            drop[part] = abs(winding(point[part], corners)) > 0.5
    if drop.all():
        return vertices, faces
    return compact(vertices, faces[~drop[labels]])


def winding(point: NDArray, corners: NDArray) -> float:
    """Winding number of triangles ``(F, 3, 3)`` around a point: 1 inside a closed surface that faces outward.

    Van Oosterom and Strackee 1983, "The Solid Angle of a Plane Triangle".
    """
    a, b, c = (corners - point).transpose(1, 0, 2)
    la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    top = np.einsum("ij,ij->i", a, np.cross(b, c))
    bottom = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    return float(np.arctan2(top, bottom).sum() / (2 * np.pi))


def _borders(edges: Ints, uses: Ints) -> int:
    """Number of separate borders: groups of edges with one face only that hang together."""
    border = edges[uses == 1]
    if len(border) == 0:
        return 0
    used, flat = np.unique(border, return_inverse=True)
    flat = flat.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(flat), bool), (flat[:, 0], flat[:, 1])), shape=(len(used),) * 2)
    return int(connected_components(graph, directed=False)[0])


def _edges(faces: Ints) -> tuple[Ints, Ints]:
    """Undirected edges ``(E, 2)`` and how many faces each has."""
    edges = np.sort(half_edges(faces), 1)
    first, _, uses = unique_rows(edges)
    return edges[first], uses


def inspect(vertices: Points, faces: Ints) -> dict[str, Any]:
    """What another program would find: counts, closedness, holes, topology, size; JSON-ready.

    ``boundary_edges`` counts edges with one face only, in ``holes`` separate borders; ``shared_edges`` counts edges
    with more than two, where the surface touches itself; ``euler`` is vertices - edges + faces (2 for a ball, 0 for a
    ring), ``volume`` means something only where ``watertight``.
    """
    vertices, used = vertices.astype(np.float64), np.unique(faces)
    edges, uses = _edges(faces)
    parts, labels = component_labels(faces, len(vertices))
    corners = vertices[used].min(0), vertices[used].max(0)
    return {
        "vertices": len(vertices),
        "faces": len(faces),
        "watertight": is_closed(faces),
        "boundary_edges": int((uses == 1).sum()),
        "shared_edges": int((uses > 2).sum()),
        "holes": _borders(edges, uses),
        "euler": len(used) - len(uses) + len(faces),
        "components": parts,
        "largest_component_share": float(np.bincount(labels).max() / len(faces)),
        "area": float(face_areas(vertices, faces).sum()),
        "volume": signed_volume(vertices, faces),
        "bounds": [[float(v) for v in corner] for corner in corners],
    }
