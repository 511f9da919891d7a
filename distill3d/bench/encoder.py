"""How fast the hash-grid encoder is, against the two usual ways to write one in torch and against a peer.

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

from ..fields.backends import ELSEWHERE, ORDER, probe
from ..fields.interpolate import Route, encode
from ..fields.layout import PRIMES, HashGridSettings, Layout, layout
from ..priors.load import resolve_device
from . import peers
from .timing import at_least, figures, one_thread, take_turns

Encoder = Callable[[Tensor, Tensor, Layout], Tensor]

PROFILES = {"l16": HashGridSettings.fine(), "l8": HashGridSettings()}


def _entry_indices(x: Tensor, y: Tensor, z: Tensor, grid: Layout) -> Tensor:
    """Entries of integer corners ``(levels, ...)`` in the whole table."""
    wide = (-1, *[1] * (x.dim() - 1))
    per_level = (grid.sizes, grid.offsets[:-1], grid.resolutions)
    size, offset, resolution = (torch.tensor(v, device=x.device).view(wide) for v in per_level)
    d = grid.dense
    dense = x[:d] + resolution[:d] * (y[:d] + resolution[:d] * z[:d])
    hashed = (x[d:] * PRIMES[0]) ^ (y[d:] * PRIMES[1]) ^ (z[d:] * PRIMES[2])
    return torch.cat([dense, hashed]) % size + offset


def _positions(x01: Tensor, grid: Layout) -> tuple[Tensor, Tensor]:
    """Cells int64 and fractions, each ``(3, levels, n)``."""
    scales = torch.tensor(grid.scales, dtype=x01.dtype, device=x01.device)
    position = x01.t()[:, None] * scales[:, None] + 0.5
    cell = position.floor()
    return cell.long(), position - cell


def encode_vectorised(x01: Tensor, params: Tensor, grid: Layout) -> Tensor:
    """Baseline: all levels and all eight corners in one ``(levels, n, 8)`` tensor, weights by product, autograd."""
    cell, fraction = _positions(x01, grid)
    bits = torch.tensor([[c >> axis & 1 for c in range(8)] for axis in range(3)], device=x01.device)
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


def backend_variants(device: torch.device) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Our backends that work on ``device`` ('ours' is the one in torch alone), and why the others do not."""
    *faster, plain = ORDER.get(device.type, ELSEWHERE)
    found: dict[str, Encoder] = {"ours": _with(plain)}
    refused: dict[str, str] = {}
    for route in faster:
        refusal = probe(route, device)
        if refusal is None:
            found[route] = _with(route)
        else:
            refused[route] = refusal.reason
    return found, refused


def _gradient(encoder: Encoder, x01: Tensor, params: Tensor, upstream: Tensor, grid: Layout) -> Tensor:
    """One forward and backward pass: the gradient to the table."""
    params = params.detach().requires_grad_()
    encoder(x01, params, grid).backward(upstream)
    assert params.grad is not None
    if params.device.type == "cuda":
        torch.cuda.synchronize(params.device)
    return params.grad


def _profile(
    name: str,
    settings: HashGridSettings,
    variants: Mapping[str, Encoder],
    peer: Any,
    repeats: int,
    points: int,
    device: torch.device,
) -> dict[str, float]:
    grid, time = layout(settings), "cpu_ms" if device.type == "cpu" else "wall_ms"
    generator = torch.Generator().manual_seed(0)
    x01 = torch.rand(points, 3, generator=generator)
    params = torch.rand(grid.entries * grid.features, generator=generator) * 0.2 - 0.1
    upstream = torch.randn(points, grid.levels * grid.features, generator=generator)
    x01, params, upstream = (v.to(device) for v in (x01, params, upstream))
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
            speed = result[f"{time}_{name}_{variant}"] / result[f"{time}_{name}_{mine}"]
            result[f"speedup_{name}{suffix}_vs_{variant}"] = speed
    return result


def run(repeats: int = 5, points: int = 2**18, nerfstudio: Path | None = None, device: str = "cpu") -> dict[str, Any]:
    """Measure forward plus backward at both profiles: 'l16' (16 levels of 2^19) and 'l8' (8 levels of 2^15).

    Args:
        repeats: timed rounds after two warm-up rounds; medians and spreads are reported.
        points: random positions in the unit cube. 2^18 need about 5 GB for the baselines.
        nerfstudio: a checkout to import nerfstudio from; None takes what is installed, if it is. It is measured on the
            CPU alone.
        device: auto, cpu, cuda or mps. Off the CPU the ratios are of wall time.

    Returns:
        ``speedup_{profile}_vs_{variant}`` of torch alone and ``speedup_{profile}_{backend}_vs_{variant}`` of others
        (processor time, above 1 is faster), ``cpu_ms_...`` and ``wall_ms_...`` of each variant with ``spread_...``,
        ``gradient_difference_...`` relative to ours, ``refused``, ``torch``, ``threads``, ``points``, ``repeats``.

    Raises:
        PriorError: no such device here.
        SettingsError: no points.
    """
    at_least(1, points=points)
    where = resolve_device(device)
    ours, refused = backend_variants(where)
    result: dict[str, Any] = {"benchmark": "encoder"}
    with one_thread():
        for name, settings in PROFILES.items():
            peer = peers.nerfstudio(settings, nerfstudio) if where.type == "cpu" else "it is measured on a CPU"
            if isinstance(peer, str):
                refused["nerfstudio"] = peer
            result.update(_profile(name, settings, {**ours, **BASELINES}, peer, repeats, points, where))
    circumstances = {"torch": torch.__version__, "threads": 1, "points": points, "repeats": repeats}
    circumstances["device"] = str(where)
    return {**result, "refused": refused, **circumstances}
