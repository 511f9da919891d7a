"""Objects of the procedural world: a shape, a colour, a pattern, and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .catalogue import CATALOGUE, WORLDS
from .paint import PATTERN_TURN, PATTERNS

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

    Attributes:
        shape: a key of ``CATALOGUE``.
        colour: a key of ``COLOURS``.
        size: scale about the origin; 1 fills about +-0.7.
        tint: added to the colour's RGB before clamping to [0, 1].
        pattern: a key of ``PATTERNS``; objects with a front are "plain", they wear their own paint.
    """

    shape: str
    colour: str
    size: float = 1.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pattern: str = "plain"

    def __post_init__(self) -> None:
        known_words = (("shape", self.shape, CATALOGUE), ("colour", self.colour, COLOURS))
        for kind, word, known in (*known_words, ("pattern", self.pattern, PATTERNS)):
            if word not in known:
                raise ValueError(f"expected a known {kind}, got {word!r}: choose one of {', '.join(known)}")
        if not self.size > 0:
            raise ValueError(f"expected a size above 0, got {self.size}: 1.0 fills about +-0.7")
        if self.has_front and self.pattern != "plain":
            raise ValueError(f"expected a {self.shape} without a pattern, got {self.pattern!r}: it wears its own paint")

    @property
    def has_front(self) -> bool:
        """Whether exactly one side of it, the one that faces +z, is its front; otherwise no side is."""
        return CATALOGUE[self.shape].has_front

    @property
    def turn(self) -> int:
        """Least turn about the y axis in degrees that leaves it looking as it does; 0 for any turn."""
        return max(CATALOGUE[self.shape].turn, PATTERN_TURN[self.pattern])

    def sdf(self, points: Tensor) -> Tensor:
        """Signed distance ``(..., )`` of points ``(..., 3)``, negative inside."""
        x, y, z = (points / self.size).unbind(-1)
        return self.size * CATALOGUE[self.shape].sdf(x, y, z)

    def paint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Share ``(...,)`` in [0, 1] of neutral paint at points ``(..., 3)``, and its grey level ``(...,)``."""
        paint = CATALOGUE[self.shape].paint or PATTERNS[self.pattern]
        if paint is None:
            nothing = torch.zeros_like(points[..., 0])
            return nothing, nothing
        return paint(*(points / self.size).unbind(-1))

    def albedo(self, points: Tensor) -> Tensor:
        """Diffuse colour ``(..., 3)`` in [0, 1] at points ``(..., 3)`` of the surface."""
        colour = torch.tensor(COLOURS[self.colour], dtype=points.dtype, device=points.device)
        colour = (colour + colour.new_tensor(self.tint)).clamp(0, 1)
        if CATALOGUE[self.shape].paint is None and PATTERNS[self.pattern] is None:
            return colour.expand_as(points)
        share, level = self.paint(points)
        return torch.lerp(colour.expand_as(points), level[..., None].expand_as(points), share[..., None])

    def name(self) -> str:
        """Pattern, colour and shape without an article: ``"red cube"``, ``"striped red cube"``, ``"red mug"``."""
        noun = CATALOGUE[self.shape].phrase.format(colour=self.colour, word=self.shape)
        return noun if self.pattern == "plain" else f"{self.pattern} {noun}"

    def caption(self) -> str:
        """The plain prompt of the object, ``"a red cube"`` or ``"an orange cone"``."""
        return with_article(self.name())


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def all_objects(world: str = "plain") -> list[Object]:
    """Every object of a world, each once.

    The plain world has 64: every shape in every colour, shape by shape. The full world has 496: 14 shapes in 4 patterns
    and 8 colours, then the 6 objects with a front in 8 colours.
    """
    known = WORLDS[world]
    shapes = [Object(s, c, pattern=p) for p in known.patterns for s in known.shapes for c in COLOURS]
    return shapes + [Object(figure, colour) for figure in known.figures for colour in COLOURS]


def is_held_out(thing: Object) -> bool:
    """Whether the full world's training data leaves this combination out: 62 of its 496, to be asked of a prior later.

    One colour of each shape in each pattern and one of each object with a front, so that every word is seen in
    training, and no word tells that a combination is held out.
    """
    full = WORLDS["full"]
    colour = list(COLOURS).index(thing.colour)
    if thing.shape in full.figures:
        return colour == full.figures.index(thing.shape)
    return colour == (3 * full.shapes.index(thing.shape) + 2 * full.patterns.index(thing.pattern)) % len(COLOURS)
