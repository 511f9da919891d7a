"""Batched sphere tracing of known objects with Lambert shading and one-sample antialiased silhouettes.

Each pixel is a cone as wide as the pixel (J. Amanatides, "Ray Tracing with Cones", SIGGRAPH 1984): the ray marches
to the surface moved inwards by half the cone's width, and a ray that misses is covered by one minus its closest
approach in widths. Coverage is therefore one half exactly on the silhouette, and 1 wherever the distance is below
``HIT``, so that no surface wears a halo of its background. Not differentiable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..render.cameras import Cameras, rays
from .catalogue import CATALOGUE
from .objects import Object
from .shapes import SDF

HIT = 2e-3
BOUND = 1.02
STEPS = 64
HEADLIGHT_TILT = (0.35, 0.75)


@dataclass(frozen=True)
class _Rays:
    """``N`` rays towards objects of one shape, one contiguous tensor a component for speed."""

    origin: tuple[Tensor, ...]
    direction: tuple[Tensor, ...]
    size: Tensor
    width: Tensor
    near: Tensor
    far: Tensor

    def __getitem__(self, index: Tensor) -> _Rays:
        return _Rays(
            tuple(c.index_select(0, index) for c in self.origin),
            tuple(c.index_select(0, index) for c in self.direction),
            *(v.index_select(0, index) for v in (self.size, self.width, self.near, self.far)),
        )

    def at(self, depth: Tensor) -> tuple[Tensor, ...]:
        return tuple(o + depth * d for o, d in zip(self.origin, self.direction, strict=True))


def _distance(sdf: SDF, points: Sequence[Tensor], size: Tensor) -> Tensor:
    x, y, z = (p / size for p in points)
    return size * sdf(x, y, z)


def _march(sdf: SDF, bundle: _Rays) -> tuple[Tensor, Tensor]:
    """Depth ``(N,)`` of the hit or closest approach, and coverage ``(N,)`` in [0, 1] there."""
    best, depth = torch.empty_like(bundle.near), torch.empty_like(bundle.near)
    index = torch.arange(len(depth))
    live, t = bundle, bundle.near.clone()
    least, at = torch.full_like(t, float("inf")), t
    for _ in range(STEPS):
        width = live.width * t
        gap = _distance(sdf, live.at(t), live.size) + 0.5 * width
        hit = gap < HIT
        misses = torch.where(hit, 0.0, gap / width)
        at = torch.where(misses < least, t, at)
        least = torch.minimum(least, misses)
        t = t + gap
        keep = (~hit & (t < live.far)).nonzero().squeeze(1)
        if len(keep) < 0.9 * len(index):
            best[index], depth[index] = least, at
            live = live[keep]
            t, index, least, at = (v.index_select(0, keep) for v in (t, index, least, at))
        if not len(keep):
            break
    best[index], depth[index] = least, at
    return depth, (1 - best).clamp(0, 1)


def _normals(sdf: SDF, points: Sequence[Tensor], size: Tensor, step: Tensor) -> tuple[Tensor, ...]:
    """Unit normals from four taps on a tetrahedron; a step of half a pixel also smooths inner edges.

    Asked a pixel in front of the surface, where the nearest face is one the camera sees.
    """
    taps = ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))
    values = [_distance(sdf, [p + s * step for p, s in zip(points, tap, strict=True)], size) for tap in taps]
    gradient = torch.stack([sum(tap[i] * v for tap, v in zip(taps, values, strict=True)) for i in range(3)])  # type: ignore[misc]
    return torch.nn.functional.normalize(gradient, dim=0).unbind(0)


def _bundle(objects: Sequence[Object], cameras: Cameras, size: int, snug: bool) -> tuple[_Rays, Tensor]:
    """The rays that meet each object's bounding ball, and their index into the flattened ``(B * size * size,)``."""
    origin, direction = (v.reshape(-1, 3) for v in rays(cameras, size, size))
    pixels = size * size
    scale = torch.tensor([o.size for o in objects]).repeat_interleave(pixels)
    width = (2 * torch.tan(cameras.fov / 2) / size).repeat_interleave(pixels)
    middle = -(origin * direction).sum(-1)
    radius = CATALOGUE[objects[0].shape].bound if snug else BOUND
    bound = radius * scale + width * middle
    half_chord = bound.square() - (origin.square().sum(-1) - middle.square())
    index = (half_chord > 0).nonzero().squeeze(1)
    half, middle, scale, width = (v.index_select(0, index) for v in (half_chord, middle, scale, width))
    half = half.sqrt()
    components = [tuple(c.contiguous() for c in v.index_select(0, index).unbind(-1)) for v in (origin, direction)]
    near = (middle - half).clamp(min=1e-3)
    return _Rays(components[0], components[1], scale, width, near, middle + half), index


