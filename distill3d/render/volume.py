"""Volume rendering of a radiance field by emission and absorption (NeRF, arXiv 2003.08934, equation 3).

``w_i = T_i (1 - exp(-sigma_i dt))`` with ``T_i = exp(-sum_{j<i} sigma_j dt)``. Only samples in occupied cells are
queried, samples behind an opaque surface are culled when that pays, and batches with more samples than ``max_points``
are rendered in chunks of rays whose graph is rebuilt in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import SettingsError
from .cameras import Cameras, rays
from .occupancy import OccupancyGrid
from .sampling import Points, sample_points
from .scan import exclusive_sum, ray_sum
from .shading import Shading, shade

if TYPE_CHECKING:
    from ..fields.base import RadianceField

BOX_DIAGONAL = 2 * math.sqrt(3.0)
OPAQUE_TAU = 60.0  # exp(-60) is 0 beside 1 in double precision; keeps infinite densities out of the prefix sum


@dataclass(frozen=True)
class RenderSettings:
    """How finely rays are sampled and how much memory a render may take."""

    samples_per_ray: int = 128
    """Steps along the diagonal of the box; a ray through the middle of a face takes 0.58 times as many."""
    max_points: int = 1 << 20
    """Most sample points held in one autograd graph (0.3 to 0.4 kB each); larger batches are rendered in chunks."""
    cull_below: float = 0.5
    """Look for hidden samples first when the last render could see less than this share; 0 never, 2 always."""
    cull_transmittance: float = 1e-3
    """Samples that less than this share of light reaches count as hidden; also bounds the error of culling."""
    normal_weight: float = 1e-4
    """Samples that contribute less than this get no normal: they are not lit by the point light."""

    def __post_init__(self) -> None:
        if self.samples_per_ray < 1 or self.max_points < 1:
            got = f"{self.samples_per_ray} and {self.max_points}"
            raise SettingsError(f"expected samples_per_ray and max_points of 1 or more, got {got}")
        if self.cull_below < 0 or not 0 <= self.cull_transmittance < 1 or not 0 <= self.normal_weight < 1:
            raise SettingsError("expected cull_below >= 0, and cull_transmittance and normal_weight within 0..1")

    @property
    def step_size(self) -> float:
        """``dt`` in world units."""
        return BOX_DIAGONAL / self.samples_per_ray


@dataclass(frozen=True)
class Samples:
    """The packed sample points of a rendering, sorted by ray, then by distance.

    Attributes:
        ray: ``(n,)`` long, index into the flattened ``(B, H, W)`` pixels.
        x: ``(n, 3)`` world position, no gradient.
        t: ``(n,)`` distance from the camera, world units, no gradient.
        dt: length of every step, world units.
        density: ``(n,)``; weight: ``(n,)``, the ``w_i`` above.
        normal: ``(n, 3)`` outward unit normals, 0 where the weight is negligible; ``None`` unless asked for.
        ray_direction: ``(B H W, 3)`` unit directions of all rays.
    """

    ray: Tensor
    x: Tensor
    t: Tensor
    dt: float
    density: Tensor
    weight: Tensor
    normal: Tensor | None
    ray_direction: Tensor

    @property
    def direction(self) -> Tensor:
        """``(n, 3)`` unit direction of each sample's ray."""
        return self.ray_direction[self.ray]

    @property
    def rays(self) -> int:
        """Number of rays, with or without samples."""
        return len(self.ray_direction)


@dataclass(frozen=True)
class Rendering:
    """``B`` pictures of a field. Differentiable to the field and to the background, not to the cameras.

    Attributes:
        rgb: ``(B, H, W, 3)`` colour over the background.
        foreground: ``(B, H, W, 3)`` colour times opacity, before the background.
        opacity: ``(B, H, W)`` in 0..1.
        depth: ``(B, H, W)`` weight-averaged distance from the camera, world units; 0 where nothing is hit.
        normal: ``(B, H, W, 3)`` sum of ``w_i n_i`` in world axes, so its length is at most the opacity; or ``None``.
        samples: the points it was made from.
    """

    rgb: Tensor
    foreground: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None
    samples: Samples


