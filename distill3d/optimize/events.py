"""What a run tells those who watch it: the command line, the nodes, a test. A listener is any callable on an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One iteration has ended.

    Attributes:
        iteration: how many iterations are done, this one included; ``iterations`` is the total.
        loss: the scalar that was minimised: the surrogate ``||G||^2 / (2 B)`` plus the weighted regularisers.
        terms: each part of ``loss``, already weighted.
        gradient_norm: L2 norm of the latent gradient G over the whole batch.
        opacity: mean rendered opacity, 0..1.
        occupancy: share of the occupancy grid's cells that hold matter, 0..1.
        timesteps: lowest and highest diffusion timestep the window allowed.
        resolution: rendered image side in pixels.
        seconds: this iteration's time in each of the run's parts.
        diagnostics: the method's own figures, for instance its CFG scale or TBSD's lambda.
        skipped: the update was dropped because a number was not finite.
        errors: ``(timestep, mean square of e_y - eps)`` of each view, read as often as ``diagnostics``.
    """

    iteration: int
    iterations: int
    loss: float
    terms: Mapping[str, float]
    gradient_norm: float
    opacity: float
    occupancy: float
    timesteps: tuple[int, int]
    resolution: int
    seconds: Mapping[str, float]
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    skipped: bool = False
    errors: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint is on the disk, whole."""

    path: Path
    iteration: int


@dataclass(frozen=True)
class Warned:
    """Something the user should know and can act on; the run goes on."""

    message: str
    iteration: int


Event = Step | Checkpointed | Warned
Listener = Callable[[Event], None]
