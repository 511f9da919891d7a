"""Fields with known answers that the render tests look at."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distill3d.render.cameras import Cameras, rays
from distill3d.render.occupancy import OccupancyGrid

WHITE = torch.ones(3)
BLACK = torch.zeros(3)


class Ball(nn.Module):
    """A ball of constant density and colour; everything about it is known in closed form."""

    def __init__(self, radius: float = 0.6, density: float = 1e4, colour: tuple[float, float, float] = (0.8, 0.3, 0.1)):
        super().__init__()
        self.radius = radius
        self.sigma = nn.Parameter(torch.tensor(float(density)))
        self.colour = nn.Parameter(torch.tensor(colour))
        self.queries = {"density": 0, "forward": 0, "normals": 0}

    def density(self, x: Tensor) -> Tensor:
        self.queries["density"] += len(x)
        return torch.where(x.norm(dim=-1) < self.radius, self.sigma, 0.0 * self.sigma)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.queries["forward"] += len(x)
        return torch.where(x.norm(dim=-1) < self.radius, self.sigma, 0.0 * self.sigma), self.colour.expand(len(x), 3)

    def normals(self, x: Tensor) -> Tensor:
        self.queries["normals"] += len(x)
        return nn.functional.normalize(x, dim=-1)


class Cloud(nn.Module):
    """A smooth blob: peak, sharpness, radius, centre and a linear colour, all parameters."""

    def __init__(self, peak: float = 8.0, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.shape = nn.Parameter(torch.tensor([math.log(peak), 6.0, 0.55, 0.1, -0.05, 0.15], dtype=dtype))
        self.tint = nn.Parameter(torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4))

    def _offset(self, x: Tensor) -> Tensor:
        return x - self.shape[3:]

    def density(self, x: Tensor) -> Tensor:
        peak, sharp, radius = self.shape[:3].unbind()
        return peak.exp() * torch.sigmoid(sharp * (radius - self._offset(x).norm(dim=-1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), torch.sigmoid(x @ self.tint[:, :3].T + self.tint[:, 3])

    def normals(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self._offset(x), dim=-1)


class Nothing(Cloud):
    def density(self, x: Tensor) -> Tensor:
        return 0.0 * super().density(x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted_grid(field: nn.Module, resolution: int = 24, step_size: float = 0.03, updates: int = 4) -> OccupancyGrid:
    grid = OccupancyGrid(resolution)
    for i in range(updates):
        grid.update(field, step_size=step_size, generator=generator(i), warmup=True)
    return grid


def double(cameras: Cameras) -> Cameras:
    return Cameras(*(v.double() for v in (cameras.c2w, cameras.fov, cameras.azimuth, cameras.elevation)))


def ball_chord(cameras: Cameras, size: int, radius: float) -> tuple[Tensor, Tensor]:
    """Analytic entry distance and chord length of each ray through a ball at the origin; NaN and 0 for a miss."""
    o, d = rays(cameras, size, size)
    b, c = (o * d).sum(-1), (o * o).sum(-1) - radius**2
    root = (b * b - c).clamp_min(0).sqrt()
    return torch.where(root > 0, -b - root, torch.nan), 2 * root
