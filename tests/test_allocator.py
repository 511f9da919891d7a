"""Freed blocks are used again: counted in page faults, in a process of its own each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from distill3d.cli.allocator import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "keep" else False
def work():
    for _ in range(5):
        blocks = [torch.ones(4 * 2**20) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def run(how: str, **environment: str) -> tuple[bool, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    done, faults = answer.stdout.split()
    return done == "1", int(faults)


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_freed_blocks_are_used_again() -> None:
    done, kept = run("keep")
    _, given_back = run("leave")
    assert done and kept < given_back / 10


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_a_user_s_own_setting_stays() -> None:
    assert run("keep", MALLOC_TRIM_THRESHOLD_="1000000")[0] is False


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill3d.cli import allocator

    monkeypatch.setattr(allocator.sys, "platform", "win32")
    assert allocator.keep_freed_memory() is False
