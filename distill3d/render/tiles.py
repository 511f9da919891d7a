"""A render whose memory does not grow with the picture: a two-pass gradient cache over tiles of rays.

First every tile is rendered without a graph. When the gradient of the loss with respect to the pixels is known, each
tile is rendered again, now with a graph, and passes its share on to the field before the next one begins (deferred
back-propagation, ARF, arXiv 2206.06360). Samples are drawn anew each time from the same lattice, so the second picture
is the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .composite import Composite, Work, ray_ranges
from .memory import tile_points
from .occupancy import OccupancyGrid
from .sampling import Points, sample_points
from .scan import per_ray
from .visible import reached

#: Rays sampled together while their samples are counted.
SLAB = 1 << 13
#: Lattice points looked at together.
CANDIDATES = 1 << 19

Terms = Callable[[Points, Composite, int, int], Tensor]


@dataclass
class Lattice:
    """The rays of a render and where their samples lie: ``(R, 3)`` origins and directions, ``(R,)`` jitter."""

    origin: Tensor
    direction: Tensor
    offset: Tensor | None
    occupancy: OccupancyGrid | None
    step_size: float
    sample: Callable[..., Points] = sample_points

    def points(self, start: int, stop: int) -> Points:
        """The samples of rays ``start`` to ``stop``, numbered as rays of the whole render."""
        cut = slice(start, stop)
        found = self.sample(
            self.origin[cut],
            self.direction[cut],
            occupancy=self.occupancy,
            step_size=self.step_size,
            offset=None if self.offset is None else self.offset[cut],
            candidates=CANDIDATES,
        )
        return Points(found.ray + start, found.x, found.t)

    def ends(self) -> Tensor:
        """``(R,)`` long: samples of this and all earlier rays."""
        rays = len(self.origin)
        counts = [
            per_ray(self.points(start, min(start + SLAB, rays)).ray - start, min(SLAB, rays - start))
            for start in range(0, rays, SLAB)
        ]
        return torch.cat(counts).cumsum(0)


@dataclass
class Tiles:
    """One render in tiles.

    Attributes:
        terms: a tile's samples to ``(k,)`` sums that are added over all tiles, or None.
        visible: samples that light reached, after the first pass, if hidden ones were looked for.
    """

    work: Work
    lattice: Lattice
    ends: Tensor
    terms: Terms | None
    cull: bool
    visible: int = 0
    parameters: list[Tensor] = field(default_factory=list)
    _kept: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ranges = ray_ranges(self.ends, tile_points(self.work.settings))

    def _tile(self, number: int) -> tuple[Tensor, Tensor]:
        """Pixels ``(rays, C)`` and terms ``(k,)`` of one tile; hidden samples are looked for the first time only."""
        start, stop, _ = self._ranges[number]
        points, settings, lit = self.lattice.points(start, stop), self.work.settings, None
        if self.cull:
            if number == len(self._kept):
                seen = reached(
                    self.work.field.density,
                    points.x,
                    points.ray - start,
                    stop - start,
                    settings.step_size,
                    settings.cull_transmittance,
                )
                self.visible += len(seen.samples)
                keep = torch.zeros(len(points.ray), dtype=torch.bool, device=points.ray.device)
                keep[seen.samples] = True
                self._kept.append((keep, seen.weight > settings.normal_weight if self.work.normals else None))
            keep, lit = self._kept[number]
            points = Points(*(column[keep] for column in points))
        out = self.work.composite(points, start, stop, lit)
        return out.pixels, out.pixels.new_zeros(0) if self.terms is None else self.terms(points, out, start, stop)

    def render(self) -> tuple[Tensor, Tensor]:
        """Pixels ``(R, C)`` and terms ``(k,)``, without a graph."""
        with torch.no_grad():
            found = [self._tile(number) for number in range(len(self._ranges))]
        pixels, terms = zip(*found, strict=True)
        return torch.cat(pixels), torch.stack(terms).sum(0)

    def gradients(self, to_pixels: Tensor, to_terms: Tensor) -> list[Tensor | None]:
        """The gradients to ``parameters``, tile by tile."""
        sums: list[Tensor | None] = [None] * len(self.parameters)
        for number, (start, stop, _) in enumerate(self._ranges):
            with torch.enable_grad():
                outputs = [
                    (value, gradient)
                    for value, gradient in zip(self._tile(number), (to_pixels[start:stop], to_terms), strict=True)
                    if value.requires_grad and value.numel()
                ]
            if not outputs:
                continue
            values, given = zip(*outputs, strict=True)
            found = torch.autograd.grad(values, self.parameters, given, allow_unused=True)
            del outputs, values
            for k, one in enumerate(found):
                if one is not None:
                    before = sums[k]
                    sums[k] = one.clone() if before is None else before.add_(one)
        return sums


class _Deferred(torch.autograd.Function):
    """The tiles' pixels and terms as one node of the graph over the field's parameters."""

    @staticmethod
    def forward(ctx: Any, tiles: Tiles, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.tiles = tiles
        ctx.save_for_backward(*parameters)
        return tiles.render()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_pixels: Tensor, to_terms: Tensor) -> tuple[Any, ...]:
        _ = ctx.saved_tensors  # raises when a parameter was changed in between
        return None, *ctx.tiles.gradients(to_pixels, to_terms)


def render_tiles(
    work: Work, lattice: Lattice, ends: Tensor, *, cull: bool, terms: Terms | None
) -> tuple[Tensor, Tensor, Tiles]:
    """Pixels ``(R, C)``, terms ``(k,)`` and the tiles themselves.

    Differentiable once, to the parameters of ``work.field``: a gradient that would reach anything else is lost.

    Args:
        work: what to render.
        lattice: where the samples lie; ``ends`` is its :meth:`Lattice.ends`.
        cull: leave hidden samples out.
        terms: sums over samples to make on the way; each tile's are added up.
    """
    tiles = Tiles(work, lattice, ends, terms, cull)
    found = work.field.parameters() if isinstance(work.field, nn.Module) else ()
    tiles.parameters = [p for p in found if p.requires_grad]
    if torch.is_grad_enabled() and tiles.parameters:
        pixels, sums = _Deferred.apply(tiles, *tiles.parameters)
    else:
        pixels, sums = tiles.render()
    return pixels, sums, tiles
