"""A run small enough for a unit test, and a prior whose only dream is a red ball on white."""

from __future__ import annotations

import torch

from distill3d.fields.background import BackgroundSettings
from distill3d.fields.density import FieldSettings
from distill3d.fields.layout import HashGridSettings
from distill3d.optimize import Distillation, Settings
from distill3d.priors.analytic import GaussianPrior
from distill3d.render.cameras import CameraRanges, rays, ring
from distill3d.render.shading import ShadingSettings
from distill3d.render.volume import RenderSettings
from distill3d.schedules import Constant

SIDE = 16
SMALL = Settings(
    iterations=8,
    batch=2,
    resolution=Constant(SIDE),
    field=FieldSettings(grid=HashGridSettings(levels=4, log2_table_size=12, base_resolution=4, finest_resolution=32)),
    background=BackgroundSettings(mode="white"),
    render=RenderSettings(samples_per_ray=48),
    shading=ShadingSettings(start=1.0),
    cameras=CameraRanges(elevation=(-20, 60), radius=(3, 3), fov=(42, 42)),
    occupancy_resolution=24,
    occupancy_every=4,
    checkpoint_every=4,
)


def red_disc(radius: float = 0.6) -> torch.Tensor:
    """What a red ball on white looks like from any side, ``(3, SIDE, SIDE)``."""
    origin, direction = rays(ring(1, 0.0), 64, 64)
    nearest = torch.linalg.cross(origin[0], direction[0]).norm(dim=-1)
    hit = (nearest < radius).float().view(SIDE, 4, SIDE, 4).mean((1, 3))
    return torch.stack([torch.ones_like(hit), 1 - hit, 1 - hit])


def make_prior(std: float = 0.1) -> GaussianPrior:
    return GaussianPrior({"a red ball": red_disc(), "": torch.full((3, SIDE, SIDE), 0.5)}, std=std)


def parameters(run: Distillation) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.field.parameters()])
