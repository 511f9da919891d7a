"""How fast the hash-grid encoder is on a CPU, against the two usual ways to write one in torch and against a peer.

Ours in every backend that works here, and both baselines, compute the same features from the same table with the same
gradient to the table, forward and backward, on one thread, taking turns within one process so that a busy machine slows
them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..fields.backends import probe
from ..fields.interpolate import Route, encode
from ..fields.layout import PRIMES, HashGridSettings, Layout, layout
from . import peers
from .timing import figures, one_thread, take_turns

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


BASELINES: dict[str, Encoder] = {"vectorised": encode_vectorised, "gather": encode_gather}


def _with(route: Route) -> Encoder:
    return lambda x01, params, grid: encode(x01, params, grid, route=route)


def backend_variants() -> tuple[dict[str, Encoder], dict[str, str]]:
    """Our backends that work on this CPU ('ours' is the torch loop), and why the others do not."""
    found: dict[str, Encoder] = {"ours": _with("loop")}
    refused: dict[str, str] = {}
    refusal = probe("numba", "cpu")
    if refusal is None:
        found["numba"] = _with("numba")
    else:
        refused["numba"] = refusal.reason
    return found, refused


def _gradient(encoder: Encoder, x01: Tensor, params: Tensor, upstream: Tensor, grid: Layout) -> Tensor:
    """One forward and backward pass: the gradient to the table."""
    params = params.detach().requires_grad_()
    encoder(x01, params, grid).backward(upstream)
    assert params.grad is not None
    return params.grad


def _profile(
    name: str, settings: HashGridSettings, variants: Mapping[str, Encoder], peer: Any, repeats: int, points: int
) -> dict[str, float]:
    grid = layout(settings)
    generator = torch.Generator().manual_seed(0)
    x01 = torch.rand(points, 3, generator=generator)
    params = torch.rand(grid.entries * grid.features, generator=generator) * 0.2 - 0.1
    upstream = torch.randn(points, grid.levels * grid.features, generator=generator)
    runs: dict[str, Callable[[], Any]] = {
        variant: lambda encoder=encoder: _gradient(encoder, x01, params, upstream, grid)  # type: ignore[misc]
        for variant, encoder in variants.items()
    }
    result: dict[str, float] = {}
    reference = runs["ours"]()
    for variant, run_once in runs.items():
        difference = (run_once() - reference).abs().max() / reference.abs().max()
        result[f"gradient_difference_{name}_{variant}"] = float(difference)
    if callable(peer):
        runs["nerfstudio"] = lambda: peer(x01).backward(upstream)
    result |= figures(take_turns(runs, repeats), f"{name}_")
    ours = {"ours": "", **{v: f"_{v}" for v in variants if v not in ("ours", *BASELINES)}}
    for variant in [v for v in runs if v not in ours]:
        for mine, suffix in ours.items():
            speed = result[f"cpu_ms_{name}_{variant}"] / result[f"cpu_ms_{name}_{mine}"]
            result[f"speedup_{name}{suffix}_vs_{variant}"] = speed
    return result


def run(repeats: int = 5, points: int = 2**18, nerfstudio: Path | None = None) -> dict[str, Any]:
    """Measure forward plus backward at both profiles: 'l16' (16 levels of 2^19) and 'l8' (8 levels of 2^15).

    Args:
        repeats: timed rounds after two warm-up rounds; medians and spreads are reported.
        points: random positions in the unit cube. 2^18 need about 5 GB for the baselines.
        nerfstudio: a checkout to import nerfstudio from; None takes what is installed, if it is.

    Returns:
        ``speedup_{profile}_vs_{variant}`` of the torch loop and ``speedup_{profile}_numba_vs_{variant}`` (processor
        time, above 1 is faster), ``cpu_ms_...`` and ``wall_ms_...`` of each variant with their ``spread_...``,
        ``gradient_difference_...`` relative to ours, ``refused``, ``torch``, ``threads``, ``points``, ``repeats``.
    """
    ours, refused = backend_variants()
    result: dict[str, Any] = {"benchmark": "encoder"}
    with one_thread():
        for name, settings in PROFILES.items():
            peer = peers.nerfstudio(settings, nerfstudio)
            if isinstance(peer, str):
                refused["nerfstudio"] = peer
            result.update(_profile(name, settings, {**ours, **BASELINES}, peer, repeats, points))
    circumstances = {"torch": torch.__version__, "threads": 1, "points": points, "repeats": repeats}
    return {**result, "refused": refused, **circumstances}
