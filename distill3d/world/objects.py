"""Objects of the procedural world: a shape, a colour, and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import SHAPES

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.08, 0.10),
    "orange": (1.00, 0.48, 0.05),
    "yellow": (1.00, 0.88, 0.10),
    "green": (0.12, 0.70, 0.18),
    "cyan": (0.15, 0.85, 0.90),
    "blue": (0.10, 0.25, 0.92),
    "purple": (0.52, 0.14, 0.80),
    "pink": (1.00, 0.45, 0.72),
}


@dataclass(frozen=True)
class Object:
    """One solid with a colour function, both known exactly.

    A patterned object or one with a front overrides ``albedo`` and its caption; the tracer asks for no more.

    Attributes:
        shape: a key of ``SHAPES``.
        colour: a key of ``COLOURS``.
        size: scale about the origin; 1 fills about +-0.7.
        tint: added to the colour's RGB before clamping to [0, 1].
    """

    shape: str
    colour: str
    size: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for kind, word, known in (("shape", self.shape, SHAPES), ("colour", self.colour, COLOURS)):
            if word not in known:
                raise ValueError(f"expected a known {kind}, got {word!r}: choose one of {', '.join(known)}")
        if not self.size > 0:
            raise ValueError(f"expected a size above 0, got {self.size}: 1.0 fills about +-0.7")

    @property
    def has_front(self) -> bool:
        return SHAPES[self.shape].has_front

    def sdf(self, points: Tensor) -> Tensor:
        """Signed distance ``(..., )`` of points ``(..., 3)``, negative inside."""
        x, y, z = (points / self.size).unbind(-1)
        return self.size * SHAPES[self.shape].sdf(x, y, z)

    def albedo(self, points: Tensor) -> Tensor:
        """Diffuse colour ``(..., 3)`` in [0, 1] at points ``(..., 3)`` of the surface."""
        colour = torch.tensor(COLOURS[self.colour], dtype=points.dtype, device=points.device)
        colour = (colour + colour.new_tensor(self.tint)).clamp(0, 1)
        return colour.expand_as(points)

    def name(self) -> str:
        """Colour and shape without an article, ``"red cube"``."""
        return f"{self.colour} {self.shape}"

    def caption(self) -> str:
        """The plain prompt of the object, ``"a red cube"`` or ``"an orange cone"``."""
        return with_article(self.name())


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def all_objects() -> list[Object]:
    """Every shape in every colour, shape by shape: the 64 objects of the plain world."""
    return [Object(shape, colour) for shape in SHAPES for colour in COLOURS]
