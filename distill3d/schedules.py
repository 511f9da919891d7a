"""Values that change over a run, and the window timesteps are drawn from.

A schedule is a frozen value that is called with the run's progress, 0 at the start and 1 at the end (iteration
divided by iterations), and gives a float. Outside its own span it holds its end values. ``str(schedule)`` is what
``parse`` reads back; ``to_json`` and ``from_json`` carry every schedule exactly.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .errors import SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMS = (
    "7.5 | 100->60 | linear(100, 60) | linear(100, 60, from=0.2, to=0.8) | cosine(100, 60) | "
    "power(100, 60, exponent=0.5) | step(0.98, 0.5, at=0.2) | piecewise(0:0, 0.5:-1, 1:-0.5) | "
    "staircase(linear(1, 0), every=0.1); positions are shares of the run, 0 to 1"
)


NARROWEST = 1e-6
"""Narrowest stairs of a staircase, as a share of the run: no run has more iterations."""


class Schedule(ABC):
    """A float over progress in [0, 1]."""

    kind: ClassVar[str]

    @abstractmethod
    def __call__(self, progress: float) -> float: ...

    def turns(self) -> tuple[float, ...]:
        """Positions between which the schedule rises or falls all the way; of a jump, both its sides."""
        return ()

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value over 0..1."""
        values = [self(p) for p in _places(self)]
        return min(values), max(values)

    def plot(
        self, title: str = "", *, x: str = "share of the run", y: str = "value", size: tuple[int, int] = (480, 240)
    ) -> Image:
        """A PIL picture of the schedule over 0..1; for one over the timestep pass ``x="t / T"``."""
        from .plots import chart

        points = [(i / 200, self(i / 200)) for i in range(201)]
        return chart({str(self): points}, title=title, x=x, y=y, size=size)

    def _check_finite(self, *values: float) -> None:
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
            raise SettingsError(f"expected finite numbers in the {self.kind} schedule, got {values}: write 100->60")


def _places(*schedules: Schedule) -> list[float]:
    """Hundredths of the run, and within it every turn of the schedules."""
    turns = {p for schedule in schedules for p in schedule.turns() if 0 <= p <= 1}
    return sorted(turns | {i / 100 for i in range(101)})


def _before(position: float) -> float:
    return math.nextafter(position, -math.inf)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value throughout."""

    value: float
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        self._check_finite(self.value)

    def __call__(self, progress: float) -> float:
        return float(self.value)

    def __str__(self) -> str:
        return f"{self.value:g}" if float(f"{self.value:g}") == self.value else repr(self.value)


@dataclass(frozen=True)
class _Ramp(Schedule):
    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        self._check_finite(self.start, self.end, self.begin, self.until)
        if not self.begin < self.until:
            raise SettingsError(
                f"expected the {self.kind} schedule to begin before it ends, got from={self.begin} to={self.until}: "
                "for a jump write step(0.98, 0.5, at=0.2)"
            )

    def _shape(self, p: float) -> float:
        return p

    def turns(self) -> tuple[float, ...]:
        return self.begin, self.until

    def __call__(self, progress: float) -> float:
        p = (progress - self.begin) / (self.until - self.begin)
        if p <= 0:
            return float(self.start)
        if p >= 1:
            return float(self.end)
        return self.start + (self.end - self.start) * self._shape(p)

    def __str__(self) -> str:
        span = "" if (self.begin, self.until) == (0.0, 1.0) else f", from={self.begin!r}, to={self.until!r}"
        return f"{self.kind}({self.start!r}, {self.end!r}{span})"


@dataclass(frozen=True)
class Linear(_Ramp):
    """A straight line from ``start`` at ``begin`` to ``end`` at ``until``.

    >>> Linear(100, 60)(0.5)
    80.0
    """

    kind: ClassVar[str] = "linear"


@dataclass(frozen=True)
class Cosine(_Ramp):
    """Half a cosine wave: level at both ends, steepest in the middle."""

    kind: ClassVar[str] = "cosine"

    def _shape(self, p: float) -> float:
        return (1 - math.cos(math.pi * p)) / 2


@dataclass(frozen=True)
class Power(_Ramp):
    """``start + (end - start) p^exponent``; exponent 0.5 is HiFA's annealing (https://arxiv.org/abs/2305.18766)."""

    exponent: float = 0.5
    kind: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_finite(self.exponent)
        if self.exponent <= 0:
            raise SettingsError(f"expected an exponent above 0, got {self.exponent}: 0.5 is the square root")

    def _shape(self, p: float) -> float:
        return float(p**self.exponent)

    def __str__(self) -> str:
        return f"{super().__str__()[:-1]}, exponent={self.exponent!r})"


