"""What a ray sees that meets nothing: a flat colour drawn for each image, or a small learned sky.

A background that changes from image to image keeps a method from painting the object's surroundings into the field
and from hiding a white object on white (DreamFusion, https://arxiv.org/abs/2209.14988, appendix A.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..devices import upload
from ..errors import SettingsError
from .mlp import MLP

Mode = Literal["mixed", "random", "white", "dark", "black", "learned"]
MODES: tuple[Mode, ...] = ("mixed", "random", "white", "dark", "black", "learned")


@dataclass(frozen=True)
class BackgroundSettings:
    """A background and how often it takes which colour."""

    mode: Mode = "mixed"
    """'mixed' draws white, dark, grey or a colour for each image; 'random' a colour; 'learned' trains a sky."""
    white_weight: float = 0.25
    """How often 'mixed' is white, relative to the other weights."""
    dark_weight: float = 0.25
    """How often 'mixed' is dark, relative to the other weights."""
    grey_weight: float = 0.25
    """How often 'mixed' is a random grey, relative to the other weights."""
    color_weight: float = 0.25
    """How often 'mixed' is a random colour, relative to the other weights."""
    dark_level: float = 0.1
    """Brightness of 'dark', 0 (black) to 1 (white)."""
    learned_random: float = 0.5
    """Share of training images for which 'learned' shows a random colour instead, so that it cannot draw the object."""
    hidden: int = 16
    """Width of the two hidden layers of the 'learned' sky."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}; pick one.")
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise SettingsError(f"The weights of 'mixed' must be 0 or more, not all 0, got {self.weights}; raise one.")
        for name in ("dark_level", "learned_random"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"{name} must lie in 0..1, got {getattr(self, name)}; choose a number in between.")
        if self.hidden < 1:
            raise SettingsError(f"hidden must be 1 or more, got {self.hidden}; 16 is usual.")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Relative frequencies of white, dark, grey and colour in 'mixed'."""
        return self.white_weight, self.dark_weight, self.grey_weight, self.color_weight


def spherical_harmonics(directions: Tensor) -> Tensor:
    """The 9 real spherical harmonics up to band 2 at unit ``directions`` ``(..., 3)``, to ``(..., 9)``.

    Orthonormal over the sphere; order ``(l, m)`` = (0,0), (1,-1), (1,0), (1,1), (2,-2) ... (2,2), without the
    Condon-Shortley phase.
    """
    x, y, z = directions.unbind(-1)
    constant = torch.full_like(x, 0.28209479177387814)
    band1 = [0.4886025119029199 * v for v in (y, z, x)]
    band2 = [
        1.0925484305920792 * x * y,
        1.0925484305920792 * y * z,
        0.31539156525252005 * (3.0 * z * z - 1.0),
        1.0925484305920792 * x * z,
        0.5462742152960396 * (x * x - y * y),
    ]
    return torch.stack([constant, *band1, *band2], -1)


class Background(nn.Module):
    """Colours behind the object, ``(B, H, W, 3)`` unit directions to ``(B, H, W, 3)`` in 0..1.

    Args:
        settings: mode and weights. Only 'learned' has parameters, all under :meth:`parameters`.
        generator: draws the initial weights of 'learned'.
    """

    def __init__(self, settings: BackgroundSettings, *, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.network: MLP | None = None
        if settings.mode == "learned":
            self.network = MLP(9, 3, hidden=settings.hidden, layers=2, generator=generator)

    def forward(self, directions: Tensor, generator: torch.Generator | None) -> Tensor:
        """The background for a batch of images.

        Args:
            directions: ``(B, H, W, 3)`` unit, world frame.
            generator: draws the colours; None means evaluation: white, or the learned sky without random colours.
        """
        count = len(directions)
        sky = None
        if self.network is not None:
            harmonics = spherical_harmonics(directions.reshape(-1, 3))
            sky = torch.sigmoid(self.network(harmonics)).view(directions.shape)
        if generator is None:
            return torch.ones_like(directions) if sky is None else sky
        flat = upload(self.colors(count, generator), directions.device).to(directions)[:, None, None]
        if sky is None:
            return flat.expand(directions.shape)
        replace = torch.rand(count, generator=generator, device=generator.device) < self.settings.learned_random
        return torch.where(upload(replace, directions.device)[:, None, None, None], flat, sky)

    def colors(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, 3)`` flat colours for the mode, on the generator's device; a random colour each for 'learned'."""
        device, mode = generator.device, self.settings.mode
        if mode in ("white", "dark", "black"):
            level = {"white": 1.0, "dark": self.settings.dark_level, "black": 0.0}[mode]
            return torch.full((count, 3), level, device=device)
        color = torch.rand(count, 3, generator=generator, device=device)
        if mode != "mixed":
            return color
        weights = torch.tensor(self.settings.weights, device=device)
        kind = torch.multinomial(weights, count, replacement=True, generator=generator)
        flat = torch.tensor([1.0, self.settings.dark_level], device=device)[kind.clamp(max=1)]
        grey = torch.where(kind == 2, color[:, 0], flat)
        return torch.where((kind == 3)[:, None], color, grey[:, None])
