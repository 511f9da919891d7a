"""What the mesh floor takes and gives: the settings of an extraction and the mesh that comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import SettingsError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
OnStage = Callable[[str, float], None]
"""Called with a stage's name and its finished share 0..1; whatever it raises ends the extraction."""


@dataclass(frozen=True)
class MeshSettings:
    """How a field becomes a mesh. The defaults suit a field trained at 64 to 256 pixels."""

    resolution: int = 128
    """Cells along each side of the unit box; time and memory grow with its cube (0.4 GB at 256)."""
    level: float | None = None
    """Density at which the surface stands; none lets the field's own opacity decide."""
    refine: int = 4
    """Bisections that move each vertex onto the level along its cell edge; 0 keeps the interpolated place."""
    fill_cavities: bool = True
    """Fill hollows that no one can see into, which halves the faces of a shell and makes it printable."""
    component_share: float = 0.05
    """Smallest part that is kept, as a share of the largest part's area; 0 keeps every floater."""
    face_budget: int = 20000
    """Most triangles in the mesh; 0 keeps them all."""
    normals: Literal["faces", "field"] = "faces"
    """Vertex normals from the faces around them, or from the field's gradient, which is finer but noisier."""
    chunk: int = 1 << 17
    """Points asked of the field at once; lower it when memory runs out."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024:
            raise SettingsError(f"expected a mesh resolution of 8 to 1024, got {self.resolution}: try 128")
        if self.level is not None and not (self.level > 0 and np.isfinite(self.level)):
            raise SettingsError(f"expected a density level above 0, got {self.level}: leave it out to have it chosen")
        if not 0 <= self.refine <= 20:
            raise SettingsError(f"expected 0 to 20 refinement steps, got {self.refine}: try 4")
        if not 0 <= self.component_share <= 1:
            raise SettingsError(f"expected a component share of 0 to 1, got {self.component_share}: try 0.05")
        if self.face_budget != 0 and self.face_budget < 100:
            raise SettingsError(f"expected a face budget of 100 or more, or 0 for no limit, got {self.face_budget}")
        if self.normals not in ("faces", "field"):
            raise SettingsError(f"expected normals from 'faces' or 'field', got {self.normals!r}")
        if self.chunk < 1:
            raise SettingsError(f"expected a chunk of 1 point or more, got {self.chunk}: try {1 << 17}")


@dataclass
class SurfaceMesh:
    """A triangle mesh in the world frame: y up, right-handed, inside ``[-1, 1]^3``, counter-clockwise from outside.

    Attributes:
        vertices: ``(V, 3)`` float32.
        faces: ``(F, 3)`` int64.
        normals: ``(V, 3)`` float32, unit, outward.
        colors: ``(V, 3)`` float32 in 0..1, display-referred sRGB, as the field renders and the prior sees them.
            Writers convert where a format asks for linear light.
        level: density at which the surface stands.
        report: JSON-ready facts about the extraction, with a list of ``warnings`` for the user.
    """

    vertices: Floats
    faces: Ints
    normals: Floats
    colors: Floats
    level: float
    report: dict[str, Any] = field(default_factory=dict)
