"""The colour of what a camera sees: hue as an angle, weighted by opacity, against the named colours of the world."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..world.objects import COLOURS


def hue_saturation(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """HSV hue in degrees [0, 360) and saturation in [0, 1] of colours ``(..., 3)`` in [0, 1]; grey has hue 0.

    Hexagonal hue (A. R. Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978).

    >>> hue_saturation(torch.tensor([0.0, 1.0, 1.0]))[0].item()
    180.0
    """
    high, span = rgb.amax(-1), chroma(rgb)
    step = span.clamp(min=1e-8)
    r, g, b = rgb.unbind(-1)
    from_green, from_blue = (b - r) / step + 2, (r - g) / step + 4
    sector = torch.where(high == r, ((g - b) / step) % 6, torch.where(high == g, from_green, from_blue))
    return (60 * sector) % 360, span / high.clamp(min=1e-8)


def chroma(rgb: Tensor) -> Tensor:
    """Largest minus smallest channel of colours ``(..., 3)``, in [0, 1]: how far a colour is from grey.

    Unlike saturation it does not call a blackish or whitish pixel colourful for a trace of colour.

    >>> chroma(torch.tensor([0.0, 0.125, 0.125])).item()
    0.125
    """
    return rgb.amax(-1) - rgb.amin(-1)


def hue_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of two hues in degrees along the circle, [0, 180].

    >>> hue_distance(torch.tensor(350.0), torch.tensor(10.0)).item()
    20.0
    """
    return ((a - b + 180) % 360 - 180).abs()


@dataclass(frozen=True)
class ColourReading:
    """What the pixels say, whatever the prompt.

    Attributes:
        hue: mean hue in degrees, weighted by opacity and chroma on the circle: a blackish pixel turns it little.
        chroma: opacity-weighted mean chroma.
        shares: for each named colour the share of all opacity that is nearest to it in hue; pale pixels count for none.
    """

    hue: float
    chroma: float
    shares: dict[str, float]

    def distance(self, colour: str) -> float:
        """Degrees between the mean hue and a named colour's."""
        return float(hue_distance(torch.tensor(self.hue), hue_of(colour)))

    @property
    def nearest(self) -> str:
        """The named colour closest to the mean hue, or "none" where every pixel is pale."""
        return min(COLOURS, key=self.distance) if any(self.shares.values()) else "none"


def hue_of(colour: str) -> Tensor:
    return hue_saturation(torch.tensor(COLOURS[colour]))[0]


def read_colour(rgb: Tensor, weight: Tensor, pale: float) -> ColourReading:
    """Read colours ``(..., 3)`` in [0, 1] with weights ``(...,)``, at least one of them above 0.

    A pixel whose chroma is below ``pale`` votes for no colour.
    """
    rgb, weight = rgb.reshape(-1, 3), weight.reshape(-1)
    hue, strong = hue_saturation(rgb)[0], chroma(rgb)
    total = weight.sum().clamp(min=1e-8)
    angle = torch.deg2rad(hue)
    strength = weight * strong
    mean = math.degrees(math.atan2(float((strength * angle.sin()).sum()), float((strength * angle.cos()).sum()))) % 360
    distances = torch.stack([hue_distance(hue, hue_of(name)) for name in COLOURS])
    votes = torch.zeros(len(COLOURS)).index_add(0, distances.argmin(0), weight * (strong >= pale))
    shares = {name: float(share) for name, share in zip(COLOURS, votes / total, strict=True)}
    return ColourReading(mean, float(strength.sum() / total), shares)
