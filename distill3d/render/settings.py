"""How finely rays are sampled, and how much memory a render may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import SettingsError

BOX_DIAGONAL = 2 * math.sqrt(3.0)

Precision = Literal["fp32", "bf16"]


MOST_SAMPLES = 1 << 14
"""A ray with more is no finer than the density's own arithmetic, and one step takes hours."""

MOST_GB = 1e6
"""No limit in practice."""


@dataclass(frozen=True)
class RenderSettings:
    """How finely rays are sampled and how much memory a render may take."""

    samples_per_ray: int = 128
    """Steps along the diagonal of the box; a ray through the middle of a face takes 0.58 times as many."""
    max_points: int = 1 << 20
    """Most sample points held in one autograd graph (0.4 to 0.6 kB each); larger batches are rendered in chunks."""
    cull_below: float = 0.5
    """Look for hidden samples first when the last render could see less than this share; 0 never, 2 always."""
    cull_transmittance: float = 1e-3
    """Samples that less than this share of light reaches count as hidden; also bounds the error of culling."""
    normal_weight: float = 1e-4
    """Samples that contribute less than this get no normal: they are not lit by the point light."""
    memory_gb: float = 2.0
    """Most memory a render may hold. A larger one is rendered twice, tile by tile, first for the picture and then for
    its gradient: about twice the time, and memory that does not grow with the picture. 0 always does so."""
    terminate: bool = False
    """Pictures without gradients stop along each ray where less than cull_transmittance of the light is left, as
    training does where it culls: faster on solid objects, and wrong by no more than that share."""
    precision: Precision = "fp32"
    """Precision of the small networks while colours and densities are computed. Bf16 is a gain on GPUs and processors
    with bf16 instructions, a loss elsewhere; normals stay in fp32."""

    def __post_init__(self) -> None:
        if not 1 <= self.samples_per_ray <= MOST_SAMPLES or self.max_points < 1:
            got = f"{self.samples_per_ray} and {self.max_points}"
            raise SettingsError(
                f"expected samples_per_ray of 1 to {MOST_SAMPLES} and max_points of 1 or more, got {got}: the defaults "
                "do for most objects"
            )
        if (
            not 0 <= self.cull_below < math.inf
            or not 0 <= self.cull_transmittance < 1
            or not 0 <= self.normal_weight < 1
        ):
            raise SettingsError("expected cull_below >= 0, and cull_transmittance and normal_weight within 0..1")
        if not 0 <= self.memory_gb <= MOST_GB:
            raise SettingsError(
                f"expected memory_gb of 0 or more and at most {MOST_GB:g}, got {self.memory_gb}: 2 is usual"
            )
        if self.precision not in ("fp32", "bf16"):
            raise SettingsError(f"expected precision fp32 or bf16, got {self.precision!r}")

    @property
    def step_size(self) -> float:
        """``dt`` in world units."""
        return BOX_DIAGONAL / self.samples_per_ray
