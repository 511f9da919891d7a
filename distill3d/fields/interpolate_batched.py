"""Hash-grid look-ups for a GPU: every level in one operation, real numbers only, no float64.

The same arithmetic as the level loop in ``interpolate``, with the level as the leading axis, so that a look-up costs
about 140 kernel launches in all instead of about 50 a level. Runs on any device that has int32 and ``index_add_``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .layout import Layout, factors

#: Points at a time; bounds the working set to about 0.2 kB per point and level.
CHUNK = 1 << 18


@lru_cache(maxsize=16)
def _constants(grid: Layout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Scale ``(L, 1, 1)`` float32, table size and first entry ``(L, 1, 1, 1, 1)`` int32."""
    with torch.inference_mode(False):
        scale = torch.tensor(grid.scales, dtype=torch.float32, device=device).view(-1, 1, 1)
        size = torch.tensor(grid.sizes, dtype=torch.int32, device=device).view(-1, 1, 1, 1, 1)
        offset = torch.tensor(grid.offsets[:-1], dtype=torch.int32, device=device).view(-1, 1, 1, 1, 1)
    return scale, size, offset


def _locate(position: Tensor, grid: Layout) -> tuple[Tensor, Tensor]:
    """Entries of the corners ``(L, 2, 2, 2, n)`` int32 as ``[level, z, y, x]`` and fractions ``(L, 3, n, 1)``."""
    multiplier, corner = factors(grid, position.device)
    scale, size, offset = _constants(grid, position.device)
    scaled = position * scale.to(position.dtype) + 0.5
    cell = scaled.floor()
    m = (cell.to(torch.int32) * multiplier)[:, :, None] + corner
    x, y, z = m[:, 0, None, None], m[:, 1, None, :, None], m[:, 2, :, None, None]
    d = grid.dense
    dense = x[:d] + (y[:d] + z[:d])
    dense = torch.where(dense >= size[:d], dense - size[:d], dense)
    hashed = (x[d:] ^ (y[d:] ^ z[d:])) & (size[d:] - 1)
    return torch.cat([dense, hashed]) + offset, (scaled - cell)[..., None]


def _gather(params: Tensor, index: Tensor, features: int) -> Tensor:
    return params.view(-1, features).index_select(0, index.view(-1)).view(*index.shape, features)


def forward(x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor:
    """Features ``(n, levels * features)`` at ``x01`` ``(n, 3)`` in 0..1; see :func:`interpolate.encode`."""
    out = params.new_empty(len(x01), grid.levels * grid.features)
    for start in range(0, len(x01), chunk):
        index, f = _locate(x01[start : start + chunk].t(), grid)
        v = _gather(params, index, grid.features)
        v = torch.lerp(v[:, :, :, 0], v[:, :, :, 1], f[:, 0, None, None])
        v = torch.lerp(v[:, :, 0], v[:, :, 1], f[:, 1, None])
        v = torch.lerp(v[:, 0], v[:, 1], f[:, 2])
        out[start : start + chunk] = v.transpose(0, 1).reshape(-1, out.shape[1])
    return out


def _fraction_gradient(v: Tensor, gradient: Tensor, f: Tensor) -> Tensor:
    fx, fy, fz = f[:, 0, None, None], f[:, 1, None], f[:, 2]
    along_x = v[:, :, :, 1] - v[:, :, :, 0]
    v = torch.lerp(v[:, :, :, 0], v[:, :, :, 1], fx)
    along_y = v[:, :, 1] - v[:, :, 0]
    v = torch.lerp(v[:, :, 0], v[:, :, 1], fy)
    along_x = torch.lerp(along_x[:, :, 0], along_x[:, :, 1], fy)
    along = [torch.lerp(along_x[:, 0], along_x[:, 1], fz), torch.lerp(along_y[:, 0], along_y[:, 1], fz)]
    return torch.stack([*along, v[:, 1] - v[:, 0]], 1).mul_(gradient[:, None]).sum(-1)


def _spread(gradient: Tensor, f: Tensor) -> Tensor:
    """Transpose of the three ``lerp``: gradients ``(L, n, F)`` shared out to the corners ``(L, 2, 2, 2, n, F)``."""
    levels, n, features = gradient.shape
    out = gradient.new_empty(levels, 2, 2, 2, n, features)
    torch.mul(gradient, f[:, 2], out=out[:, 1, 0, 0])
    torch.sub(gradient, out[:, 1, 0, 0], out=out[:, 0, 0, 0])
    torch.mul(out[:, :, 0, 0], f[:, 1, None], out=out[:, :, 1, 0])
    out[:, :, 0, 0].sub_(out[:, :, 1, 0])
    torch.mul(out[:, :, :, 0], f[:, 0, None, None], out=out[:, :, :, 1])
    out[:, :, :, 0].sub_(out[:, :, :, 1])
    return out


def backward(
    x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to ``x01`` and to ``params``, each None unless asked for, of :func:`forward`."""
    count, features = len(x01), grid.features
    gradient = gradient.view(count, grid.levels, features).transpose(0, 1)
    grad_params = torch.zeros_like(params) if to_params else None
    grad_x = torch.zeros_like(x01) if to_x else None
    scale = _constants(grid, x01.device)[0].to(x01.dtype)
    for start in range(0, count, chunk):
        index, f = _locate(x01[start : start + chunk].t(), grid)
        g = gradient[:, start : start + chunk]
        if grad_params is not None:
            spread = _spread(g, f).view(-1, features)
            grad_params.view(-1, features).index_add_(0, index.view(-1), spread)
        if grad_x is not None:
            along = _fraction_gradient(_gather(params, index, features), g, f)
            grad_x[start : start + chunk] = (along * scale).sum(0).t()
    return grad_x, grad_params