@dataclass(frozen=True)
class _Surface:
    """The ``M`` pixels that see any of ``B`` objects, as rows of the flattened ``(B * S * S,)`` images."""

    index: Tensor
    points: tuple[Tensor, ...]
    normal: tuple[Tensor, ...]
    coverage: Tensor


def _surface(objects: Sequence[Object], cameras: Cameras, size: int, snug: bool = False) -> _Surface:
    """What the cameras see of objects that share one shape."""
    sdf = CATALOGUE[objects[0].shape].sdf
    bundle, index = _bundle(objects, cameras, size, snug)
    depth, coverage = _march(sdf, bundle)
    seen = (coverage > 0).nonzero().squeeze(1)
    bundle, depth = bundle[seen], depth.index_select(0, seen)
    pixel = bundle.width * depth
    normal = _normals(sdf, bundle.at(depth - pixel), bundle.size, 0.5 * pixel)
    return _Surface(index.index_select(0, seen), bundle.at(depth), normal, coverage.index_select(0, seen))


def _shade(
    objects: Sequence[Object], seen: _Surface, size: int, light: Tensor, ambient: Tensor, lamp: Tensor
) -> tuple[Tensor, Tensor]:
    """Lambert colour ``(B, S * S, 3)`` and coverage ``(B, S * S)``."""
    owner = seen.index // (size * size)
    toward, normal = light.index_select(0, owner), seen.normal
    lambert = (normal[0] * toward[:, 0] + normal[1] * toward[:, 1] + normal[2] * toward[:, 2]).clamp(min=0)
    ambient = ambient.index_select(0, owner)
    if lamp.ndim:
        shade = ambient[:, None] + (1 - ambient[:, None]) * lambert[:, None] * lamp.index_select(0, owner)
    else:
        shade = (ambient + (1 - ambient) * lambert * lamp)[:, None]
    parts = torch.stack(seen.points, -1).split(torch.bincount(owner, minlength=len(objects)).tolist())
    albedo = torch.cat([o.albedo(p) for o, p in zip(objects, parts, strict=True)])
    colour = torch.zeros(len(objects) * size * size, 3)
    alpha = torch.zeros(len(objects) * size * size)
    colour.index_copy_(0, seen.index, (albedo * shade).clamp(max=1))
    alpha.index_copy_(0, seen.index, seen.coverage)
    alpha = alpha.view(-1, size, size)
    return _bleed(colour.view(-1, size, size, 3), alpha).flatten(1, 2), alpha.flatten(1)


def _bleed(colour: Tensor, alpha: Tensor) -> Tensor:
    """Colour partly covered pixels like their solid neighbours: the normals of a ray that missed tilt away.

    Takes ``(B, S, S, 3)`` and ``(B, S, S)``, and changes the first.
    """
    side = alpha.shape[-1] + 2
    solid = (alpha >= 1).float()[..., None]
    around = torch.nn.functional.pad(torch.cat([colour * solid, solid], -1), (0, 0, 1, 1, 1, 1)).flatten(0, 2)
    edge = ((alpha > 0) & (alpha < 1)).nonzero()
    corner = (edge[:, 0] * side + edge[:, 1]) * side + edge[:, 2]
    total = torch.zeros(len(edge), 4)
    for offset in (down * side + right for down in range(3) for right in range(3)):
        total += around.index_select(0, corner + offset)
    mean = total / 9
    near, share = mean[:, :3], mean[:, 3:]
    where = edge.unbind(1)
    colour[where] = torch.where(share > 0, near / share.clamp(min=1e-6), colour[where])
    return colour


def _count(objects: Sequence[Object], cameras: Cameras) -> int:
    if len(objects) != len(cameras):
        raise ValueError(f"expected one camera an object, got {len(objects)} objects and {len(cameras)} cameras")
    return len(objects)


def _by_shape(objects: Sequence[Object]) -> Iterator[tuple[Tensor, list[Object]]]:
    """Rows and objects of each shape in turn."""
    for shape in dict.fromkeys(o.shape for o in objects):
        rows = [i for i, o in enumerate(objects) if o.shape == shape]
        yield torch.tensor(rows), [objects[i] for i in rows]


def headlight(cameras: Cameras) -> Tensor:
    """``(B, 3)`` unit directions towards a light behind each camera's left shoulder."""
    left, up = HEADLIGHT_TILT
    right_axis, up_axis, back_axis = cameras.c2w[:, :, :3].unbind(-1)
    return torch.nn.functional.normalize(back_axis - left * right_axis + up * up_axis, dim=-1)


def _ground(background: Tensor, count: int, size: int) -> Tensor:
    """``(B, 1, 3)``, or ``(B, S * S, 3)`` when it changes from top to bottom."""
    if background.ndim < 3:
        return background.expand(count, 3)[:, None]
    down = torch.linspace(0, 1, size)[None, :, None]
    rows = torch.lerp(background[:, :1], background[:, 1:], down)
    return rows[:, :, None].expand(count, size, size, 3).flatten(1, 2)


