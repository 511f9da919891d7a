"""The scene every render measurement looks at: a trainable field whose matter fills a known share of the box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import SettingsError
from ..fields.density import DensityField, FieldSettings
from ..render.cameras import Cameras, orbit
from ..render.marching import TORCH, Marching
from ..render.occupancy import OccupancyGrid
from ..render.settings import RenderSettings
from ..render.volume import Rendering, render


class Scene:
    """A ball of the field's own density behind an occupancy grid that is occupied to ``share`` of its cells.

    Args:
        share: occupied part of the box, 0..0.5; 0.1 is what an object usually takes.
        settings: the field's; None is the CPU profile.
        resolution: cells along each side of the occupancy grid.
        device: where it is rendered.

    Raises:
        SettingsError: a share that a ball in the box cannot have.
    """

    def __init__(
        self,
        share: float = 0.1,
        settings: FieldSettings | None = None,
        resolution: int = 48,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= share <= 0.5:
            raise SettingsError(f"expected an occupied share of the box from 0 to 0.5, got {share}: 0.1 is usual")
        self.device = torch.device(device)
        field = DensityField(settings or FieldSettings(), generator=torch.Generator().manual_seed(0))
        self.field, self.grid = field.to(self.device), OccupancyGrid(resolution).to(self.device)
        radius = (6.0 * share / math.pi) ** (1 / 3)
        middle = (torch.arange(resolution, device=self.device) + 0.5) * (2 / resolution) - 1
        x, y, z = torch.meshgrid(middle, middle, middle, indexing="ij")
        self.grid.set_occupied(x * x + y * y + z * z < radius * radius)

    def render(
        self, size: int, settings: RenderSettings, *, culled: bool = True, seed: int = 0, marching: Marching = TORCH
    ) -> Rendering:
        """One jittered picture of ``size`` x ``size`` pixels; ``culled`` False asks the whole box."""
        return render(
            self.field,
            camera().to(self.device),
            size,
            size,
            background=torch.ones(3, device=self.device),
            occupancy=self.grid if culled else None,
            settings=settings,
            generator=torch.Generator().manual_seed(seed),
            marching=marching,
        )

    def step(
        self, size: int, settings: RenderSettings, *, culled: bool = True, marching: Marching = TORCH
    ) -> Rendering:
        """A picture and the gradient of its mean square to the field, which replaces the one before."""
        self.field.zero_grad(set_to_none=True)
        made = self.render(size, settings, culled=culled, marching=marching)
        made.rgb.square().mean().backward()
        return made

    def gradient(self) -> Tensor:
        """All gradients end to end."""
        return torch.cat([p.grad.flatten() for p in self.field.parameters() if p.grad is not None])


def camera() -> Cameras:
    """The one camera: three quarters from above, the object filling the picture."""
    return orbit(30, 20)