@dataclass(frozen=True)
class Step(Schedule):
    """``before`` while progress is below ``at``, ``after`` from ``at`` on."""

    before: float
    after: float
    at: float
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        self._check_finite(self.before, self.after, self.at)

    def turns(self) -> tuple[float, ...]:
        return _before(self.at), self.at

    def __call__(self, progress: float) -> float:
        return float(self.before if progress < self.at else self.after)

    def __str__(self) -> str:
        return f"step({self.before!r}, {self.after!r}, at={self.at!r})"


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Straight lines through ``(progress, value)`` points in ascending order.

    Two points at one position are a jump, and the later one holds from there on.
    """

    points: tuple[tuple[float, float], ...]
    kind: ClassVar[str] = "piecewise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple((float(x), float(v)) for x, v in self.points))
        self._check_finite(*(number for point in self.points for number in point))
        positions = [x for x, _ in self.points]
        if not positions or positions != sorted(positions):
            raise SettingsError(
                f"expected points in ascending order of position, got {positions}: write e.g. piecewise(0:0, 0.5:-1)"
            )

    def turns(self) -> tuple[float, ...]:
        return tuple(side for x, _ in self.points for side in (_before(x), x))

    def __call__(self, progress: float) -> float:
        right = bisect.bisect_right([x for x, _ in self.points], progress)
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (x0, v0), (x1, v1) = self.points[right - 1], self.points[right]
        return v0 + (v1 - v0) * ((progress - x0) / (x1 - x0))

    def __str__(self) -> str:
        return f"piecewise({', '.join(f'{x!r}:{v!r}' for x, v in self.points)})"


@dataclass(frozen=True)
class Staircase(Schedule):
    """Another schedule, read only every ``every`` of the run and held in between (threestudio's epochs)."""

    of: Schedule
    every: float
    kind: ClassVar[str] = "staircase"

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", parse(self.of))
        self._check_finite(self.every)
        if self.every < NARROWEST:
            raise SettingsError(
                f"expected stairs of {NARROWEST:g} of the run or wider, got every={self.every}: 0.1 makes ten of them"
            )

    def turns(self) -> tuple[float, ...]:
        stairs = {math.floor(p / self.every + 1e-9) for p in self.of.turns() if 0 <= p <= 1}
        return tuple(k * self.every for stair in stairs for k in (stair, stair + 1))

    def __call__(self, progress: float) -> float:
        return self.of(math.floor(progress / self.every + 1e-9) * self.every)

    def __str__(self) -> str:
        return f"staircase({self.of}, every={self.every!r})"


_KINDS: dict[str, type[Schedule]] = {k.kind: k for k in (Constant, Linear, Cosine, Power, Step, Piecewise, Staircase)}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ARROW = re.compile(rf"({_NUMBER})\s*->\s*({_NUMBER})")
_CALL = re.compile(r"(\w+)\s*\((.*)\)", re.DOTALL)
_STAIRS = re.compile(rf"(.*),\s*every\s*=\s*({_NUMBER})", re.DOTALL)
_NAMES = {"from": "begin", "to": "until", "at": "at", "exponent": "exponent"}


def _unreadable(value: object) -> SettingsError:
    return SettingsError(f"expected a schedule, got {value!r}: write one of  {FORMS}")


def _number(text: str) -> float:
    if not re.fullmatch(_NUMBER, text.strip()):
        raise ValueError(text)
    return float(text)


def _share(text: str) -> float:
    if not 0 <= (share := _number(text)) <= 1:
        raise SettingsError(
            f"expected a share of the run from 0 to 1, got {share:g}: divide the iteration by the number of iterations"
        )
    return share


def _parse_text(text: str) -> Schedule:
    if re.fullmatch(_NUMBER, text):
        return Constant(float(text))
    if arrow := _ARROW.fullmatch(text):
        return Linear(float(arrow[1]), float(arrow[2]))
    call = _CALL.fullmatch(text)
    if call is None:
        raise ValueError(text)
    kind, inside = call[1].lower(), call[2]
    if kind == "staircase" and (stairs := _STAIRS.fullmatch(inside.strip())):
        return Staircase(_parse_text(stairs[1].strip()), _share(stairs[2]))
    parts = [part.strip() for part in inside.split(",")]
    if kind == "piecewise":
        pairs = [part.split(":") for part in parts]
        return Piecewise(tuple((_share(x), _number(v)) for x, v in pairs))
    values = [_number(part) for part in parts if "=" not in part]
    named = [[side.strip() for side in part.split("=")] for part in parts if "=" in part]
    options = {_NAMES[n]: _number(v) if n == "exponent" else _share(v) for n, v in named}
    if kind in ("constant", "staircase") or len(values) != 2 or len(options) != len(named):
        raise ValueError(text)
    return _KINDS[kind](*values, **options)


def parse(value: Schedule | float | str | Mapping[str, Any]) -> Schedule:
    """A schedule from what a user may write: a number, text in one of ``FORMS``, ``to_json``'s dict, or a schedule.

    Raises:
        SettingsError: anything else; the message lists the accepted forms.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Constant(float(value))
    if isinstance(value, Mapping):
        return from_json(value)
    if not isinstance(value, str):
        raise _unreadable(value)
    try:
        return _parse_text(value.strip())
    except SettingsError:
        raise
    except (ValueError, KeyError, TypeError):
        raise _unreadable(value) from None


def to_json(schedule: Schedule) -> dict[str, Any]:
    """A plain dict of JSON types: ``{"kind": "linear", "start": 100, ...}``."""
    out: dict[str, Any] = {"kind": schedule.kind}
    for field in dataclasses.fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, field.name)
        out[field.name] = to_json(value) if isinstance(value, Schedule) else value
    if isinstance(schedule, Piecewise):
        out["points"] = [list(point) for point in schedule.points]
    return out


def from_json(data: Mapping[str, Any]) -> Schedule:
    """The schedule ``to_json`` wrote.

    Raises:
        SettingsError: an unknown kind, or fields that the kind does not have or lacks.
    """
    kind = _KINDS.get(str(data.get("kind")))
    if kind is None:
        raise SettingsError(f"expected a schedule kind of {', '.join(_KINDS)}, got {data.get('kind')!r}: fix the file")
    fields = {name: value for name, value in data.items() if name != "kind"}
    try:
        return kind(**fields)
    except SettingsError:
        raise
    except (TypeError, ValueError):
        names = ", ".join(f.name for f in dataclasses.fields(kind))  # type: ignore[arg-type]
        raise SettingsError(
            f"expected the fields {names} for a {data['kind']} schedule, got {fields}: fix the file"
        ) from None


def from_iterations(value: float | Sequence[float], total: int, steps_per_epoch: int | None = None) -> Schedule:
    """threestudio's scalar list ``C(value, epoch, step)`` as a schedule over a run of ``total`` iterations.

    A number is constant; ``[v0, v1, s1]`` and ``[s0, v0, v1, s1]`` are straight lines in the iteration;
    ``[s0, v0, v1, s1, v2, s2, ...]`` is piecewise linear. If the last entry ``s1`` of the short forms is a float it
    and ``s0`` count epochs, whose value moves once an epoch. Source: threestudio/utils/misc.py.

    >>> schedule = from_iterations([5000, 0.98, 0.5, 5001], total=10000)
    >>> schedule(5000 / 10000), schedule(5001 / 10000)
    (0.98, 0.5)

    Raises:
        SettingsError: a list of another length, steps that do not ascend, epochs without ``steps_per_epoch`` or
            inside a piecewise list, or ``total`` below 1.
    """
    if total < 1:
        raise SettingsError(f"expected a run of at least one iteration, got {total}: give the run's length")
    if isinstance(value, (int, float)):
        return Constant(float(value))
    entries = list(value)
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in entries):
        raise SettingsError(f"expected a list of numbers, got {entries}: write e.g. [0, 0.98, 0.5, 5000]")
    if len(entries) == 3:
        entries = [0, *entries]
    if len(entries) < 4 or len(entries) % 2:
        raise SettingsError(
            f"expected a number, [v0, v1, s1], [s0, v0, v1, s1] or [s0, v0, v1, s1, v2, s2, ...], got {entries}: "
            "write e.g. [0, 0.98, 0.5, 5000]"
        )
    steps = [entries[0], *entries[3::2]]
    values = [entries[1], *entries[2::2]]
    if any(a >= b for a, b in itertools.pairwise(steps)):
        raise SettingsError(f"expected ascending steps, got {steps} in {entries}: write them in order")
    if len(entries) > 4:
        if any(isinstance(s, float) for s in steps[1:]):
            raise SettingsError(f"expected whole iterations in a piecewise list, got {steps}: write them as integers")
        return _within([s / total for s in steps], values)
    if not isinstance(steps[1], float):
        return _within([s / total for s in steps], values)
    if steps_per_epoch is None or steps_per_epoch < 1:
        raise SettingsError(
            f"expected steps_per_epoch, because the end {steps[1]} of {entries} is a float and so counts epochs: "
            f"give it, or write {int(steps[1])} to count iterations"
        )
    epoch = steps_per_epoch / total
    return Staircase(_within([s * epoch for s in steps], values), epoch)


def _within(shares: Sequence[float], values: Sequence[float]) -> Schedule:
    """Straight lines through the points, those after the run's end cut off: what texts may say ends at 1."""
    if shares[0] >= 1:
        return Constant(float(values[0]))
    points = list(zip(shares, values, strict=True))
    kept = [point for point in points if point[0] <= 1]
    if len(kept) < len(points) and kept[-1][0] < 1:
        kept.append((1.0, Piecewise(tuple(points))(1.0)))
    if len(kept) == 2 and len(points) == 2:
        (begin, start), (until, end) = kept
        return Linear(start, end, begin, until)
    return Piecewise(tuple(kept))


@dataclass(frozen=True)
class TimestepWindow:
    """The range of diffusion timesteps a step draws from, as shares of the prior's T; both ends belong to it."""

    minimum: Schedule = Constant(0.02)
    """Lowest timestep as a share of T, 0 to 1. Small timesteps shape texture; below 0.02 noise is too faint."""
    maximum: Schedule = Constant(0.98)
    """Highest timestep as a share of T, 0 to 1. Large timesteps shape the whole object; lower it late in the run."""
    shared: bool = False
    """One timestep for the whole batch (multi-view priors) instead of one for each image."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "minimum", parse(self.minimum))
        object.__setattr__(self, "maximum", parse(self.maximum))
        for progress in _places(self.minimum, self.maximum):
            self.bounds(progress)

    def to_json(self) -> dict[str, Any]:
        """A plain dict of JSON types."""
        return {"minimum": to_json(self.minimum), "maximum": to_json(self.maximum), "shared": self.shared}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TimestepWindow:
        """The window ``to_json`` wrote; schedules may also be numbers or text."""
        if unknown := sorted(set(data) - {"minimum", "maximum", "shared"}):
            raise SettingsError(f"expected a window with minimum, maximum, shared, got {', '.join(unknown)}: remove it")
        return cls(**data)

    def bounds(self, progress: float, T: int = 1000) -> tuple[int, int]:
        """``(lowest, highest)`` timestep, ``int(T * share)`` each (guarded against 0.57 * 100 = 56.99...), at most T-1.

        Raises:
            SettingsError: a share outside 0..1, or the minimum above the maximum.
        """
        low, high = self.minimum(progress), self.maximum(progress)
        if not 0 <= low <= high <= 1:
            raise SettingsError(
                f"expected 0 <= minimum <= maximum <= 1, got {low:g} and {high:g} at {100 * progress:.4g}% of the run: "
                "shares of T such as 0.02 and 0.98"
            )
        first, last = (min(math.floor(T * share + 1e-9), T - 1) for share in (low, high))
        return first, last

    def plot(self, title: str = "", *, T: int = 1000, size: tuple[int, int] = (480, 240)) -> Image:
        """A PIL picture of the lowest and highest timestep over the run."""
        from .plots import chart

        ends = [(i / 200, self.bounds(i / 200, T)) for i in range(201)]
        lines = {"highest": [(p, float(b[1])) for p, b in ends], "lowest": [(p, float(b[0])) for p, b in ends]}
        return chart(lines, title=title, x="share of the run", y="timestep", size=size)

    def sample(self, count: int, progress: float, generator: torch.Generator, T: int = 1000) -> Tensor:
        """``(count,)`` long timesteps on the generator's device, uniform over the window, both ends included."""
        low, high = self.bounds(progress, T)
        drawn = 1 if self.shared else count
        t = torch.randint(low, high + 1, (drawn,), generator=generator, device=generator.device)
        return t.expand(count).clone()


WINDOWS: dict[str, TimestepWindow] = {
    "fixed": TimestepWindow(),
    "annealed": TimestepWindow(maximum=Step(0.98, 0.5, at=0.2)),
    "halved": TimestepWindow(maximum=Step(0.98, 0.5, at=0.5)),
    "refine": TimestepWindow(maximum=Constant(0.5)),
    "sliding": TimestepWindow(Linear(0.5, 0.02), Linear(0.98, 0.5)),
    "multi-view": TimestepWindow(Linear(0.98, 0.02, until=0.8), Linear(0.98, 0.5, until=0.8), shared=True),
    "sqrt": TimestepWindow(Power(0.98, 0.02), Power(0.98, 0.02)),
}
"""Published windows: ``fixed`` SDS; ``annealed`` ProlificDreamer (5,000 of 25,000) and ``halved`` CSD (5,000 of
10,000); ``refine`` CSD's second stage; ``sliding`` ASD; ``multi-view`` MVDream; ``sqrt`` HiFA, one falling timestep."""

DYNAMIC_GUIDANCE: dict[str, Schedule] = {
    "mvdream": Linear(50.0, 30.0),
    "stable-diffusion": Linear(101.0, 61.0),
    "deepfloyd": Linear(21.0, 13.0),
}
"""Guidance that falls over the run: a large scale sets the size early, a smaller one smooths the surface late. That it
falls we infer from those effects, which are arXiv 2505.19868's; the end points, about 0.6 of the start, are ours."""
