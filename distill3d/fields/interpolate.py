"""Trilinear look-ups in a multiresolution hash grid, with gradients to the table and to the positions.

All routes give the same numbers from the same table: :func:`encode_plain` is stock autograd and differentiable to any
order; ``loop`` walks the levels in cache-sized chunks of points (for a CPU); ``batched`` takes all levels at once in
few, large, real-valued operations (for a GPU, in ``interpolate_batched``); ``numba``, ``triton`` and ``tinycudann`` are
optional and chosen in ``backends``. The fast routes save nothing but their inputs, compute the indices again in the
backward pass, and switch to :func:`encode_plain` under ``create_graph``.

Arrays run structure-of-arrays: positions ``(3, n)``, corners ``(2z, 2y, 2x, n)``. One entry of two features is moved
as one complex number, and interpolation is three ``lerp`` over entries laid end to end, so no weight is ever stored.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from . import interpolate_batched as batched
from .layout import Layout, factors

Route = Literal["auto", "loop", "batched", "plain", "numba", "triton", "tinycudann"]

#: Points per chunk and thread: below about 8k the cost of an operation dominates, above 32k the caches overflow.
CHUNK = 32768


#: Where the routes that are not in this module live: each a module with ``forward`` and ``backward``.
MODULES = {
    "batched": ".interpolate_batched",
    "numba": ".interpolate_numba",
    "triton": ".interpolate_triton",
    "tinycudann": ".interpolate_tinycudann",
}


class Forward(Protocol):
    """``(n, 3)`` positions in 0..1 and the flat table to ``(n, levels * features)``, without a graph."""

    def __call__(self, x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor: ...


class Backward(Protocol):
    """Gradients to the positions and to the table, each None unless asked for."""

    def __call__(
        self, x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
    ) -> tuple[Tensor | None, Tensor | None]: ...


class Kernels(NamedTuple):
    """What a route computes with."""

    forward: Forward
    backward: Backward


def kernels(route: str) -> Kernels:
    """The functions of a route; imports the package it needs, and raises whatever that raises."""
    if route == "loop":
        return Kernels(_loop_forward, _loop_backward)
    module: ModuleType = importlib.import_module(MODULES[route], __package__)
    return Kernels(module.forward, module.backward)


def corner_indices(grid: Layout, level: int, position: Tensor, highest: float, out: Tensor | None = None) -> Tensor:
    """Entries of the eight corners around ``position`` within one level, ``(2, 2, 2, n)`` int32 as ``[z, y, x]``.

    Args:
        position: ``(3, n)`` in 0..1.
        highest: largest coordinate in ``position``; a dense level wraps only near 1, elsewhere the wrap is skipped.
        out: flat int32 memory for at least ``8 n`` indices.
    """
    multiplier, corner = factors(grid, position.device)
    cell = torch.mul(position, grid.scales[level]).add_(0.5).floor_().to(torch.int32)
    terms = cell.mul_(multiplier[level])[:, None] + corner[level]
    x, y, z = terms
    shape = (2, 2, 2, position.shape[1])
    out = cell.new_empty(shape) if out is None else out[: 8 * shape[3]].view(shape)
    if level >= grid.dense:
        terms.bitwise_and_(grid.sizes[level] - 1)
        return torch.bitwise_xor(x, y[:, None] ^ z[:, None, None], out=out)
    torch.add(x, y[:, None] + z[:, None, None], out=out)
    if highest * grid.scales[level] + 0.5 < grid.resolutions[level] - 1.01:  # 0.01: more than float32 can round up
        return out
    size = grid.sizes[level]
    out.sub_(size)
    return out.add_((out >> 31).bitwise_and_(size))  # a negative number has all bits of its sign set: add the size back


def cell_fraction(grid: Layout, level: int, position: Tensor) -> Tensor:
    """Where in its cell each coordinate lies, 0..1; the derivative is the level's scale."""
    return (position * grid.scales[level] + 0.5).frac()


def _entries(values: Tensor) -> Tensor:
    """``(..., features)`` with a pair of features as one complex number, which a CPU moves three times faster."""
    return torch.view_as_complex(values) if values.shape[-1] == 2 else values


def _numbers(entries: Tensor) -> Tensor:
    """Undo :func:`_entries` and lay the features end to end, ``(n * features,)``."""
    return (torch.view_as_real(entries) if entries.is_complex() else entries).reshape(-1)


def _rows(params: Tensor, features: int) -> Tensor:
    return _entries(params.view(-1, features))


