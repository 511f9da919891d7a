"""Surfaces on fine lattices in bounded memory: only blocks that the surface runs through are sampled and kept.

A coarse lattice finds the level and the blocks near its surface. Sampling then follows the surface: whenever a block's
border disagrees with what its unsampled neighbour is taken to be, the neighbour is sampled too, so that the result is
as closed as on the whole lattice. Each lattice point is asked once, each block is marched with one layer of its
neighbours, and vertices on shared edges are joined by the edge they lie on. A part thinner than a coarse cell that
hangs together with nothing the coarse lattice saw is missed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import marching_cubes
from torch import Tensor

from . import clean
from .surface import MARGIN, Density, Lattice, Surface, full_lattice, probe, refine, refuse_non_finite
from .types import Ints, MeshSettings, OnStage

if TYPE_CHECKING:
    from ..render.occupancy import OccupancyGrid

SIDE = 16
"""Lattice points along each side of a block."""
COARSE = 128
"""Cells along each side of the coarse lattice."""


class Blocks:
    """The sampled blocks of a lattice.

    Attributes:
        number: ``(B, B, B)`` long, index of each block's samples, -1 where it was not sampled.
        solid: ``(B, B, B)`` bool, what an unsampled block is taken to be all through.
        samples: ``(n, SIDE, SIDE, SIDE)`` densities; points outside the lattice hold 0.
    """

    def __init__(self, field: Density, lattice: Lattice, level: float, chunk: int, device: torch.device) -> None:
        self.field, self.lattice, self.level, self.chunk, self.device = field, lattice, level, chunk, device
        self.count = -(-lattice.count[0] // SIDE)
        self.number = torch.full((self.count,) * 3, -1, dtype=torch.long)
        self.solid = torch.zeros((self.count,) * 3, dtype=torch.bool)
        self.samples = torch.empty(0, SIDE, SIDE, SIDE)
        step = torch.arange(SIDE)
        self.inner = torch.stack(torch.meshgrid(step, step, step, indexing="ij"), -1).view(-1, 3)

    @torch.no_grad()
    def sample(self, wanted: Tensor) -> None:
        """Ask the field for all points of the blocks ``(n, 3)``."""
        found = [self.samples]
        blocks = max(1, self.chunk // SIDE**3)
        for part in wanted.split(blocks):
            index = (part[:, None] * SIDE + self.inner).reshape(-1, 3)
            inside = (index < self.lattice.count[0]).all(-1)
            values = torch.zeros(len(index))
            x = self.lattice.world(index[inside].double()).float()
            values[inside] = self.field.density(x.to(self.device)).float().cpu()
            refuse_non_finite(values)
            found.append(values.clamp(min=0).view(-1, SIDE, SIDE, SIDE))
        start = len(self.samples)
        self.samples = torch.cat(found)
        self.number[tuple(wanted.T)] = torch.arange(start, start + len(wanted))

    def follow(self, fresh: Tensor) -> Tensor:
        """Unsampled blocks that disagree with the border of a block in ``fresh`` ``(n, 3)``."""
        found = []
        values = self.samples[self.number[tuple(fresh.T)]] >= self.level
        for axis in range(3):
            for side, place in ((-1, 0), (1, SIDE - 1)):
                beside = fresh.clone()
                beside[:, axis] += side
                valid = (beside[:, axis] >= 0) & (beside[:, axis] < self.count)
                beside, border = beside[valid], values[valid].select(axis + 1, place).flatten(1)
                open_ = self.number[tuple(beside.T)] < 0
                differs = (border != self.solid[tuple(beside.T)][:, None]).any(1)
                found.append(beside[open_ & differs])
        disagreeing: Tensor = torch.cat(found).unique(dim=0)
        return disagreeing

    def at(self, points: Tensor) -> Tensor:
        """Densities ``(n,)`` at lattice points ``(n, 3)`` long; unsampled blocks are far above or below the level."""
        block, inner = points // SIDE, points % SIDE
        number = self.number[tuple(block.T)]
        constant = torch.where(self.solid[tuple(block.T)], 4 * self.level, 0.0)
        known: Tensor = self.samples[number, inner[:, 0], inner[:, 1], inner[:, 2]]
        values: Tensor = torch.where(number >= 0, known, constant)
        return values

    def padded(self, block: tuple[int, int, int]) -> NDArray[np.float32]:
        """``(SIDE + 2)^3`` values ``sigma / (sigma + L)`` of a block from one point before it to one point after it."""
        first = torch.tensor(block) * SIDE - 1
        step = torch.arange(SIDE + 2)
        index = torch.stack(torch.meshgrid(step, step, step, indexing="ij"), -1).view(-1, 3) + first
        inside = ((index >= 0) & (index < self.lattice.count[0])).all(-1)
        sigma = torch.zeros(len(index))
        sigma[inside] = self.at(index[inside])
        value = sigma / (sigma + self.level)
        value = torch.where(sigma >= self.level, value.clamp(min=0.5 + MARGIN), value.clamp(max=0.5 - MARGIN))
        return value.view((SIDE + 2,) * 3).numpy()


def find_surface_in_blocks(
    field: Density,
    occupancy: OccupancyGrid | None,
    settings: MeshSettings,
    device: torch.device,
    on_stage: OnStage | None,
) -> Surface:
    """As ``surface.find_surface``, for lattices too fine to hold whole."""
    tell: OnStage = on_stage or (lambda name, share: None)
    coarse = dataclasses.replace(settings, resolution=COARSE)
    density, lattice, level, choice, sides = probe(
        field, occupancy, coarse, device, lambda name, share: tell(name, 0.5 * share)
    )
    blocks = Blocks(field, full_lattice(settings.resolution), level, settings.chunk, device)
    near, blocks.solid = near_surface(density >= level, lattice, blocks)
    fresh = near.nonzero()
    while len(fresh):
        pieces = fresh.split(max(1, settings.chunk // SIDE**3) * 8)
        for done, piece in enumerate(pieces):
            blocks.sample(piece)
            tell("sample", 0.5 + 0.5 * (done + 1) / len(pieces) * 0.99)
        fresh = blocks.follow(fresh)
    tell("sample", 1.0)
    index, faces = march_blocks(blocks, tell)
    index = refine(field, blocks.at, blocks.lattice, index, level, settings, device)
    vertices = blocks.lattice.world(torch.from_numpy(index)).clamp(-1, 1).numpy()
    if settings.fill_cavities and len(faces):
        vertices, faces = clean.drop_cavities(vertices, faces, lambda share: tell("surface", 0.9 + 0.1 * share))
    tell("surface", 1.0)
    return Surface(vertices, faces, choice, (float(density.min()), float(density.max())), sides)


def near_surface(solid: Tensor, lattice: Lattice, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Blocks with both kinds of coarse point within a coarse cell, and what the others are, both ``(B, B, B)``."""
    whole = torch.zeros((COARSE + 1,) * 3, dtype=torch.bool)
    window = tuple(slice(s, s + c) for s, c in zip(lattice.start, lattice.count, strict=True))
    whole[window] = solid
    ratio = COARSE / (blocks.lattice.count[0] - 1)
    some, every = whole, whole
    for axis in range(3):
        parts = []
        for b in range(blocks.count):
            low = max(0, int(np.floor(b * SIDE * ratio)) - 1)
            high = min(COARSE, int(np.ceil((b + 1) * SIDE * ratio)) + 1)
            touches_side = b in (0, blocks.count - 1)  # there empty space begins, so no block is solid all through
            here = every.narrow(axis, low, high - low + 1).all(axis) & (not touches_side)
            parts.append((some.narrow(axis, low, high - low + 1).any(axis), here))
        some, every = (torch.stack([p[k] for p in parts], axis) for k in (0, 1))
    return some & ~every, every


