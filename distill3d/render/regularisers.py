"""Loss terms on a rendering that keep the shape compact, solid and free of fog; each returns a scalar.

Sums over a ray's samples are averaged over all rays of the batch, hit or missed, so a weight means the same at any
resolution. Names and forms follow threestudio (``threestudio/systems/dreamfusion.py``) where it has the term.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from .scan import exclusive_sum, ray_sum
from .volume import BOX_DIAGONAL, Rendering

#: Those that look at samples and not at pixels alone: a render in tiles has to be asked for them beforehand.
OF_SAMPLES = ("entropy", "orientation", "distortion", "distance")
#: Those that look at normals: steps without light render none.
OF_NORMALS = ("orientation", "smoothness")
#: Largest distance from grey that is no tint, in RGB of 0..1; and the least that makes surroundings coloured.
NEUTRAL, COLOURED = 0.02, 0.1

_NO_NORMALS = "expected a rendering with normals, got one without: render with normals=True or with shading"


def sparsity(rendering: Rendering) -> Tensor:
    """``mean sqrt(o^2 + 0.01)``: prefers empty pixels, with a bounded slope at 0 (threestudio ``loss_sparsity``)."""
    return (rendering.opacity.square() + 0.01).sqrt().mean()


def opaque(rendering: Rendering) -> Tensor:
    """``mean BCE(o, o)``, ``o`` clamped to ``[1e-3, 1 - 1e-3]``: each pixel should be clear or solid.

    The binary entropy of the opacity, in nats: log 2 at 0.5, almost 0 at both ends (threestudio ``loss_opaque``).
    """
    o = rendering.opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def entropy(rendering: Rendering, threshold: float = 0.1) -> Tensor:
    """Entropy of how each ray's opacity spreads over its samples, in nats: a surface instead of fog.

    ``-sum p_i log p_i`` with ``p_i = w_i / sum_j w_j``, 0 for rays with an opacity of ``threshold`` or less
    (InfoNeRF, arXiv 2112.15399, equations 4 to 6, on weights in place of its alphas).
    """
    s = rendering.samples
    total = ray_sum(s.weight, s.ray, s.rays)
    solid = total > threshold
    p = s.weight / torch.where(solid, total, torch.ones_like(total))[s.ray]
    bits = torch.where(solid[s.ray], p * p.clamp_min(1e-8).log(), torch.zeros_like(p))
    return -bits.sum() / s.rays


def orientation(rendering: Rendering) -> Tensor:
    """``sum_i w_i max(0, n_i . d)^2``: visible normals must not face away from the camera.

    Ref-NeRF (arXiv 2112.03907, equation 11) with the weights held fixed, as in DreamFusion (arXiv 2209.14988,
    appendix A.2), so that only normals turn and no matter is removed.

    Raises:
        ValueError: the rendering has no normals.
    """
    s = rendering.samples
    if s.normal is None:
        raise ValueError(_NO_NORMALS)
    away = (s.normal * s.direction).sum(-1).clamp_min(0)
    return (s.weight.detach() * away.square()).sum() / s.rays


def smoothness(rendering: Rendering) -> Tensor:
    """``mean sqrt(|dn/du|^2 + |dn/dv|^2)``: flat faces with sharp edges between them.

    The total variation of the surface's normal ``n`` over the picture's unit square (Rudin, Osher and Fatemi, Physica D
    60, 1992), by forward differences: an edge costs its length times how far the normal turns, however sharp it is and
    at any resolution; but so does the noise of jittered samples, so more pixels want more samples a ray. threestudio's
    ``loss_normal_smooth`` (``threestudio/systems/zero123.py``) squares the steps, which rounds edges. The root is
    ``sqrt(. + 0.5^2) - 0.5``, and a step to or from a pixel of half opacity or less is left out, so that no outline
    counts.

    Raises:
        ValueError: the rendering has no normals.
    """
    if rendering.normal is None:
        raise ValueError(_NO_NORMALS)
    solid = rendering.opacity > 0.5
    n = rendering.normal / rendering.opacity.clamp_min(0.5)[..., None]
    squares = torch.zeros_like(rendering.opacity)
    for axis in (1, 2):
        pixels = n.shape[axis]
        both = solid.narrow(axis, 0, pixels - 1) & solid.narrow(axis, 1, pixels - 1)
        slope = (pixels * n.diff(dim=axis)).square().sum(-1)
        end = [0, 0, 0, 0]
        end[2 * (2 - axis) + 1] = 1
        squares = squares + pad(torch.where(both, slope, torch.zeros_like(slope)), end)
    return ((squares + 0.25).sqrt() - 0.5).mean()


def distortion(rendering: Rendering) -> Tensor:
    """``sum_ij w_i w_j |s_i - s_j| + (1/3) sum_i w_i^2 ds``: pulls a ray's matter together.

    mip-NeRF 360 (arXiv 2111.12077, equation 15), with distances ``s = t / 2 sqrt(3)`` in diagonals of the box. With
    sorted samples the double sum is ``2 sum_i w_i (s_i W_i - M_i)``, where ``W_i`` and ``M_i`` sum ``w_j`` and
    ``w_j s_j`` over the earlier samples: O(n).
    """
    r = rendering.samples
    s, ds = r.t / BOX_DIAGONAL, r.dt / BOX_DIAGONAL
    weight_before = exclusive_sum(r.weight, r.ray, r.rays)
    moment_before = exclusive_sum(r.weight * s, r.ray, r.rays)
    between = 2 * (r.weight * (s * weight_before - moment_before)).sum()
    within = r.weight.square().sum() * (ds / 3)
    total: Tensor = (between + within) / r.rays
    return total


def distance(rendering: Rendering, radius: float = 0.8) -> Tensor:
    """``sum_i w_i max(0, |x_i| - radius)^2``: visible matter far from the centre, such as floaters by the walls."""
    s = rendering.samples
    beyond: Tensor = (s.x.norm(dim=-1) - radius).clamp_min(0)
    return (s.weight * beyond.square()).sum() / s.rays


def chroma(rgb: Tensor) -> Tensor:
    """``(B, 3, H, W)`` -> ``(B, 2, H, W)``: ``(R - G) / sqrt 2`` and ``(R + G - 2 B) / sqrt 6``, what a colour has
    beside its grey, with the distance it has in RGB."""
    r, g, b = rgb.unbind(1)
    return torch.stack(((r - g) / math.sqrt(2), (r + g - 2 * b) / math.sqrt(6)), 1)


def tint(rendering: Rendering, expected: Tensor, views: Tensor) -> Tensor:
    """``64^2 mean o e^2``: paint without the complement of the colour around it. Our own, in no paper.

    Guidance goes beyond what the prior expects of the prompt, away from what it expects without. Where white or dark
    paint lies on a colour, the latter is a little coloured, so that beyond lies the complement: white on yellow turns
    blue, a dark mouth on green purple. ``e`` is how far the chroma of a pixel's matter goes against the mean chroma
    that ``expected`` has around it, less how far ``expected`` itself goes there, or ``NEUTRAL``. Nothing is asked where
    that mean is grey, so not deep inside a wide white patch, or of pixels of half opacity or less. Around is a
    sixteenth of the picture to every side, weighed by the opacity ``o``, which is held fixed.

    Args:
        rendering: ``B`` views.
        expected: ``(b, 3, h, w)`` in 0..1, the prior's clean pictures of ``views`` with the prompt and no guidance. It
            must know the picture: of one noised beyond recognition it expects no detail, and every one would count as
            not brought. Pixels that are not finite count as unknown, and ask for nothing.
        views: ``(b,)`` long, indices of those of the ``B``; the others add nothing to the mean.
    """
    height, width = rendering.opacity.shape[1:]
    if expected.shape[-2:] != (height, width):
        expected = interpolate(expected, (height, width), mode="area")
    opacity = rendering.opacity[views]
    known = torch.isfinite(expected).all(1) & (opacity > 0.5)
    o = (known * opacity.detach())[:, None]
    matter = rendering.foreground[views] / opacity.clamp_min(0.5)[..., None]
    here, there = chroma(matter.permute(0, 3, 1, 2)), chroma(torch.where(known[:, None], expected, 0.0))
    around = _around(o * there, height, width) / _around(o, height, width).clamp(min=1e-6)
    size = torch.linalg.vector_norm(around, dim=1)
    against = -around / size.clamp(min=1e-6)[:, None]
    brought = (against * there).sum(1).clamp(min=NEUTRAL)
    beyond = ((against * here).sum(1) - brought).clamp(min=0) * (size > COLOURED)
    cost: Tensor = 64**2 * (o[:, 0] * beyond.square()).sum() / rendering.opacity.numel()
    return cost


def _around(values: Tensor, height: int, width: int) -> Tensor:
    """Mean over a square, pixels beyond the picture as 0: by columns, then by rows."""
    reach = max(1, min(height, width) // 16)
    size = 2 * reach + 1
    return avg_pool2d(avg_pool2d(values, (size, 1), 1, (reach, 0)), (1, size), 1, (0, reach))
