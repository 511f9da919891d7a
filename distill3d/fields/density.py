"""A density and a colour at every point of ``[-1, 1]^3``: hash grid, two small networks, and a blob to start from.

The field of Instant NGP (https://arxiv.org/abs/2201.05989) with the density initialisation of DreamFusion
(https://arxiv.org/abs/2209.14988) or Magic3D (https://arxiv.org/abs/2211.10440), as threestudio combines them
(``threestudio/models/geometry/implicit_volume.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import SettingsError
from .backends import EncoderName
from .hashgrid import HashGrid
from .layout import HashGridSettings
from .mlp import MLP

Activation = Literal["softplus", "exp", "laplace"]
Blob = Literal["magic3d", "dreamfusion", "none"]
ColorGrid = Literal["shared", "added", "own"]


@dataclass(frozen=True)
class FieldSettings:
    """A density field. The defaults are the CPU profile; :meth:`fine` is the GPU profile."""

    grid: HashGridSettings = field(default_factory=HashGridSettings)
    """The hash grid that holds the details."""
    hidden: int = 64
    """Width of the hidden layer of the density network and of the colour network."""
    hidden_layers: int = 1
    """Number of hidden layers in each of the two networks."""
    activation: Activation = "softplus"
    """How raw density becomes density: 'softplus' grows linearly, 'exp' sharpens faster and is steadied beyond e^15;
    'laplace' (VolSDF) reads it as a signed distance and gives a solid of one density with a thin edge."""
    peak: float = 10.0
    """Density deep inside matter with 'laplace', per world unit; the other activations have no limit."""
    density_bias: float = 0.0
    """Added to the raw density everywhere; negative values start with clearer empty space."""
    blob: Blob = "magic3d"
    """Shape of the initial density: 'magic3d' is a cone, 'dreamfusion' a Gaussian, 'none' starts uniform."""
    blob_density: float = 10.0
    """Raw density the blob adds at the origin."""
    blob_radius: float = 0.5
    """Size of the blob in world units: where the cone reaches zero, or the Gaussian's standard deviation."""
    normal_eps: float | None = None
    """Step of the finite differences behind normals, in world units; None is one cell of the finest level."""
    color_grid: ColorGrid = "shared"
    """Where colour looks itself up: 'shared' in the density's grid; 'added' in the sum of that and a grid of its own;
    'own' in that alone. With the bundled prior 'own' opened a bowl that stayed filled, and broke three of six chairs
    where one grid broke two. A second grid takes as much memory again, and a third more for each render."""

    def __post_init__(self) -> None:
        for name in ("hidden", "blob_radius"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be above 0, got {getattr(self, name)}; set a positive number.")
        if self.hidden_layers < 0:
            raise SettingsError(f"hidden_layers must be 0 or more, got {self.hidden_layers}; 1 is usual.")
        if self.normal_eps is not None and not 0 < self.normal_eps < 1:
            raise SettingsError(f"normal_eps must lie between 0 and 1, got {self.normal_eps}; None is one cell.")
        kinds = {"activation": Activation, "blob": Blob, "color_grid": ColorGrid}
        for name, known in ((name, get_args(kind)) for name, kind in kinds.items()):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}; pick one.")

    @classmethod
    def fine(cls) -> FieldSettings:
        """The GPU profile: the same networks over :meth:`HashGridSettings.fine`."""
        return cls(grid=HashGridSettings.fine())


_TETRAHEDRON = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))


@lru_cache(maxsize=16)
def _tetrahedron(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(_TETRAHEDRON, device=device, dtype=dtype)


class _TruncatedExp(torch.autograd.Function):
    """``exp`` whose value and slope stop growing at e^15 (torch-ngp, ``activation.py``); keeps float32 finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(max=15.0).exp()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0].mul(x.clamp(max=15.0).exp())


def truncated_exp(x: Tensor) -> Tensor:
    """``min(exp(x), e^15)`` with a gradient that stays e^15 beyond, so that a saturated value can still come down."""
    result: Tensor = _TruncatedExp.apply(x)
    return result


def laplace_cdf(x: Tensor) -> Tensor:
    """``exp(x) / 2`` up to 0 and ``1 - exp(-x) / 2`` above: the share of matter in VolSDF (arXiv 2106.12052, eq. 3)."""
    return 0.5 * (x.clamp(max=0).exp() - torch.expm1(-x.relu()))


def blob(x: Tensor, kind: Blob, height: float, radius: float) -> Tensor:
    """Raw density ``(n,)`` that a blob adds at ``x`` ``(n, 3)``.

    'magic3d' is ``height (1 - |x| / radius)``, negative outside the radius (Magic3D section 5);
    'dreamfusion' is ``height exp(-|x|^2 / (2 radius^2))`` (DreamFusion appendix A.2).
    """
    if kind == "none":
        return torch.zeros_like(x[:, 0])
    if kind == "magic3d":
        distance: Tensor = torch.linalg.vector_norm(x, dim=1)
        return height * (1.0 - distance / radius)
    return torch.exp(x.square().sum(1) * (-0.5 / radius**2)).mul(height)


class DensityField(nn.Module):
    """A trainable :class:`~distill3d.fields.base.RadianceField`.

    Args:
        settings: sizes and initialisation.
        generator: draws the initial parameters, on the device it lives on; move the field with ``.to`` as usual.

    Attributes:
        hardness: ``()`` buffer h, 1 at first. The density is ``h f(h raw)`` for an activation f, so that raising h over
            a run draws a soft edge together and makes the inside denser. Normals do not depend on it.
    """

    hardness: Tensor

    def __init__(self, settings: FieldSettings, *, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("hardness", torch.ones(()))
        self.encoder = HashGrid(settings.grid, generator=generator)
        width, hidden, layers = self.encoder.output_width, settings.hidden, settings.hidden_layers
        self.density_network = MLP(width, 1, hidden=hidden, layers=layers, generator=generator)
        self.color_network = MLP(width, 3, hidden=hidden, layers=layers, generator=generator)
        self.color_encoder: HashGrid | None = None
        if settings.color_grid != "shared":
            self.color_encoder = HashGrid(settings.grid, generator=generator)

    @property
    def normal_eps(self) -> float:
        """Finite-difference step in world units, by default the width ``2 / scale`` of the finest cell."""
        return self.settings.normal_eps or 2.0 / self.encoder.layout.scales[-1]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, under "encoder" (hash tables) or "mlp" (networks), for their learning rates."""
        networks = [*self.density_network.parameters(), *self.color_network.parameters()]
        return {"encoder": [p for grid in self._grids() for p in grid.parameters()], "mlp": networks}

    def use(self, backend: EncoderName) -> None:
        """Look every grid up with ``backend`` from now on. Raises as ``HashGrid.use``."""
        for grid in self._grids():
            grid.use(backend)

    def _grids(self) -> list[HashGrid]:
        return [self.encoder] if self.color_encoder is None else [self.encoder, self.color_encoder]

    def density(self, x: Tensor) -> Tensor:
        """``(n, 3)`` world positions to ``(n,)`` density per world unit, 0 outside ``[-1, 1]^3``."""
        return self._activate(x, self._raw_density(x, self.encoder(_unit_cube(x))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, 3)`` world positions to density ``(n,)`` and albedo ``(n, 3)`` in 0..1, from one look-up a grid."""
        place = _unit_cube(x)
        features = self.encoder(place)
        density = self._activate(x, self._raw_density(x, features))
        if self.color_encoder is not None:
            own = self.color_encoder(place)
            features = features + own if self.settings.color_grid == "added" else own
        return density, self.color_network(features).sigmoid()

    def normals(self, x: Tensor) -> Tensor:
        """Unit normals ``(n, 3)`` at ``x`` ``(n, 3)``: against the gradient, by differences over a tetrahedron.

        Four taps on a regular tetrahedron, ``normal_eps / 2`` along each axis: as many as forward differences, but
        symmetric. A forward step leaves the object on one side and enters it on the other, where nothing has shaped
        the field. Differences are taken of the raw density, before its activation: the direction is the same, since the
        activation only grows, and it holds where the density vanishes or saturates. Points closer than a step to a wall
        of the box are moved inwards. Differentiable to the parameters and to ``x``; zero where the field is flat.
        """
        corners = _tetrahedron(x.device, x.dtype)
        step = 0.5 * self.normal_eps
        centre = x.clamp(step - 1.0, 1.0 - step)
        points = (centre[:, None] + step * corners).view(-1, 3)
        raw = self._raw_density(points, self.encoder(_unit_cube(points))).view(-1, 4)
        normal: Tensor = F.normalize(-(raw @ corners), dim=1)
        return normal

    def _raw_density(self, x: Tensor, features: Tensor) -> Tensor:
        s = self.settings
        start = blob(x, s.blob, s.blob_density, s.blob_radius) + s.density_bias
        raw: Tensor = self.density_network(features).squeeze(1) + start
        return raw

    def _activate(self, x: Tensor, raw: Tensor) -> Tensor:
        inside = x.detach().abs().amax(1) <= 1.0
        scaled = self.hardness * raw
        if self.settings.activation == "laplace":
            density = self.settings.peak * laplace_cdf(scaled)
        else:
            density = F.softplus(scaled) if self.settings.activation == "softplus" else truncated_exp(scaled)
        return density * (self.hardness * inside)


def _unit_cube(x: Tensor) -> Tensor:
    return x * 0.5 + 0.5
