"""Faster twins of a model's functions that are believed only after their answers, gradients included, were compared.

A compiler may fail, or succeed and be wrong (torch.compile has been seen to give zero gradients in training on a CPU).
So every kind of call is made both ways once; whatever goes wrong is logged, and the original goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import is_out_of_memory

logger = logging.getLogger(__name__)

#: Largest relative difference of an answer or a gradient, by precision.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
TOLERANCE_HALF = 5e-2

Function = Callable[..., Tensor]


class Verified:
    """``fast`` where it has been found to agree with ``exact``, else ``exact``; calls like either.

    Args:
        name: what to call it in the log.
        exact: the original, tensors to one tensor.
        fast: the twin.
        tolerance: largest relative difference allowed; None goes by the precision of the answer.

    Attributes:
        refused: why the twin is no longer used; empty while it is, or while it has not been tried.
    """

    def __init__(self, name: str, exact: Function, fast: Function, tolerance: float | None = None) -> None:
        self.name, self.exact, self.fast, self.tolerance = name, exact, fast, tolerance
        self.refused = ""
        self._trusted: set[Any] = set()

    def __call__(self, *arguments: Tensor) -> Tensor:
        if self.refused:
            return self.exact(*arguments)
        kind = (torch.is_grad_enabled(), *((a.shape, a.dtype, a.device, a.requires_grad) for a in arguments))
        try:
            if kind in self._trusted:
                return self.fast(*arguments)
            wrong = self._difference(arguments)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if wrong:
            self.refused = wrong
            logger.warning("%s is not used, the plain way goes on: %s", self.name, wrong)
        else:
            self._trusted.add(kind)
        return self.exact(*arguments)

    @property
    def state(self) -> str:
        """'used', 'refused: ...', or that no call has come yet."""
        return f"refused: {self.refused}" if self.refused else "used" if self._trusted else "not used: never called"

    def _difference(self, arguments: tuple[Tensor, ...]) -> str:
        """What the twin gets wrong at these arguments; empty when it agrees."""
        ours, theirs = (self._answers(function, arguments) for function in (self.fast, self.exact))
        for what, a, b in zip(("answer", "gradient", "gradient"), ours, theirs, strict=False):
            allowed = TOLERANCE.get(b.dtype, TOLERANCE_HALF) if self.tolerance is None else self.tolerance
            difference = float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-30))
            if not difference <= allowed:
                return f"its {what} is {difference:.1e} off, {allowed:.0e} is allowed"
        return ""

    @staticmethod
    def _answers(function: Function, arguments: tuple[Tensor, ...]) -> list[Tensor]:
        """The answer, and the gradients of a fixed random projection of it to every argument that wants one."""
        copies = [a.detach().clone().requires_grad_(a.requires_grad) for a in arguments]
        out = function(*copies)
        wanted = [c for c in copies if c.requires_grad]
        if not (wanted and torch.is_grad_enabled()):
            return [out.detach()]
        given = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        return [out.detach(), *torch.autograd.grad(out, wanted, given)]


def compiled(name: str, function: Function) -> Verified:
    """``function`` by ``torch.compile``, verified; where compiling is impossible it is ``function`` itself."""
    twin: list[Function] = []

    def fast(*arguments: Tensor) -> Tensor:
        if not twin:
            twin.append(torch.compile(function))
        return twin[0](*arguments)

    return Verified(f"torch.compile of the {name}", function, fast)


def in_bf16(name: str, function: Function) -> Verified:
    """``function`` under bf16 autocast, verified within 10 %; answers and gradients stay in the inputs' precision."""

    def fast(*arguments: Tensor) -> Tensor:
        with torch.autocast(arguments[0].device.type, dtype=torch.bfloat16):
            return function(*arguments).to(arguments[0].dtype)

    return Verified(f"bf16 of the {name}", function, fast, tolerance=0.1)


def use_channels_last(*modules: nn.Module) -> str:
    """Lay the modules' weights out channels-last, which convolutions on GPUs and CPUs often prefer; why not, or ''."""
    try:
        for module in modules:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("channels-last is not used: %s", reason)
        return reason
    return ""
