"""Pinhole cameras on an orbit around the origin, and the rays through their pixels.

The one place that fixes the coordinate frame: y is up, the frame is right-handed, the object stands inside
``[-1, 1]^3``, and its front faces +z. A camera at azimuth 0 and elevation 0 stands on +z and sees the front;
azimuth 90 stands on +x and sees the object's left side; positive elevation looks down from above.
Camera axes follow OpenGL and glTF: x right, y up, and the camera looks along its own -z.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices import upload
from ..errors import SettingsError
from ..schedules import Constant, Schedule, parse


@dataclass(frozen=True)
class Cameras:
    """A batch of ``B`` pinhole cameras.

    Attributes:
        c2w: ``(B, 3, 4)`` float, camera to world; columns are right, up, backward, position.
        fov: ``(B,)`` float, vertical field of view in radians.
        azimuth: ``(B,)`` float, radians, wrapped to [-pi, pi).
        elevation: ``(B,)`` float, radians.
    """

    c2w: Tensor
    fov: Tensor
    azimuth: Tensor
    elevation: Tensor

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        return Cameras(self.c2w[index], self.fov[index], self.azimuth[index], self.elevation[index])

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(*(upload(v, device) for v in (self.c2w, self.fov, self.azimuth, self.elevation)))

    @property
    def position(self) -> Tensor:
        """``(B, 3)`` camera centres in world coordinates."""
        return self.c2w[:, :, 3]


def _vector(values: float | Iterable[float] | Tensor) -> Tensor:
    if not isinstance(values, Tensor):
        values = torch.tensor([values] if isinstance(values, (int, float)) else list(values))
    return values.float().reshape(-1)


def _degrees(values: float | Iterable[float] | Tensor) -> Tensor:
    return torch.deg2rad(_vector(values))


def orbit(
    azimuth: float | Iterable[float] | Tensor,
    elevation: float | Iterable[float] | Tensor,
    radius: float | Iterable[float] | Tensor = 3.0,
    fov: float | Iterable[float] | Tensor = 42.0,
) -> Cameras:
    """Cameras that look at the origin; angles in degrees, radius in world units, all broadcast to one batch.

    >>> orbit(90, 0, radius=2).position.round().tolist()
    [[2.0, 0.0, 0.0]]
    """
    columns = (_degrees(azimuth), _degrees(elevation), _vector(radius), _degrees(fov))
    device = next((c.device for c in columns if c.device.type != "cpu"), columns[0].device)
    azi, ele, distance, fov_y = torch.broadcast_tensors(*(c.to(device) for c in columns))
    azi = torch.remainder(azi + math.pi, 2 * math.pi) - math.pi
    sin_a, cos_a, sin_e, cos_e = azi.sin(), azi.cos(), ele.sin(), ele.cos()
    right = torch.stack([cos_a, torch.zeros_like(azi), -sin_a], -1)
    up = torch.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], -1)
    backward = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], -1)
    c2w = torch.stack([right, up, backward, distance[:, None] * backward], -1)
    return Cameras(c2w, fov_y.clone(), azi, ele.clone())


def rays(cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Origins and unit directions ``(B, height, width, 3)`` of the rays through pixel centres, row 0 at the top."""
    device = cameras.c2w.device
    half = torch.tan(cameras.fov / 2)[:, None, None]
    y = 1 - 2 * (torch.arange(height, device=device) + 0.5) / height
    x = (2 * (torch.arange(width, device=device) + 0.5) / width - 1) * (width / height)
    x, y = half * x[None, None, :], half * y[None, :, None]
    x, y = torch.broadcast_tensors(x, y)
    local = torch.stack([x, y, -torch.ones_like(x)], -1)
    world = torch.einsum("bij,bhwj->bhwi", cameras.c2w[:, :, :3], local)
    direction = torch.nn.functional.normalize(world, dim=-1)
    return cameras.position[:, None, None].expand_as(direction), direction


def ring(count: int, elevation: float = 15.0, radius: float = 3.0, fov: float = 42.0, start: float = 0.0) -> Cameras:
    """``count`` cameras at equal azimuth steps from ``start`` degrees, the last one a step short of a full turn."""
    if count < 1:
        raise ValueError(f"expected at least one camera on the ring, got {count}: use count=1 or more")
    if not (math.isfinite(elevation + start) and 0 < radius < math.inf and 0 < fov < 180):
        raise SettingsError(
            f"expected a finite elevation, a radius above 0 and a fov of 0 to 180 degrees, got {elevation}, {radius} "
            f"and {fov}: 15, 3 and 42 are usual"
        )
    azimuth = start + torch.arange(count) * (360.0 / count)
    return orbit(azimuth, elevation, radius, fov)


