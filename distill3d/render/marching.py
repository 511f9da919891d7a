"""Who places samples along rays and weighs them: torch, or nerfacc's CUDA kernels where they were asked for by name.

'auto' is torch everywhere. nerfacc keeps or drops a sample at a cell's wall by other rounding, so a run resumed without
it would not go on as it began; it compiles for minutes at its first use; and it has not been measured to be faster.
Asked for by name, it is believed once its samples and weights, gradients included, agree with ours on the device.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import BackendError, is_out_of_memory
from ..fields.backends import Refusal
from .composite import visibility
from .occupancy import OccupancyGrid
from .sampling import Points, sample_points

logger = logging.getLogger(__name__)

MarchingName = Literal["auto", "torch", "nerfacc"]
Route = Literal["torch", "nerfacc"]
NAMES: tuple[MarchingName, ...] = get_args(MarchingName)

#: Where each route that is not in this package's own torch code lives, and where it computes.
MODULES = {"nerfacc": ".march_nerfacc"}
DEVICES = ("cuda",)
WRITTEN_FOR = "0.5.3"

RAYS, CELLS, STEP = 256, 12, 0.02
TOLERANCE = 2e-4
#: Distance from a cell's wall, in cells, within which a sample may be in for one and out for the other.
WALL = 2e-3

_lock = threading.RLock()
_probed: dict[tuple[str, str], Refusal | None] = {}
_told: set[str] = set()


class Marching(NamedTuple):
    """The two functions of a route; ``TORCH`` says what they take and give."""

    sample: Callable[..., Points]
    weigh: Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor]]


TORCH = Marching(sample_points, visibility)


def functions(route: Route) -> Marching:
    """The functions of a route; imports the package it needs, and raises whatever that raises."""
    if route == "torch":
        return TORCH
    module: ModuleType = importlib.import_module(MODULES[route], __package__)
    return Marching(module.sample_points, module.visibility)


def probe(route: Route, device: torch.device | str) -> Refusal | None:
    """None when ``route`` works on ``device``, else why not. Kept for each device, except where memory ran out."""
    device = torch.device(device)
    if route == "torch":
        return None
    key = (route, str(device))
    with _lock:
        if key in _probed:
            return _probed[key]
        refusal = _absent(route, device) or _try(route, device)
        if refusal is None or not is_out_of_memory(refusal.error):
            _probed[key] = refusal
        return refusal


def choose(device: torch.device | str, name: MarchingName = "auto") -> Route:
    """The route to take on ``device``; 'auto' never raises, and imports and compiles nothing.

    Raises:
        BackendError: a route that was named and does not work here, from its own error.
    """
    device = torch.device(device)
    if name not in NAMES:
        raise BackendError(f"unknown marching {name!r}: expected one of {', '.join(NAMES)}")
    if name == "auto":
        if str(device) not in _told:
            _told.add(str(device))
            logger.info("rays on %s: torch; nerfacc: %s", device, report(device)["nerfacc"])
        return "torch"
    refusal = probe(name, device)
    if refusal is not None:
        raise BackendError(
            f"the marching {name} cannot be used on {device}: {refusal.reason}. Choose auto, which needs nothing"
        ) from refusal.error
    return name


def report(device: torch.device | str) -> dict[str, str]:
    """'chosen', 'usable', 'not tried ...' or why it is refused, for every route; nothing is imported for it."""
    device = torch.device(device)
    tried = ("nerfacc", str(device)) in _probed
    refusal = _probed["nerfacc", str(device)] if tried else _absent("nerfacc", device)
    found = "usable" if tried else "not tried: auto does not take it, name it to use it"
    return {"torch": "chosen", "nerfacc": found if refusal is None else f"refused: {refusal.reason}"}


def _absent(route: Route, device: torch.device) -> Refusal | None:
    """Why it cannot work, as far as that is known without an import."""
    if device.type not in DEVICES:
        return Refusal(f"it computes on {' or '.join(DEVICES)}, and this is {device.type}")
    if importlib.util.find_spec(route) is None:
        return Refusal(
            f"{route} is not installed: pip install {route}", ModuleNotFoundError(f"No module named {route!r}")
        )
    return None


def _try(route: Route, device: torch.device) -> Refusal | None:
    said = io.StringIO()  # nerfacc prints why its kernels are missing, to where a command's JSON goes
    try:
        with (
            contextlib.redirect_stdout(said),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            wrong = _disagreement(functions(route), device)
    except Exception as error:
        return Refusal(_words(route, error, said.getvalue()), error)
    return Refusal(wrong) if wrong else None


def _words(route: str, error: Exception, said: str) -> str:
    """The error, what the package printed, and for a compiled part that is missing what that means."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, AttributeError) and "NoneType" in text:
        text = f"its compiled part is missing ({text}); it needs nvcc at first use, or a wheel for this torch and CUDA"
    if isinstance(error, (AttributeError, TypeError)) and (version := _version(route)) != WRITTEN_FOR:
        text += f"; this release knows {route} {WRITTEN_FOR}, here is {version}"
    printed = " ".join(said.split())
    return f"{text}; it says: {printed[:300].rstrip('.')}" if printed else text


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "one of no version"


