"""What a run did over time: a listener that keeps norms, cosines and the noise-prediction error, and draws them."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json
from ..plots import Points, binned, chart, stack
from .events import Checkpointed, Event, Step

if TYPE_CHECKING:
    from PIL.Image import Image

FILE_NAME = "curves.json"
"""What a recorder leaves beside a checkpoint, whole series, so that a resumed run's curves begin where the run did."""
_KEPT = 200


class Recorder:
    """Collects ``Step`` events; ``to_json`` goes into a report and ``picture`` into a file.

    Args:
        folder: where everything so far is kept whenever a checkpoint is written; None keeps nothing.
        iteration: iterations the run has done already; what an earlier recorder kept in ``folder`` is taken up as far
            as that. A file that is missing or damaged gives curves that begin here.

    Attributes:
        series: name -> ``(iteration, value)``: loss, gradient_norm, opacity and every diagnostic.
        errors: ``(timestep, mean square of e_y - eps)`` of every view read.

    What is not finite is left out, and so are the loss, norm and opacity of an update that was dropped.
    """

    def __init__(self, folder: Path | None = None, iteration: int = 0) -> None:
        self.series: dict[str, list[tuple[float, float]]] = {}
        self.errors: list[tuple[int, float]] = []
        self._read_at: list[int] = []
        self._folder = folder
        if folder is not None and iteration > 0:
            self._take_up(folder / FILE_NAME, iteration)

    def _take_up(self, path: Path, iteration: int) -> None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            stored = json.loads(path.read_text(encoding="utf-8"))
            series = {str(n): [(int(i), float(v)) for i, v in p if i <= iteration] for n, p in stored["series"].items()}
            errors = [(int(i), int(t), float(e)) for i, t, e in stored["errors"] if i <= iteration]
            self.series = {name: list(points) for name, points in series.items() if points}
            self.errors, self._read_at = [(t, e) for _, t, e in errors], [i for i, _, _ in errors]

    def _keep(self, path: Path) -> None:
        errors = [[i, t, e] for i, (t, e) in zip(self._read_at, self.errors, strict=True)]
        write_json(path, {"series": self.series, "errors": errors})

    def __call__(self, event: Event) -> None:
        if isinstance(event, Checkpointed) and self._folder is not None:
            self._keep(self._folder / FILE_NAME)
        if not isinstance(event, Step):
            return
        values: dict[str, float] = dict(event.diagnostics)
        if not event.skipped:
            values = {"loss": event.loss, "gradient_norm": event.gradient_norm, "opacity": event.opacity} | values
        for name, value in values.items():
            if math.isfinite(value):
                self.series.setdefault(name, []).append((event.iteration, value))
        errors = [(t, e) for t, e in event.errors if math.isfinite(e)]
        self.errors.extend(errors)
        self._read_at.extend([event.iteration] * len(errors))

    def error_over_timesteps(self, T: int = 1000) -> list[tuple[float, float]]:
        """``(middle of a bin, mean error)``: e(t) over the run (ScaleDreamer, figure 1)."""
        return binned(self.errors, T)

    def to_json(self, T: int = 1000) -> dict[str, Any]:
        """Every series, thinned to at most 200 points, and e(t); plain JSON."""
        thin = {n: [[i, v] for i, v in p[:: max(1, -(-len(p) // _KEPT))]] for n, p in self.series.items()}
        return {"series": thin, "noise_error": [[t, e] for t, e in self.error_over_timesteps(T)]}

    def picture(self, title: str = "", T: int = 1000) -> Image:
        """Charts of the gradient's norm, the norms and angles of its parts, and e(t), below each other."""
        gradient = {"gradient": self._of("gradient_norm")}
        images = [chart(gradient, title=title or "latent gradient", x="iteration", log=True)]
        norms = self._group("norm/")
        if norms:
            images.append(chart(norms, title="norms of the terms", x="iteration", log=True))
        angles = self._group("cosine/")
        if angles:
            images.append(chart(angles, title="cosines between the terms", x="iteration"))
        balanced = [name for name in self.series if name.endswith("_norm") and name != "gradient_norm"]
        if balanced:
            lengths = {name.removesuffix("_norm"): self._of(name) for name in balanced}
            images.append(chart(lengths, title="norms of the terms the method balances", x="iteration", log=True))
        shares: dict[str, Points] = {name: self._of(name) for name in ("lambda", "cosine") if name in self.series}
        if shares:
            images.append(chart(shares, title="weight of the first of them, and their cosine", x="iteration"))
        if self.errors:
            error = {"e(t)": self.error_over_timesteps(T)}
            images.append(chart(error, title="noise-prediction error over the timestep", x="timestep", log=True))
        return stack(images)

    def _of(self, name: str) -> Points:
        return self.series.get(name, [])

    def _group(self, prefix: str) -> dict[str, Points]:
        return {name.removeprefix(prefix): points for name, points in self.series.items() if name.startswith(prefix)}