@dataclass(frozen=True)
class CameraRanges:
    """Where training cameras are drawn from; each pair is (lowest, highest).

    Half of every batch's elevations are uniform in angle and half uniform on the sphere, as in DreamFusion
    (arXiv 2209.14988, appendix A.2) and threestudio; azimuths are spread evenly over the batch with one random
    offset per camera inside its share, so that a batch of two or more never looks at one side only.
    """

    elevation: tuple[float, float] = (-10.0, 75.0)
    """Lowest and highest elevation in degrees; 90 looks straight down."""
    azimuth: tuple[float, float] = (-180.0, 180.0)
    """Range of azimuths in degrees; 0 is the front. Narrow it to build one side only."""
    radius: tuple[float, float] = (2.8, 3.3)
    """Nearest and farthest camera in world units; the object fits a ball of radius 1."""
    fov: tuple[float, float] = (38.0, 46.0)
    """Narrowest and widest vertical field of view in degrees."""
    focus: Schedule = Constant(0.0)
    """Share of cameras, over the run, that look from the nearest middle of the four sides (azimuth 0, 90, 180 or 270)
    instead. "Front view" does not say from how far aside, so a prior that draws the front in the middle of every such
    picture draws it several times over around the object; cameras in the middles agree. A range of azimuths without
    such a middle has none. Our own; 0 is none."""
    level: Schedule = Constant(0.0)
    """Share of cameras, over the run, that look from one height instead, all around. "Side view" does not say from how
    high, so at much noise a prior draws what it sees as from its middle height, and a shape that is to look so from
    every height tapers downwards and loses its edges; cameras at that height agree. Our own; 0 is none."""
    focus_elevation: float = 35.0
    """Elevation of the cameras of focus and level in degrees, kept within the range of elevation."""

    def __post_init__(self) -> None:
        for name in ("focus", "level"):
            share = parse(getattr(self, name))
            object.__setattr__(self, name, share)
            low, high = share.extremes()
            if not 0 <= low <= high <= 1:
                raise SettingsError(f"expected a {name} within 0..1 throughout, got {share}: 0 is none, 1 every camera")
        if not -90 <= self.focus_elevation <= 90:
            raise SettingsError(
                f"expected a focus_elevation within -90..90 degrees, got {self.focus_elevation}: try 35"
            )
        for name in ("elevation", "azimuth", "radius", "fov"):
            low, high = getattr(self, name)
            if not low <= high:
                raise SettingsError(f"expected {name} as (low, high) with low <= high, got ({low}, {high}): swap them")
        if self.radius[0] <= 0 or not 0 < self.fov[0] <= self.fov[1] < 180:
            got = f"{self.radius} and {self.fov}"
            raise SettingsError(
                f"expected radius > 0 and 0 < fov < 180 degrees, got {got}: 2.8..3.3 and 38..46 are usual"
            )
        if not -90 <= self.elevation[0] <= self.elevation[1] <= 90:
            raise SettingsError(f"expected elevation within -90..90 degrees, got {self.elevation}: -10..75 is usual")


def sample(ranges: CameraRanges, count: int, generator: torch.Generator, progress: float) -> Cameras:
    """Draw ``count`` cameras on the generator's device; ``progress`` in 0..1 is the share of the run that is done."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)

    low, high = ranges.azimuth
    place = (torch.arange(count, device=generator.device) + uniform(0, 1)) / count
    turn = torch.rand((), generator=generator, device=generator.device)
    azimuth = low + (high - low) * torch.remainder(place + turn, 1)
    angle = uniform(*ranges.elevation)
    sines = [math.sin(math.radians(v)) for v in ranges.elevation]
    sphere = torch.rad2deg(torch.asin(uniform(*sines).clamp(-1, 1)))
    elevation = torch.where(uniform(0, 1) < 0.5, angle, sphere)
    radius, fov = uniform(*ranges.radius), uniform(*ranges.fov)
    height = min(max(ranges.focus_elevation, ranges.elevation[0]), ranges.elevation[1])
    if share := ranges.level(progress):
        elevation = torch.where(uniform(0, 1) < share, height, elevation)
    if share := ranges.focus(progress):
        middle = 90 * (azimuth / 90).round().clamp(math.ceil(low / 90), math.floor(high / 90))
        chosen = (uniform(0, 1) < share) & (middle >= low)
        azimuth = torch.where(chosen, middle, azimuth)
        elevation = torch.where(chosen, height, elevation)
    return orbit(azimuth, elevation, radius, fov)
