"""Guards that keep a run from wasting hours: numbers that are not finite, an object that vanished or fills the box."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DivergedError, SettingsError


@dataclass(frozen=True)
class GuardSettings:
    """When a run is helped, and when it is stopped. Counts are iterations in a row."""

    lower_after: int = 3
    """Iterations in a row with a non-finite loss or gradient after which the learning rate is halved."""
    stop_after: int = 10
    """Iterations in a row with a non-finite loss or gradient after which the run stops with its last good state."""
    opacity_low: float = 0.004
    """Mean rendered opacity, 0..1, below which the object counts as vanished."""
    opacity_high: float = 0.97
    """Mean rendered opacity, 0..1, above which the object counts as filling the box."""
    patience: int = 60
    """Iterations in a row outside the two opacity bounds after which the run stops."""

    def __post_init__(self) -> None:
        for name in ("lower_after", "stop_after", "patience"):
            if getattr(self, name) < 1:
                raise SettingsError(
                    f"expected {name} of 1 or more iterations, got {getattr(self, name)}: 60 is patient"
                )
        if not 0 <= self.opacity_low < self.opacity_high <= 1:
            got = f"{self.opacity_low} and {self.opacity_high}"
            raise SettingsError(f"expected opacity_low below opacity_high, both from 0 to 1, got {got}: 0.004 and 0.97")


@dataclass
class Guard:
    """Counts bad iterations; its two counters and the learning-rate factor belong to a checkpoint."""

    settings: GuardSettings
    not_finite: int = 0
    vanished: int = 0
    filled: int = 0
    rate: float = 1.0

    @property
    def lost(self) -> bool:
        """Whether the object was gone, or filled the view, in the last iteration that was seen."""
        return self.vanished > 0 or self.filled > 0

    def check_finite(self, finite: bool, culprit: str) -> str | None:
        """Count one iteration; returns a warning when the learning rate was just halved.

        Raises:
            DivergedError: after ``stop_after`` bad iterations in a row.
        """
        if finite:
            self.not_finite = 0
            return None
        self.not_finite += 1
        if self.not_finite >= self.settings.stop_after:
            raise DivergedError(
                f"expected finite numbers, got a non-finite {culprit} in {self.not_finite} iterations in a row; "
                "the last good state is kept. ",
                advice="Start again with a lower {optimizer.rate_grid} or guidance scale, or with the model in fp32 "
                "({dtype})",
            )
        if self.not_finite == self.settings.lower_after:
            self.rate *= 0.5
            return f"{culprit} was not finite {self.not_finite} times in a row: going on at {self.rate:g} of the rate"
        return None

    def check_kept(self, iterations: int, skipped: int) -> None:
        """At the end of a run. Raises ``DivergedError`` when not one of its iterations could be used."""
        if iterations and skipped >= iterations:
            raise DivergedError(
                f"expected finite numbers, got none in {iterations} iterations: the object is as it began. ",
                advice="Start again with a lower guidance scale and {losses.sparsity}, or the model in fp32 ({dtype})",
            )

    def check_opacity(self, opacity: float) -> None:
        """Count one iteration's mean opacity.

        Raises:
            DivergedError: the object has been gone, or has filled the view, for ``patience`` iterations.
        """
        self.vanished = self.vanished + 1 if opacity < self.settings.opacity_low else 0
        self.filled = self.filled + 1 if opacity > self.settings.opacity_high else 0
        if self.vanished >= self.settings.patience:
            raise DivergedError(
                f"the object vanished: mean opacity below {self.settings.opacity_low} for {self.vanished} iterations. ",
                advice="Start again with a lower {losses.sparsity}, a higher {field.blob_density} or guidance scale, "
                "or another {seed}",
            )
        if self.filled >= self.settings.patience:
            raise DivergedError(
                f"the object fills the view: mean opacity above {self.settings.opacity_high} for {self.filled} "
                "iterations. ",
                advice="Start again with a higher {losses.sparsity} or a lower {field.blob_density}, or with "
                "{background.mode} at mixed",
            )

    def state(self) -> dict[str, float]:
        return {"not_finite": self.not_finite, "vanished": self.vanished, "filled": self.filled, "rate": self.rate}

    def load(self, state: dict[str, float]) -> None:
        self.not_finite, self.vanished, self.filled = (int(state[k]) for k in ("not_finite", "vanished", "filled"))
        self.rate = float(state["rate"])
