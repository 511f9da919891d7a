"""How a run is computed, apart from what it computes: accelerators, layout, threads."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import SettingsError
from ..fields.backends import EncoderName
from ..render.marching import MarchingName

logger = logging.getLogger(__name__)

MOST_THREADS = 1024


@dataclass(frozen=True)
class Execution:
    """Ways to compute faster. Not part of a run's identity: a run that is resumed may choose others."""

    hash_grid: EncoderName = "auto"
    """What looks up the hash grid: auto takes the fastest that works here; a name that does not work is an error."""
    marching: MarchingName = "auto"
    """What places samples along rays and weighs them: torch, which auto takes everywhere, or nerfacc on CUDA. nerfacc
    rounds otherwise at the walls of cells, so resume a run with what it began with; a name that does not work is an
    error."""
    channels_last: bool = False
    """Lay the model's weights out channels-last, which convolutions often prefer. Changes the last digits."""
    compile: bool = False
    """Compile UNet and encoder with torch.compile: minutes at the start, faster steps on many GPUs. Compared with the
    plain way at first, gradients included; where it fails or differs it is left out. Not for the CPU."""
    bf16_encoder: bool = False
    """Run the encoder in bf16 where its gradient agrees with the full one's within 10 %."""
    threads: int = 0
    """CPU threads; 0 leaves it as it is, -1 takes one less than the processor has cores."""

    def __post_init__(self) -> None:
        if not -1 <= self.threads <= MOST_THREADS:  # OpenMP ends the process when it cannot make them
            raise SettingsError(f"expected threads of -1 to {MOST_THREADS}, got {self.threads}: 0 leaves it as it is")

    def apply(self, prior: Any) -> None:
        """Set threads and ask ``prior`` for what it can do; one that cannot be accelerated stays, and what another run
        asked of it and this one does not ends, but for the layout of its weights."""
        if self.threads:
            torch.set_num_threads(suggested_threads() if self.threads < 0 else self.threads)
        wanted = self.channels_last or self.compile or self.bf16_encoder
        if not wanted and not getattr(prior, "accelerators", None):
            return
        if hasattr(prior, "accelerate"):
            prior.accelerate(channels_last=self.channels_last, compile=self.compile, bf16_encoder=self.bf16_encoder)
        else:
            logger.warning("channels-last, compile and bf16 are not used: this model cannot be accelerated here")


def suggested_threads() -> int:
    """One less than the cores this process may use, 1 to 8: barriers cost more than further cores bring.

    Threads of one core share its arithmetic units, so half of the logical processors count where there are more than 2.
    """
    try:
        logical = len(os.sched_getaffinity(0))
    except AttributeError:
        logical = os.cpu_count() or 1
    cores = logical if logical <= 2 else logical // 2
    return min(8, max(1, cores - 1))