def march_blocks(blocks: Blocks, tell: OnStage) -> tuple[NDArray[np.float64], Ints]:
    """Marching cubes over every sampled block; lattice coordinates ``(V, 3)`` and faces ``(F, 3)``, joined."""
    vertices, faces, start = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
    wanted = (blocks.number >= 0).nonzero().tolist()
    for done, (x, y, z) in enumerate(wanted):
        if done % 64 == 0:
            tell("surface", 0.9 * done / len(wanted))
        values = blocks.padded((x, y, z))
        # a block owns the cells that begin at its own points; the first also those before it, where the box ends
        values = values[int(x > 0) :, int(y > 0) :, int(z > 0) :]
        if values.max() < 0.5 or values.min() > 0.5:
            continue
        found, triangles, _, _ = marching_cubes(values, 0.5, gradient_direction="ascent", allow_degenerate=True)
        origin = np.array([x, y, z]) * SIDE - 1 + np.array([x > 0, y > 0, z > 0])
        vertices.append(found.astype(np.float64) + origin)
        faces.append(triangles.astype(np.int64) + start)
        start += len(found)
    return join_edges(np.concatenate(vertices), np.concatenate(faces))


def join_edges(index: NDArray[np.float64], faces: Ints) -> tuple[NDArray[np.float64], Ints]:
    """Make vertices on the same lattice edge one; a vertex inside a cell is its own."""
    whole = np.round(index)
    between = np.abs(index - whole) > MARGIN / 4
    key = np.where(between, 2 * np.floor(index) + 1, 2 * whole).astype(np.int64)
    inside = between.sum(1) != 1
    own = np.zeros(len(index), np.int64)
    own[inside] = np.arange(1, int(inside.sum()) + 1)
    _, first, merged = np.unique(np.column_stack([key, own]), axis=0, return_index=True, return_inverse=True)
    return index[first], merged.reshape(-1)[faces]
