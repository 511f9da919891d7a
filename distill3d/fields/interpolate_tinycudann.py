"""Hash-grid look-ups by tiny-cuda-nn (https://github.com/NVlabs/tiny-cuda-nn), with our table in place of its own.

Importing this module needs ``tinycudann``, which is compiled by hand for one torch, CUDA and GPU. The parameter layout
is the same, so the table is lent to its encoding for the time of a call. Its derivatives of second order are partial,
therefore these take the plain route like everywhere else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tinycudann
import torch
from torch import Tensor

from .layout import Layout


@lru_cache(maxsize=4)
def _encoding(grid: Layout, device: torch.device) -> Any:
    """tiny-cuda-nn's module for this grid, its own parameters freed.

    Raises:
        ValueError: its table has another size than ours.
    """
    settings = grid.settings
    config = {
        "otype": "HashGrid",
        "n_levels": settings.levels,
        "n_features_per_level": settings.features,
        "log2_hashmap_size": settings.log2_table_size,
        "base_resolution": settings.base_resolution,
        "per_level_scale": settings.growth,
        "interpolation": "Linear",
    }
    with torch.inference_mode(False), torch.cuda.device(device):
        module = tinycudann.Encoding(3, config, dtype=torch.float32).to(device)
    expected, found = grid.entries * grid.features, module.params.numel()
    if expected != found:
        raise ValueError(f"expected a table of {expected} numbers, tiny-cuda-nn makes one of {found} for {config}")
    module.params = torch.nn.Parameter(module.params.new_empty(0), requires_grad=False)
    return module


def _run(x01: Tensor, params: Tensor, grid: Layout) -> Tensor:
    module = _encoding(grid, x01.device)
    with torch.cuda.device(x01.device):
        out: Tensor = torch.func.functional_call(module, {"params": params}, (x01,))
    return out.to(params.dtype)


def forward(x01: Tensor, params: Tensor, grid: Layout, chunk: int) -> Tensor:
    """Features ``(n, levels * features)`` at ``x01`` ``(n, 3)`` in 0..1; see :func:`interpolate.encode`."""
    if params.dtype != torch.float32:
        raise TypeError(f"tiny-cuda-nn takes a float32 table here, got {params.dtype}")
    if len(x01) == 0:
        return params.new_empty(0, grid.levels * grid.features)
    with torch.no_grad():
        return _run(x01, params, grid)


def backward(
    x01: Tensor, params: Tensor, gradient: Tensor, grid: Layout, chunk: int, to_x: bool, to_params: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to ``x01`` and to ``params``, each None unless asked for, of :func:`forward`."""
    if len(x01) == 0:
        return torch.zeros_like(x01) if to_x else None, torch.zeros_like(params) if to_params else None
    with torch.enable_grad():
        x, table = x01.detach().requires_grad_(to_x), params.detach().requires_grad_(to_params)
        wanted = [tensor for tensor, asked in ((x, to_x), (table, to_params)) if asked]
        found = iter(torch.autograd.grad(_run(x, table, grid), wanted, gradient))
    return next(found) if to_x else None, next(found) if to_params else None
