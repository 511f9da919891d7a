"""Samples and weights by nerfacc 0.5.3 (https://arxiv.org/abs/2305.04966), on the lattice of ``sampling``.

Importing this module needs ``nerfacc``, whose kernels are CUDA. ``traverse_grids`` marches from a near plane in equal
steps and keeps those whose middle lies in an occupied cell. The near plane is put half a step before the ray's first
lattice point, so its middles are our points but for rounding, which is taken off afterwards. What remains is a sample
at a cell's wall, which may be in here and out there. Derivatives are of first order only.

Pixels are summed by the one ``index_add`` that nerfacc's ``accumulate_along_rays`` is too.
"""

from __future__ import annotations

from functools import lru_cache

import nerfacc
import torch
from torch import Tensor

from . import composite, sampling
from .occupancy import OccupancyGrid
from .sampling import Points, intersect_box
from .settings import BOX_DIAGONAL
from .visible import OPAQUE_TAU

#: With shorter steps nerfacc's sum of steps could drift half a step away: a rounding of 1.2e-7 in each of 3800.
SHORTEST = BOX_DIAGONAL / 2048


@lru_cache(maxsize=4)
def _box(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]], device=device)


@torch.no_grad()
def sample_points(
    origin: Tensor,
    direction: Tensor,
    *,
    occupancy: OccupancyGrid | None,
    step_size: float,
    offset: Tensor | None = None,
    candidates: int = sampling.CANDIDATES,
) -> Points:
    """As :func:`sampling.sample_points`; a GPU is waited for twice. ``candidates`` only serves the torch code.

    In torch are: no grid, no rays, another precision than float32, and more than 2048 steps along the diagonal.
    """
    if occupancy is None or len(origin) == 0 or origin.dtype != torch.float32 or step_size < SHORTEST:
        return sampling.sample_points(
            origin, direction, occupancy=occupancy, step_size=step_size, offset=offset, candidates=candidates
        )
    enter, leave = intersect_box(origin, direction, *occupancy.box)
    offset = torch.full_like(enter, 0.5) if offset is None else offset.to(origin.dtype)
    first = torch.ceil(enter / step_size - offset).clamp_min(0)
    _, found, _ = nerfacc.traverse_grids(
        origin,
        direction,
        occupancy.occupied[None],
        _box(origin.device),
        near_planes=(first + offset - 0.5) * step_size,
        far_planes=leave,
        step_size=step_size,
    )
    ray = found.ray_indices
    number = torch.round(found.vals / step_size - offset[ray])
    t = (number + offset[ray]) * step_size
    return Points(ray, torch.addcmul(origin[ray], direction[ray], t[:, None]), t)


def visibility(density: Tensor, ray: Tensor, step_size: float, count: int) -> tuple[Tensor, Tensor]:
    """As :func:`composite.visibility`, the sum along rays by nerfacc; in torch without samples or not in float32."""
    if len(density) == 0 or density.dtype != torch.float32:
        return composite.visibility(density, ray, step_size, count)
    tau = (density.nan_to_num(nan=0.0) * step_size).clamp(0, OPAQUE_TAU)
    start, end = torch.zeros_like(tau), torch.ones_like(tau)
    transmittance, _ = nerfacc.render_transmittance_from_density(start, end, tau, ray_indices=ray, n_rays=count)
    return -transmittance * torch.expm1(-tau), transmittance