@torch.no_grad()
def trace(
    objects: Sequence[Object],
    cameras: Cameras,
    size: int,
    light: Tensor | None = None,
    background: Tensor | float = 1.0,
    ambient: Tensor | float = 0.45,
    lamp: Tensor | float = 1.0,
    snug: bool = False,
) -> tuple[Tensor, Tensor]:
    """Render ``B`` objects, one a camera.

    Args:
        objects: ``B`` objects, of any shapes.
        cameras: ``B`` cameras, on the CPU.
        size: image side ``S`` in pixels.
        light: ``(B, 3)`` or ``(3,)`` unit directions towards the light; ``headlight(cameras)`` when None.
        background: ``(B, 3)``, ``(3,)`` or one grey level, in [0, 1]; ``(B, 2, 3)`` goes from the top row's colour to
            the bottom row's.
        ambient: ``(B,)`` or one share of the light that comes from everywhere, in [0, 1].
        lamp: ``(B, 3)`` colours of the light that comes from ``light``, or one brightness.
        snug: whether rays start at the shape's own bounding ball, which is faster and moves the last bits of the
        outline.

    Returns:
        rgb ``(B, 3, S, S)`` in [0, 1], composed on the background, and alpha ``(B, 1, S, S)``.

    Raises:
        ValueError: when objects and cameras are not equally many.
    """
    count = _count(objects, cameras)
    light = headlight(cameras) if light is None else torch.as_tensor(light).expand(count, 3)
    ambient = torch.as_tensor(ambient, dtype=torch.float32).expand(count)
    ground = _ground(torch.as_tensor(background, dtype=torch.float32), count, size)
    lamp = torch.as_tensor(lamp, dtype=torch.float32)
    colour, alpha = torch.empty(count, size * size, 3), torch.empty(count, size * size)
    for which, group in _by_shape(objects):
        seen = _surface(group, cameras[which], size, snug)
        colour[which], alpha[which] = _shade(
            group, seen, size, light[which], ambient[which], lamp[which] if lamp.ndim else lamp
        )
    rgb = torch.lerp(ground.expand_as(colour), colour, alpha[..., None])
    return rgb.transpose(1, 2).reshape(count, 3, size, size), alpha.view(count, 1, size, size)


@torch.no_grad()
def normals(objects: Sequence[Object], cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """World-space unit normals ``(B, 3, S, S)``, 0 off the object, and alpha ``(B, 1, S, S)``; one camera an object."""
    count = _count(objects, cameras)
    normal, alpha = torch.zeros(count, size * size, 3), torch.zeros(count, size * size)
    for which, group in _by_shape(objects):
        seen = _surface(group, cameras[which], size)
        row, pixel = which[seen.index // (size * size)], seen.index % (size * size)
        normal[row, pixel] = torch.stack(seen.normal, -1)
        alpha[row, pixel] = seen.coverage
    return normal.transpose(1, 2).reshape(count, 3, size, size), alpha.view(count, 1, size, size)


@dataclass(frozen=True)
class Looks:
    """What makes up a picture, ``B`` views of ``S x S`` pixels; everything is 0 off the object.

    Attributes:
        alpha: ``(B, 1, S, S)`` coverage.
        normal: ``(B, 3, S, S)`` world-space unit normals.
        albedo: ``(B, 3, S, S)`` diffuse colour.
        share: ``(B, 1, S, S)`` of neutral paint.
        level: ``(B, 1, S, S)`` its grey level.
    """

    alpha: Tensor
    normal: Tensor
    albedo: Tensor
    share: Tensor
    level: Tensor


@torch.no_grad()
def looks(objects: Sequence[Object], cameras: Cameras, size: int) -> Looks:
    """The parts of a picture before light falls on it; one camera an object."""
    count = _count(objects, cameras)
    whole = torch.zeros(count, size * size, 9)
    for which, group in _by_shape(objects):
        seen = _surface(group, cameras[which], size, snug=True)
        owner = seen.index // (size * size)
        parts = torch.stack(seen.points, -1).split(torch.bincount(owner, minlength=len(group)).tolist())
        paint = [o.paint(p) for o, p in zip(group, parts, strict=True)]
        albedo = torch.cat([o.albedo(p) for o, p in zip(group, parts, strict=True)])
        share, level = (torch.cat([p[i] for p in paint]) for i in (0, 1))
        columns = [seen.coverage, *seen.normal, *albedo.unbind(-1), share, level]
        whole[which[owner], seen.index % (size * size)] = torch.stack(columns, -1)
    picture = whole.transpose(1, 2).reshape(count, 9, size, size)
    return Looks(*picture.split([1, 3, 3, 1, 1], 1))
