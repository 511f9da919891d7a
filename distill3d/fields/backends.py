"""Which code looks up the hash grid: the fastest that answers rightly on this machine, or the one that was asked for.

Every backend reads the same flat table in tiny-cuda-nn's layout, so changing it, in the middle of a run or when one is
resumed, changes nothing but speed (and, except for 'loop' and 'numba', the last bits). A backend counts as usable when
a forward and backward pass over 256 points agrees with a float64 reference; installed is not enough.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import BackendError, is_out_of_memory
from .interpolate import Route, encode, encode_plain
from .layout import HashGridSettings, Layout, layout

logger = logging.getLogger(__name__)

EncoderName = Literal["auto", "loop", "batched", "numba", "triton", "tinycudann"]
NAMES: tuple[EncoderName, ...] = get_args(EncoderName)

#: What 'auto' tries on a device, first to last; the last of each needs torch alone.
ORDER: Mapping[str, tuple[Route, ...]] = {"cpu": ("numba", "loop"), "cuda": ("tinycudann", "triton", "batched")}
ELSEWHERE: tuple[Route, ...] = ("batched",)

#: Packages that must be there, and how to get them.
PACKAGES = {
    "numba": "pip install numba",
    "triton": "it comes with torch's CUDA wheels on Linux; on Windows pip install triton-windows",
    "tinycudann": "it has to be compiled, see https://github.com/NVlabs/tiny-cuda-nn",
}
POINTS = 256
TOLERANCE = 2e-4
_PROBE = HashGridSettings(levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32)

_lock = threading.RLock()
_probed: dict[tuple[str, str], Refusal | None] = {}
_chosen: dict[str, Route] = {}


@dataclass(frozen=True)
class Refusal:
    """Why a backend is not used on a device."""

    reason: str
    error: Exception | None = None


def _sample(device: torch.device) -> tuple[Layout, Tensor, Tensor, Tensor]:
    grid, generator = layout(_PROBE), torch.Generator().manual_seed(0)
    x01 = torch.rand(POINTS, 3, generator=generator)
    params = torch.rand(grid.entries * grid.features, generator=generator) - 0.5
    upstream = torch.randn(POINTS, grid.levels * grid.features, generator=generator)
    return grid, x01.to(device), params.to(device), upstream.to(device)


def _answers(route: Route, grid: Layout, x01: Tensor, params: Tensor, upstream: Tensor) -> list[Tensor]:
    """Features, and the gradients to positions and table, in float64 on the CPU."""
    x01, params = x01.clone().requires_grad_(), params.clone().requires_grad_()
    out = encode_plain(x01, params, grid) if route == "plain" else encode(x01, params, grid, route=route)
    found = torch.autograd.grad(out, (x01, params), upstream)
    return [t.detach().cpu().double() for t in (out, *found)]


def _disagreement(route: Route, device: torch.device) -> str:
    """What is wrong with the backend's answer, or nothing; raises whatever it raises."""
    grid, *inputs = _sample(device)
    wanted = _answers("plain", grid, *(t.cpu().double() for t in inputs))
    found = _answers(route, grid, *inputs)
    for name, ours, theirs in zip(("features", "position gradient", "table gradient"), found, wanted, strict=True):
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        if not difference <= TOLERANCE:
            return f"its {name} is {difference:.1e} off the reference, {TOLERANCE:.0e} is allowed"
    return ""


def _try(route: Route, device: torch.device) -> Refusal | None:
    package = PACKAGES.get(route)
    interpreted = route == "triton" and device.type == "cpu" and _triton_interprets()
    if route in ("triton", "tinycudann") and device.type != "cuda" and not interpreted:
        return Refusal(f"it computes on cuda, and this is {device.type}")
    if route in ("loop", "numba") and device.type != "cpu":
        return Refusal(f"it computes on a cpu, and this is {device.type}")
    if package and importlib.util.find_spec(route) is None:
        return Refusal(f"{route} is not installed: {package}", ModuleNotFoundError(f"No module named {route!r}"))
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            wrong = _disagreement(route, device)
    except Exception as error:
        return Refusal(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", error)
    return Refusal(wrong) if wrong else None


def _triton_interprets() -> bool:
    import os

    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def probe(route: Route, device: torch.device | str) -> Refusal | None:
    """None when ``route`` works on ``device``, else why not. Kept for each device, except where memory ran out."""
    device = torch.device(device)
    key = (route, str(device))
    with _lock:
        if key in _probed:
            return _probed[key]
        refusal = _try(route, device)
        if refusal is None or not is_out_of_memory(refusal.error):
            _probed[key] = refusal
        return refusal


def choose(device: torch.device | str, name: EncoderName = "auto") -> Route:
    """The route to take on ``device``; 'auto' never raises.

    Raises:
        BackendError: a backend that was named and does not work here, from its own error.
    """
    device = torch.device(device)
    if name not in NAMES:
        raise BackendError(f"unknown encoder {name!r}: expected one of {', '.join(NAMES)}")
    if name != "auto":
        refusal = probe(name, device)
        if refusal is not None:
            raise BackendError(
                f"the encoder {name} cannot be used on {device}: {refusal.reason}. Choose auto, which takes what works"
            ) from refusal.error
        return name
    found = _chosen.get(str(device))
    return found if found is not None else _choose_first(device)


def _choose_first(device: torch.device) -> Route:
    order = ORDER.get(device.type, ELSEWHERE)
    refused: dict[Route, Refusal] = {}
    with _lock:
        for route in order[:-1]:
            refusal = probe(route, device)
            if refusal is None:
                break
            refused[route] = refusal
        else:
            route = order[-1]
        if not any(is_out_of_memory(refusal.error) for refusal in refused.values()):
            _chosen[str(device)] = route
    why = "; ".join(f"{name}: {refusal.reason}" for name, refusal in refused.items())
    why = f"; refused {why}" if why else ""
    logger.info("hash grid on %s: %s%s", device, route, why)
    return route


def report(device: torch.device | str) -> dict[str, str]:
    """For every backend 'chosen', 'usable', or why it is refused on ``device``; 'chosen' is what 'auto' takes."""
    device = torch.device(device)
    chosen = choose(device)
    found: dict[str, str] = {}
    for name in NAMES[1:]:
        refusal = probe(name, device)
        found[name] = "chosen" if name == chosen else "usable" if refusal is None else f"refused: {refusal.reason}"
    return found
