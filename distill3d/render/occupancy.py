"""Which cells of ``[-1, 1]^3`` hold matter: the grid that lets the renderer skip empty space.

The policy is instant-ngp's (arXiv 2201.05989, appendix C; ``src/testbed_nerf.cu``, ``NERF_MIN_OPTICAL_THICKNESS``)
as nerfacc states it in torch (``nerfacc/estimators/occ_grid.py``): decay the stored densities by 0.95, take the maximum
with fresh samples at random points of the cells, and keep a cell when its optical depth over one render step
exceeds ``min(0.01, mean)``. One cell of dilation is added, so that surfaces can move between two updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..devices import remote
from .settings import BOX_DIAGONAL

if TYPE_CHECKING:
    from ..fields.base import RadianceField

DECAY = 0.95
MINIMUM_OPTICAL_DEPTH = 0.01
TOLERANCE = 0.999  # a field that is the same everywhere must not fall below its own rounded mean
REFRESHED_SHARE = 0.25
CHUNK = 1 << 17


class OccupancyGrid(nn.Module):
    """``resolution^3`` cells over ``[-1, 1]^3``, all occupied until the first ``update``.

    Everything is a buffer, so ``state_dict`` carries it and a resumed run continues bit for bit.

    Attributes:
        density: ``(R, R, R)`` float, decayed maximum of the sampled densities, indexed ``[x, y, z]``.
        occupied: ``(R, R, R)`` bool, occupied cells including the dilation.
        bounds: ``(2, 3)`` float, lowest and highest world corner of the occupied cells; both 0 when none is.
        visible_share: ``()`` float, share of the last training render's samples that light could reach. The renderer
            writes it, and reads it to decide whether culling hidden samples pays.
        known_share: the same number where somebody has read it already, so that a GPU need not be asked; else None.
        known_diagonal: length of the diagonal of ``bounds`` where somebody has read it already; else None.
        changes: how often the occupied cells were replaced.
    """

    density: Tensor
    occupied: Tensor
    bounds: Tensor
    visible_share: Tensor

    def __init__(self, resolution: int = 48) -> None:
        super().__init__()
        if resolution < 1:
            raise ValueError(f"expected an occupancy resolution of 1 or more, got {resolution}")
        self.resolution = resolution
        self.known_share: float | None = None
        self.known_diagonal: float | None = None
        self.changes = 0
        self.register_buffer("density", torch.zeros(resolution, resolution, resolution))
        self.register_buffer("occupied", torch.ones(resolution, resolution, resolution, dtype=torch.bool))
        self.register_buffer("bounds", torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self.register_buffer("visible_share", torch.ones(()))

    @torch.no_grad()
    def update(
        self,
        field: RadianceField,
        *,
        step_size: float,
        generator: torch.Generator,
        warmup: bool = False,
    ) -> None:
        """Sample the field's density once in every refreshed cell and recompute which cells are occupied.

        Args:
            field: anything with ``density((N, 3)) -> (N,)``.
            step_size: length of one render step in world units (``RenderSettings.step_size``).
            generator: source of the positions inside the cells; must live on this grid's device.
            warmup: refresh every cell; otherwise the occupied ones and a random quarter of all.
        """
        if not step_size > 0:
            raise ValueError(f"expected step_size > 0, got {step_size}")
        device = self.density.device
        cells = self.resolution**3
        stale = None
        if remote(device):  # to count the cells to refresh would make the host wait: ask all of them, keep those
            index = torch.arange(cells, device=device)
            if not warmup:
                drawn = torch.rand(cells, generator=generator, device=device) < REFRESHED_SHARE
                stale = self.occupied.reshape(-1) | drawn
        elif warmup:
            index = torch.arange(cells, device=device)
        else:
            picked = self.occupied.reshape(-1).clone()
            count = max(1, int(cells * REFRESHED_SHARE))
            picked[torch.randperm(cells, generator=generator, device=device)[:count]] = True
            index = picked.nonzero()[:, 0]
        jitter = torch.rand(len(index), 3, generator=generator, device=device)
        fresh = torch.cat(
            [
                field.density(2 * (self._cell(part) + noise) / self.resolution - 1).float()
                for part, noise in zip(index.split(CHUNK), jitter.split(CHUNK), strict=True)
            ]
        )
        flat = self.density.view(-1)
        new = torch.maximum(flat[index] * DECAY, fresh.nan_to_num(nan=0.0))
        flat[index] = new if stale is None else torch.where(stale, new, flat)
        depth = (self.density * step_size).clamp(max=1.0)
        threshold = (TOLERANCE * depth.mean()).clamp(max=MINIMUM_OPTICAL_DEPTH)
        self.set_occupied(dilate(depth > threshold))

    @torch.no_grad()
    def set_occupied(self, mask: Tensor) -> None:
        """Replace the occupied cells by ``mask`` ``(R, R, R)`` bool, as it is (no dilation), and refit the box."""
        if mask.shape != self.occupied.shape:
            raise ValueError(f"expected a mask of shape {tuple(self.occupied.shape)}, got {tuple(mask.shape)}")
        self.occupied.copy_(mask)
        self.known_diagonal, self.changes = None, self.changes + 1
        hit = torch.stack([self.occupied.any(dim=d2).any(dim=d1) for d1, d2 in ((1, 2), (0, 2), (0, 1))])
        cell = torch.arange(self.resolution, device=hit.device)
        first = torch.where(hit, cell, self.resolution).amin(1)
        last = torch.where(hit, cell, -1).amax(1)
        corners = torch.stack([first, last + 1]).to(self.bounds) * (2 / self.resolution) - 1
        self.bounds.copy_(torch.where(hit.any(), corners, torch.zeros_like(corners)))

    def forget(self) -> None:
        """Drop what is known without asking: the state was replaced."""
        self.known_share, self.known_diagonal, self.changes = None, None, self.changes + 1

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest corner ``(3,)`` of the tight box around the occupied cells."""
        return self.bounds[0], self.bounds[1]

    @property
    def seen(self) -> float:
        """``visible_share`` as a number, from a GPU only where ``known_share`` is not set."""
        if self.known_share is None or not remote(self.visible_share.device):
            return float(self.visible_share)
        return self.known_share

    @property
    def diagonal(self) -> float:
        """At least the length of the diagonal of :attr:`box`, without asking a GPU: the whole box's where unknown."""
        return BOX_DIAGONAL if self.known_diagonal is None else min(BOX_DIAGONAL, 1.001 * self.known_diagonal)

    @property
    def fraction(self) -> float:
        """Share of occupied cells, 0..1."""
        return float(self.occupied.float().mean())

    @property
    def is_empty(self) -> bool:
        return not bool(self.occupied.any())

    @property
    def is_full(self) -> bool:
        return bool(self.occupied.all())

    def contains(self, x: Tensor) -> Tensor:
        """``(N, 3)`` world points -> ``(N,)`` bool: inside ``[-1, 1]^3`` and in an occupied cell."""
        cell = ((x + 1) * (self.resolution / 2)).floor().long()
        inside = ((x >= -1) & (x <= 1)).all(-1)
        i, j, k = cell.clamp(0, self.resolution - 1).unbind(-1)
        return self.occupied[i, j, k] & inside

    def _cell(self, index: Tensor) -> Tensor:
        """Flat cell index ``(n,)`` -> integer cell coordinates ``(n, 3)`` as floats."""
        r = self.resolution
        return torch.stack([index // (r * r), index // r % r, index % r], -1).to(self.density.dtype)


def dilate(mask: Tensor) -> Tensor:
    """Grow a ``(R, R, R)`` bool mask by one cell in all 26 directions."""
    for axis, size in enumerate(mask.shape):
        grown = mask.clone()
        grown.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
        grown.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
        mask = grown
    return mask