def _gather(rows: Tensor, grid: Layout, level: int, index: Tensor, out: Tensor | None = None) -> Tensor:
    """Corner values ``(2, 2, 2, n * features)``; ``out`` is optional flat memory to hold them."""
    rows = rows[grid.offsets[level] : grid.offsets[level + 1]]
    if out is None:
        values = rows.index_select(0, index.view(-1))
    else:
        values = _entries(out[: index.numel() * grid.features].view(-1, grid.features))
        torch.index_select(rows, 0, index.view(-1), out=values)
    return _numbers(values).view(2, 2, 2, -1)


def _interpolate(v: Tensor, f: Tensor) -> Tensor:
    """Blend corner values ``(2, 2, 2, n)`` by fractions ``(3, n)`` to ``(n,)``, in place."""
    v = v[:, :, 0].lerp_(v[:, :, 1], f[0])
    v = v[:, 0].lerp_(v[:, 1], f[1])
    return v[0].lerp_(v[1], f[2])


def _scatter(rows: Tensor, grid: Layout, level: int, index: Tensor, values: Tensor) -> None:
    rows = rows[grid.offsets[level] : grid.offsets[level + 1]]
    values = _entries(values.view(-1, grid.features))
    if rows.is_complex():
        rows.scatter_add_(0, index, values)
    else:
        rows.index_add_(0, index, values)


def encode_plain(x01: Tensor, params: Tensor, grid: Layout) -> Tensor:
    """Reference route: features ``(n, levels * features)`` at ``x01`` ``(n, 3)``, differentiable to any order.

    Keeps about 0.5 kB per point for a backward pass at 8 levels, so prefer :func:`encode` for training.
    """
    position = x01.t()
    highest = float(x01.detach().max()) if len(x01) else 0.0
    wide = position.repeat_interleave(grid.features, 1)
    rows, out = _rows(params, grid.features), []
    for level in range(grid.levels):
        v = _gather(rows, grid, level, corner_indices(grid, level, position.detach(), highest))
        f = cell_fraction(grid, level, wide)
        v = torch.lerp(v[:, :, 0], v[:, :, 1], f[0])
        v = torch.lerp(v[:, 0], v[:, 1], f[1])
        out.append(torch.lerp(v[0], v[1], f[2]).view(-1, grid.features))
    return torch.cat(out, 1)


