"""Every knob of the scorer's recipe; the bundled one is the defaults'."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SettingsError
from ..world import WorldSettings
from .model import SIZE, Architecture


@dataclass(frozen=True)
class TrainScorerSettings:
    """The recipe, in steps so that it is the same on every machine."""

    renders: int = 24_576
    """Training renders of the full world, every combination among them."""
    held_out: int = 1_984
    """Renders of another seed for the check: four of each object."""
    world: WorldSettings = field(default_factory=lambda: WorldSettings(name="full", hold_out=False))
    """How training views are drawn."""
    architecture: Architecture = field(default_factory=Architecture)
    """Sizes of the two towers."""
    steps: int = 1_000
    """Optimizer steps."""
    batch: int = 96
    """Pictures a step, each against the captions of all 496 objects."""
    muon_lr: float = 0.02
    """Muon's learning rate for convolutions and inner matrices."""
    adam_lr: float = 2e-3
    """AdamW's learning rate for the rest."""
    weight_decay: float = 0.1
    """Muon's decoupled weight decay."""
    constant: float = 0.3
    """Share of the steps before the learning rate falls linearly to ``final_lr``."""
    warmup: int = 30
    """Steps over which the learning rate rises."""
    final_lr: float = 0.01
    """Last learning rate as a share of the first."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.995
    """Decay of the averaged weights, which are the ones written."""
    noise: float = 0.04
    """Largest standard deviation of the noise on training pictures."""
    blur: float = 0.5
    """Share of training steps whose pictures are blurred over 3 x 3 pixels, as soft fields are."""
    gain: float = 0.15
    """Largest change of a training picture's brightness, as a share."""
    shift: int = 3
    """Most pixels by which training pictures are moved."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if self.world.name != "full" or self.world.image_size != SIZE:
            raise SettingsError(
                f"expected the full world at {SIZE} pixels, got {self.world.name} at {self.world.image_size}: the "
                "scorer knows its words and this size"
            )
        for name in ("renders", "held_out", "steps", "batch", "checkpoint_every", "warmup"):
            if getattr(self, name) < 1:
                raise SettingsError(f"expected {name} of 1 or more, got {getattr(self, name)}")
        for name in ("constant", "final_lr", "blur", "gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"expected {name} within 0..1, got {getattr(self, name)}")
        for name in ("muon_lr", "adam_lr", "clip"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"expected {name} above 0, got {getattr(self, name)}")
        if self.noise < 0 or self.weight_decay < 0 or not 0 <= self.ema < 1 or not 0 <= self.shift < SIZE // 4:
            raise SettingsError(
                f"expected noise and weight_decay of 0 or more, ema within 0..1 and a shift of 0 to {SIZE // 4 - 1} "
                f"pixels, got {self.noise}, {self.weight_decay}, {self.ema} and {self.shift}"
            )


RECIPE = TrainScorerSettings()
"""The bundled scorer's."""
