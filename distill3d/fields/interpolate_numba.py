"""Hash-grid look-ups compiled by numba for a CPU: the arithmetic of the torch loop, operation by operation.

Every product, sum and fused multiply-add is rounded where torch rounds it, and gradients to one entry are added in the
loop's order (chunk by chunk, corner by corner, point by point). With up to two features per entry the results are those
of the loop bit for bit on processors with fused multiply-add, so turning numba on or off changes nothing but speed.

Threads share out points, or levels for the gradient to the table: no two ever write to the same entry, so the result
does not depend on their number beyond the chunk they are given.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from .layout import Layout, factors

F = TypeVar("F", bound=Callable[..., Any])

#: Fewest points worth a thread, which takes all its points level by level: a level's table then stays in its cache.
BLOCK = 8192

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child has the pool without its threads


def _compiled(function: F) -> F:
    """``function`` compiled on first use and free of the interpreter's lock; kept on disk where there is a place."""
    try:
        made: F = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder that can be written to
        made = numba.njit(nogil=True, error_model="numpy")(function)
    return made


@intrinsic
def _fma(typing, a, b, c):  # type: ignore[no-untyped-def]
    """``a b + c``, rounded once."""
    if not (isinstance(a, types.Float) and a == b == c):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), build


@_compiled
def _entry(x, y, z, size, dense):  # type: ignore[no-untyped-def]
    """Entry within a level of a corner whose coordinates are multiplied by the level's factors already."""
    if dense:
        total = np.uint32(x + y + z)
        return np.uint32(total - size) if total >= size else total
    return np.uint32((x ^ y ^ z) & (size - np.uint32(1)))


@_compiled
def _both(cell, fraction, factor, half, one):  # type: ignore[no-untyped-def]
    """Along one axis the nearer and the farther corner, times the factor, and the share of the farther one.

    ATen's ``lerp`` goes out from the nearer end too, so ``near + share (far - near)`` is its very number.
    """
    low = np.uint32(cell) * factor
    high = np.uint32(low + factor)
    if fraction < half:
        return np.uint32(low), high, fraction
    return high, np.uint32(low), one - fraction


@_compiled
def _blend(n, f, w):  # type: ignore[no-untyped-def]
    return _fma(w, f - n, n)


@_compiled
def _forward(points, table, out, scale, factor, size, offset, dense, numbers, start, stop):  # type: ignore[no-untyped-def]
    half, one = numbers[0], numbers[1]
    for level in range(len(scale)):
        s, base, entries, flat = scale[level], offset[level], size[level], level < dense
        fx, fy, fz = factor[level, 0], factor[level, 1], factor[level, 2]
        for i in range(start, stop):
            px, py, pz = points[i, 0] * s + half, points[i, 1] * s + half, points[i, 2] * s + half
            cx, cy, cz = np.floor(px), np.floor(py), np.floor(pz)
            nx, mx, wx = _both(cx, px - cx, fx, half, one)
            ny, my, wy = _both(cy, py - cy, fy, half, one)
            nz, mz, wz = _both(cz, pz - cz, fz, half, one)
            a, b = base + _entry(nx, ny, nz, entries, flat), base + _entry(mx, ny, nz, entries, flat)
            c, d = base + _entry(nx, my, nz, entries, flat), base + _entry(mx, my, nz, entries, flat)
            e, f = base + _entry(nx, ny, mz, entries, flat), base + _entry(mx, ny, mz, entries, flat)
            g, h = base + _entry(nx, my, mz, entries, flat), base + _entry(mx, my, mz, entries, flat)
            for k in range(table.shape[1]):
                n = _blend(_blend(table[a, k], table[b, k], wx), _blend(table[c, k], table[d, k], wx), wy)
                m = _blend(_blend(table[e, k], table[f, k], wx), _blend(table[g, k], table[h, k], wx), wy)
                out[i, level, k] = _blend(n, m, wz)


