"""FreeU as a patch of the host's UNet, by the library's arithmetic (``distill3d.priors.freeu``).

A strength a per sample leads from none (0) to full (1): every factor f becomes ``1 + a (f - 1)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...distill3d.devices import remote
from ...distill3d.priors import freeu

Strength = Callable[[Tensor], Tensor]
"""``(B,)`` sigmas -> ``(B,)`` strengths."""


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
        b, s = ((1 + strength * (factor - 1)).reshape(-1, 1, 1, 1) for factor in stage)
        if _acts(stage[0], b):
            h = freeu.backbone(h, b, f"v{self.version}")
        return h, freeu.skip(skip, s) if _acts(stage[1], s) else skip


def _acts(value: float, factors: Tensor) -> bool:
    """Whether anything is to be done; off the CPU, where a look at the factors would wait for them, by the value."""
    return value != 1 and (remote(factors.device) or bool((factors != 1).any()))
