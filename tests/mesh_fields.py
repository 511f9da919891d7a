"""Fields and meshes that the mesh tests share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from distill3d.mesh import MeshView, SurfaceMesh
from distill3d.render.cameras import ring
from distill3d.render.occupancy import OccupancyGrid
from distill3d.render.pictures import picture
from distill3d.render.volume import RenderSettings
from distill3d.world.objects import Object

CAMERAS = ring(24, elevation=20)
FINE = RenderSettings(samples_per_ray=256)


class WavyField:
    """An object of the procedural world with a colour that changes smoothly in space."""

    def __init__(self, shape: str = "sphere", softness: float = 0.004, largest: float = 600.0) -> None:
        self.object, self.softness, self.largest = Object(shape, "red"), softness, largest

    def albedo(self, x: Tensor) -> Tensor:
        waves = [(5 * x[:, 0]).sin(), (4 * x[:, 1]).sin(), (6 * x[:, 2] + x[:, 0]).cos()]
        return 0.5 + 0.4 * torch.stack(waves, -1)

    def density(self, x: Tensor) -> Tensor:
        return self.largest * torch.sigmoid(-self.object.sdf(x) / self.softness)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), self.albedo(x)

    def normals(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.object.sdf(x).sum(), x)
        return torch.nn.functional.normalize(gradient, dim=-1)


class Even:
    """The same density everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def density(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, 0], self.value)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), torch.full_like(x, 0.5)

    def normals(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)


def renderings(field: WavyField, size: int) -> Tensor:
    """``(24, size, size, 3)`` float64 direct renderings of the field, 0 to 255."""
    occupancy = OccupancyGrid(48)
    for _ in range(4):
        occupancy.update(field, step_size=FINE.step_size, generator=torch.Generator().manual_seed(0), warmup=True)
    views = [CAMERAS[k : k + 1] for k in range(24)]
    return torch.stack([picture(field, v, size, occupancy=occupancy, settings=FINE) for v in views]).double()


def psnr(mesh: SurfaceMesh, truth: Tensor) -> float:
    """Decibels of the mesh's pictures against ``renderings``."""
    shown = MeshView(mesh)
    pictures = torch.stack([picture(shown, CAMERAS[k : k + 1], truth.shape[1]) for k in range(len(truth))])
    return -10 * math.log10(float(((pictures.double() - truth) / 255).square().mean()))


CORNERS = {"left up": (255, 0, 0), "right up": (0, 255, 0), "left down": (0, 0, 255), "right down": (255, 255, 0)}


def poster(size: int = 16) -> SurfaceMesh:
    """A square of side 1 that faces +z, with a texture of four colours: red, green above blue, yellow.

    Up in the texture is +y and right is +x, so the vertex at (-0.5, 0.5) is red in every reader that is right.
    """
    x, y = (-0.5, 0.5, -0.5, 0.5), (0.5, 0.5, -0.5, -0.5)
    vertices = np.stack([x, y, np.zeros(4)], -1).astype(np.float32)
    texture = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    texture[:half, :half], texture[:half, half:], texture[half:, :half], texture[half:, half:] = CORNERS.values()
    return SurfaceMesh(
        vertices,
        np.array([[0, 2, 1], [1, 2, 3]]),
        np.tile(np.float32([0, 0, 1]), (4, 1)),
        np.array(list(CORNERS.values()), np.float32) / 255,
        1.0,
        uvs=np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32),
        texture=texture,
        normal_map=np.tile(np.uint8([128, 128, 255]), (size, size, 1)),
        tangents=np.tile(np.float32([1, 0, 0, 1]), (4, 1)),
        occlusion=np.full((size, size), 200, np.uint8),
    )