@_compiled
def _to_table(points, gradient, table, scale, factor, size, offset, dense, numbers, chunk, level):  # type: ignore[no-untyped-def]
    half, features = numbers[0], table.shape[1]
    longest = min(chunk, len(points))
    index = np.empty((8, longest), np.uint32)
    value = np.empty((8, longest, features), table.dtype)
    s, base, entries, flat = scale[level], offset[level], size[level], level < dense
    fx, fy, fz = factor[level, 0], factor[level, 1], factor[level, 2]
    for start in range(0, len(points), longest):
        count = min(longest, len(points) - start)
        for k in range(count):
            i = start + k
            px, py, pz = points[i, 0] * s + half, points[i, 1] * s + half, points[i, 2] * s + half
            cx, cy, cz = np.floor(px), np.floor(py), np.floor(pz)
            wx, wy, wz = px - cx, py - cy, pz - cz
            x0, y0, z0 = np.uint32(np.uint32(cx) * fx), np.uint32(np.uint32(cy) * fy), np.uint32(np.uint32(cz) * fz)
            x1, y1, z1 = np.uint32(x0 + fx), np.uint32(y0 + fy), np.uint32(z0 + fz)
            index[0, k], index[1, k] = _entry(x0, y0, z0, entries, flat), _entry(x1, y0, z0, entries, flat)
            index[2, k], index[3, k] = _entry(x0, y1, z0, entries, flat), _entry(x1, y1, z0, entries, flat)
            index[4, k], index[5, k] = _entry(x0, y0, z1, entries, flat), _entry(x1, y0, z1, entries, flat)
            index[6, k], index[7, k] = _entry(x0, y1, z1, entries, flat), _entry(x1, y1, z1, entries, flat)
            for f in range(features):
                g = gradient[i, level, f]
                g1 = g * wz
                g0 = g - g1
                g01, g11 = g0 * wy, g1 * wy
                g00, g10 = g0 - g01, g1 - g11
                v1, v3, v5, v7 = g00 * wx, g01 * wx, g10 * wx, g11 * wx
                value[0, k, f], value[1, k, f], value[2, k, f], value[3, k, f] = g00 - v1, v1, g01 - v3, v3
                value[4, k, f], value[5, k, f], value[6, k, f], value[7, k, f] = g10 - v5, v5, g11 - v7, v7
        for corner in range(8):
            for k in range(count):
                at = base + index[corner, k]
                for f in range(features):
                    table[at, f] += value[corner, k, f]


@_compiled
def _to_points(points, table, gradient, out, scale, factor, size, offset, dense, numbers, start, stop):  # type: ignore[no-untyped-def]
    half, one, nothing = numbers[0], numbers[1], numbers[2]
    for level in range(len(scale)):
        s, base, entries, flat = scale[level], offset[level], size[level], level < dense
        fx, fy, fz = factor[level, 0], factor[level, 1], factor[level, 2]
        for i in range(start, stop):
            px, py, pz = points[i, 0] * s + half, points[i, 1] * s + half, points[i, 2] * s + half
            cx, cy, cz = np.floor(px), np.floor(py), np.floor(pz)
            nx, mx, wx = _both(cx, px - cx, fx, half, one)
            ny, my, wy = _both(cy, py - cy, fy, half, one)
            nz, mz, wz = _both(cz, pz - cz, fz, half, one)
            a, b = base + _entry(nx, ny, nz, entries, flat), base + _entry(mx, ny, nz, entries, flat)
            c, d = base + _entry(nx, my, nz, entries, flat), base + _entry(mx, my, nz, entries, flat)
            e, f = base + _entry(nx, ny, mz, entries, flat), base + _entry(mx, ny, mz, entries, flat)
            g, h = base + _entry(nx, my, mz, entries, flat), base + _entry(mx, my, mz, entries, flat)
            sx, sy, sz = nothing, nothing, nothing
            for k in range(table.shape[1]):
                va, vb, vc, vd = table[a, k], table[b, k], table[c, k], table[d, k]
                ve, vf, vg, vh = table[e, k], table[f, k], table[g, k], table[h, k]
                v00, v01, v10, v11 = _blend(va, vb, wx), _blend(vc, vd, wx), _blend(ve, vf, wx), _blend(vg, vh, wx)
                dx = _blend(_blend(vb - va, vd - vc, wy), _blend(vf - ve, vh - vg, wy), wz)
                dy = _blend(v01 - v00, v11 - v10, wz)
                dz = _blend(v10, v11, wy) - _blend(v00, v01, wy)
                sx += dx * gradient[i, level, k]
                sy += dy * gradient[i, level, k]
                sz += dz * gradient[i, level, k]
            # from near to far is against the axis in the upper half of a cell
            out[i, 0] = _fma(sx if px - cx < half else -sx, s, out[i, 0])
            out[i, 1] = _fma(sy if py - cy < half else -sy, s, out[i, 1])
            out[i, 2] = _fma(sz if pz - cz < half else -sz, s, out[i, 2])


