"""Sample points along rays inside the occupied cells, packed ray after ray.

Every ray carries the same lattice of distances, ``t_j = (j + offset) dt``, counted from the camera. Skipping empty
space only drops points of that lattice and never moves one, so a picture does not change when the grid gets tighter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..devices import remote
from .occupancy import OccupancyGrid
from .settings import BOX_DIAGONAL

CANDIDATES = 1 << 21
TINY = 1e-9


class Points(NamedTuple):
    """``n`` sample points sorted by ray, then by distance.

    ray: ``(n,)`` long, x: ``(n, 3)`` world position, t: ``(n,)`` distance from the camera in world units.
    """

    ray: Tensor
    x: Tensor
    t: Tensor


def intersect_box(origin: Tensor, direction: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Distances ``(R,)`` at which rays ``(R, 3)`` enter and leave an axis-aligned box; a miss has leave <= enter.

    The slab test of Kay and Kajiya (SIGGRAPH 1986). A camera inside the box enters at 0.
    """
    safe = torch.where(direction.abs() < TINY, torch.full_like(direction, TINY), direction)
    a, b = (low - origin) / safe, (high - origin) / safe
    return torch.minimum(a, b).amax(-1).clamp_min(0), torch.maximum(a, b).amin(-1)


@torch.no_grad()
def sample_points(
    origin: Tensor,
    direction: Tensor,
    *,
    occupancy: OccupancyGrid | None,
    step_size: float,
    offset: Tensor | None = None,
    candidates: int = CANDIDATES,
) -> Points:
    """Points of the rays' lattices that lie in occupied cells.

    Args:
        origin: ``(R, 3)`` ray origins.
        direction: ``(R, 3)`` unit directions.
        occupancy: cells to keep, or ``None`` for all of ``[-1, 1]^3``.
        step_size: ``dt``, world units.
        offset: ``(R,)`` in 0..1, each ray's place within its steps (stratified jitter); ``None`` means 0.5.
        candidates: most lattice points looked at together; rays are taken in chunks that stay below it.

    Returns:
        The kept points, the same whatever ``candidates`` is. Empty when no ray meets an occupied cell. A GPU is waited
        for once in every ``candidates`` lattice points.
    """
    if occupancy is None:
        low, high = origin.new_full((3,), -1.0), origin.new_full((3,), 1.0)
    else:
        low, high = (corner.to(origin.dtype) for corner in occupancy.box)
    enter, leave = intersect_box(origin, direction, low, high)
    offset = torch.full_like(enter, 0.5) if offset is None else offset.to(origin.dtype)
    o, d, hit = origin, direction, None
    if remote(origin.device):  # counting rays and steps would make the host wait: take all rays and the longest way
        steps = math.ceil((BOX_DIAGONAL if occupancy is None else occupancy.diagonal) / step_size) + 1
    else:
        hit = (leave > enter).nonzero()[:, 0]
        if len(hit) == 0:
            return Points(hit, origin.new_zeros(0, 3), origin.new_zeros(0))
        o, d, enter, leave, offset = origin[hit], direction[hit], enter[hit], leave[hit], offset[hit]
        steps = int(((leave - enter).max() / step_size).ceil().item()) + 1
    first = torch.ceil(enter / step_size - offset).clamp_min(0)
    rows = max(1, candidates // steps)
    parts = []
    for start in range(0, len(o), rows):
        cut = slice(start, start + rows)
        t = (first[cut, None] + torch.arange(steps, device=o.device) + offset[cut, None]) * step_size
        keep = t < leave[cut, None]
        if occupancy is not None:
            keep &= _occupied(o[cut], d[cut], t, occupancy)
        flat = keep.view(-1).nonzero()[:, 0]
        ray = flat // steps + start
        t = t.view(-1)[flat]
        parts.append(Points(ray if hit is None else hit[ray], torch.addcmul(o[ray], d[ray], t[:, None]), t))
    return parts[0] if len(parts) == 1 else Points(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _occupied(o: Tensor, d: Tensor, t: Tensor, occupancy: OccupancyGrid) -> Tensor:
    """``(r, S)`` bool: does the point at distance ``t`` ``(r, S)`` lie in an occupied cell?"""
    r = occupancy.resolution
    scale = r / 2
    i, j, k = (
        ((o[:, q : q + 1] + 1) * scale).addcmul(t, d[:, q : q + 1] * scale).to(torch.int32).clamp_(0, r - 1)
        for q in range(3)
    )
    cell = i.mul_(r).add_(j).mul_(r).add_(k)
    return occupancy.occupied.view(-1).index_select(0, cell.view(-1)).view_as(t)
