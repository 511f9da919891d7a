"""Ctrl-C and SIGTERM as a wish to stop that a command can ask for, so that what is done is kept."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def stopped_by_signals(console: Console) -> Iterator[list[int]]:
    """A list that fills on the first Ctrl-C or SIGTERM; the second one interrupts at once."""
    caught: list[int] = []

    def handle(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        console.print("stopping after this iteration (again to stop at once)")

    names = [n for n in (signal.SIGINT, signal.SIGTERM) if n is not None]
    before = {number: signal.signal(number, handle) for number in names}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