def _disagreement(theirs: Marching, device: torch.device) -> str:
    """What is wrong with the route's samples or weights, or nothing; raises whatever it raises."""
    draw = torch.Generator().manual_seed(0)
    grid = OccupancyGrid(CELLS)
    grid.set_occupied(torch.rand(CELLS, CELLS, CELLS, generator=draw) < 0.3)
    origin = torch.nn.functional.normalize(torch.randn(RAYS, 3, generator=draw), dim=-1) * 3
    origin[: RAYS // 8] *= 0.2  # some from within the box
    direction = torch.nn.functional.normalize(2 * torch.rand(RAYS, 3, generator=draw) - 1 - origin, dim=-1)
    offset = torch.rand(RAYS, generator=draw)
    grid, o, d, shift = grid.to(device), origin.to(device), direction.to(device), offset.to(device)
    found, wanted = (m.sample(o, d, occupancy=grid, step_size=STEP, offset=shift) for m in (theirs, TORCH))
    return _samples_differ(found, wanted, offset) or _weights_differ(theirs, wanted, draw)


def _samples_differ(found: Points, wanted: Points, offset: Tensor) -> str:
    keys, near = [], []
    for points in (found, wanted):
        ray, x, t = (column.cpu() for column in points)
        keys.append(ray * 1_000_000 + torch.round(t / STEP - offset[ray]).long())
        cell = (x.double() + 1) * (CELLS / 2)
        near.append((cell - cell.round()).abs().amin(-1) < WALL)
    if not bool((keys[0].diff() > 0).all()):
        return "its samples are not sorted by ray and distance"
    extra, missing = ((~torch.isin(a, b) & ~n).sum() for a, b, n in zip(keys, keys[::-1], near, strict=True))
    if extra or missing:
        return f"of {len(keys[1])} samples it leaves out {int(missing)} and has {int(extra)} of its own"
    both = [points.x.cpu()[torch.isin(a, b)] for points, a, b in zip((found, wanted), keys, keys[::-1], strict=True)]
    off = float((both[0] - both[1]).abs().max()) if len(both[0]) else 0.0
    return "" if off <= TOLERANCE * STEP else f"its samples lie {off:.1e} off, {TOLERANCE * STEP:.0e} is allowed"


def _weights_differ(theirs: Marching, points: Points, draw: torch.Generator) -> str:
    """Weights and transmittances of random densities, and the gradient to these, against float64 on the CPU."""
    density = 20 * torch.rand(len(points.ray), generator=draw)
    upstream = torch.randn(2, len(density), generator=draw)
    answers = []
    for weigh, device, dtype in (
        (theirs.weigh, points.ray.device, torch.float32),
        (visibility, torch.device("cpu"), torch.float64),
    ):
        sigma = density.to(device, dtype).requires_grad_()
        out = torch.stack(weigh(sigma, points.ray.to(device), STEP, RAYS))
        (slope,) = torch.autograd.grad(out, sigma, upstream.to(device, dtype))
        answers.append([v.detach().cpu().double() for v in (*out, slope)])
    for name, a, b in zip(("weight", "transmittance", "density gradient"), *answers, strict=True):
        off = float((a - b).abs().max() / b.abs().max())
        if not off <= TOLERANCE:
            return f"its {name} is {off:.1e} off the reference, {TOLERANCE:.0e} is allowed"
    return ""
