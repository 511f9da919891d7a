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

#: Fewest points worth a thread.
LEAST = 8192
#: Points that go through all levels together, and points that are placed together: their numbers fit the first cache.
BLOCK, TILE = 65536, 512

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
def _blend(n, f, w):  # type: ignore[no-untyped-def]
    return _fma(w, f - n, n)


# The next four run over contiguous rows of at most TILE points and compile to vector instructions.


@_compiled
def _axis(x, scale, half, factor, low, fraction):  # type: ignore[no-untyped-def]
    """Along one axis the lower corner times the level's factor, and where in the cell the points lie."""
    for k in range(len(x)):
        position = x[k] * scale + half
        cell = np.floor(position)
        low[k] = np.uint32(np.uint32(np.int32(cell)) * factor)
        fraction[k] = position - cell


@_compiled
def _nearest(low, fraction, factor, half, one, near, far, share):  # type: ignore[no-untyped-def]
    """Along one axis the nearer and the farther corner, and the share of the farther one.

    ATen's ``lerp`` goes out from the nearer end too, so ``near + share (far - near)`` is its very number.
    """
    for k in range(len(low)):
        high, lower = np.uint32(low[k] + factor), fraction[k] < half
        near[k] = low[k] if lower else high
        far[k] = high if lower else low[k]
        share[k] = fraction[k] if lower else one - fraction[k]


@_compiled
def _entries(x, y, z, dx, dy, dz, size, dense, index):  # type: ignore[no-untyped-def]
    """Entries within a level of corners; of positions that are not numbers any entry, but one of the level."""
    mask = np.uint32(size - np.uint32(1))
    for k in range(len(index)):
        i, j, m = np.uint32(x[k] + dx), np.uint32(y[k] + dy), np.uint32(z[k] + dz)
        if dense:
            total = np.uint32(i + j + m)
            index[k] = min(np.uint32(total - size) if total >= size else total, mask)
        else:
            index[k] = (i ^ j ^ m) & mask


@_compiled
def _spread(gradient, wx, wy, wz, far_x, far_y, far_z, value):  # type: ignore[no-untyped-def]
    """What one corner receives of the gradients to an interpolated feature: the transpose of three ``lerp``."""
    for k in range(len(value)):
        g = gradient[k]
        part = g * wz[k]
        g = part if far_z else g - part
        part = g * wy[k]
        g = part if far_y else g - part
        part = g * wx[k]
        value[k] = part if far_x else g - part


@_compiled
def _place(points, start, stop, scale, half, factor, low, fraction):  # type: ignore[no-untyped-def]
    for a in range(3):
        _axis(points[a][start:stop], scale, half, factor[a], low[a], fraction[a])


@_compiled
def _corners(points, start, stop, scale, numbers, factor, size, dense, cells, shares, index):  # type: ignore[no-untyped-def]
    """Entries of all eight corners ``(8, n)``, nearest first, bit a for the farther one along axis a, and shares."""
    n, nothing = stop - start, np.uint32(0)
    low, near, far, fraction, share = cells[0], cells[1], cells[2], shares[0], shares[1]
    _place(points, start, stop, scale, numbers[0], factor, low, fraction)
    for a in range(3):
        _nearest(low[a][:n], fraction[a], factor[a], numbers[0], numbers[1], near[a], far[a], share[a])
    for c in range(8):
        x, y, z = (far if c & 1 else near)[0], (far if c & 2 else near)[1], (far if c & 4 else near)[2]
        _entries(x, y, z, nothing, nothing, nothing, size, dense, index[c][:n])


@_compiled
def _forward(points, table, out, scale, factor, size, offset, dense, numbers, each, start, stop):  # type: ignore[no-untyped-def]
    cells, shares, index = (
        np.empty((3, 3, TILE), np.uint32),
        np.empty((2, 3, TILE), table.dtype),
        np.empty((8, TILE), np.uint32),
    )
    share = shares[1]
    # a level at a time, whose table then stays in the caches; the 8 keep the levels' rows off each other's cache lines
    found = np.empty((len(scale), min(BLOCK, stop - start) + 8, len(each)), table.dtype)
    for block in range(start, stop, BLOCK):
        end = min(block + BLOCK, stop)
        for level in range(len(scale)):
            rows, s, entries = table[offset[level] : offset[level] + size[level]], scale[level], size[level]
            for tile in range(block, end, TILE):
                to = min(tile + TILE, end)
                _corners(points, tile, to, s, numbers, factor[level], entries, level < dense, cells, shares, index)
                for k in range(to - tile):
                    wx, wy, wz = share[0, k], share[1, k], share[2, k]
                    a, b, c, d = index[0, k], index[1, k], index[2, k], index[3, k]
                    e, f, g, h = index[4, k], index[5, k], index[6, k], index[7, k]
                    for q in range(len(each)):
                        n = _blend(_blend(rows[a, q], rows[b, q], wx), _blend(rows[c, q], rows[d, q], wx), wy)
                        m = _blend(_blend(rows[e, q], rows[f, q], wx), _blend(rows[g, q], rows[h, q], wx), wy)
                        found[level, tile - block + k, q] = _blend(n, m, wz)
        for i in range(end - block):
            for level in range(len(scale)):
                for q in range(len(each)):
                    out[block + i, level, q] = found[level, i, q]


