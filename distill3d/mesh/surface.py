"""From a density field to a closed triangle surface, by marching cubes with the ambiguous cases resolved.

Lewiner et al. 2003, "Efficient implementation of marching cubes' cases with topological guarantees", as scikit-image
implements it. Two things are done differently from handing it the densities:

- it interpolates ``f = sigma / (sigma + L)``, which is 1/2 on the level ``L`` for any density scale, moves linearly in
  the logarithm of the density there, and does not cling to the outer lattice points where the density jumps;
- every vertex is then bisected along its lattice edge with the field itself.

Lattices above :data:`DENSE` cells a side are not sampled whole, but block by block near the surface (:mod:`.blocks`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes
from torch import Tensor

from ..errors import DivergedError, EmptySurfaceError
from ..fields.base import SignedDistanceField
from .level import LevelChoice, choose_level
from .types import Ints, MeshSettings, OnStage

if TYPE_CHECKING:
    from ..fields.base import RadianceField
    from ..render.occupancy import OccupancyGrid

Points = NDArray[np.float64]

DENSE = 160
"""Most cells along a side for which the whole lattice is sampled."""
PADDING = 2
"""Lattice cells added around the occupied box."""
MARGIN = 2e-3
"""Values this close to the level are moved off it, so that no vertex falls on a lattice point."""


class Density(Protocol):
    """All that a surface asks of a field."""

    def density(self, x: Tensor) -> Tensor:
        """``(n, 3)`` world positions to ``(n,)`` density, at least 0."""
        ...


@dataclass(frozen=True)
class Lattice:
    """Points ``-1 + spacing * (start + index)``, ``index`` from 0 to ``count - 1`` along x, y, z."""

    start: tuple[int, int, int]
    count: tuple[int, int, int]
    spacing: float

    def world(self, index: Tensor) -> Tensor:
        """``(N, 3)`` lattice coordinates, whole or not -> ``(N, 3)`` world."""
        return -1 + self.spacing * (index + torch.tensor(self.start, dtype=index.dtype, device=index.device))

    @property
    def low(self) -> Tensor:
        """``(3,)`` float64 world position of the first point."""
        return self.world(torch.zeros(1, 3, dtype=torch.float64))[0]


@dataclass(frozen=True)
class Surface:
    """A closed surface in world coordinates.

    Attributes:
        vertices: ``(V, 3)`` float64.
        faces: ``(F, 3)`` int64, counter-clockwise from outside.
        choice: the level, and how it was found.
        density: the smallest and largest density sampled.
        cut_share: share of the unit box's sides that the object runs through.
    """

    vertices: Points
    faces: Ints
    choice: LevelChoice
    density: tuple[float, float]
    cut_share: float


def full_lattice(resolution: int) -> Lattice:
    """The lattice with ``resolution`` cells along each side of ``[-1, 1]^3``."""
    return Lattice((0, 0, 0), (resolution + 1,) * 3, 2 / resolution)


def occupied_lattice(resolution: int, occupancy: OccupancyGrid | None) -> Lattice:
    """The part of the full lattice around the occupied box; all of it when nothing, or nothing yet, is known."""
    full = full_lattice(resolution)
    if occupancy is None or occupancy.is_empty:
        return full
    low, high = (corner.detach().cpu().double() for corner in occupancy.box)
    first = ((low + 1) / full.spacing).floor().long().sub(PADDING).clamp(min=0).tolist()
    last = ((high + 1) / full.spacing).ceil().long().add(PADDING).clamp(max=resolution).tolist()
    return Lattice(
        (first[0], first[1], first[2]),
        (last[0] - first[0] + 1, last[1] - first[1] + 1, last[2] - first[2] + 1),
        full.spacing,
    )


@torch.no_grad()
def sample_density(
    field: Density, lattice: Lattice, chunk: int, device: torch.device, on_stage: OnStage | None = None
) -> Tensor:
    """The field's density at the lattice points, ``chunk`` points at a time.

    Returns:
        ``count`` float32 on the CPU, indexed ``[x, y, z]``, zero or more.

    Raises:
        DivergedError: a density is not finite.
    """
    total = math.prod(lattice.count)
    flat = torch.empty(total)
    _, ny, nz = lattice.count
    for begin in range(0, total, chunk):
        index = torch.arange(begin, min(begin + chunk, total), device=device)
        corner = torch.stack([index // (ny * nz), index // nz % ny, index % nz], -1)
        flat[begin : begin + len(index)] = field.density(lattice.world(corner.float())).float().cpu()
        if on_stage is not None:
            on_stage("sample", min(begin + chunk, total) / total)
    refuse_non_finite(flat)
    return flat.clamp_(min=0).view(lattice.count)


def refuse_non_finite(density: Tensor) -> None:
    """Raises ``DivergedError`` with the number of densities that are NaN or infinite, if any."""
    bad = int((~density.isfinite()).sum())
    if bad:
        raise DivergedError(
            f"expected finite densities, but {bad} of {density.numel()} sampled points are NaN or infinite: the run "
            "diverged; export an earlier checkpoint, or train again with a lower learning rate or guidance scale"
        )


def find_surface(
    field: RadianceField,
    occupancy: OccupancyGrid | None,
    settings: MeshSettings,
    device: torch.device,
    on_stage: OnStage | None = None,
) -> Surface:
    """Sample the field, choose the level and extract the surface, closed where the object meets the box.

    Raises:
        EmptySurfaceError: no density crosses the level, or matter fills the box.
        DivergedError: a density is not finite.
    """
    source: Density = field
    if isinstance(field, SignedDistanceField):
        source = _Distance(field, 2 / settings.resolution)
        settings = dataclasses.replace(settings, level=1.0)
    if settings.resolution > DENSE:
        from .blocks import find_surface_in_blocks

        found = find_surface_in_blocks(source, occupancy, settings, device, on_stage)
    else:
        found = _find_dense(source, occupancy, settings, device, on_stage)
    if isinstance(source, _Distance):
        found = dataclasses.replace(found, choice=LevelChoice(0.0, "zero of the distance", (0.0, 0.0), 0.0, 1.0, 0.0))
    return found


class _Distance:
    """A signed distance as a density: ``exp(-s / spacing)`` is 1 on the surface and steep there."""

    def __init__(self, field: SignedDistanceField, spacing: float) -> None:
        self.field, self.spacing = field, spacing

    def density(self, x: Tensor) -> Tensor:
        return (-self.field.sdf(x) / self.spacing).clamp(-20, 20).exp()


def _find_dense(
    field: Density,
    occupancy: OccupancyGrid | None,
    settings: MeshSettings,
    device: torch.device,
    on_stage: OnStage | None,
) -> Surface:
    """:func:`find_surface` with the whole lattice in memory."""
    density, lattice, level, choice, sides = probe(field, occupancy, settings, device, on_stage)
    solid = density >= level
    filled = torch.from_numpy(ndimage.binary_fill_holes(solid.numpy())) if settings.fill_cavities else solid
    if on_stage is not None:
        on_stage("surface", 0.0)
    index, faces = march(density, filled, level)
    index = refine(field, lambda points: density[tuple(points.T)], lattice, index, level, settings, device)
    vertices = lattice.world(torch.from_numpy(index)).clamp(-1, 1).numpy()
    if on_stage is not None:
        on_stage("surface", 1.0)
    return Surface(vertices, faces, choice, (float(density.min()), float(density.max())), sides)


def probe(
    field: Density,
    occupancy: OccupancyGrid | None,
    settings: MeshSettings,
    device: torch.device,
    on_stage: OnStage | None,
) -> tuple[Tensor, Lattice, float, LevelChoice, float]:
    """Densities over the occupied lattice, or over all of it where the surface reaches its sides; the level; cut share.

    Raises as :func:`find_surface`.
    """
    lattice = occupied_lattice(settings.resolution, occupancy)
    while True:
        density = sample_density(field, lattice, settings.chunk, device, on_stage)
        level, choice = pick_level(density, lattice, settings.level)
        sides = _sides(density >= level)
        if math.prod(lattice.count) == (settings.resolution + 1) ** 3 or not sides.any():
            return density, lattice, level, choice, float(sides.float().mean())
        lattice = full_lattice(settings.resolution)


def pick_level(density: Tensor, lattice: Lattice, level: float | None) -> tuple[float, LevelChoice]:
    """The level asked for, or the one :mod:`.level` chooses, and how; either way one that the densities cross.

    Raises:
        EmptySurfaceError: with the smallest and largest density, the level and what to do.
    """
    low, high = float(density.min()), float(density.max())
    if level is not None:
        choice = LevelChoice(level, "given", (level, level), 0.0, 0.0, 0.0)
    else:
        choice = choose_level(density, lattice.low, lattice.spacing)
    found = f"densities run from {low:.4g} to {high:.4g}"
    if level is not None:
        if high < level:
            raise EmptySurfaceError(f"expected a surface at the level {level:.4g}, but {found}: give a lower level")
        if low >= level:
            raise EmptySurfaceError(
                f"expected an object, but matter above the level {level:.4g} fills the whole box: {found}; "
                "give a higher level"
            )
    if choice.rule == "opaque":
        raise EmptySurfaceError(
            f"expected an object, but matter of density {choice.haze:.4g}, as dense as any object in it, fills the "
            f"whole box: {found}; a new run with a higher losses.sparsity clears it, or give a level"
        )
    if choice.level is None:
        raise EmptySurfaceError(
            f"expected a surface, but the field holds none: its most opaque ray has opacity {choice.opacity:.2g}, "
            f"{found}; a new run with more iterations or less sparsity may hold one, or give a level below {high:.4g}"
        )
    return choice.level, choice


def march(density: Tensor, solid: Tensor, level: float) -> tuple[Points, Ints]:
    """Marching cubes over ``sigma / (sigma + level)``, with empty space assumed one cell beyond the lattice.

    Args:
        density: ``(X, Y, Z)`` float.
        solid: ``(X, Y, Z)`` bool, the lattice points inside; filled cavities may be inside at any density.

    Returns:
        Vertices ``(V, 3)`` float64 in lattice coordinates (from -1 to count), faces ``(F, 3)`` int64.
    """
    padded = np.zeros([count + 2 for count in density.shape], np.float32)
    for k, (sigma, inside) in enumerate(zip(density, solid, strict=True)):
        value = sigma / (sigma + level)
        value = torch.where(inside, value.clamp(min=0.5 + MARGIN), value.clamp(max=0.5 - MARGIN))
        padded[k + 1, 1:-1, 1:-1] = value.numpy()
    vertices, faces, _, _ = marching_cubes(padded, 0.5, gradient_direction="ascent", allow_degenerate=True)
    return vertices.astype(np.float64) - 1, faces.astype(np.int64)


@torch.no_grad()
def refine(
    field: Density,
    at: Callable[[Tensor], Tensor],
    lattice: Lattice,
    index: Points,
    level: float,
    settings: MeshSettings,
    device: torch.device,
) -> Points:
    """Bisect every vertex that lies on a lattice edge between an inside and an outside point; others stay.

    Args:
        at: the densities ``(n,)`` sampled at lattice points ``(n, 3)`` long.
        index: ``(V, 3)`` float64 lattice coordinates from :func:`march`.

    Returns:
        ``(V, 3)`` float64 lattice coordinates.
    """
    if settings.refine == 0:
        return index
    vertex = torch.from_numpy(index)
    low, high = vertex.floor(), vertex.ceil()
    on_edge = ((vertex - vertex.round()).abs() > MARGIN / 4).sum(-1) == 1
    on_edge &= (low >= 0).all(-1) & (high <= torch.tensor(lattice.count) - 1).all(-1)
    chosen = on_edge.nonzero()[:, 0]
    low_density, high_density = at(low[chosen].long()), at(high[chosen].long())
    crosses = (low_density >= level) != (high_density >= level)
    chosen, low_density, high_density = chosen[crosses], low_density[crosses], high_density[crosses]
    moved = vertex.clone()
    for part in torch.arange(len(chosen)).split(settings.chunk):
        rows = chosen[part]
        inward = (high_density[part] >= level)[:, None]
        out, inside = torch.where(inward, low[rows], high[rows]), torch.where(inward, high[rows], low[rows])
        f_out = torch.minimum(low_density[part], high_density[part]).double()
        f_in = torch.maximum(low_density[part], high_density[part]).double()
        f_out, f_in = f_out / (f_out + level), f_in / (f_in + level)
        near, far = torch.zeros(len(rows), dtype=torch.float64), torch.ones(len(rows), dtype=torch.float64)
        for _ in range(settings.refine):
            middle = (near + far) / 2
            x = lattice.world(out + middle[:, None] * (inside - out)).float().to(device)
            sigma = field.density(x).cpu().double()
            f = sigma / (sigma + level)
            solid = sigma >= level
            far, f_in = torch.where(solid, middle, far), torch.where(solid, f, f_in)
            near, f_out = torch.where(solid, near, middle), torch.where(solid, f_out, f)
        t = near + (far - near) * ((0.5 - f_out) / (f_in - f_out).clamp(min=1e-12)).clamp(0, 1)
        moved[rows] = out + t.clamp(MARGIN, 1 - MARGIN)[:, None] * (inside - out)
    return moved.numpy()


def _sides(solid: Tensor) -> Tensor:
    """The values on the six sides of the lattice, flat."""
    return torch.cat([solid.select(axis, place).flatten() for axis in range(3) for place in (0, -1)])
