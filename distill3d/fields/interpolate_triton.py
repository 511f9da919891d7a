"""Hash-grid look-ups as Triton kernels for a CUDA device: one program for a block of points, and a level where it can.

Importing this module needs Triton, which comes with torch's CUDA wheels on Linux. With ``TRITON_INTERPRET=1`` in the
environment before the first import the same source runs on a CPU, slowly: that is how it is tested without a GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import interpolate_batched as batched
from .layout import Layout, factors

#: Points a program takes.
BLOCK = 128


@triton.jit  # type: ignore[untyped-decorator]
def _cell(x_ptr, i, mask, axis: tl.constexpr, scale):  # type: ignore[no-untyped-def]
    """Cell and fraction of one coordinate."""
    position = tl.load(x_ptr + i * 3 + axis, mask=mask, other=0.0)
    position = position * scale.to(position.dtype) + 0.5
    cell = tl.floor(position)
    return cell.to(tl.int32).to(tl.uint32), position - cell


@triton.jit  # type: ignore[untyped-decorator]
def _entry(x, y, z, size, hashed):  # type: ignore[no-untyped-def]
    """Entry within a level; the coordinates are multiplied by the level's factors already."""
    total = x + y + z
    total = tl.where(total >= size, total - size, total)
    return tl.where(hashed, (x ^ y ^ z) & (size - 1), total)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    x_ptr,
    table_ptr,
    out_ptr,
    scale_ptr,
    factor_ptr,
    size_ptr,
    offset_ptr,
    count,
    dense,
    LEVELS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    level = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    scale, size = tl.load(scale_ptr + level), tl.load(size_ptr + level).to(tl.uint32)
    offset, hashed = tl.load(offset_ptr + level), level >= dense
    cx, fx = _cell(x_ptr, i, mask, 0, scale)
    cy, fy = _cell(x_ptr, i, mask, 1, scale)
    cz, fz = _cell(x_ptr, i, mask, 2, scale)
    mx = tl.load(factor_ptr + level * 3).to(tl.uint32)
    my = tl.load(factor_ptr + level * 3 + 1).to(tl.uint32)
    mz = tl.load(factor_ptr + level * 3 + 2).to(tl.uint32)
    f = tl.arange(0, WIDTH)
    both = mask[:, None] & (f < FEATURES)[None, :]
    total = tl.zeros((BLOCK, WIDTH), fx.dtype)
    for corner in tl.static_range(8):
        bx, by, bz = corner & 1, (corner >> 1) & 1, corner >> 2
        entry = _entry((cx + bx) * mx, (cy + by) * my, (cz + bz) * mz, size, hashed)
        weight = (fx if bx else 1.0 - fx) * (fy if by else 1.0 - fy) * (fz if bz else 1.0 - fz)
        at = (offset + entry.to(tl.int64)) * FEATURES
        total += weight[:, None] * tl.load(table_ptr + at[:, None] + f[None, :], mask=both, other=0.0)
    at = (i * LEVELS + level) * FEATURES
    tl.store(out_ptr + at[:, None] + f[None, :], total, mask=both)