@_compiled
def _to_table(points, gradient, table, scale, factor, size, offset, dense, numbers, each, chunk, level):  # type: ignore[no-untyped-def]
    count, nothing = points.shape[1], np.uint32(0)
    longest = min(chunk, count)
    low, index = np.empty((3, TILE), np.uint32), np.empty(TILE, np.uint32)
    share, value = np.empty((3, TILE), table.dtype), np.empty((len(each), TILE), table.dtype)
    upstream = np.empty((len(each), longest), table.dtype)
    s, f, entries, rows = scale[level], factor[level], size[level], table[offset[level] : offset[level] + size[level]]
    for start in range(0, count, longest):
        length = min(longest, count - start)
        for k in range(length):
            for q in range(len(each)):
                upstream[q, k] = gradient[start + k, level, q]
        for corner in range(8):
            x, y, z = corner & 1 != 0, corner & 2 != 0, corner & 4 != 0
            dx, dy, dz = f[0] if x else nothing, f[1] if y else nothing, f[2] if z else nothing
            for tile in range(0, length, TILE):
                to = min(tile + TILE, length)
                n = to - tile
                _place(points, start + tile, start + to, s, numbers[0], f, low, share)
                _entries(low[0], low[1], low[2], dx, dy, dz, entries, level < dense, index[:n])
                for q in range(len(each)):
                    _spread(upstream[q][tile:to], share[0], share[1], share[2], x, y, z, value[q][:n])
                for k in range(n):
                    for q in range(len(each)):
                        rows[index[k], q] += value[q, k]


@_compiled
def _to_points(points, table, gradient, out, scale, factor, size, offset, dense, numbers, each, start, stop):  # type: ignore[no-untyped-def]
    cells, shares, index = (
        np.empty((3, 3, TILE), np.uint32),
        np.empty((2, 3, TILE), table.dtype),
        np.empty((8, TILE), np.uint32),
    )
    share, half, nothing = shares[1], numbers[0], numbers[2]
    for level in range(len(scale)):
        rows, s, entries = table[offset[level] : offset[level] + size[level]], scale[level], size[level]
        for tile in range(start, stop, TILE):
            to = min(tile + TILE, stop)
            _corners(points, tile, to, s, numbers, factor[level], entries, level < dense, cells, shares, index)
            for k in range(to - tile):
                wx, wy, wz = share[0, k], share[1, k], share[2, k]
                a, b, c, d = index[0, k], index[1, k], index[2, k], index[3, k]
                e, f, g, h = index[4, k], index[5, k], index[6, k], index[7, k]
                i, sx, sy, sz = tile + k, nothing, nothing, nothing
                for q in range(len(each)):
                    va, vb, vc, vd = rows[a, q], rows[b, q], rows[c, q], rows[d, q]
                    ve, vf, vg, vh = rows[e, q], rows[f, q], rows[g, q], rows[h, q]
                    v00, v01, v10, v11 = _blend(va, vb, wx), _blend(vc, vd, wx), _blend(ve, vf, wx), _blend(vg, vh, wx)
                    dx = _blend(_blend(vb - va, vd - vc, wy), _blend(vf - ve, vh - vg, wy), wz)
                    dy = _blend(v01 - v00, v11 - v10, wz)
                    dz = _blend(v10, v11, wy) - _blend(v00, v01, wy)
                    sx += dx * gradient[i, level, q]
                    sy += dy * gradient[i, level, q]
                    sz += dz * gradient[i, level, q]
                # from near to far is against the axis in the upper half of a cell
                px, py, pz = points[0, i] * s + half, points[1, i] * s + half, points[2, i] * s + half
                out[i, 0] = _fma(sx if px - np.floor(px) < half else -sx, s, out[i, 0])
                out[i, 1] = _fma(sy if py - np.floor(py) < half else -sy, s, out[i, 1])
                out[i, 2] = _fma(sz if pz - np.floor(pz) < half else -sz, s, out[i, 2])


class _Constants(NamedTuple):
    """What the kernels need to know of a grid; ``each`` has one entry a feature: its length is known when compiling."""

    scale: Any
    factor: Any
    size: Any
    offset: Any
    dense: int
    numbers: Any
    each: tuple[int, ...]


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
        each=(0,) * grid.features,
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
    size = max(LEAST, -(-count // torch.get_num_threads()))
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _table(params: Tensor, grid: Layout) -> Any:
    return params.detach().contiguous().view(-1, grid.features).numpy()


def forward(x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor:
    """Features ``(n, levels * features)`` at ``x01`` ``(n, 3)`` in 0..1; see :func:`interpolate.encode`."""
    constants, points, table = (
        _constants(grid, params.dtype),
        x01.detach().t().contiguous().numpy(),
        _table(params, grid),
    )
    out = params.new_empty(len(x01), grid.levels, grid.features)
    view = out.numpy()
    _share(lambda start, stop: _forward(points, table, view, *constants, start, stop), _blocks(len(x01)))
    return out.flatten(1)


def backward(
    x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to ``x01`` and to ``params``, each None unless asked for, of :func:`forward`."""
    constants, points = _constants(grid, params.dtype), x01.detach().t().contiguous().numpy()
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
