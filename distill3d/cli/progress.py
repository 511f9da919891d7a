"""The live progress line: iteration, it/s, ETA, loss, occupancy. One moving line on a terminal, a line every few
seconds where the output is a file or a pipe."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..optimize.events import Checkpointed, Event, Step, Warned
from . import app

PLAIN_EVERY = 5.0
WIDTH = 24
"""Of the bar at the most, in characters; it gives way to a longer text, and stays there so that nothing jumps."""
WIDE = 110
"""Columns of a window from which on timesteps and guidance are told as well."""
_SMOOTHING = 0.05


def clock(seconds: float) -> str:
    """``75`` -> ``1:15``; hours appear when there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressLine:
    """A listener that draws the run on ``console``. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._began = time.monotonic()
        self._pace: float | None = None
        self._last_plain = 0.0
        self._bar = WIDTH

    def __enter__(self) -> ProgressLine:
        self._began = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Warned):
            app.warn(self._console, [f"iteration {event.iteration}: {event.message}"])
        elif isinstance(event, Checkpointed):
            pass

    def _step(self, event: Step) -> None:
        seconds = sum(event.seconds.values())
        self._pace = seconds if self._pace is None else (1 - _SMOOTHING) * self._pace + _SMOOTHING * seconds
        text = self._text(event)
        if self._live:
            self._bar = max(4, min(self._bar, self._console.width - len(text) - 3))
            row = Table.grid(padding=(0, 1))
            row.add_row(ProgressBar(total=event.iterations, completed=event.iteration, width=self._bar), Text(text))
            self._live.update(row)
            return
        now = time.monotonic()
        if event.iteration == event.iterations or now - self._last_plain >= PLAIN_EVERY:
            self._last_plain = now
            app.say(self._console, text)

    def _text(self, event: Step) -> str:
        pace = max(self._pace or 0.0, 1e-9)
        left = (event.iterations - event.iteration) * pace
        rate = f"{1 / pace:.1f} it/s" if pace < 1 else f"{pace:.1f} s/it"
        head = (
            f"{event.iteration}/{event.iterations}  {rate}  ETA {clock(left)}  loss {event.loss:.3g}  "
            f"occupancy {100 * event.occupancy:.1f} %"
        )
        if self._live and self._console.width < WIDE:
            return head
        cfg = f"  CFG {event.diagnostics['guidance']:.1f}" if "guidance" in event.diagnostics else ""
        return f"{head}  t {event.timesteps[0]}-{event.timesteps[1]}{cfg}"