@triton.jit  # type: ignore[untyped-decorator]
def _to_table(  # type: ignore[no-untyped-def]
    x_ptr,
    gradient_ptr,
    table_ptr,
    scale_ptr,
    factor_ptr,
    size_ptr,
    offset_ptr,
    count,
    dense,
    LEVELS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    level = tl.program_id(1)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    scale, size = tl.load(scale_ptr + level), tl.load(size_ptr + level).to(tl.uint32)
    offset, hashed = tl.load(offset_ptr + level), level >= dense
    cx, fx = _cell(x_ptr, i, mask, 0, scale)
    cy, fy = _cell(x_ptr, i, mask, 1, scale)
    cz, fz = _cell(x_ptr, i, mask, 2, scale)
    mx = tl.load(factor_ptr + level * 3).to(tl.uint32)
    my = tl.load(factor_ptr + level * 3 + 1).to(tl.uint32)
    mz = tl.load(factor_ptr + level * 3 + 2).to(tl.uint32)
    f = tl.arange(0, WIDTH)
    both = mask[:, None] & (f < FEATURES)[None, :]
    at = (i * LEVELS + level) * FEATURES
    gradient = tl.load(gradient_ptr + at[:, None] + f[None, :], mask=both, other=0.0)
    for corner in tl.static_range(8):
        bx, by, bz = corner & 1, (corner >> 1) & 1, corner >> 2
        entry = _entry((cx + bx) * mx, (cy + by) * my, (cz + bz) * mz, size, hashed)
        weight = (fx if bx else 1.0 - fx) * (fy if by else 1.0 - fy) * (fz if bz else 1.0 - fz)
        at = (offset + entry.to(tl.int64)) * FEATURES
        tl.atomic_add(table_ptr + at[:, None] + f[None, :], gradient * weight[:, None], mask=both, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _to_points(  # type: ignore[no-untyped-def]
    x_ptr,
    gradient_ptr,
    table_ptr,
    out_ptr,
    scale_ptr,
    factor_ptr,
    size_ptr,
    offset_ptr,
    count,
    dense,
    LEVELS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    f = tl.arange(0, WIDTH)
    both = mask[:, None] & (f < FEATURES)[None, :]
    first = tl.load(x_ptr + i * 3, mask=mask, other=0.0)
    sx, sy, sz = first * 0.0, first * 0.0, first * 0.0
    for level in range(LEVELS):
        scale, size = tl.load(scale_ptr + level), tl.load(size_ptr + level).to(tl.uint32)
        offset, hashed = tl.load(offset_ptr + level), level >= dense
        cx, fx = _cell(x_ptr, i, mask, 0, scale)
        cy, fy = _cell(x_ptr, i, mask, 1, scale)
        cz, fz = _cell(x_ptr, i, mask, 2, scale)
        mx = tl.load(factor_ptr + level * 3).to(tl.uint32)
        my = tl.load(factor_ptr + level * 3 + 1).to(tl.uint32)
        mz = tl.load(factor_ptr + level * 3 + 2).to(tl.uint32)
        at = (i * LEVELS + level) * FEATURES
        gradient = tl.load(gradient_ptr + at[:, None] + f[None, :], mask=both, other=0.0)
        for corner in tl.static_range(8):
            bx, by, bz = corner & 1, (corner >> 1) & 1, corner >> 2
            entry = _entry((cx + bx) * mx, (cy + by) * my, (cz + bz) * mz, size, hashed)
            at = (offset + entry.to(tl.int64)) * FEATURES
            value = tl.load(table_ptr + at[:, None] + f[None, :], mask=both, other=0.0)
            slope = tl.sum(value * gradient, axis=1) * scale.to(first.dtype)
            wx, wy, wz = fx if bx else 1.0 - fx, fy if by else 1.0 - fy, fz if bz else 1.0 - fz
            sx += slope * wy * wz * (1.0 if bx else -1.0)
            sy += slope * wx * wz * (1.0 if by else -1.0)
            sz += slope * wx * wy * (1.0 if bz else -1.0)
    tl.store(out_ptr + i * 3, sx, mask=mask)
    tl.store(out_ptr + i * 3 + 1, sy, mask=mask)
    tl.store(out_ptr + i * 3 + 2, sz, mask=mask)


@lru_cache(maxsize=32)
def _constants(grid: Layout, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scale float32, factors ``(L, 3)`` int32, size int32 and first entry int64 of every level."""
    with torch.inference_mode(False):
        multiplier = factors(grid, device)[0].squeeze(-1).contiguous()
        scale = torch.tensor(grid.scales, dtype=torch.float32, device=device)
        size = torch.tensor(grid.sizes, dtype=torch.int32, device=device)
        offset = torch.tensor(grid.offsets[:-1], dtype=torch.int64, device=device)
    return scale, multiplier, size, offset


def _device_of(x01: Tensor) -> AbstractContextManager[Any]:
    """Kernels start on the current device, which need not be the tensors'."""
    return torch.cuda.device(x01.device) if x01.is_cuda else nullcontext()


def _options(grid: Layout) -> dict[str, Any]:
    width = triton.next_power_of_2(grid.features)
    return {"LEVELS": grid.levels, "FEATURES": grid.features, "WIDTH": width, "BLOCK": BLOCK}


def forward(x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor:
    """Features ``(n, levels * features)`` at ``x01`` ``(n, 3)`` in 0..1; see :func:`interpolate.encode`."""
    out = params.new_empty(len(x01), grid.levels * grid.features)
    if len(x01):
        where = (triton.cdiv(len(x01), BLOCK), grid.levels)
        inputs = (x01.contiguous(), params.contiguous(), out, *_constants(grid, x01.device))
        with _device_of(x01):
            _forward[where](*inputs, len(x01), grid.dense, **_options(grid))
    return out


def backward(
    x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to ``x01`` and to ``params``, each None unless asked for, of :func:`forward`.

    Sums atomically; where torch is told to be deterministic, the batched route answers instead.
    """
    if torch.are_deterministic_algorithms_enabled() and x01.is_cuda:
        return batched.backward(x01, params, gradient, grid, batched.CHUNK, to_x, to_params)
    count, x01, gradient = len(x01), x01.contiguous(), gradient.contiguous()
    constants, blocks = _constants(grid, x01.device), triton.cdiv(len(x01), BLOCK)
    grad_params = torch.zeros_like(params) if to_params else None
    grad_x = torch.zeros_like(x01) if to_x else None
    if grad_params is not None and count:
        inputs = (x01, gradient, grad_params, *constants)
        with _device_of(x01):
            _to_table[(blocks, grid.levels)](*inputs, count, grid.dense, **_options(grid))
    if grad_x is not None and count:
        more = (x01, gradient, params.contiguous(), grad_x, *constants)
        with _device_of(x01):
            _to_points[(blocks,)](*more, count, grid.dense, **_options(grid))
    return grad_x, grad_params
