"""Emission and absorption along packed rays: what a set of sample points contributes to its pixels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .sampling import Points
from .scan import exclusive_sum, ray_sum
from .settings import RenderSettings
from .shading import Shading, shade
from .visible import OPAQUE_TAU

if TYPE_CHECKING:
    from ..fields.base import RadianceField


class Composite(NamedTuple):
    """Pixels ``(rays, 5 or 8)``: colour, opacity, weighted distance, normal; and per-sample values."""

    pixels: Tensor
    density: Tensor
    weight: Tensor
    normal: Tensor | None
    transmittance: Tensor


def visibility(density: Tensor, ray: Tensor, step_size: float, count: int) -> tuple[Tensor, Tensor]:
    """Weights ``w_i`` and transmittances ``T_i`` ``(n,)`` of packed samples; a density that is NaN counts as 0."""
    tau = (density.nan_to_num(nan=0.0) * step_size).clamp(0, OPAQUE_TAU)
    transmittance = torch.exp(-exclusive_sum(tau, ray, count))
    return -transmittance * torch.expm1(-tau), transmittance


@dataclass(frozen=True)
class Work:
    """What stays the same over all parts of one render."""

    field: RadianceField
    settings: RenderSettings
    shading: Shading
    lights: Tensor | None  # (rays, 3)
    normals: bool
    rays: int
    weigh: Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor]] = visibility

    def composite(self, points: Points, start: int, stop: int, lit: Tensor | None) -> Composite:
        """Query the field at ``points`` and composite rays ``start`` to ``stop``; ``lit`` as in ``_normals``."""
        ray, x, t = points
        local, count = ray - start, stop - start
        density, albedo = self._query(x)
        weight, transmittance = self.weigh(density, local, self.settings.step_size, count)
        colour = albedo.nan_to_num(nan=0.0)
        normal = self._normals(x, weight, lit) if self.normals else None
        if normal is not None and self.lights is not None:
            colour = shade(colour, x, normal, self.lights[ray], self.shading)
        columns = [colour, torch.ones_like(t)[:, None], t[:, None]]
        values = torch.cat(columns if normal is None else [*columns, normal], -1)
        pixels = ray_sum(weight[:, None] * values, local, count)
        return Composite(pixels, density, weight, normal, transmittance.detach())

    def _query(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Density and albedo; with no points, empty ones that still hang on the field's parameters."""
        low = self.settings.precision == "bf16"
        half: AbstractContextManager[Any] = nullcontext()
        if low:
            half = torch.autocast(x.device.type, dtype=torch.bfloat16)
        with half:
            density, albedo = self.field(x if len(x) else x.new_zeros(1, 3))
        if low:
            density, albedo = density.to(x.dtype), albedo.to(x.dtype)
        return (density, albedo) if len(x) else (density[:0], albedo[:0])

    def _normals(self, x: Tensor, weight: Tensor, lit: Tensor | None) -> Tensor:
        """Normals ``(n, 3)`` of the samples marked in ``lit`` ``(n,)`` bool (default: by weight), 0 elsewhere."""
        mask = weight.detach() > self.settings.normal_weight if lit is None else lit
        index = mask.nonzero()[:, 0]
        if len(index) == 0:
            return torch.zeros_like(x)
        found = self.field.normals(x[index]).to(x.dtype).nan_to_num(nan=0.0)
        return torch.zeros_like(x).index_copy(0, index, found)


def ray_ranges(ends: Tensor, most: int) -> list[tuple[int, int, slice]]:
    """Ranges of rays ``(start, stop)`` with at most ``most`` samples (or one ray), and where those samples lie.

    ``ends`` is ``(rays,)`` long: how many samples this and all earlier rays have.
    """
    ends, rays = ends.cpu(), len(ends)
    found, start, done = [], 0, 0
    while start < rays:
        stop = int(torch.searchsorted(ends, done + most, right=True))
        stop = max(stop, start + 1)
        end = int(ends[stop - 1])
        found.append((start, stop, slice(done, end)))
        start, done = stop, end
    return found
