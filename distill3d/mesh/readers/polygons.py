"""Faces of any number of corners as triangles: a fan where the face is convex, ears cut off where it is not.

Ear clipping (Meisters 1975, "Polygons Have Ears") in the plane of the face's Newell normal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..types import Ints
from .part import Doubles

FLAT = 1e-12
"""Turns smaller than this, relative to the face's extent squared, count as straight on."""
MOST_BAD = 32
"""Corners cut without being ears before a loop is given up."""


def triangulate(points: Doubles, counts: Ints) -> tuple[Ints, Ints]:
    """Triangles of polygons that are stored one after the other.

    Args:
        points: ``(n, 3)`` the place of every corner of every polygon, in order.
        counts: ``(P,)`` corners of each polygon; those with fewer than three give nothing.

    Returns:
        ``(T, 3)`` triangles as numbers of corners 0..n-1, and ``(T,)`` the polygon each is of; in order of polygons,
        turning as the polygons do.
    """
    starts = np.cumsum(counts) - counts
    triangles: list[Ints] = []
    owners: list[Ints] = []
    for count in np.unique(counts):
        if count < 3:
            continue
        (number,) = (counts == count).nonzero()
        corner = starts[number][:, None] + np.arange(count)
        convex = np.ones(len(number), bool) if count == 3 else _convex(points[corner])
        k = np.arange(1, count - 1)
        fan = np.stack([np.zeros_like(k), k, k + 1], -1)
        triangles.append(corner[convex][:, fan].reshape(-1, 3))
        owners.append(np.repeat(number[convex], len(k)))
        for row, owner in zip(corner[~convex], number[~convex], strict=True):
            cut = row[_ears(_flat(points[row]))]
            triangles.append(cut)
            owners.append(np.full(len(cut), owner))
    if not triangles:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order], owner[order]


def _newell(loops: Doubles) -> Doubles:
    """``(P, 3)`` sum of the cross products along each loop ``(P, k, 3)``: twice the area, along the normal."""
    centred = loops - loops.mean(1, keepdims=True)
    normal: Doubles = np.cross(centred, np.roll(centred, -1, 1)).sum(1)
    return normal


def _convex(loops: Doubles) -> NDArray[np.bool_]:
    """``(P,)`` whether every corner turns the way the whole loop does, and once round."""
    normal = _newell(loops)
    size = np.linalg.norm(normal, axis=1)
    step = np.roll(loops, -1, 1) - loops
    turn = np.einsum("pkc,pc->pk", np.cross(np.roll(step, 1, 1), step), normal)
    turns_one_way: NDArray[np.bool_] = (turn > FLAT * np.maximum(size, 1e-300)[:, None] ** 2).all(1)
    if loops.shape[1] < 5 or not turns_one_way.any():
        return turns_one_way
    # a star may turn one way at each corner and run round twice
    length = np.maximum(np.linalg.norm(step, axis=2), 1e-300)
    cosine = (step * np.roll(step, 1, 1)).sum(2) / (length * np.roll(length, 1, 1))
    total: Doubles = np.arccos(np.clip(cosine, -1, 1)).sum(1)
    once: NDArray[np.bool_] = total < 3 * np.pi
    return turns_one_way & once


def _flat(loop: Doubles) -> Doubles:
    """A loop ``(k, 3)`` seen along its normal, ``(k, 2)``, counter-clockwise."""
    normal = _newell(loop[None])[0]
    length = np.linalg.norm(normal)
    if not length > 0:
        return loop[:, :2]
    normal = normal / length
    side = np.cross(np.eye(3)[np.abs(normal).argmin()], normal)
    side /= np.linalg.norm(side)
    return np.stack([loop @ side, loop @ np.cross(normal, side)], -1)


def _ears(flat: Doubles) -> Ints:
    """``(k - 2, 3)`` triangles of a loop ``(k, 2)`` that runs counter-clockwise.

    A loop that crosses itself has no right answer; there the least bad corner is cut, and none is lost. Where that is
    needed again and again, as in a loop without an area, the rest is a fan.
    """
    left = list(range(len(flat)))
    found: list[tuple[int, int, int]] = []
    at, bad = 0, 0
    while len(left) > 3 and bad < MOST_BAD:
        for turn in range(len(left)):
            k = (at + turn) % len(left)
            if _is_ear(flat, left, k):
                break
        else:
            k, bad = int(np.argmax(_turns(flat, left))), bad + 1
        a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
        found.append((a, b, c))
        del left[k]
        at = k % len(left)  # the next corner, so that ears are cut all round and not as one thin fan
    found += [(left[0], left[k], left[k + 1]) for k in range(1, len(left) - 1)]
    return np.array(found, np.int64)


def _turns(flat: Doubles, left: list[int]) -> Doubles:
    loop = flat[left]
    before, after = loop - np.roll(loop, 1, 0), np.roll(loop, -1, 0) - loop
    turns: Doubles = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return turns


def _is_ear(flat: Doubles, left: list[int], k: int) -> bool:
    """Whether corner ``k`` points outward and no other corner lies in its triangle."""
    a, b, c = flat[left[k - 1]], flat[left[k]], flat[left[(k + 1) % len(left)]]

    def beyond(p: Doubles, q: Doubles, points: Doubles) -> Doubles:
        beyond_: Doubles = (q[0] - p[0]) * (points[..., 1] - p[1]) - (q[1] - p[1]) * (points[..., 0] - p[0])
        return beyond_

    area = float(beyond(a, b, c))
    scale = float(np.ptp(flat, axis=0).max()) ** 2
    if area <= FLAT * scale:
        return False
    others = flat[[i for i in left if i not in (left[k - 1], left[k], left[(k + 1) % len(left)])]]
    # corners at the very place of one of these three: a hole is joined to the outline by a bridge that is there twice
    others = others[~((others == a).all(1) | (others == b).all(1) | (others == c).all(1))]
    inside = (beyond(a, b, others) >= 0) & (beyond(b, c, others) >= 0) & (beyond(c, a, others) >= 0)
    return not inside.any()
