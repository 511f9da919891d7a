"""Captioned renders of the procedural world: the training data of the bundled prior, deterministic for a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..render.cameras import Cameras, orbit
from .objects import COLOURS, Object, all_objects, with_article
from .trace import trace

CHUNK = 64
OVERHEAD_ELEVATION = 60.0
FRONT_AZIMUTH = 45.0
BACKGROUNDS = {"white": 0.30, "grey": 0.20, "dark": 0.22, "colour": 0.28}


@dataclass(frozen=True)
class WorldSettings:
    """How training views of the world are drawn; each pair is (lowest, highest)."""

    image_size: int = 64
    """Side of the square renders in pixels."""
    elevation: tuple[float, float] = (-10.0, 80.0)
    """Camera elevation in degrees."""
    radius: tuple[float, float] = (2.7, 3.4)
    """Camera distance from the origin in world units."""
    fov: tuple[float, float] = (38.0, 46.0)
    """Vertical field of view in degrees."""
    size: tuple[float, float] = (0.88, 1.04)
    """Scale of the object about the origin."""
    tint: float = 0.05
    """Largest shift of each of the colour's RGB channels."""
    ambient: tuple[float, float] = (0.40, 0.56)
    """Share of light from everywhere; below 0.35 shaded yellow and orange turn olive and brown."""
    light_elevation: tuple[float, float] = (25.0, 75.0)
    """Elevation of the lamp in degrees."""
    light_azimuth: float = 70.0
    """Largest azimuth of the lamp to either side of the camera, in degrees."""
    view_words: float = 0.5
    """Share of captions that name the view."""
    background_words: float = 0.25
    """Share of captions that name the background."""
    templates: float = 0.2
    """Share of captions that begin with "a photo of" or "a 3d render of"."""
    contrast: float = 0.3
    """Smallest RGB distance between a random background and the object's colour."""


@dataclass(frozen=True)
class Renders:
    """``N`` renders with their captions and the objects they show.

    Attributes:
        images: ``(N, 3, S, S)`` uint8.
        captions: ``N`` prompts.
        objects: ``N`` objects.
        cameras: ``N`` cameras.
    """

    images: Tensor
    captions: list[str]
    objects: list[Object]
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.captions)


def view_word(azimuth: float, elevation: float) -> str:
    """``front``, ``side``, ``back`` or ``overhead``, as in DreamFusion's view-dependent prompts; degrees."""
    if elevation > OVERHEAD_ELEVATION:
        return "overhead"
    away = abs((azimuth + 180.0) % 360.0 - 180.0)
    return "front" if away < FRONT_AZIMUTH else "back" if away > 180.0 - FRONT_AZIMUTH else "side"


def _background(rng: random.Random, kind: str, avoid: Sequence[float], contrast: float) -> tuple[float, ...]:
    if kind == "white":
        return (1.0, 1.0, 1.0)
    if kind in ("grey", "dark"):
        level = rng.uniform(0.3, 0.75) if kind == "grey" else rng.uniform(0.0, 0.16)
        return (level, level, level)
    while True:
        colour = tuple(rng.random() for _ in range(3))
        if math.dist(colour, avoid) >= contrast:
            return colour


def _caption(rng: random.Random, settings: WorldSettings, item: Object, view: str, kind: str) -> str:
    text = item.caption()
    if rng.random() < settings.templates:
        text = rng.choice([f"a photo of {text}", f"a 3d render of {text}", item.name()])
    if rng.random() < settings.view_words:
        text = f"{text}, {view} view" if rng.random() < 0.8 else f"{with_article(view)} view of {text}"
    if rng.random() < settings.background_words:
        word = {"dark": "black", "colour": "coloured"}.get(kind, kind)
        text = f"{text}, {word} background"
    return text


def _draw(rng: random.Random, settings: WorldSettings, item: Object) -> tuple[Object, tuple[float, ...], str]:
    """One captioned view: the jittered object, nine render numbers (camera, lamp, ambient, background), caption."""
    tint = (rng.uniform(-1, 1) * settings.tint, rng.uniform(-1, 1) * settings.tint, rng.uniform(-1, 1) * settings.tint)
    item = Object(item.shape, item.colour, rng.uniform(*settings.size), tint)
    azimuth, elevation = rng.uniform(-180, 180), rng.uniform(*settings.elevation)
    kind = rng.choices(list(BACKGROUNDS), list(BACKGROUNDS.values()))[0]
    lamp = azimuth + rng.uniform(-1, 1) * settings.light_azimuth
    numbers = (
        *(azimuth, elevation, rng.uniform(*settings.radius), rng.uniform(*settings.fov)),
        *(lamp, rng.uniform(*settings.light_elevation), rng.uniform(*settings.ambient)),
        *_background(rng, kind, COLOURS[item.colour], settings.contrast),
    )
    return item, numbers, _caption(rng, settings, item, view_word(azimuth, elevation), kind)


def render_dataset(
    count: int,
    seed: int,
    settings: WorldSettings = WorldSettings(),
    progress: Callable[[int], None] | None = None,
) -> Renders:
    """``count`` captioned renders, the objects in even shares and shuffled order.

    Args:
        count: number of renders.
        seed: the same seed and settings give the same renders.
        settings: how views are drawn.
        progress: called with the number of renders done after each chunk.

    Raises:
        ValueError: when ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"expected at least one render, got {count}: ask for count=1 or more")
    rng = random.Random(seed)
    world = all_objects()
    order = (world * (count // len(world) + 1))[:count]
    rng.shuffle(order)
    drawn = [_draw(rng, settings, item) for item in order]
    objects = [d[0] for d in drawn]
    numbers = torch.tensor([d[1] for d in drawn])
    cameras = orbit(*numbers[:, :4].unbind(1))
    light = orbit(numbers[:, 4], numbers[:, 5], 1.0).position
    images = torch.empty(count, 3, settings.image_size, settings.image_size, dtype=torch.uint8)
    by_shape = sorted(range(count), key=lambda i: objects[i].shape)
    for start in range(0, count, CHUNK):
        rows = torch.tensor(by_shape[start : start + CHUNK])
        rgb, _ = trace(
            [objects[i] for i in rows.tolist()],
            cameras[rows],
            settings.image_size,
            light[rows],
            numbers[rows, 7:],
            numbers[rows, 6],
        )
        images[rows] = (rgb * 255).round().to(torch.uint8)
        if progress is not None:
            progress(start + len(rows))
    return Renders(images, [d[2] for d in drawn], objects, cameras)
