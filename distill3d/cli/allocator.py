"""Freed memory that is used again instead of being given back: a step frees and takes the same blocks every time."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM, _MMAP = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 32 * 2**20
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed in blocks of up to 32 MB, the most its manual allows (mallopt(3)).

    Otherwise the system clears the same pages anew in every step. Peak memory stays as it is. For a process of our
    own, not for a host's. Does nothing where the user has set one of glibc's own variables.

    Returns:
        Whether that was done: False without glibc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP, _LARGEST)) and bool(mallopt(_TRIM, _NEVER))
