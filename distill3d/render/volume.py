"""Volume rendering of a radiance field by emission and absorption (NeRF, arXiv 2003.08934, equation 3).

``w_i = T_i (1 - exp(-sigma_i dt))`` with ``T_i = exp(-sum_{j<i} sigma_j dt)``. Only samples in occupied cells are
queried, samples behind an opaque surface are culled when that pays, and batches with more samples than ``max_points``
are rendered in chunks of rays whose graph is rebuilt in the backward pass. What would exceed ``memory_gb`` even so is
rendered in tiles (``tiles``), of which nothing but pixels is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..devices import upload
from .cameras import Cameras, rays
from .composite import Composite, Work, ray_ranges, visibility
from .marching import TORCH, Marching
from .memory import kept_points
from .occupancy import OccupancyGrid
from .sampling import Points
from .scan import per_ray
from .settings import BOX_DIAGONAL, RenderSettings
from .shading import Shading
from .tiles import Lattice, render_tiles
from .visible import reached

if TYPE_CHECKING:
    from ..fields.base import RadianceField

__all__ = ["BOX_DIAGONAL", "RenderSettings", "Rendering", "Samples", "render", "visibility"]


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
        packed: the points it was made from, or None where a render in tiles did not keep them.
        terms: for such a render, what was asked of its samples by name; empty otherwise.
    """

    rgb: Tensor
    foreground: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None
    packed: Samples | None
    terms: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> Samples:
        """The points it was made from.

        Raises:
            ValueError: it was rendered in tiles, which keep none.
        """
        if self.packed is None:
            raise ValueError(
                "expected a rendering that kept its samples, got one made in tiles: ask for what you need of them with "
                "render(terms=...), or raise RenderSettings.memory_gb"
            )
        return self.packed


#: A mean over all rays of something about their samples, such as the functions of ``regularisers``.
Term = Callable[[Rendering], Tensor]


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
    terms: Mapping[str, Term] | None = None,
    marching: Marching = TORCH,
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
        terms: functions of a rendering, each a mean over its rays, to evaluate where samples are not kept; the result
            has them under ``terms`` then. Elsewhere call them on the result.
        marching: what places and weighs samples, see ``marching.functions``.

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
    lights = None
    if shading.needs_normals and shading.light is not None:
        lights = upload(shading.light, d.device).to(d).repeat_interleave(height * width, 0)
    work = Work(field, settings, shading, lights, shading.needs_normals or normals, len(d), marching.weigh)
    lattice = Lattice(o, d, offset, occupancy, settings.step_size, marching.sample)
    packed: Samples | None = None
    values: dict[str, Tensor] = {}
    ends = _too_many(lattice, settings)
    if ends is None:
        points = marching.sample(o, d, occupancy=occupancy, step_size=settings.step_size, offset=offset)
        points, out = _visible(work, points, occupancy)
        found = out.pixels
        packed = Samples(points.ray, points.x, points.t, settings.step_size, out.density, out.weight, out.normal, d)
    else:
        found, values = _tiled(work, lattice, ends, occupancy, terms or {})
    pixels, opacity = found.view(*shape, -1), found[:, 3].view(shape)
    foreground = pixels[..., :3]
    return Rendering(
        rgb=foreground + (1 - opacity)[..., None] * behind.to(foreground),
        foreground=foreground,
        opacity=opacity,
        depth=pixels[..., 4] / opacity.clamp_min(1e-6),
        normal=pixels[..., 5:] if work.normals else None,
        packed=packed,
        terms=values,
    )


def _too_many(lattice: Lattice, settings: RenderSettings) -> Tensor | None:
    """The lattice's ``ends`` when its samples would not fit ``memory_gb``, else None; counts only where that may be."""
    most = kept_points(settings)
    if len(lattice.origin) * settings.samples_per_ray <= most:
        return None
    ends = lattice.ends()
    return ends if len(ends) and int(ends[-1]) > most else None


def _tiled(
    work: Work, lattice: Lattice, ends: Tensor, occupancy: OccupancyGrid | None, terms: Mapping[str, Term]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pixels ``(rays, C)`` and the terms by name."""
    training = torch.is_grad_enabled()
    cull = work.settings.terminate or (training and work.settings.cull_below > 0)

    def sums(points: Points, out: Composite, start: int, stop: int) -> Tensor:
        part = _part(points, out, lattice, start, stop)
        return torch.stack([term(part) * (stop - start) for term in terms.values()])

    pixels, found, tiles = render_tiles(work, lattice, ends, cull=cull, terms=sums if terms else None)
    if training and cull and occupancy is not None:
        occupancy.visible_share.fill_(tiles.visible / int(ends[-1]))
        occupancy.known_share = None
    return pixels, dict(zip(terms, (found / work.rays).unbind(), strict=True))


def _part(points: Points, out: Composite, lattice: Lattice, start: int, stop: int) -> Rendering:
    """A tile as a picture of one row."""
    pixels, direction = out.pixels[None, None], lattice.direction[start:stop]
    t = points.t
    samples = Samples(
        points.ray - start, points.x, t, lattice.step_size, out.density, out.weight, out.normal, direction
    )
    opacity = pixels[..., 3]
    depth = pixels[..., 4] / opacity.clamp_min(1e-6)
    return Rendering(pixels[..., :3], pixels[..., :3], opacity, depth, None, samples)


def _visible(work: Work, points: Points, occupancy: OccupancyGrid | None) -> tuple[Points, Composite]:
    """Cull hidden samples where it pays, then composite, in one graph or in recomputed chunks."""
    settings, training = work.settings, torch.is_grad_enabled()
    total = len(points.ray)
    many = total > settings.max_points
    lit = None
    pays = occupancy is not None and occupancy.seen < settings.cull_below
    if training and total and (pays or (many and settings.cull_below > 0)):
        weight, transmittance = _prepass(work, points)
        keep = (transmittance > settings.cull_transmittance).nonzero()[:, 0]
        points = Points(*(column[keep] for column in points))
        lit = (weight > settings.normal_weight)[keep]
    elif total and settings.terminate and not training:
        seen = reached(
            work.field.density, points.x, points.ray, work.rays, settings.step_size, settings.cull_transmittance
        )
        points, lit = Points(*(column[seen.samples] for column in points)), seen.weight > settings.normal_weight
    out = _composite(work, points, lit)
    if training and total and occupancy is not None:
        occupancy.visible_share.copy_((out.transmittance > settings.cull_transmittance).sum() / total)
        occupancy.known_share = None
    return points, out


@torch.no_grad()
def _prepass(work: Work, points: Points) -> tuple[Tensor, Tensor]:
    density = torch.cat([work.field.density(x) for x in points.x.split(work.settings.max_points)])
    return work.weigh(density, points.ray, work.settings.step_size, work.rays)


def _composite(work: Work, points: Points, lit: Tensor | None) -> Composite:
    if len(points.ray) <= work.settings.max_points:
        return work.composite(points, 0, work.rays, lit)
    parts: list[Composite] = []
    ends = per_ray(points.ray, work.rays).cumsum(0)
    for start, stop, cut in ray_ranges(ends, work.settings.max_points):
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
