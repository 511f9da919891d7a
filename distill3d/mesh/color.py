"""Vertex colours and normals, and the one place where colour spaces are converted.

The field's albedo is display-referred sRGB: it is composited and shown to the diffusion model as it is, and diffusion
models were trained on sRGB pictures. OBJ and PLY viewers expect the same. glTF 2.0 says that ``COLOR_0`` is linear
(section 3.7.2.1), so the GLB writer converts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DivergedError
from .types import Floats, Ints

if TYPE_CHECKING:
    from ..fields.base import RadianceField

OUTWARD, INWARD, SAMPLES = 1.0, 2.0, 7
"""A colour is looked up from OUTWARD cells before the surface to INWARD cells behind it, at SAMPLES points."""
DIVERGED = (
    "expected finite colours, but the field's albedo is NaN or infinite on the surface: the run diverged; "
    "export an earlier checkpoint, or train again with a lower learning rate or guidance scale"
)
TIE = 1e-3
"""Squared colour that a cell of distance to the middle of the visible matter is worth."""
FALLBACK = 1e-3
"""Weight of the albedo just below the surface, which decides only where the samples are transparent."""


def srgb_to_linear(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1 decoding, values in 0..1.

    >>> float(srgb_to_linear(np.array(0.5)).round(6))
    0.214041
    """
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of :func:`srgb_to_linear`."""
    return np.where(color <= 0.0031308, color * 12.92, 1.055 * np.maximum(color, 0.0031308) ** (1 / 2.4) - 0.055)


def tinted(color: NDArray, tint: NDArray | None) -> NDArray:
    """sRGB colours times linear factors, as sRGB; as they are where there are none."""
    if tint is None:
        return color
    return linear_to_srgb(np.clip(srgb_to_linear(color.astype(np.float64)) * tint, 0, 1))


def face_weighted_normals(vertices: NDArray, faces: Ints) -> Floats:
    """``(V, 3)`` unit normals, each the area-weighted mean over the vertex's faces; +y where that vanishes."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    weighted = np.cross(b - a, c - a)
    total = np.stack(
        [sum(np.bincount(faces[:, k], weighted[:, axis], len(vertices)) for k in range(3)) for axis in range(3)], -1
    )
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    there = length > 1e-20 * min(1.0, float(length.max(initial=0.0)))
    unit = np.where(there, total / np.where(there, length, 1), [0.0, 1.0, 0.0])
    return cast(Floats, unit.astype(np.float32))


@torch.no_grad()
def field_normals(field: RadianceField, vertices: Floats, fallback: Floats, chunk: int, device: torch.device) -> Floats:
    """``(V, 3)`` unit normals from the field's gradient; the fallback where that vanishes or points inward."""
    found = torch.cat([field.normals(x.to(device)).float().cpu() for x in torch.from_numpy(vertices).split(chunk)])
    other = torch.from_numpy(fallback)
    length = found.norm(dim=-1, keepdim=True)
    usable = found.isfinite().all(-1, keepdim=True) & (length > 0.5) & ((found * other).sum(-1, keepdim=True) > 0)
    unit = torch.where(usable, found / length.clamp(min=1e-12), other)
    return cast(Floats, unit.numpy())


def profile(
    field: RadianceField, x: Tensor, n: Tensor, spacing: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """What a ray against the normal meets: depths ``(S,)`` in cells, weights ``(n, S)``, albedo ``(n, S, 3)``.

    The weights are ``T alpha`` (NeRF, arXiv 2003.08934, equation 3) over a few short steps around the surface.
    """
    depth = torch.linspace(-OUTWARD, INWARD, SAMPLES)
    step = float(depth[1] - depth[0]) * spacing
    points = (x[:, None] - (depth * spacing)[:, None] * n[:, None]).clamp(-1, 1)
    sigma, albedo = field(points.reshape(-1, 3).to(device))
    optical = sigma.float().cpu().view(-1, SAMPLES) * step
    weight = torch.exp(optical - optical.cumsum(-1)) * -torch.expm1(-optical)
    weight[:, int((depth - 0.5).abs().argmin())] += FALLBACK
    return depth, weight, albedo.float().cpu().view(-1, SAMPLES, 3)


@torch.no_grad()
def vertex_colors(
    field: RadianceField, vertices: Floats, normals: Floats, spacing: float, chunk: int, device: torch.device
) -> Floats:
    """The colour that a ray against the normal sees at each vertex: albedo composited over a few short steps.

    A single look-up on the level would often land in the untrained space outside a hard surface; the weights take the
    colour from where the matter is.

    Args:
        vertices, normals: ``(V, 3)`` float32, world, outward.
        spacing: lattice spacing in world units.
        chunk: most points asked of the field at once.

    Returns:
        ``(V, 3)`` float32 sRGB in 0..1.

    Raises:
        DivergedError: an albedo is not finite.
    """
    colors: list[Tensor] = []
    rows = max(1, chunk // SAMPLES)
    for x, n in zip(torch.from_numpy(vertices).split(rows), torch.from_numpy(normals).split(rows), strict=True):
        _, weight, albedo = profile(field, x, n, spacing, device)
        colors.append((weight[..., None] * albedo).sum(1) / weight.sum(1, keepdim=True))
    result = torch.cat(colors)
    if not bool(result.isfinite().all()):
        raise DivergedError(DIVERGED)
    return cast(Floats, result.clamp(0, 1).numpy())


@torch.no_grad()
def color_depth(
    field: RadianceField, vertices: Floats, normals: Floats, spacing: float, chunk: int, device: torch.device
) -> tuple[Floats, Floats]:
    """Where below each vertex a single look-up gives the colour that a ray against the normal sees.

    Returns:
        Depth in world units ``(V,)``, of the steps of :func:`profile` the one whose albedo is nearest the composited
        colour, ties to the middle of the visible matter; and what is missing there to that colour, ``(V, 3)``.
    """
    depths: list[Tensor] = []
    missing: list[Tensor] = []
    rows = max(1, chunk // SAMPLES)
    for x, n in zip(torch.from_numpy(vertices).split(rows), torch.from_numpy(normals).split(rows), strict=True):
        depth, weight, albedo = profile(field, x, n, spacing, device)
        weight = weight / weight.sum(1, keepdim=True)
        seen = (weight[..., None] * albedo).sum(1)
        middle = (weight * depth).sum(1, keepdim=True)
        cost = (albedo - seen[:, None]).square().sum(-1) + TIE * (depth - middle).square()
        best = cost.argmin(1)
        depths.append(spacing * depth[best])
        missing.append(seen - albedo[torch.arange(len(best)), best])
    return cast(Floats, torch.cat(depths).numpy()), cast(Floats, torch.cat(missing).numpy())
