"""Out of memory, told apart from other errors, and the peak a run reached."""

from __future__ import annotations

import sys

import torch

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "storage size calculation overflowed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is an allocation that failed, on any device torch knows."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


def peak_bytes(device: torch.device) -> dict[str, int]:
    """Peak resident memory of this process and, on CUDA, peak device memory, in bytes; what is unknown is absent."""
    peak: dict[str, int] = {}
    try:
        import resource
    except ImportError:
        pass
    else:
        scale = 1 if sys.platform == "darwin" else 1024
        peak["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak
