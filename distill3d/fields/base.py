"""What a renderer or a mesher asks of a radiance field."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class RadianceField(Protocol):
    """Volume density and colour over ``[-1, 1]^3`` (y up, right-handed); any object with these three methods."""

    def density(self, x: Tensor) -> Tensor:
        """``(n, 3)`` world positions to ``(n,)`` density, at least 0, per world unit of length."""
        ...

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, 3)`` world positions to density ``(n,)`` and albedo ``(n, 3)`` in 0..1."""
        ...

    def normals(self, x: Tensor) -> Tensor:
        """``(n, 3)`` world positions to ``(n, 3)`` unit vectors that point out of the object, against the density."""
        ...


@runtime_checkable
class SignedDistanceField(Protocol):
    """A field that also knows its distance to the surface; the mesher then cuts it at zero."""

    def sdf(self, x: Tensor) -> Tensor:
        """``(n, 3)`` world positions to ``(n,)`` signed distance in world units, negative inside."""
        ...
