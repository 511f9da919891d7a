"""Captioned renders of a procedural world: the training data of a prior, deterministic for a seed.

The plain world is drawn evenly. Of the full world's renders a third each shows plain shapes, patterned shapes and
objects with a front; the latter are seen from front, sides and back equally often and nearly always captioned with the
view, because only they teach what the words mean.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import SettingsError
from ..render.cameras import Cameras, orbit
from .objects import COLOURS, Object, all_objects, is_held_out, with_article
from .trace import trace

PIXELS = 1 << 19
"""Pixels a chunk: fewer make overhead, more make memory, a few hundred bytes each."""
MOST_THREADS = 8
OVERHEAD_ELEVATION = 60.0
FRONT_AZIMUTH = 45.0
BACKGROUNDS = {"white": 0.30, "grey": 0.20, "dark": 0.22, "colour": 0.28}
FULL_BACKGROUNDS = {"white": 0.28, "grey": 0.18, "dark": 0.20, "colour": 0.24, "gradient": 0.10}
SHARES = {"figure": 7, "plain": 3, "patterned": 1}
"""How often each object of the full world comes up in one round; with what is held out, a third of it each."""


@dataclass(frozen=True)
class WorldSettings:
    """How training views of the world are drawn; each pair is (lowest, highest)."""

    name: Literal["plain", "full"] = "plain"
    """Which world: plain (8 shapes, 8 colours) or full (14 shapes, 8 colours, 4 patterns, 6 objects with a front)."""
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
    front_words: float = 0.8
    """Share of captions of objects with a front that name the view."""
    lamp_tint: float = 0.08
    """Full world: largest shift of each of the lamp's RGB channels from white."""
    hold_out: bool = True
    """Full world: leave out the 62 combinations of ``is_held_out``, to ask a prior for what it never saw."""

    def __post_init__(self) -> None:
        if self.name not in ("plain", "full"):
            raise SettingsError(f"expected a world called plain or full, got {self.name!r}")
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise SettingsError(f"expected finite numbers as {name} of the world, got {value}")
        if self.image_size < 8:
            raise SettingsError(f"expected an image_size of 8 or more pixels, got {self.image_size}: 64 is usual")
        for name in ("elevation", "radius", "fov", "size", "ambient", "light_elevation"):
            low, high = getattr(self, name)
            if not low <= high:
                raise SettingsError(f"expected {name} as (lowest, highest), got ({low}, {high}): swap them")
        if self.radius[0] <= 0 or self.size[0] <= 0 or not 0 < self.fov[0] <= self.fov[1] < 180:
            raise SettingsError(
                f"expected radius and size above 0 and fov within 0..180 degrees, got {self.radius}, {self.size} and "
                f"{self.fov}"
            )
        for name in ("view_words", "background_words", "templates", "front_words", "tint", "lamp_tint"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"expected {name} within 0..1, got {getattr(self, name)}")
        if not 0 <= self.contrast < 1:
            raise SettingsError(
                f"expected a contrast within 0..1 and below 1, got {self.contrast}: no background is further away"
            )


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


def _colour(rng: random.Random, avoid: Sequence[float], contrast: float) -> tuple[float, ...]:
    while True:
        colour = tuple(rng.random() for _ in range(3))
        if math.dist(colour, avoid) >= contrast:
            return colour


def _background(rng: random.Random, kind: str, avoid: Sequence[float], contrast: float) -> tuple[float, ...]:
    if kind == "white":
        return (1.0, 1.0, 1.0)
    if kind in ("grey", "dark"):
        level = rng.uniform(0.3, 0.75) if kind == "grey" else rng.uniform(0.0, 0.16)
        return (level, level, level)
    return _colour(rng, avoid, contrast)


def _caption(rng: random.Random, settings: WorldSettings, item: Object, view: str, kind: str) -> str:
    text = item.caption()
    if rng.random() < settings.templates:
        text = rng.choice([f"a photo of {text}", f"a 3d render of {text}", item.name()])
    if rng.random() < (settings.front_words if item.has_front else settings.view_words):
        text = f"{text}, {view} view" if rng.random() < 0.8 else f"{_before(rng, settings, view)} view of {text}"
    if rng.random() < settings.background_words:
        word = {"dark": "black", "colour": "coloured"}.get(kind, kind)
        text = f"{text}, {word} background"
    return text


def _before(rng: random.Random, settings: WorldSettings, view: str) -> str:
    """The view at the head of a caption: "a front" view of ..., in the full world half the time without the article."""
    return view if settings.name == "full" and rng.random() < 0.5 else with_article(view)