class _Constants(NamedTuple):
    scale: Any
    factor: Any
    size: Any
    offset: Any
    dense: int
    numbers: Any


@lru_cache(maxsize=32)
def _constants(grid: Layout, dtype: torch.dtype) -> _Constants:
    kind = {torch.float32: np.float32, torch.float64: np.float64}.get(dtype)
    if kind is None:
        raise TypeError(f"the numba hash grid computes in float32 or float64, got {dtype}")
    multiplier = factors(grid, torch.device("cpu"))[0].squeeze(-1).numpy()
    return _Constants(
        scale=np.array(grid.scales, kind),
        factor=multiplier.astype(np.int64).astype(np.uint32),
        size=np.array(grid.sizes, np.uint32),
        offset=np.array(grid.offsets[:-1], np.uint64),
        dense=grid.dense,
        numbers=np.array([0.5, 1.0, 0.0], kind),
    )


def _share(work: Callable[..., None], jobs: Sequence[tuple[int, ...]]) -> None:
    """``work(*job)`` for every job, on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), len(jobs))
    if threads <= 1:
        for job in jobs:
            work(*job)
        return
    with _lock:
        pool = _pools.setdefault(threads, ThreadPoolExecutor(threads, "hash-grid"))
    for done in [pool.submit(work, *job) for job in jobs]:
        done.result()


def _blocks(count: int) -> list[tuple[int, int]]:
    size = max(BLOCK, -(-count // torch.get_num_threads()))
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _table(params: Tensor, grid: Layout) -> Any:
    return params.detach().contiguous().view(-1, grid.features).numpy()


def forward(x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor:
    """Features ``(n, levels * features)`` at ``x01`` ``(n, 3)`` in 0..1; see :func:`interpolate.encode`."""
    constants, points, table = _constants(grid, params.dtype), x01.detach().contiguous().numpy(), _table(params, grid)
    out = params.new_empty(len(x01), grid.levels, grid.features)
    view = out.numpy()
    _share(lambda start, stop: _forward(points, table, view, *constants, start, stop), _blocks(len(x01)))
    return out.flatten(1)


def backward(
    x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to ``x01`` and to ``params``, each None unless asked for, of :func:`forward`."""
    constants, points = _constants(grid, params.dtype), x01.detach().contiguous().numpy()
    upstream = gradient.detach().contiguous().view(-1, grid.levels, grid.features).numpy()
    grad_params = torch.zeros_like(params) if to_params else None
    grad_x = torch.zeros_like(x01) if to_x else None
    if grad_params is not None and len(x01):
        target = _table(grad_params, grid)
        _share(
            lambda level: _to_table(points, upstream, target, *constants, chunk, level),
            [(level,) for level in reversed(range(grid.levels))],
        )
    if grad_x is not None:
        table, view = _table(params, grid), grad_x.numpy()
        _share(lambda *range_: _to_points(points, table, upstream, view, *constants, *range_), _blocks(len(x01)))
    return grad_x, grad_params
