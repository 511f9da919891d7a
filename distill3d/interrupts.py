"""Ctrl-C where it would be lost, in packages that catch whatever they meet, and where it would leave half a step."""

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
    with _noted(at_once=True):
        yield


@contextlib.contextmanager
def held() -> Iterator[None]:
    """An interrupt within the block is raised at its end: nothing in it stays half done.

    An interrupt that is ignored, as below nohup, stays so.
    """
    with _noted(at_once=False):
        yield


@contextlib.contextmanager
def _noted(at_once: bool) -> Iterator[None]:
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        if at_once:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        raise KeyboardInterrupt
