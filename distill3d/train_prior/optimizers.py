"""Muon for hidden matrices with AdamW for the rest, learning-rate schedule, and averaged weights.

Muon: K. Jordan et al., https://kellerjordan.github.io/posts/muon/ ; coefficients, momentum and learning-rate
adjustment as in ``torch.optim.Muon``, which takes only 2D parameters one by one. Here same-shaped matrices are
orthogonalised in one batch, and for long ones the Newton-Schulz polynomial is iterated on the Gram matrix ``X X^T``
in float32, so that the long side is multiplied twice and not ten times: equal within rounding, and faster.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..devices import imitates_bfloat16

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5
GRAM_ASPECT = 4


def orthogonalise(matrices: Tensor, half: bool = True) -> Tensor:
    """The nearest semi-orthogonal matrix of each of ``(n, rows, columns)``, singular values within about 0.7-1.2.

    ``half`` computes those that are not long in bfloat16, where the device does not just imitate it.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = _by_gram(x) if x.shape[2] >= GRAM_ASPECT * x.shape[1] else _direct(x, half and not imitates_bfloat16(x.device))
    return x.mT if tall else x


def _polynomial(gram: Tensor) -> Tensor:
    """``b G + c G^2``; with ``a I`` added, one step's factor on ``X``."""
    _, b, c = NS_COEFFICIENTS
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _direct(x: Tensor, half: bool) -> Tensor:
    y = x.bfloat16() if half else x
    for _ in range(NS_STEPS):
        y = torch.baddbmm(y, _polynomial(y @ y.mT), y, beta=NS_COEFFICIENTS[0])
    return y.to(x.dtype)


def _by_gram(x: Tensor) -> Tensor:
    gram = x @ x.mT
    scaled_identity = NS_COEFFICIENTS[0] * torch.eye(gram.shape[-1], device=x.device, dtype=x.dtype)
    total = None
    for i in range(NS_STEPS):
        step = _polynomial(gram) + scaled_identity
        total = step if total is None else step @ total
        if i + 1 < NS_STEPS:
            gram = step @ gram @ step
    return total @ x  # type: ignore[operator, no-any-return]


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; a convolution's kernel counts as an ``(out, in * k * k)`` matrix."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        half: bool = True,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.half = half

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]).reshape(len(p), -1)
                by_shape[(update.shape[0], update.shape[1])].append((p, update))
            for (rows, columns), members in by_shape.items():
                updates = orthogonalise(torch.stack([update for _, update in members]), self.half)
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (p, _), update in zip(members, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view_as(p), alpha=-rate)


class MuonAdamW:
    """Both optimizers behind one ``step``, their state as one flat dictionary of tensors.

    Args:
        named: the trained parameters by name.
        muon_names: names of those that Muon owns; each has two or more dimensions.
        half: as in ``orthogonalise``.
    """

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        muon_names: set[str],
        muon_lr: float,
        adam_lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        half: bool = True,
    ) -> None:
        self.named = named
        rest = [p for n, p in named.items() if n not in muon_names]
        self.muon = Muon([named[n] for n in sorted(muon_names)], muon_lr, weight_decay, half=half)
        self.adam = torch.optim.AdamW(rest, adam_lr, betas=betas, weight_decay=0.0, foreach=True)
        self.base = (muon_lr, adam_lr)

    def step(self, lr_scale: float, clip: float) -> float:
        """Clip, update at ``lr_scale`` times the base rates, clear gradients; returns the norm before clipping.

        A norm that is not finite updates nothing.
        """
        norm = float(nn.utils.clip_grad_norm_(self.named.values(), clip))
        if not math.isfinite(norm):
            return norm
        for optimizer, base in zip((self.muon, self.adam), self.base, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * lr_scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """``{"<parameter>|<slot>": tensor}``, ready for safetensors."""
        return {
            f"{name}|{slot}": value
            for name, p in self.named.items()
            for optimizer in (self.muon, self.adam)
            for slot, value in optimizer.state.get(p, {}).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        owners = {id(p): o for o in (self.muon, self.adam) for g in o.param_groups for p in g["params"]}
        for key, value in state.items():
            name, slot = key.rsplit("|", 1)
            p = self.named[name]
            like = value if value.ndim == 0 else torch.empty_like(p).copy_(value)
            owners[id(p)].state[p][slot] = like


def falling(steps: int, warmup: int, constant: float, final: float) -> Callable[[int], float]:
    """Share of the learning rates at a step: a linear rise over ``warmup`` steps, 1 up to ``constant * steps``, then a
    linear fall to ``final``.

    >>> [falling(100, 10, 0.5, 0.0)(s) for s in (0, 20, 50, 75, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """

    def share(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup))
        fall = max(0.0, (step - constant * steps) / max(1.0, (1 - constant) * steps))
        return rise * (1 - (1 - final) * min(1.0, fall))

    return share


class Average:
    """Exponential moving average of parameters, with a decay that grows as ``(1 + n) / (10 + n)`` up to ``decay``."""

    def __init__(self, named: dict[str, nn.Parameter], decay: float) -> None:
        self.named, self.decay = named, decay
        self.values = {n: p.detach().clone() for n, p in named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in self.named.values()], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged values and the live ones; twice is nothing."""
        for name, p in self.named.items():
            live = p.detach().clone()
            p.copy_(self.values[name])
            self.values[name].copy_(live)
