"""How fast the hash-grid encoder is on a CPU, against the two usual ways to write one in torch.

All three compute the same features from the same table with the same gradient to the table, forward and backward,
on one thread, taking turns within one process so that a busy machine slows them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..fields.interpolate import encode
from ..fields.layout import PRIMES, HashGridSettings, Layout, layout

Encoder = Callable[[Tensor, Tensor, Layout], Tensor]

PROFILES = {"l16": HashGridSettings.fine(), "l8": HashGridSettings()}


def _entry_indices(x: Tensor, y: Tensor, z: Tensor, grid: Layout) -> Tensor:
    """Entries of integer corners ``(levels, ...)`` in the whole table."""
    wide = (-1, *[1] * (x.dim() - 1))
    size, offset = torch.tensor(grid.sizes).view(wide), torch.tensor(grid.offsets[:-1]).view(wide)
    resolution, d = torch.tensor(grid.resolutions).view(wide), grid.dense
    dense = x[:d] + resolution[:d] * (y[:d] + resolution[:d] * z[:d])
    hashed = (x[d:] * PRIMES[0]) ^ (y[d:] * PRIMES[1]) ^ (z[d:] * PRIMES[2])
    return torch.cat([dense, hashed]) % size + offset


def _positions(x01: Tensor, grid: Layout) -> tuple[Tensor, Tensor]:
    """Cells int64 and fractions, each ``(3, levels, n)``."""
    position = x01.t()[:, None] * torch.tensor(grid.scales, dtype=x01.dtype)[:, None] + 0.5
    cell = position.floor()
    return cell.long(), position - cell


def encode_vectorised(x01: Tensor, params: Tensor, grid: Layout) -> Tensor:
    """Baseline: all levels and all eight corners in one ``(levels, n, 8)`` tensor, weights by product, autograd."""
    cell, fraction = _positions(x01, grid)
    bits = torch.tensor([[c >> axis & 1 for c in range(8)] for axis in range(3)])
    x, y, z = cell[..., None] + bits[:, None, None]
    weight = torch.where(bits[:, None, None].bool(), fraction[..., None], 1.0 - fraction[..., None]).prod(0)
    features = params.view(-1, grid.features)[_entry_indices(x, y, z, grid)]
    return (weight[..., None] * features).sum(2).transpose(0, 1).flatten(1)


def encode_gather(x01: Tensor, params: Tensor, grid: Layout) -> Tensor:
    """Baseline: eight gathers, one for each corner, over ``(levels, n)`` int64 indices, blended axis by axis."""
    cell, fraction = _positions(x01, grid)
    both, rows = (cell, cell + 1), params.view(-1, grid.features)
    fx, fy, fz = fraction[..., None].unbind(0)

    def corner(x: int, y: int, z: int) -> Tensor:
        return rows[_entry_indices(both[x][0], both[y][1], both[z][2], grid)]

    def edge(y: int, z: int) -> Tensor:
        return corner(0, y, z) * (1.0 - fx) + corner(1, y, z) * fx

    low, high = (edge(0, z) * (1.0 - fy) + edge(1, z) * fy for z in (0, 1))
    return (low * (1.0 - fz) + high * fz).transpose(0, 1).flatten(1)


VARIANTS: dict[str, Encoder] = {"ours": encode, "vectorised": encode_vectorised, "gather": encode_gather}


def _step(encoder: Encoder, x01: Tensor, params: Tensor, upstream: Tensor, grid: Layout) -> tuple[float, float, Tensor]:
    """Processor and wall milliseconds of one forward and backward pass, and the gradient to the table."""
    params = params.detach().requires_grad_()
    cpu, wall = time.process_time(), time.perf_counter()
    encoder(x01, params, grid).backward(upstream)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert params.grad is not None
    return 1e3 * cpu, 1e3 * wall, params.grad


def _profile(name: str, settings: HashGridSettings, repeats: int, points: int) -> dict[str, float]:
    grid = layout(settings)
    generator = torch.Generator().manual_seed(0)
    x01 = torch.rand(points, 3, generator=generator)
    params = torch.rand(grid.entries * grid.features, generator=generator) * 0.2 - 0.1
    upstream = torch.randn(points, grid.levels * grid.features, generator=generator)
    times: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    result: dict[str, float] = {}
    reference = None
    for repeat in range(repeats + 1):
        for variant, encoder in VARIANTS.items():
            cpu, wall, gradient = _step(encoder, x01, params, upstream, grid)
            if repeat > 0:
                times[variant].append((cpu, wall))
                continue
            reference = gradient if reference is None else reference
            difference = (gradient - reference).abs().max() / reference.abs().max()
            result[f"gradient_difference_{name}_{variant}"] = float(difference)
    for variant, measured in times.items():
        result[f"cpu_ms_{name}_{variant}"] = statistics.median(cpu for cpu, _ in measured)
        result[f"wall_ms_{name}_{variant}"] = statistics.median(wall for _, wall in measured)
    for variant in ("vectorised", "gather"):
        result[f"speedup_{name}_vs_{variant}"] = result[f"cpu_ms_{name}_{variant}"] / result[f"cpu_ms_{name}_ours"]
    return result


def run(repeats: int = 5, points: int = 2**18) -> dict[str, float | int | str]:
    """Measure forward plus backward at both profiles: 'l16' (16 levels of 2^19) and 'l8' (8 levels of 2^15).

    Args:
        repeats: timed rounds after one warm-up round; medians are reported.
        points: random positions in the unit cube. 2^18 need about 5 GB for the baselines.

    Returns:
        ``speedup_{profile}_vs_{vectorised,gather}`` (processor time, above 1 is faster),
        ``cpu_ms_...`` and ``wall_ms_...`` of each variant, ``gradient_difference_...`` relative to ours,
        ``torch``, ``threads``, ``points``, ``repeats``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result: dict[str, float | int | str] = {}
        for name, settings in PROFILES.items():
            result.update(_profile(name, settings, repeats, points))
    finally:
        torch.set_num_threads(threads)
    return {**result, "torch": torch.__version__, "threads": 1, "points": points, "repeats": repeats}
