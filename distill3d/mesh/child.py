"""Work that cannot be interrupted from inside, in a child process that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORKER = Path(__file__).with_name("worker") / "mesh_worker.py"
POLL_SECONDS = 0.05


class ChildError(Exception):
    """The child could not be started, failed, or took too long; the message is a phrase that fits after 'because'.

    Attributes:
        hopeless: it took too long or was ended from outside, most often for want of memory: the same work in this
            process would fare no better, and could not be stopped.
    """

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


def run(
    task: str, arrays: Mapping[str, Any], seconds: float, poll: Callable[[float], None] | None = None
) -> dict[str, NDArray]:
    """Arrays through ``worker/mesh_worker.py`` and back.

    Args:
        task: a function of the worker; ``arrays`` are its arguments.
        seconds: the child is killed after this time.
        poll: called about twenty times a second with the elapsed share of ``seconds``. Whatever it raises kills the
            child and goes on to the caller; no process and no file is left behind.

    Raises:
        ChildError: with the reason.
    """
    if not sys.executable:
        raise ChildError("there is no Python executable to start")
    with tempfile.TemporaryDirectory(prefix="distill3d-", ignore_cleanup_errors=True) as folder:
        source, target, errors = (Path(folder) / name for name in ("in.npz", "out.npz", "errors.txt"))
        try:
            values: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
            np.savez(source, **values)
            code = _wait([sys.executable, str(WORKER), task, str(source), str(target)], errors, seconds, poll)
        except OSError as error:
            raise ChildError(f"its process could not be started ({error})") from error
        if code != 0 or not target.exists():
            said = errors.read_text(errors="replace").strip().splitlines()
            raise ChildError(f"its process ended with status {code}{': ' + said[-1] if said else ''}", code < 0)
        with np.load(target, allow_pickle=False) as result:
            return dict(result)


def _wait(command: list[str], errors: Path, seconds: float, poll: Callable[[float], None] | None) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment, creationflags=flags
        )
    began = time.monotonic()
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - began
            if elapsed > seconds:
                raise ChildError(f"it took longer than {seconds:g} seconds", hopeless=True)
            if poll is not None:
                poll(min(1.0, elapsed / seconds))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
