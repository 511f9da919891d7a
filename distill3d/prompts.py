"""View-dependent prompts: which words go with which side of the object (DreamFusion, https://arxiv.org/abs/2209.14988).

Sectors are tried in order and a later one overrides an earlier one, as in threestudio's prompt processor. Azimuth 0
is the front; both angles are as in ``render/cameras.py``. The negative prompt never gets a view suffix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import SettingsError

LINE = "name | azimuth low..high | elevation low..high | suffix"


@dataclass(frozen=True)
class Sector:
    """A part of the view sphere and the words it adds to the prompt."""

    name: str
    """Short name, shown in reports and used in file names."""
    suffix: str
    """Text put behind the prompt, with its own comma: ", front view"."""
    azimuth: tuple[float, float] = (-180.0, 180.0)
    """Degrees (low, high), high up to 360 above low; (135, 225) goes through the back. A full turn is every azimuth."""
    elevation: tuple[float, float] = (-90.0, 90.0)
    """Degrees (low, high) within -90..90. An end that is not a pole is itself outside the sector."""
    prefix: str = ""
    """Text put before the prompt, with its own blank: "front view of "."""

    def __post_init__(self) -> None:
        for axis in ("azimuth", "elevation"):
            pair = getattr(self, axis)
            try:
                low, high = (float(v) for v in pair)
            except (TypeError, ValueError):
                low, high = math.nan, math.nan
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise SettingsError(
                    f"expected the {axis} of sector {self.name!r} as (low, high) degrees with low < high, got {pair}: "
                    "write e.g. -45..45"
                )
            object.__setattr__(self, axis, (low, high))
        if self.azimuth[1] - self.azimuth[0] > 360:
            raise SettingsError(
                f"expected sector {self.name!r} to span at most 360 degrees, got {self.azimuth}: write -180..180"
            )
        if not -90 <= self.elevation[0] < self.elevation[1] <= 90:
            raise SettingsError(
                f"expected the elevation of sector {self.name!r} within -90..90 degrees, got {self.elevation}: "
                "write e.g. 60..90"
            )
        for part in ("name", "suffix", "prefix"):
            if not isinstance(getattr(self, part), str):
                raise SettingsError(
                    f"expected a sector's {part} as text, got {getattr(self, part)!r}: put it in quotes"
                )
        if not self.name.strip():
            raise SettingsError("expected every sector to have a name, got an empty one: write e.g. front")

    @property
    def covers_all(self) -> bool:
        """Whether every view falls into this sector."""
        return self.azimuth[1] - self.azimuth[0] == 360 and self.elevation == (-90.0, 90.0)

    def contains(self, azimuth: Tensor, elevation: Tensor) -> Tensor:
        """``(B,)`` bool of ``(B,)`` angles in degrees, azimuth in any turn."""
        low, high = self.azimuth
        turned = torch.remainder(azimuth - low, 360)
        inside = ((turned > 0) & (turned < high - low)) | torch.full_like(turned, high - low >= 360, dtype=torch.bool)
        bottom, top = self.elevation
        above = (elevation > bottom) | torch.full_like(inside, bottom <= -90)
        below = (elevation < top) | torch.full_like(inside, top >= 90)
        return inside & above & below

    def text(self, prompt: str) -> str:
        """The prompt with this sector's words."""
        return f"{self.prefix}{prompt}{self.suffix}"


def make_sectors(front: float = 45.0, back: float = 45.0, overhead: float = 60.0) -> tuple[Sector, ...]:
    """threestudio's four sectors: ``front`` and ``back`` are half widths, ``overhead`` the elevation it starts above.

    Raises:
        SettingsError: a half width outside 0..180 or an elevation outside -90..90 (ends excluded).
    """
    return (
        Sector("side", ", side view"),
        Sector("front", ", front view", (-front, front)),
        Sector("back", ", back view", (180 - back, 180 + back)),
        Sector("overhead", ", overhead view", elevation=(overhead, 90.0)),
    )


DEFAULT_SECTORS = make_sectors()
NARROW_SECTORS = make_sectors(front=30.0, back=30.0)
"""The thresholds of the VSD, CSD, ASD and SDS-Bridge configurations."""


def _span(text: str) -> tuple[float, float]:
    low, high = text.split("..")
    return float(low), float(high)