def _azimuth(rng: random.Random, item: Object) -> float:
    """Any azimuth; of an object with a front its front, sides and back equally often."""
    if not item.has_front:
        return rng.uniform(-180, 180)
    side = rng.choice(("front", "left", "right", "back", "front", "back"))
    middle, half = {"front": (0, 45), "back": (180, 45), "left": (90, 45), "right": (-90, 45)}[side]
    return middle + rng.uniform(-half, half)


def _draw(rng: random.Random, settings: WorldSettings, item: Object) -> tuple[Object, tuple[float, ...], str]:
    """One captioned view: the jittered object, its render numbers, and the caption.

    The numbers are camera (4), lamp direction (2), ambient (1), background at the top and at the bottom (3 each), and
    the lamp's colour (3).
    """
    tint = (rng.uniform(-1, 1) * settings.tint, rng.uniform(-1, 1) * settings.tint, rng.uniform(-1, 1) * settings.tint)
    item = Object(item.shape, item.colour, rng.uniform(*settings.size), tint, item.pattern)
    azimuth, elevation = _azimuth(rng, item), rng.uniform(*settings.elevation)
    shares = FULL_BACKGROUNDS if settings.name == "full" else BACKGROUNDS
    kind = rng.choices(list(shares), list(shares.values()))[0]
    lamp = azimuth + rng.uniform(-1, 1) * settings.light_azimuth
    camera = (azimuth, elevation, rng.uniform(*settings.radius), rng.uniform(*settings.fov))
    light = (lamp, rng.uniform(*settings.light_elevation), rng.uniform(*settings.ambient))
    ground = _background(rng, kind, COLOURS[item.colour], settings.contrast)
    end = ground
    glow: tuple[float, ...] = (1.0, 1.0, 1.0)
    if settings.name == "full":
        end = _colour(rng, COLOURS[item.colour], settings.contrast) if kind == "gradient" else ground
        glow = tuple(1 + rng.uniform(-1, 1) * settings.lamp_tint for _ in range(3))
    view = view_word(azimuth, elevation)
    return item, (*camera, *light, *ground, *end, *glow), _caption(rng, settings, item, view, kind)


def training_round(settings: WorldSettings) -> list[Object]:
    """The objects of one round of training data, each as often as its share asks."""
    world = all_objects(settings.name)
    if settings.name == "plain":
        return world
    kept = [o for o in world if not (settings.hold_out and is_held_out(o))]
    kinds = ["figure" if o.has_front else "plain" if o.pattern == "plain" else "patterned" for o in kept]
    return [o for o, kind in zip(kept, kinds, strict=True) for _ in range(SHARES[kind])]


def _side_by_side(work: Callable[[Tensor], Tensor], items: Iterable[Tensor]) -> Iterator[Tensor]:
    """Results in order, each worked out by one of torch's threads: less waiting than all of them on one operation.

    Threads that others start meanwhile have one of torch's to themselves.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(min(threads, MOST_THREADS), "world", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, items)
    finally:
        try:
            pool.shutdown(cancel_futures=True)
        finally:
            torch.set_num_threads(threads)


def render_dataset(
    count: int,
    seed: int,
    settings: WorldSettings = WorldSettings(),
    progress: Callable[[int], None] | None = None,
) -> Renders:
    """``count`` captioned renders, the objects in the shares of ``training_round`` and in shuffled order.

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
    world = training_round(settings)
    rounds, rest = divmod(count, len(world))
    order = world * rounds + (world if settings.name == "plain" else rng.sample(world, len(world)))[:rest]
    rng.shuffle(order)
    drawn = [_draw(rng, settings, item) for item in order]
    objects = [d[0] for d in drawn]
    numbers = torch.tensor([d[1] for d in drawn])
    cameras = orbit(*numbers[:, :4].unbind(1))
    light = orbit(numbers[:, 4], numbers[:, 5], 1.0).position
    images = torch.empty(count, 3, settings.image_size, settings.image_size, dtype=torch.uint8)
    by_shape = torch.tensor(sorted(range(count), key=lambda i: objects[i].shape))
    chunks = by_shape.split(max(1, PIXELS // settings.image_size**2))

    def draw(rows: Tensor) -> Tensor:
        rgb, _ = trace(
            [objects[i] for i in rows.tolist()],
            cameras[rows],
            settings.image_size,
            light[rows],
            numbers[rows, 7:13].view(-1, 2, 3),
            numbers[rows, 6],
            numbers[rows, 13:] if settings.name == "full" else 1.0,
            snug=settings.name == "full",
        )
        return (rgb * 255).round().to(torch.uint8)

    done = 0
    for rows, drawn_now in zip(chunks, _side_by_side(draw, chunks), strict=True):
        images[rows] = drawn_now
        done += len(rows)
        if progress is not None:
            progress(done)
    return Renders(images, [d[2] for d in drawn], objects, cameras)
