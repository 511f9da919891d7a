"""Ctrl-C within packages that catch whatever their imports and readers raise, and an interrupt with it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Raises ``KeyboardInterrupt`` at the end of the block where one came meanwhile and was swallowed.

    An interrupt that is ignored, as below nohup, stays so.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        raise KeyboardInterrupt
