"""What a step tells of itself, as one tensor that is read at once: on CUDA a step late, when it costs no waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices import Numbers
from ..render.occupancy import OccupancyGrid
from .guards import Guard


@dataclass(frozen=True)
class Values:
    """A step's numbers on the host."""

    loss: float
    square: float
    guided_finite: bool
    norm: float
    opacity: float
    occupied: float
    seen: float
    diagonal: float
    terms: Mapping[str, float]

    @property
    def finite(self) -> bool:
        """Whether guidance, loss and gradient were."""
        return self.guided_finite and math.isfinite(self.loss) and math.isfinite(self.square)

    @property
    def culprit(self) -> str:
        """What was not."""
        return "noise prediction" if not self.guided_finite else "loss" if not math.isfinite(self.loss) else "gradient"

    def warning(self, guard: Guard) -> str | None:
        """The guard's warning about a step that was not finite. Raises ``DivergedError`` as it does."""
        return guard.check_finite(self.finite, self.culprit)


class Reading:
    """The numbers of one step, from the device to the host.

    Args:
        loss, square, norm: ``()``, the loss, the sum of all squared gradients, the latent gradient's norm.
        finite: ``()`` bool, whether guidance was finite.
        opacity: ``()``, the mean.
        grid: read for its occupied share, its visible share and its box.
        terms: ``()`` each, the parts of the loss by name.
    """

    def __init__(
        self,
        loss: Tensor,
        square: Tensor,
        finite: Tensor,
        norm: Tensor,
        opacity: Tensor,
        grid: OccupancyGrid,
        terms: Mapping[str, Tensor],
    ) -> None:
        self.bad = ~(finite & torch.isfinite(loss) & torch.isfinite(square))
        occupied, diagonal = grid.occupied.float().mean(), (grid.bounds[1] - grid.bounds[0]).norm()
        scalars = [loss, square, finite.float(), norm, opacity, occupied, grid.visible_share, diagonal]
        self._names = tuple(terms)
        scalars += [term.detach() for term in terms.values()]
        self._numbers, self._grid, self._changes = Numbers(torch.stack(scalars)), grid, grid.changes

    def read(self) -> Values:
        """The numbers, of which the occupancy grid is told what it need not ask for then."""
        loss, square, finite, norm, opacity, occupied, seen, diagonal, *terms = self._numbers.read()
        self._grid.known_share = seen
        if self._grid.changes == self._changes:
            self._grid.known_diagonal = diagonal
        return Values(
            loss,
            square,
            bool(finite),
            norm,
            opacity,
            occupied,
            seen,
            diagonal,
            dict(zip(self._names, terms, strict=True)),
        )
