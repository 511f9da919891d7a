"""Multiresolution hash grid (Instant NGP, https://arxiv.org/abs/2201.05989) as one module over one flat parameter.

``params`` is tiny-cuda-nn's vector entry for entry: ``[(offset_l + index) * features + feature]`` in float32, so it
can be copied to and from a ``tinycudann.Encoding`` built with the same settings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .interpolate import Route, encode, encode_plain
from .layout import HashGridSettings, Layout, layout

__all__ = ["HashGrid", "HashGridSettings", "Layout", "encode", "encode_plain", "layout"]


class HashGrid(nn.Module):
    """Learned features of a position, looked up trilinearly at every level.

    Args:
        settings: size of the grid.
        generator: draws the initial table, uniform in -1e-4..1e-4 (Instant NGP section 4).
        route: how to compute; 'auto' chooses by device, see :func:`distill3d.fields.interpolate.encode`.

    Attributes:
        params: ``(entries * features,)`` float32, the whole table.
        layout: where each level lies in it.
    """

    def __init__(self, settings: HashGridSettings, *, generator: torch.Generator, route: Route = "auto") -> None:
        super().__init__()
        self.settings = settings
        self.layout = layout(settings)
        self.route: Route = route
        table = torch.rand(self.layout.entries * settings.features, generator=generator, device=generator.device)
        self.params = nn.Parameter(table.mul_(2e-4).sub_(1e-4))

    @property
    def output_width(self) -> int:
        return self.settings.levels * self.settings.features

    def forward(self, x01: Tensor) -> Tensor:
        """``(n, 3)`` positions in 0..1, clamped, to ``(n, levels * features)``, level-major."""
        return encode(x01, self.params, self.layout, route=self.route)

    def extra_repr(self) -> str:
        grid = self.layout
        return f"resolutions={grid.resolutions}, entries={grid.entries}, dense_levels={grid.dense}"
