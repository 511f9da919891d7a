"""Which pixel centres a set of triangles covers: a scanline rasteriser in plain torch, for atlases and for views.

A centre belongs to a triangle when it lies inside or on its left or upper border, so that two triangles which share an
edge never cover a centre twice and never leave one out. Edges are evaluated in double precision and always from their
upper end, which makes both neighbours round alike. Memory grows with the pixels covered, not with boxes around
triangles. Not differentiable; runs on the CPU whatever the field's device, because some devices have no doubles.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Fragments(NamedTuple):
    """Covered pixels, one row for each pixel of each triangle.

    Attributes:
        pixel: ``(n,)`` long, ``row * width + column``.
        face: ``(n,)`` long.
        weight: ``(n, 3)`` float64 barycentric coordinates of the pixel's centre in the plane of the picture.
    """

    pixel: Tensor
    face: Tensor
    weight: Tensor


def rasterise(corners: Tensor, height: int, width: int, rows: tuple[int, int] | None = None) -> Fragments:
    """The pixels that triangles cover.

    Args:
        corners: ``(F, 3, 2)`` x and y in pixels; x grows to the right, y downwards, centres lie at whole numbers + 0.5.
        height, width: of the picture; what lies outside is left out.
        rows: first and one past the last row to look at; ``None`` means all.

    Returns:
        Fragments, sorted by face, then row, then column. A triangle without area covers nothing.

    >>> found = rasterise(torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]]), 2, 2)
    >>> found.pixel.tolist()
    [0]
    """
    low, high = rows or (0, height)
    corners = corners.double()
    y = corners[..., 1]
    first = (y.amin(1) - 0.5).ceil().clamp(low, high).long()
    last = (y.amax(1) - 0.5).ceil().clamp(low, high).long()
    face = torch.arange(len(corners)).repeat_interleave(last - first)
    row = _counted(last - first) + first[face]
    left, right = _span(corners, face, row)
    begin = (left - 0.5).ceil().clamp(0, width).long()
    end = (right - 0.5).ceil().clamp(0, width).long()
    count = (end - begin).clamp(min=0)
    which = torch.arange(len(face)).repeat_interleave(count)
    column = _counted(count) + begin[which]
    face, row = face[which], row[which]
    weight = barycentric(corners, face, column + 0.5, row + 0.5)
    return Fragments(row * width + column, face, weight)


def _counted(count: Tensor) -> Tensor:
    """``[2, 3]`` -> ``[0, 1, 0, 1, 2]``."""
    start = count.cumsum(0) - count
    return torch.arange(int(count.sum())) - start.repeat_interleave(count)


def _span(corners: Tensor, face: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Where the line through each row's centres enters and leaves its triangle; each edge read from its upper end."""
    line = row + 0.5
    left = torch.full_like(line, float("inf"), dtype=torch.float64)
    right = torch.full_like(left, float("-inf"))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        p, q = corners[:, i], corners[:, j]
        swap = (p[:, 1] > q[:, 1]) | ((p[:, 1] == q[:, 1]) & (p[:, 0] > q[:, 0]))
        top, bottom = torch.where(swap[:, None], q, p), torch.where(swap[:, None], p, q)
        slope = (bottom[:, 0] - top[:, 0]) / (bottom[:, 1] - top[:, 1])
        top, slope = top[face], slope[face]
        x = top[:, 0] + (line - top[:, 1]) * slope
        crosses = (top[:, 1] <= line) & (bottom[face, 1] > line)
        left = torch.where(crosses, torch.minimum(left, x), left)
        right = torch.where(crosses, torch.maximum(right, x), right)
    empty = left > right
    return torch.where(empty, 0.0, left), torch.where(empty, 0.0, right)


def barycentric(corners: Tensor, face: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``(n, 3)`` weights of the corners of triangle ``face`` at ``(x, y)``; they sum to 1."""
    a, b, c = corners.unbind(1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    a, b, c, area = a[face], b[face], c[face], area[face]
    wa = ((b[:, 0] - x) * (c[:, 1] - y) - (b[:, 1] - y) * (c[:, 0] - x)) / area
    wb = ((c[:, 0] - x) * (a[:, 1] - y) - (c[:, 1] - y) * (a[:, 0] - x)) / area
    return torch.stack([wa, wb, 1 - wa - wb], -1)


def nearest(found: Fragments, depth: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """The fragment with the least depth in every pixel, ties to the lowest face.

    Args:
        depth: ``(n,)`` of the fragments.
        pixels: number of pixels in the picture.

    Returns:
        Index into the fragments ``(pixels,)``, -1 where none is, and the depth ``(pixels,)``, infinite there.
    """
    best = torch.full((pixels,), float("inf"), dtype=depth.dtype).scatter_reduce(0, found.pixel, depth, "amin")
    hit = (depth == best[found.pixel]).nonzero()[:, 0]
    index = torch.full((pixels,), len(depth)).scatter_reduce(0, found.pixel[hit], hit, "amin")
    return torch.where(index == len(depth), -1, index), best
