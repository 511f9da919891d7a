"""The peak of memory a run reached."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch


def _process_peak() -> int | None:
    """Linux's ``VmHWM``, which begins anew with each program; ``ru_maxrss`` begins at the parent's size there."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_gigabytes(device: torch.device) -> float | None:
    """What a CUDA device has, in GB; None of any other, whose memory others use too."""
    return torch.cuda.get_device_properties(device).total_memory / 1e9 if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Let the device's peak begin anew: in a server it would be that of whatever ran before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> dict[str, int]:
    """Peak resident memory of this process since it began and, on CUDA, peak device memory since ``forget_peak``, in
    bytes; what is unknown is absent."""
    peak: dict[str, int] = {}
    if (process := _process_peak()) is not None:
        peak["process"] = process
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak
