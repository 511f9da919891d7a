"""How much of what one sees is of a colour the object has nowhere: spots, linings, and plugs in holes.

A mean hue and a majority forgive them, and a plug in the hole of a torus shows from above alone. So this looks at each
view by itself, from straight above too, and the worst one counts. A pixel is a spot when its hue is far from the true
one, or when it has none or too little and the true object wears no paint. Unlit colours: no shade is taken for a spot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .colour import chroma, hue_distance, hue_of, hue_saturation

FAR = 40.0
"""Degrees of hue. Twice what the mean hue may be off; of the eight colours only the nearest neighbours (25 to 28
degrees: orange beside red and yellow, pink beside red) are closer, all others 45 or more apart."""


def spot_shares(rgb: Tensor, opacity: Tensor, colour: str, pale: float, painted: bool) -> Tensor:
    """``(B,)`` share of each view's opacity that is a spot.

    Args:
        rgb: ``(B, H, W, 3)`` the object's own colour in [0, 1].
        opacity: ``(B, H, W)``; 0.05 and less is air.
        colour: a key of ``COLOURS``.
        pale: chroma below which a pixel has no hue, or on a bare object too little of it.
        painted: whether pixels without a hue may belong to the object.
    """
    hue, _ = hue_saturation(rgb)
    bare = chroma(rgb) < pale
    spot = torch.where(bare, torch.full_like(bare, not painted), hue_distance(hue, hue_of(colour)) > FAR)
    weight = opacity * (opacity > 0.05)
    return (weight * spot).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
