"""Sums over packed rays: ``n`` values sorted by ray, ``count`` rays, some of them without a value."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..devices import remote
from ..errors import is_out_of_memory


def exclusive_sum(value: Tensor, ray: Tensor, count: int) -> Tensor:
    """Sum of the earlier values of the same ray.

    One prefix sum over all rays, in double precision so that a ray does not inherit the rounding of the rays before it;
    a padded ``(count, S)`` table on devices without float64. Differentiable to ``value``.

    Args:
        value: ``(n,)`` float.
        ray: ``(n,)`` long, ascending.
        count: number of rays.

    >>> exclusive_sum(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 0, 2]), 3).tolist()
    [0.0, 1.0, 3.0, 0.0]
    """
    return _double_scan(value, ray, count) if has_double(str(value.device)) else _padded_scan(value, ray, count)


def ray_sum(value: Tensor, ray: Tensor, count: int) -> Tensor:
    """Sum of ``value`` ``(n, ...)`` over each ray -> ``(count, ...)``; rays without a value give 0."""
    return value.new_zeros((count, *value.shape[1:])).index_add(0, ray, value)


def per_ray(ray: Tensor, count: int) -> Tensor:
    """``(count,)`` long: how many values each ray has. Unlike ``bincount`` it never makes a GPU wait."""
    if not remote(ray.device):
        return torch.bincount(ray, minlength=count)
    return torch.zeros(count, dtype=torch.long, device=ray.device).index_add_(0, ray, torch.ones_like(ray))


def first_index(ray: Tensor, count: int) -> Tensor:
    """``(count,)`` index of each ray's first value; meaningless for rays without one."""
    counts = per_ray(ray, count)
    return counts.cumsum(0) - counts


def _double_scan(value: Tensor, ray: Tensor, count: int) -> Tensor:
    wide = value.double()
    before = wide.cumsum(0) - wide
    return (before - before[first_index(ray, count)[ray]]).to(value.dtype)


def _padded_scan(value: Tensor, ray: Tensor, count: int) -> Tensor:
    if len(value) == 0:
        return value
    rank = torch.arange(len(ray), device=ray.device) - first_index(ray, count)[ray]
    table = value.new_zeros(count, int(rank.max()) + 1).index_put((ray, rank), value)
    return (table.cumsum(1) - table)[ray, rank]


@functools.cache
def has_double(device: str) -> bool:
    """Whether the device can add float64 numbers, found by trying. Raises where memory runs out, which says nothing."""
    try:
        torch.ones(2, dtype=torch.float64, device=device).cumsum(0)
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return True
