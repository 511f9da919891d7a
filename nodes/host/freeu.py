"""FreeU, https://arxiv.org/abs/2309.11497: backbone features times b, the lowest frequencies of the skip times s.

v1 scales the first half of the backbone's channels by b; v2 by ``1 + (b - 1) m`` with m the mean over channels,
stretched to 0..1 over the plane. The skip's low frequencies are the four around zero, as in the authors' code.
A strength a per sample leads from none (0) to full (1): every factor f becomes ``1 + a (f - 1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...distill3d.devices import remote

Strength = Callable[[Tensor], Tensor]
"""``(B,)`` sigmas -> ``(B,)`` strengths."""


def low_frequencies(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> float32 of that shape: its part at the frequencies -1 and 0 of either axis."""
    spectrum = torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
    mask = torch.zeros(x.shape[-2:], device=x.device)
    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    mask[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1] = 1
    return torch.fft.ifftn(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)), dim=(-2, -1)).real


def scale_skip(x: Tensor, s: float, strength: Tensor) -> Tensor:
    """The skip with its low frequencies times ``1 + a (s - 1)``; exactly ``x`` where that is 1."""
    factor = (strength * (s - 1)).reshape(-1, 1, 1, 1)
    if _known_zero(s, factor):
        return x
    return torch.where(factor == 0, x, (x.float() + factor * low_frequencies(x)).to(x.dtype))


def relative_mean(h: Tensor) -> Tensor:
    """``(B, 1, H, W)`` float32 in 0..1: the mean over channels, stretched over each plane; 0 on a constant plane."""
    mean = h.float().mean(1, keepdim=True)
    low, high = mean.amin((-2, -1), keepdim=True), mean.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (mean - low) / span.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def scale_backbone(h: Tensor, b: float, strength: Tensor, version: int) -> Tensor:
    """The backbone with its first half of channels scaled; exactly ``h`` where the factor is 1."""
    factor = (strength * (b - 1)).reshape(-1, 1, 1, 1)
    if _known_zero(b, factor):
        return h
    half = h.shape[1] // 2
    grow = 1 + (factor * relative_mean(h) if version == 2 else factor)
    first = torch.where(factor == 0, h[:, :half], (h[:, :half].float() * grow).to(h.dtype))
    return torch.cat([first, h[:, half:]], 1)


def _known_zero(value: float, factor: Tensor) -> bool:
    """Whether nothing is to be done; off the CPU, where a look at the factors would wait for them, by the value."""
    return value == 1 or (not remote(factor.device) and not bool(factor.any()))


class Patch:
    """An output block patch for the host's UNet.

    Args:
        stages: (b, s) by the number of channels of the backbone.
        strength: by sigma, for each sample its own; None is full strength throughout.
    """

    def __init__(self, stages: dict[int, tuple[float, float]], version: int, strength: Strength | None) -> None:
        self.stages, self.version, self.strength = stages, version, strength
        self.label = f"freeu v{version} {sorted(stages.items())} {getattr(strength, 'label', '')}"

    def __call__(self, h: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        stage = self.stages.get(int(h.shape[1]))
        if stage is None:
            return h, skip
        sigmas = options.get("sigmas")
        if self.strength is None or sigmas is None:
            strength = torch.ones(h.shape[0], device=h.device)
        else:
            rows = self.strength(sigmas.reshape(-1)).to(h.device, torch.float32)
            strength = rows.repeat(h.shape[0] // len(rows))
        return scale_backbone(h, stage[0], strength, self.version), scale_skip(skip, stage[1], strength)
