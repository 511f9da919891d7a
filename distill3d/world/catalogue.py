"""Every shape by its word, and which shapes and patterns each world holds."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import FIGURES
from .paint import PATTERNS
from .shapes import SHAPES, Shape
from .solids import MORE_SHAPES

WORLD_VERSION: int | None = 2
"""Raised by hand when any object looks otherwise, so that renders of the world before are not taken for today's: None
is the world as renders have it from before there was a version, 2 has the larger face."""
FULL_SHAPES: dict[str, Shape] = {**SHAPES, **MORE_SHAPES}
"""The fourteen shapes that take patterns: the plain world's eight first."""
CATALOGUE: dict[str, Shape] = {**FULL_SHAPES, **FIGURES}
"""The fourteen shapes and the six objects with a front."""


@dataclass(frozen=True)
class World:
    """What a world is made of.

    Attributes:
        shapes: words of the shapes that take every pattern.
        figures: words of the objects with a front, which come as they are.
        patterns: keys of ``PATTERNS``.
    """

    shapes: tuple[str, ...]
    figures: tuple[str, ...]
    patterns: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return self.shapes + self.figures

    @property
    def solids(self) -> tuple[str, ...]:
        """The words that name different solids: a smiley's is a sphere."""
        return tuple(w for w in self.words if not CATALOGUE[w].solid)


WORLDS: dict[str, World] = {
    "plain": World(tuple(SHAPES), (), ("plain",)),
    "full": World(tuple(FULL_SHAPES), tuple(FIGURES), tuple(PATTERNS)),
}


def solid_of(word: str) -> str:
    """The word whose solid is the same: ``sphere`` for ``smiley``, itself for most."""
    return CATALOGUE[word].solid or word