def _loop_forward(x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor:
    count, features = len(x01), grid.features
    out = params.new_empty(count, grid.levels, features)
    target = _entries(out)
    memory = params.new_empty(8 * features * min(chunk, count))
    index_memory = torch.empty(8 * min(chunk, count), dtype=torch.int32, device=params.device)
    rows = _rows(params, features)
    for start in range(0, count, chunk):
        position = x01[start : start + chunk].t().contiguous()
        wide = position.repeat_interleave(features, 1)
        highest = float(position.max())
        for level in range(grid.levels):
            index = corner_indices(grid, level, position, highest, index_memory)
            v = _gather(rows, grid, level, index, memory)
            blended = _interpolate(v, cell_fraction(grid, level, wide))
            target[start : start + chunk, level] = _entries(blended.view(-1, features))
    return out.flatten(1)


def _spread(gradient: Tensor, f: Tensor, out: Tensor) -> Tensor:
    """Transpose of the three ``lerp``: what each of the eight corners receives, into ``out`` ``(2, 2, 2, n)``."""
    torch.mul(gradient, f[2], out=out[1, 0, 0])
    torch.sub(gradient, out[1, 0, 0], out=out[0, 0, 0])
    torch.mul(out[:, 0, 0], f[1], out=out[:, 1, 0])
    out[:, 0, 0].sub_(out[:, 1, 0])
    torch.mul(out[:, :, 0], f[0], out=out[:, :, 1])
    out[:, :, 0].sub_(out[:, :, 1])
    return out


def _fraction_gradient(v: Tensor, gradient: Tensor, f: Tensor) -> Tensor:
    """Gradient to the fractions ``f`` ``(3, n)`` from the eight corner values ``v`` ``(2, 2, 2, n)``."""
    along_x = v[:, :, 1] - v[:, :, 0]
    v = torch.lerp(v[:, :, 0], v[:, :, 1], f[0])
    along_y = v[:, 1] - v[:, 0]
    v = torch.lerp(v[:, 0], v[:, 1], f[1])
    along_x = torch.lerp(along_x[:, 0], along_x[:, 1], f[1])
    return torch.stack(
        [torch.lerp(along_x[0], along_x[1], f[2]), torch.lerp(along_y[0], along_y[1], f[2]), v[1] - v[0]]
    ).mul_(gradient)


def _loop_backward(
    x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
) -> tuple[Tensor | None, Tensor | None]:
    count, features = len(x01), grid.features
    source = _entries(gradient.view(count, grid.levels, features))
    grad_params = torch.zeros_like(params) if to_params else None
    grad_x = torch.zeros_like(x01) if to_x else None
    memory = params.new_empty(8 * features * min(chunk, count))
    index_memory = torch.empty(8 * min(chunk, count), dtype=torch.int32, device=params.device)
    long_memory = torch.empty_like(index_memory, dtype=torch.int64)
    rows = _rows(params, features)
    for start in range(0, count, chunk):
        position = x01[start : start + chunk].t().contiguous()
        wide = position.repeat_interleave(features, 1)
        highest = float(position.max())
        n = position.shape[1]
        index64, corners = long_memory[: 8 * n], memory[: 8 * features * n].view(2, 2, 2, features * n)
        for level in range(grid.levels):
            index = corner_indices(grid, level, position, highest, index_memory)
            f = cell_fraction(grid, level, wide)
            g = _numbers(source[start : start + chunk, level].contiguous())
            if grad_params is not None:
                index64.copy_(index.view(-1))
                _scatter(_rows(grad_params, features), grid, level, index64, _spread(g, f, corners))
            if grad_x is not None:
                along = _fraction_gradient(_gather(rows, grid, level, index, memory), g, f).view(3, n, features).sum(2)
                grad_x[start : start + chunk].add_(along.t(), alpha=grid.scales[level])
    return grad_x, grad_params


class _Encode(torch.autograd.Function):
    """A fast route as one node of the graph; saves its two inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, x01: Tensor, params: Tensor, grid: Layout, chunk: int, route: str) -> Tensor:
        ctx.save_for_backward(x01, params)
        ctx.grid, ctx.chunk, ctx.route = grid, chunk, route
        return kernels(route).forward(x01, params, grid, chunk)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x01, params = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_plain_backward(x01, params, gradients[0], ctx), None, None, None)
        return (*_fast_backward(x01, params, gradients[0], ctx), None, None, None)


def _fast_backward(x01: Tensor, params: Tensor, gradient: Tensor, ctx: Any) -> tuple[Tensor | None, Tensor | None]:
    to_x, to_params = ctx.needs_input_grad[:2]
    return kernels(ctx.route).backward(x01, params, gradient.contiguous(), ctx.grid, ctx.chunk, to_x, to_params)


def _plain_backward(x01: Tensor, params: Tensor, gradient: Tensor, ctx: Any) -> tuple[Tensor | None, ...]:
    wanted = [t for t, needed in zip((x01, params), ctx.needs_input_grad[:2], strict=True) if needed]
    found = iter(torch.autograd.grad(encode_plain(x01, params, ctx.grid), wanted, gradient, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:2])


def encode(x01: Tensor, params: Tensor, grid: Layout, *, route: Route = "auto", chunk: int | None = None) -> Tensor:
    """Features of a multiresolution hash grid, level-major (Instant NGP section 3).

    Args:
        x01: ``(n, 3)`` positions in the unit cube; values outside are clamped to its faces and get no gradient.
        params: ``(entries * features,)`` table in tiny-cuda-nn's flat layout.
        grid: from :func:`distill3d.fields.layout.layout`.
        route: 'auto' is 'loop' on a CPU and 'batched' elsewhere; 'plain' stores its graph. The optional ones raise
            what their package raises where it is missing or broken: ``backends`` chooses among them safely.
        chunk: points at a time; None chooses by device and thread count. The result does not depend on it beyond
            the order in which gradients to one entry are summed.

    Returns:
        ``(n, levels * features)`` in the dtype of ``params``. Bit-for-bit repeatable on a CPU; on a GPU the gradient
        to ``params`` is summed atomically unless ``torch.use_deterministic_algorithms`` is on.
    """
    x01 = x01.to(params.dtype).clamp(0.0, 1.0)
    if route == "plain":
        return encode_plain(x01, params, grid)
    if route == "auto":
        route = "loop" if x01.device.type == "cpu" else "batched"
    if chunk is None:
        chunk = CHUNK * torch.get_num_threads() if route in ("loop", "numba") else batched.CHUNK
    result: Tensor = _Encode.apply(x01, params, grid, chunk, route)
    return result
