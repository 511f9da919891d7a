"""Lambertian shading by a point light, as in DreamFusion (arXiv 2209.14988, section 3.1, equation 7 and appendix A.2).

``c = rho * (l_rho * max(0, n . (l - mu) / |l - mu|) + l_a)``: shading makes geometry visible to the diffusion model,
and replacing the albedo ``rho`` by white ("textureless") forbids it to paint what it should shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingsError
from .cameras import Cameras, orbit

Mode = Literal["albedo", "lambertian", "textureless"]


@dataclass(frozen=True)
class Shading:
    """How the samples of one batch are lit.

    Attributes:
        mode: ``albedo`` (unlit), ``lambertian`` (albedo times light) or ``textureless`` (white times light).
        light: ``(B, 3)`` world position of each camera's point light; unused and may be ``None`` for ``albedo``.
        ambient: ``l_a``.
        diffuse: ``l_rho``.
    """

    mode: Mode = "albedo"
    light: Tensor | None = None
    ambient: float = 0.1
    diffuse: float = 0.9

    def __post_init__(self) -> None:
        if self.mode not in ("albedo", "lambertian", "textureless"):
            raise ValueError(f"expected mode albedo, lambertian or textureless, got {self.mode!r}")
        if self.mode != "albedo" and self.light is None:
            raise ValueError(f"expected light positions (B, 3) for {self.mode!r}, got None: use headlight(cameras)")

    @property
    def needs_normals(self) -> bool:
        return self.mode != "albedo"


@dataclass(frozen=True)
class ShadingSettings:
    """When and how training renders are lit."""

    start: float = 0.2
    """Share of the run that renders plain albedo before shading begins (threestudio: 2k of 10k)."""
    albedo_probability: float = 0.25
    """Chance of a plain albedo step once shading has begun."""
    textureless_probability: float = 0.5
    """Chance that a shaded step shows white material, so that only shape can explain the picture."""
    ambient: float = 0.1
    """Light that reaches every point; with the diffuse light it should add up to 1."""
    diffuse: float = 0.9
    """Strength of the point light."""
    lamp: Literal["camera", "above"] = "camera"
    """Where the light stands: anywhere around the camera (DreamFusion), or above, within lamp_elevation and
    lamp_azimuth. Use above for a model whose pictures are lit from above: under a light it does not expect, it bends
    the shape until the shade is right."""
    lamp_elevation: tuple[float, float] = (25.0, 75.0)
    """Lowest and highest elevation in degrees of a light that stands above."""
    lamp_azimuth: float = 70.0
    """Most degrees to either side of the camera of a light that stands above."""
    light_spread: float = 0.8
    """Standard deviation of the place of a light around the camera, in camera distances."""
    light_distance: tuple[float, float] = (0.8, 1.5)
    """Range of the light's distance from the origin, in camera distances."""

    def __post_init__(self) -> None:
        for name in ("start", "albedo_probability", "textureless_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"expected {name} within 0..1, got {getattr(self, name)}")
        if self.ambient < 0 or self.diffuse < 0 or self.light_spread < 0:
            raise SettingsError("expected ambient, diffuse and light_spread of 0 or more")
        if not 0 < self.light_distance[0] <= self.light_distance[1]:
            raise SettingsError(f"expected light_distance as 0 < low <= high, got {self.light_distance}")
        if self.lamp not in ("camera", "above"):
            raise SettingsError(f"expected a lamp of camera or above, got {self.lamp!r}: camera is DreamFusion's")
        if not -90 <= self.lamp_elevation[0] <= self.lamp_elevation[1] <= 90 or not 0 <= self.lamp_azimuth <= 180:
            raise SettingsError(
                "expected lamp_elevation as (low, high) within -90..90 and lamp_azimuth within 0..180 degrees, got "
                f"{self.lamp_elevation} and {self.lamp_azimuth:g}: 25..75 and 70 are usual"
            )


def sample_lights(
    cameras: Cameras, generator: torch.Generator, *, spread: float = 0.8, distance: tuple[float, float] = (0.8, 1.5)
) -> Tensor:
    """``(B, 3)`` light positions: direction of ``N(camera, spread^2 I)``, distance uniform in ``distance``.

    DreamFusion's cameras stand 1 to 1.5 units away and its lights are ``N(camera, 1)`` at 0.8 to 1.5 units
    (threestudio: ``light_position_perturb``, ``light_distance_range``). Both are taken here relative to the camera's
    distance, so the geometry is the same for any camera radius.
    """
    position = cameras.position
    radius = position.norm(dim=-1, keepdim=True)
    noise = torch.randn(len(position), 3, generator=generator, device=generator.device).to(position)
    u = torch.rand(len(position), 1, generator=generator, device=generator.device).to(position)
    direction = torch.nn.functional.normalize(position + spread * radius * noise, dim=-1)
    light: Tensor = direction * radius * (distance[0] + (distance[1] - distance[0]) * u)
    return light


def sample_lamps(cameras: Cameras, generator: torch.Generator, settings: ShadingSettings) -> Tensor:
    """``(B, 3)`` light positions above, uniform in elevation, in azimuth from each camera's, and in distance."""
    elevation, aside, along = torch.rand(3, len(cameras), generator=generator, device=generator.device)
    (low, high), (near, far) = settings.lamp_elevation, settings.light_distance
    azimuth = torch.rad2deg(cameras.azimuth.to(aside)) + settings.lamp_azimuth * (2 * aside - 1)
    radius = cameras.position.norm(dim=-1).to(along) * (near + (far - near) * along)
    return orbit(azimuth, low + (high - low) * elevation, radius).position.to(cameras.position)


def sample_shading(settings: ShadingSettings, cameras: Cameras, progress: float, generator: torch.Generator) -> Shading:
    """The shading of one training step, one mode for the whole batch.

    Args:
        settings: probabilities and light ranges.
        cameras: the step's cameras.
        progress: 0..1, share of the run that is done.
        generator: the same number of draws is taken from it whatever the outcome.
    """
    if settings.lamp == "above":
        light = sample_lamps(cameras, generator, settings)
    else:
        light = sample_lights(cameras, generator, spread=settings.light_spread, distance=settings.light_distance)
    plain, white = torch.rand(2, generator=generator, device=generator.device).tolist()
    if progress < settings.start or plain < settings.albedo_probability:
        return Shading()
    mode: Mode = "textureless" if white < settings.textureless_probability else "lambertian"
    return Shading(mode, light, settings.ambient, settings.diffuse)


def headlight(cameras: Cameras, mode: Mode = "lambertian", ambient: float = 0.1, diffuse: float = 0.9) -> Shading:
    """A light at each camera: the neutral choice for evaluation pictures."""
    return Shading(mode, cameras.position, ambient, diffuse)


def irradiance(x: Tensor, normal: Tensor, light: Tensor, ambient: float, diffuse: float) -> Tensor:
    """``l_a + l_rho max(0, n . (l - x) / |l - x|)`` ``(n,)`` at ``(n, 3)`` points, unit normals and lights."""
    direction = torch.nn.functional.normalize(light - x, dim=-1)
    return ambient + diffuse * (normal * direction).sum(-1).clamp_min(0)


def shade(albedo: Tensor, x: Tensor, normal: Tensor, light: Tensor, shading: Shading) -> Tensor:
    """Colours ``(n, 3)`` of lit points; ``albedo``, ``x``, ``normal`` and ``light`` are ``(n, 3)``."""
    light_at = irradiance(x, normal, light, shading.ambient, shading.diffuse)[:, None]
    return light_at.expand_as(albedo) if shading.mode == "textureless" else albedo * light_at
