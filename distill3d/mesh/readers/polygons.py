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
    loop = _Loop(flat)
    found: list[tuple[int, int, int]] = []
    at, bad = 0, 0
    while loop.count > 3 and bad < MOST_BAD:
        for _ in range(loop.count):
            if loop.is_ear(at):
                break
            at = loop.after[at]
        else:
            at, bad = loop.sharpest(), bad + 1
        found.append((loop.before[at], at, loop.after[at]))
        at = loop.cut(at)  # the next corner, so that ears are cut all round and not as one thin fan
    left = loop.corners.nonzero()[0].tolist()
    found += [(left[0], left[k], left[k + 1]) for k in range(1, len(left) - 1)]
    return np.array(found, np.int64)


class _Loop:
    """What is left of a loop ``(k, 2)``: each corner's neighbours, and which corners do not point outward."""

    def __init__(self, flat: Doubles) -> None:
        self.flat, self.count = flat, len(flat)
        numbers = np.arange(self.count)
        self.before: list[int] = np.roll(numbers, 1).tolist()
        self.after: list[int] = np.roll(numbers, -1).tolist()
        self.corners = np.ones(self.count, bool)
        self.least = FLAT * float(np.ptp(flat, axis=0).max()) ** 2
        self.turns = _beyond(flat[self.before], flat, flat[self.after])
        self.blunt = self.turns <= self.least

    def is_ear(self, k: int) -> bool:
        """Whether corner ``k`` points outward and no other lies in its triangle: if any does, a blunt one does."""
        if self.blunt[k]:
            return False
        a, b, c = self.flat[[self.before[k], k, self.after[k]]]
        others = self.flat[self.blunt]
        inside = (_beyond(a, b, others) >= 0) & (_beyond(b, c, others) >= 0) & (_beyond(c, a, others) >= 0)
        # corners at the very place of one of these three: a hole is joined to the outline by a bridge that is there
        # twice
        others = others[inside]
        return bool(((others == a).all(1) | (others == b).all(1) | (others == c).all(1)).all())

    def sharpest(self) -> int:
        """The corner that turns the most to the inside."""
        return int(np.where(self.corners, self.turns, -np.inf).argmax())

    def cut(self, k: int) -> int:
        """Take corner ``k`` out; returns the next one."""
        a, c = self.before[k], self.after[k]
        self.after[a], self.before[c] = c, a
        self.corners[k] = self.blunt[k] = False
        self.count -= 1
        for corner in (a, c):
            neighbours = self.before[corner], self.after[corner]
            self.turns[corner] = _beyond(self.flat[neighbours[0]], self.flat[corner], self.flat[neighbours[1]])
            self.blunt[corner] = self.turns[corner] <= self.least
        return c


def _beyond(p: Doubles, q: Doubles, points: Doubles) -> Doubles:
    """Twice the area of the triangles p, q, point: above 0 where the point is to the left of the way from p to q."""
    side: Doubles = (q[..., 0] - p[..., 0]) * (points[..., 1] - p[..., 1])
    return side - (q[..., 1] - p[..., 1]) * (points[..., 0] - p[..., 0])
