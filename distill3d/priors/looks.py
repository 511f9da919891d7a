"""Which of a model's answers are looked at, and when ones that are not finite are its own fault."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor

EVERY, FIRST = 100, 3
NEVER_GOOD, NO_LONGER = 3, 30
"""Answers in a row that are not finite after which a model is given up: one that never gave another, and one that did.

A single one is left to a run's guard, which leaves out its step: raised, it would come again with every resume."""


class Looks:
    """Counts the answers of one model."""

    def __init__(self) -> None:
        self._answers = count(1)
        self._bad = 0
        self._good = False

    def due(self, device: torch.device) -> bool:
        """Whether the next answer is to be looked at, which waits for the device: every one on a CPU."""
        answer = next(self._answers)
        return device.type == "cpu" or answer <= FIRST or answer % EVERY == 0

    def gives_up(self, answer: Tensor, *given: Tensor) -> bool:
        """Whether this answer is not finite, though what was ``given`` is, and too many before it were not either."""
        if torch.isfinite(answer).all():
            self._bad, self._good = 0, True
        elif all(bool(torch.isfinite(value).all()) for value in given):
            self._bad += 1
            return self._bad >= (NO_LONGER if self._good else NEVER_GOOD)
        return False
