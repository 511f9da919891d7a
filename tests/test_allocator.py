"""Freed blocks are kept: asked of glibc itself, in a process of its own each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

ASK = """
import ctypes, sys
from distill3d.cli.allocator import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
done = keep_freed_memory() if sys.argv[1] == "keep" else False
mapped = libc.mallinfo2().hblks
block = libc.malloc(20 * 2**20)
mapped = libc.mallinfo2().hblks - mapped
libc.free(block)
print(int(done), mapped, libc.mallinfo2().keepcost >> 20)
"""


def has_mallinfo2() -> bool:
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= (2, 33)


needs_glibc = pytest.mark.skipif(not has_mallinfo2(), reason="the C library is not glibc 2.33 or newer")


def ask(how: str, **environment: str) -> tuple[int, ...]:
    """Whether it was done, blocks of 20 MB that came from the system, and MB kept once they were freed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    answer = subprocess.run(
        [sys.executable, "-c", ASK, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    return tuple(int(part) for part in answer.stdout.split())


@needs_glibc
def test_a_freed_block_is_kept() -> None:
    assert ask("leave")[:2] == (0, 1), "glibc takes large blocks from the system by itself"
    done, mapped, kept = ask("keep")
    assert done and mapped == 0 and kept >= 20


@needs_glibc
def test_a_user_s_own_setting_stays() -> None:
    assert ask("keep", MALLOC_TRIM_THRESHOLD_="1000000")[0] == 0


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill3d.cli import allocator

    monkeypatch.setattr(allocator.sys, "platform", "win32")
    assert allocator.keep_freed_memory() is False