def parse_sectors(value: str | Sequence[Sector | Mapping[str, Any]]) -> tuple[Sector, ...]:
    """Sectors from one line each (``name | -45..45 | -90..90 | , front view``), from JSON, or from a list of them.

    Raises:
        SettingsError: a line or entry that cannot be read, no sector, two of one name, or a first sector that
            leaves views without a text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise SettingsError(f"expected sectors as a JSON list, got text that breaks at {error}: fix it") from None
    entries: list[Sector] = []
    for entry in value.splitlines() if isinstance(value, str) else value:
        if isinstance(entry, str) and not entry.strip():
            continue
        try:
            entries.append(_parse_sector(entry))
        except SettingsError:
            raise
        except (TypeError, ValueError, AttributeError):
            raise SettingsError(
                f"expected a sector as  {LINE}  got {entry!r}: write e.g. front | -45..45 | -90..90 | , front view"
            ) from None
    return check_sectors(entries)


def _parse_sector(entry: str | Sector | Mapping[str, Any]) -> Sector:
    if isinstance(entry, Sector):
        return entry
    if isinstance(entry, Mapping):
        return Sector(**entry)
    name, azimuth, elevation, suffix = entry.split("|", 3)
    return Sector(name.strip(), suffix.strip(), _span(azimuth), _span(elevation))


def format_sectors(sectors: Sequence[Sector]) -> str:
    """One line a sector, as ``parse_sectors`` reads it; sectors with a prefix come as JSON."""
    if any(s.prefix or s.suffix != s.suffix.strip() or "\n" in s.suffix for s in sectors):
        return json.dumps([asdict(s) for s in sectors])
    return "\n".join(
        f"{s.name} | {s.azimuth[0]:.10g}..{s.azimuth[1]:.10g} | {s.elevation[0]:.10g}..{s.elevation[1]:.10g} | "
        f"{s.suffix}"
        for s in sectors
    )


def check_sectors(sectors: Sequence[Sector]) -> tuple[Sector, ...]:
    """The same sectors as a tuple, once they are usable. Raises as ``parse_sectors`` does."""
    if not sectors:
        raise SettingsError(
            "expected at least one sector, got none: write one for every view, any | -180..180 | -90..90 |"
        )
    names = [s.name for s in sectors]
    if len(set(names)) < len(names):
        raise SettingsError(f"expected sectors with different names, got {names}: rename one")
    if not sectors[0].covers_all:
        raise SettingsError(
            f"expected the first sector to cover every view, got {sectors[0].name!r} with azimuth "
            f"{sectors[0].azimuth} and elevation {sectors[0].elevation}: put one with -180..180 and -90..90 first"
        )
    return tuple(sectors)


@dataclass(frozen=True)
class ViewPrompts:
    """A prompt, its negative, and the words each side of the object adds.

    >>> ViewPrompts("a red cube").texts[1]
    'a red cube, front view'
    """

    prompt: str
    """What to build: a noun phrase without view words, such as "a red cube"."""
    negative: str = ""
    """What to move away from; empty is the empty prompt. It gets no view words."""
    sectors: tuple[Sector, ...] = DEFAULT_SECTORS
    """Parts of the view sphere; the first covers everything, later ones override earlier ones."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise SettingsError(f"expected a prompt, got {self.prompt!r}: describe one object, e.g. 'a red cube'")
        object.__setattr__(self, "prompt", self.prompt.strip())
        object.__setattr__(self, "negative", self.negative.strip())
        object.__setattr__(self, "sectors", check_sectors(self.sectors))

    @property
    def texts(self) -> tuple[str, ...]:
        """The target text of each sector, in the sectors' order."""
        return tuple(sector.text(self.prompt) for sector in self.sectors)

    @property
    def names(self) -> tuple[str, ...]:
        """The sectors' names, in the same order."""
        return tuple(sector.name for sector in self.sectors)

    def select(self, azimuth: Tensor, elevation: Tensor) -> Tensor:
        """``(B,)`` long index into ``texts`` of views at ``(B,)`` azimuth and elevation in radians, on their device."""
        index = torch.zeros(azimuth.shape, dtype=torch.long, device=azimuth.device)
        azi, ele = torch.rad2deg(azimuth), torch.rad2deg(elevation)
        for k, sector in enumerate(self.sectors):
            index = torch.where(sector.contains(azi, ele), torch.full_like(index, k), index)
        return index
