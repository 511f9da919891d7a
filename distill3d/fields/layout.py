"""Where every entry of a multiresolution hash grid lives: tiny-cuda-nn's resolutions, offsets and index function.

Instant Neural Graphics Primitives (https://arxiv.org/abs/2201.05989), section 3, in the exact arithmetic of
tiny-cuda-nn (``include/tiny-cuda-nn/common_device.h``, ``encodings/grid.h``), so that one flat parameter vector means
the same field here and there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import SettingsError

#: tiny-cuda-nn's ``CoherentPrime`` hash factors; as int32 they wrap exactly as uint32 does.
PRIMES = (1, 2654435761 - (1 << 32), 805459861)


@dataclass(frozen=True)
class HashGridSettings:
    """Size of a multiresolution hash grid. The defaults are the CPU profile; :meth:`fine` is the GPU profile."""

    levels: int = 8
    """Number of resolutions, from coarse to fine."""
    features: int = 2
    """Numbers stored per grid corner and level; 2 is the fast path."""
    log2_table_size: int = 15
    """Base-2 logarithm of the most entries one level may hold; finer levels are hashed into that many."""
    base_resolution: int = 16
    """Grid points along an edge of the coarsest level."""
    finest_resolution: int = 256
    """Grid points along an edge of the finest level; ignored when per_level_scale is given."""
    per_level_scale: float | None = None
    """Growth of the resolution from one level to the next; None derives it from the base and finest resolutions."""

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise SettingsError(f"{name} must be {wanted}, got {getattr(self, name)}; change it in the hash grid.")

        check(1 <= self.levels <= 32, "levels", "between 1 and 32")
        check(1 <= self.features <= 8, "features", "between 1 and 8")
        check(4 <= self.log2_table_size <= 24, "log2_table_size", "between 4 and 24")
        check(2 <= self.base_resolution <= 4096, "base_resolution", "between 2 and 4096")
        check(
            self.base_resolution <= self.finest_resolution <= 1 << 16,
            "finest_resolution",
            f"between base_resolution ({self.base_resolution}) and 65536",
        )
        if self.per_level_scale is not None:
            finest = self.base_resolution * self.per_level_scale ** (self.levels - 1)
            check(
                self.per_level_scale >= 1 and finest <= 1 << 16,
                "per_level_scale",
                "at least 1 and small enough that the finest level stays within 65536",
            )

    @classmethod
    def fine(cls) -> HashGridSettings:
        """The GPU profile: 16 levels, 2^19 entries each, resolution 16 to 4096 (6,299,960 entries)."""
        return cls(levels=16, log2_table_size=19, finest_resolution=4096)

    @property
    def growth(self) -> float:
        """``per_level_scale``, derived as ``(finest / base)^(1 / (levels - 1))`` (eq. 3) when it is not given."""
        if self.per_level_scale is not None:
            return self.per_level_scale
        return math.exp(math.log(self.finest_resolution / self.base_resolution) / max(self.levels - 1, 1))


@dataclass(frozen=True)
class Layout:
    """The levels of one grid, coarse to fine. A level's position is ``p = scale * x + 0.5``, its cell ``floor(p)``.

    Attributes:
        features: numbers per entry.
        scales: ``scale_l``, exactly representable in float32.
        resolutions: grid points along an edge, ``ceil(scale_l) + 1``.
        sizes: entries per level.
        offsets: first entry of each level, and at the end the total.
        dense: how many levels, all of them coarser than the rest, are stored without hashing.
        settings: what it was made from; two that come to the same layout are equal all the same.
    """

    features: int
    scales: tuple[float, ...]
    resolutions: tuple[int, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    dense: int
    settings: HashGridSettings = field(default_factory=HashGridSettings, compare=False, repr=False)

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def entries(self) -> int:
        return self.offsets[-1]


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


@lru_cache(maxsize=32)
def layout(settings: HashGridSettings) -> Layout:
    """The layout of a grid; logarithm and power in float64 rounded to float32, as tiny-cuda-nn's host code agrees with.

    >>> layout(HashGridSettings.fine()).entries
    6299960
    """
    log_growth = _float32(math.log2(_float32(settings.growth)))
    table = 1 << settings.log2_table_size
    scales, resolutions, sizes, offsets = [], [], [], [0]
    for level in range(settings.levels):
        power = _float32(2.0 ** _float32(level * log_growth))
        scale = _float32(_float32(power * settings.base_resolution) - 1.0)
        resolution = math.ceil(scale) + 1
        size = min((resolution**3 + 7) // 8 * 8, table)
        scales.append(scale)
        resolutions.append(resolution)
        sizes.append(size)
        offsets.append(offsets[-1] + size)
    dense = sum(size >= resolution**3 for size, resolution in zip(sizes, resolutions, strict=True))
    return Layout(settings.features, tuple(scales), tuple(resolutions), tuple(sizes), tuple(offsets), dense, settings)


@lru_cache(maxsize=16)
def factors(grid: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per level and axis the index factor ``(L, 3, 1)`` and what corner 0 and 1 add to it ``(L, 3, 2, 1)``, int32."""
    rows = [(1, r, r * r) if level < grid.dense else PRIMES for level, r in enumerate(grid.resolutions)]
    with torch.inference_mode(False):
        multiplier = torch.tensor(rows, dtype=torch.int32, device=device)[:, :, None]
        corner = torch.stack([torch.zeros_like(multiplier), multiplier], 2)
    return multiplier, corner
