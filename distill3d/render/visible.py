"""Which samples light reaches, found front to back so that nothing behind an opaque surface is ever asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .scan import per_ray

#: Samples of one ray looked at together.
BLOCK = 16
OPAQUE_TAU = 60.0  # exp(-60) is 0 beside 1 in double precision; keeps infinite densities out of the prefix sum


class Reached(NamedTuple):
    """Indices ``samples`` ``(m,)`` of the samples that light reaches, and the weight ``(m,)`` of each."""

    samples: Tensor
    weight: Tensor


@torch.no_grad()
def reached(
    density: Callable[[Tensor], Tensor], x: Tensor, ray: Tensor, count: int, step_size: float, threshold: float
) -> Reached:
    """The samples whose transmittance is above ``threshold``, in their order.

    The same samples as computing every transmittance would find, but a ray is left once it is dark.

    Args:
        density: ``(n, 3)`` world positions to ``(n,)``; NaN counts as 0.
        x: ``(n, 3)`` positions, sorted by ray, then by distance.
        ray: ``(n,)`` long, ascending, below ``count``.
        step_size: ``dt``, world units.
        threshold: share of the light, 0..1; 0 keeps everything.
    """
    limit = -math.log(threshold) if threshold > 0 else math.inf
    counts = per_ray(ray, count)
    at = counts.cumsum(0) - counts
    end = at + counts
    alive = (counts > 0).nonzero()[:, 0]
    at, end = at[alive], end[alive]
    optical = torch.zeros(len(alive), dtype=torch.float64 if x.device.type == "cpu" else x.dtype, device=x.device)
    keep = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    weight = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    steps = torch.arange(BLOCK, device=x.device)
    while len(at):
        table = at[:, None] + steps
        inside = table < end[:, None]
        index = table[inside]
        tau = torch.zeros(table.shape, dtype=optical.dtype, device=x.device)
        tau[inside] = (density(x[index]).nan_to_num(nan=0.0) * step_size).clamp(0, OPAQUE_TAU).to(tau.dtype)
        after = optical[:, None] + tau.cumsum(1)
        before = after - tau
        keep[index] = (before < limit)[inside]
        weight[index] = (-torch.exp(-before) * torch.expm1(-tau))[inside].to(weight.dtype)
        optical, at = after[:, -1], at + BLOCK
        on = (optical < limit) & (at < end)
        at, end, optical = at[on], end[on], optical[on]
    kept = keep.nonzero()[:, 0]
    return Reached(kept, weight[kept])
