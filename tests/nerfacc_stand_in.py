"""nerfacc's functions that the adapter calls, in torch on any device, written from what 0.5.3 documents of them.

``traverse_grids``: "march until t_mid is right after" a plane, in equal steps from the near plane; a step whose middle
lies in an occupied cell of the grid, before the far plane, is kept. Distances are sums of steps in float32, as there.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill3d.render import marching


def traverse_grids(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float = 1e-3,
) -> tuple[Any, Any, Tensor]:
    """Intervals, samples, and where each ray ended; one grid, no cone."""
    assert binaries.dtype == torch.bool and binaries.ndim == 4 and aabbs.shape == (len(binaries), 6) == (1, 6)
    assert all(v.dtype == torch.float32 for v in (rays_o, rays_d, aabbs, near_planes, far_planes))
    low, high = aabbs[0, :3], aabbs[0, 3:]
    a, b = (low - rays_o) / rays_d, (high - rays_o) / rays_d
    t_min = torch.minimum(a, b).amax(-1).maximum(near_planes)
    t_max = torch.maximum(a, b).amin(-1).minimum(far_planes)
    cells = torch.tensor(binaries.shape[1:], device=rays_o.device)
    last, kept = near_planes.clone(), []
    while bool((last + 0.5 * step_size < t_max).any()):
        middle, following = last + 0.5 * step_size, last + step_size
        at = (rays_o + middle[:, None] * rays_d - low) / (high - low)
        i, j, k = (at * cells).long().clamp(min=torch.zeros_like(cells), max=cells - 1).unbind(-1)
        kept.append(((middle >= t_min) & (middle < t_max) & binaries[0, i, j, k], 0.5 * (last + following)))
        last = following
    if not kept:
        return None, SimpleNamespace(vals=last[:0], ray_indices=last[:0].long()), last
    inside, middles = (torch.stack(column, 1) for column in zip(*kept, strict=True))
    return None, SimpleNamespace(vals=middles[inside], ray_indices=inside.nonzero()[:, 0]), last


def render_transmittance_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, *, ray_indices: Tensor, n_rays: int
) -> tuple[Tensor, Tensor]:
    """``T_i`` and ``alpha_i``, ray by ray."""
    assert len(ray_indices) == 0 or int(ray_indices.max()) < n_rays
    depth = sigmas * (t_ends - t_starts)
    pieces = [d.cumsum(0) - d for d in depth.split(ray_indices.bincount(minlength=n_rays).tolist())]
    return torch.exp(-torch.cat(pieces)), 1 - torch.exp(-depth)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was tried or told yet, and the adapter is imported anew."""
    monkeypatch.setattr(marching, "_probed", {})
    monkeypatch.setattr(marching, "_told", set())
    monkeypatch.delitem(sys.modules, "distill3d.render.march_nerfacc", raising=False)


def install(monkeypatch: pytest.MonkeyPatch, **instead: Any) -> ModuleType:
    """A package ``nerfacc`` made of these functions, or of ``instead``, that the adapter imports anew."""
    module = ModuleType("nerfacc")
    module.__spec__ = importlib.machinery.ModuleSpec("nerfacc", None)
    functions = {
        "traverse_grids": traverse_grids,
        "render_transmittance_from_density": render_transmittance_from_density,
    }
    for name, function in (functions | instead).items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "nerfacc", module)
    monkeypatch.delitem(sys.modules, "distill3d.render.march_nerfacc", raising=False)
    return module
