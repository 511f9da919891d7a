"""Host and device: small things are decided on the host, sent over without waiting, and read back a step late.

A number read from a GPU makes the host wait until all work handed out so far is done; then the GPU waits for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor


def remote(device: torch.device) -> bool:
    """Whether reading a number from ``device`` makes the host wait for it."""
    return device.type != "cpu"


def reads_late(device: torch.device) -> bool:
    """Whether a step's numbers are read in the step after, when they have arrived and nobody has to wait."""
    return device.type == "cuda"


def upload(value: Tensor, device: torch.device | str) -> Tensor:
    """``value`` on ``device``; from the host to CUDA by way of pinned memory, which nobody waits for."""
    device = torch.device(device)
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def device_of(field: object, otherwise: torch.device | str = "cpu") -> torch.device:
    """Where a field or a grid computes: its first parameter's or buffer's device, ``otherwise`` where it has none."""
    if isinstance(field, torch.nn.Module):
        for tensor in (*field.parameters(), *field.buffers()):
            return tensor.device
    return torch.device(otherwise)


class Numbers:
    """Scalars ``(n,)`` on their way to the host; ``read`` waits only for what was handed out before them."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._ready = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The numbers."""
        if self._ready is not None:
            self._ready.synchronize()
        found: list[float] = self._values.tolist()
        return found


def imitates_bfloat16(device: torch.device) -> bool:
    """Whether this is an x86 CPU without AVX-512, where a convolution took seven times as long in bfloat16 as in
    float32 and products of matrices more than thirty times."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("NO AVX", "DEFAULT", "AVX2")
