"""Multiresolution hash grid (Instant NGP, https://arxiv.org/abs/2201.05989) as one module over one flat parameter.

``params`` is tiny-cuda-nn's vector entry for entry: ``[(offset_l + index) * features + feature]`` in float32, so it
can be copied to and from a ``tinycudann.Encoding`` built with the same settings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import BackendError
from .backends import EncoderName, choose, probe
from .interpolate import Route, encode, encode_plain
from .layout import HashGridSettings, Layout, layout

TINYCUDANN_FEATURES = (1, 2, 4, 8)
"""Features a level that tiny-cuda-nn is compiled for."""

__all__ = ["HashGrid", "HashGridSettings", "Layout", "encode", "encode_plain", "layout"]


class HashGrid(nn.Module):
    """Learned features of a position, looked up trilinearly at every level.

    Args:
        settings: size of the grid.
        generator: draws the initial table, uniform in -1e-4..1e-4 (Instant NGP section 4).

    Attributes:
        backend: what computes the look-up, see ``backends``; may be changed at any time. Not part of the state.
        params: ``(entries * features,)`` float32, the whole table.
        layout: where each level lies in it.
    """

    def __init__(self, settings: HashGridSettings, *, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.layout = layout(settings)
        self.backend: EncoderName = "auto"
        table = torch.rand(self.layout.entries * settings.features, generator=generator, device=generator.device)
        self.params = nn.Parameter(table.mul_(2e-4).sub_(1e-4))

    @property
    def output_width(self) -> int:
        return self.settings.levels * self.settings.features

    def use(self, backend: EncoderName) -> None:
        """Compute with ``backend`` from now on, on the device the table is on.

        Raises:
            BackendError: it does not work there; nothing has changed then.
        """
        route = choose(self.params.device, backend)
        if route == backend == "tinycudann" and self.layout.features not in TINYCUDANN_FEATURES:
            raise BackendError(
                f"tinycudann takes {', '.join(map(str, TINYCUDANN_FEATURES))} features a level, got "
                f"{self.layout.features}: choose auto, which takes what works"
            )
        self.backend = backend

    def _route(self) -> Route:
        route = choose(self.params.device, self.backend)
        if route == "tinycudann" and self.layout.features not in TINYCUDANN_FEATURES:
            return "triton" if probe("triton", self.params.device) is None else "batched"
        return route

    def forward(self, x01: Tensor) -> Tensor:
        """``(n, 3)`` positions in 0..1, clamped, to ``(n, levels * features)``, level-major.

        A table that was converted from float32 is looked up in torch, which takes any precision.
        """
        single = self.params.dtype == torch.float32
        return encode(x01, self.params, self.layout, route=self._route() if single else "auto")

    def extra_repr(self) -> str:
        grid = self.layout
        return f"resolutions={grid.resolutions}, entries={grid.entries}, dense_levels={grid.dense}"