class Composite(NamedTuple):
    """Pixels ``(rays, 5 or 8)``: colour, opacity, weighted distance, normal; and per-sample values."""

    pixels: Tensor
    density: Tensor
    weight: Tensor
    normal: Tensor | None
    transmittance: Tensor


def render(
    field: RadianceField,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Callable[[Tensor], Tensor] | Tensor,
    occupancy: OccupancyGrid | None = None,
    settings: RenderSettings | None = None,
    shading: Shading | None = None,
    normals: bool = False,
    generator: torch.Generator | None = None,
) -> Rendering:
    """Render ``len(cameras)`` pictures of ``height`` x ``width`` pixels.

    Args:
        field: ``density``, ``__call__`` and ``normals`` of world points in ``[-1, 1]^3``.
        cameras: on the field's device.
        background: a picture that broadcasts to ``(B, H, W, 3)``, or a function of the ray directions ``(B, H, W, 3)``.
        occupancy: cells to visit; ``None`` visits the whole box. When gradients are recorded, its
            ``visible_share`` is updated.
        settings: sampling and memory; ``None`` means the defaults.
        shading: ``None`` means plain albedo.
        normals: composite a normal map even where shading does not need one.
        generator: jitters every ray's samples by a random part of one step; ``None`` puts them mid-step.

    Without a single sample the result is the background, and ``backward`` gives the field zero gradients.
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected a picture of at least 1 x 1 pixels, got {height} x {width}")
    settings = settings or RenderSettings()
    shading = shading or Shading()
    origin, direction = rays(cameras, height, width)
    behind = background if isinstance(background, Tensor) else background(direction)
    shape = direction.shape[:3]
    o, d = origin.reshape(-1, 3), direction.reshape(-1, 3)
    offset = None
    if generator is not None:
        offset = torch.rand(len(d), generator=generator, device=generator.device).to(d)
    points = sample_points(o, d, occupancy=occupancy, step_size=settings.step_size, offset=offset)
    lights = None
    if shading.needs_normals and shading.light is not None:
        lights = shading.light.to(d).repeat_interleave(height * width, 0)

    work = _Work(field, settings, shading, lights, shading.needs_normals or normals, len(d))
    points, out = _visible(work, points, occupancy)
    pixels, opacity = out.pixels.view(*shape, -1), out.pixels[:, 3].view(shape)
    foreground = pixels[..., :3]
    return Rendering(
        rgb=foreground + (1 - opacity)[..., None] * behind.to(foreground),
        foreground=foreground,
        opacity=opacity,
        depth=pixels[..., 4] / opacity.clamp_min(1e-6),
        normal=pixels[..., 5:] if work.normals else None,
        samples=Samples(points.ray, points.x, points.t, settings.step_size, out.density, out.weight, out.normal, d),
    )


def visibility(density: Tensor, ray: Tensor, step_size: float, count: int) -> tuple[Tensor, Tensor]:
    """Weights ``w_i`` and transmittances ``T_i`` ``(n,)`` of packed samples; a density that is NaN counts as 0."""
    tau = (density.nan_to_num(nan=0.0) * step_size).clamp(0, OPAQUE_TAU)
    transmittance = torch.exp(-exclusive_sum(tau, ray, count))
    return -transmittance * torch.expm1(-tau), transmittance


@dataclass(frozen=True)
class _Work:
    """What stays the same over all chunks of one render."""

    field: RadianceField
    settings: RenderSettings
    shading: Shading
    lights: Tensor | None  # (rays, 3)
    normals: bool
    rays: int

    def composite(self, points: Points, start: int, stop: int, lit: Tensor | None) -> Composite:
        """Query the field at ``points`` and composite rays ``start`` to ``stop``; ``lit`` as in ``_normals``."""
        ray, x, t = points
        local, count = ray - start, stop - start
        density, albedo = _query(self.field, x)
        weight, transmittance = visibility(density, local, self.settings.step_size, count)
        colour = albedo.nan_to_num(nan=0.0)
        normal = self._normals(x, weight, lit) if self.normals else None
        if normal is not None and self.lights is not None:
            colour = shade(colour, x, normal, self.lights[ray], self.shading)
        columns = [colour, torch.ones_like(t)[:, None], t[:, None]]
        values = torch.cat(columns if normal is None else [*columns, normal], -1)
        pixels = ray_sum(weight[:, None] * values, local, count)
        return Composite(pixels, density, weight, normal, transmittance.detach())

    def _normals(self, x: Tensor, weight: Tensor, lit: Tensor | None) -> Tensor:
        """Normals ``(n, 3)`` of the samples marked in ``lit`` ``(n,)`` bool (default: by weight), 0 elsewhere."""
        mask = weight.detach() > self.settings.normal_weight if lit is None else lit
        index = mask.nonzero()[:, 0]
        if len(index) == 0:
            return torch.zeros_like(x)
        found = self.field.normals(x[index]).to(x.dtype).nan_to_num(nan=0.0)
        return torch.zeros_like(x).index_copy(0, index, found)

    def chunks(self, points: Points) -> list[tuple[int, int, slice]]:
        """Ranges of rays ``(start, stop)`` with at most ``max_points`` samples (or one ray), and their samples."""
        ends = torch.bincount(points.ray, minlength=self.rays).cumsum(0).cpu()
        found, start, done = [], 0, 0
        while start < self.rays:
            stop = int(torch.searchsorted(ends, done + self.settings.max_points, right=True))
            stop = max(stop, start + 1)
            end = int(ends[stop - 1])
            found.append((start, stop, slice(done, end)))
            start, done = stop, end
        return found


def _visible(work: _Work, points: Points, occupancy: OccupancyGrid | None) -> tuple[Points, Composite]:
    """Cull hidden samples where it pays, then composite, in one graph or in recomputed chunks."""
    settings, training = work.settings, torch.is_grad_enabled()
    total = len(points.ray)
    many = total > settings.max_points
    lit = None
    pays = occupancy is not None and float(occupancy.visible_share) < settings.cull_below
    if training and total and (pays or many):
        weight, transmittance = _prepass(work, points)
        keep = transmittance > settings.cull_transmittance
        points = Points(*(column[keep] for column in points))
        lit = (weight > settings.normal_weight)[keep]
    out = _composite(work, points, lit)
    if training and total and occupancy is not None:
        share = (out.transmittance > settings.cull_transmittance).sum() / total
        occupancy.visible_share.copy_(share)
    return points, out


@torch.no_grad()
def _prepass(work: _Work, points: Points) -> tuple[Tensor, Tensor]:
    density = torch.cat([work.field.density(x) for x in points.x.split(work.settings.max_points)])
    return visibility(density, points.ray, work.settings.step_size, work.rays)


def _composite(work: _Work, points: Points, lit: Tensor | None) -> Composite:
    if len(points.ray) <= work.settings.max_points:
        return work.composite(points, 0, work.rays, lit)
    parts: list[Composite] = []
    for start, stop, cut in work.chunks(points):
        arguments = (Points(*(c[cut] for c in points)), start, stop, None if lit is None else lit[cut])
        if torch.is_grad_enabled():
            parts.append(checkpoint(work.composite, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(work.composite(*arguments))
    normal = torch.cat([p.normal for p in parts if p.normal is not None]) if work.normals else None
    return Composite(
        pixels=torch.cat([part.pixels for part in parts]),
        density=torch.cat([part.density for part in parts]),
        weight=torch.cat([part.weight for part in parts]),
        normal=normal,
        transmittance=torch.cat([part.transmittance for part in parts]),
    )


def _query(field: RadianceField, x: Tensor) -> tuple[Tensor, Tensor]:
    """Density and albedo; with no points, empty ones that still hang on the field's parameters."""
    if len(x) == 0:
        density, albedo = field(x.new_zeros(1, 3))
        return density[:0], albedo[:0]
    density, albedo = field(x)
    return density, albedo
