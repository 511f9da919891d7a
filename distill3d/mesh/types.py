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
Bytes = NDArray[np.uint8]
OnStage = Callable[[str, float], None]
"""Called with a stage's name and its finished share 0..1; whatever it raises ends the extraction."""


@dataclass(frozen=True)
class MeshSettings:
    """How a field becomes a mesh. The defaults suit a field trained at 64 to 256 pixels."""

    resolution: int = 128
    """Cells along each side of the unit box; above 160 only what is near the surface is sampled."""
    level: float | None = None
    """Density at which the surface stands; none lets the field's own opacity decide."""
    refine: int = 4
    """Bisections that move each vertex onto the level along its cell edge; 0 keeps the interpolated place."""
    fill_cavities: bool = True
    """Fill hollows that no one can see into, which halves the faces of a shell and makes it printable."""
    component_share: float = 0.05
    """Smallest part that is kept, as a share of the largest part's area; 0 keeps every floater."""
    face_budget: int = 20000
    """Most triangles in the mesh, 100 or more; 0 keeps them all."""
    normals: Literal["faces", "field"] = "faces"
    """Vertex normals from the faces around them, or from the field's gradient, which is finer but noisier."""
    chunk: int = 1 << 17
    """Points asked of the field at once; lower it when memory runs out."""
    smooth: int = 0
    """Passes of smoothing before decimation, which round off lattice ripples and keep the volume; try 5."""
    scale: Literal["world", "unit", "metres"] = "world"
    """Size of the result: world keeps the frame of training, unit fits a box of side 1 around the origin, metres
    gives the longest side the length of the setting of that name and stands the object on the ground."""
    metres: float = 1.0
    """Longest side in metres, glTF's unit, where the scale is metres."""

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
            raise SettingsError(
                f"expected a face budget of 100 or more, or 0 for no limit, got {self.face_budget}: try 20000"
            )
        if self.normals not in ("faces", "field"):
            raise SettingsError(f"expected normals from 'faces' or 'field', got {self.normals!r}: choose one")
        if not 0 <= self.smooth <= 200:
            raise SettingsError(f"expected 0 to 200 passes of smoothing, got {self.smooth}: try 5")
        if self.scale not in ("world", "unit", "metres"):
            raise SettingsError(f"expected a scale of 'world', 'unit' or 'metres', got {self.scale!r}: choose one")
        if not 1e-6 <= self.metres <= 1e6:
            raise SettingsError(f"expected a size of 1e-6 to 1e6 metres, got {self.metres}: try 1")
        if self.chunk < 1:
            raise SettingsError(f"expected a chunk of 1 point or more, got {self.chunk}: try {1 << 17}")


@dataclass(frozen=True)
class TextureSettings:
    """How a mesh gets its texture. Used by formats that carry one: GLB, OBJ and USDZ."""

    size: int = 1024
    """Side of the texture in texels, 64 to 8192; 0 leaves the mesh with vertex colours and no texture."""
    supersample: int = 2
    """Samples along each side of a texel, taken wherever its neighbours' colours differ."""
    normal_map: bool = True
    """Keep the detail of the surface before decimation as a normal map."""
    occlusion: bool = False
    """Also bake how much of the surroundings each point sees, for softer light in corners."""
    unwrap: Literal["auto", "xatlas", "box"] = "auto"
    """Auto and xatlas try xatlas first and fall back to box projection, which is instant and has more seams."""
    unwrap_seconds: float = 30.0
    """Longest time xatlas may take."""
    padding: int = 4
    """Texels left free around each piece of the atlas; they are filled with its border's colour."""
    image: Literal["png", "jpeg"] = "png"
    """Format of the colour texture inside GLB; jpeg is smaller and not exact."""

    def __post_init__(self) -> None:
        if self.size != 0 and not 64 <= self.size <= 8192:
            raise SettingsError(f"expected a texture of 64 to 8192 texels, or 0 for none, got {self.size}: try 1024")
        if not 1 <= self.supersample <= 8:
            raise SettingsError(f"expected 1 to 8 samples along a texel, got {self.supersample}: try 2")
        if self.unwrap not in ("auto", "xatlas", "box"):
            raise SettingsError(f"expected an unwrapper 'auto', 'xatlas' or 'box', got {self.unwrap!r}: choose one")
        if not (self.unwrap_seconds >= 0 and np.isfinite(self.unwrap_seconds)):
            raise SettingsError(f"expected a time limit of 0 seconds or more, got {self.unwrap_seconds}: try 30")
        if not 0 <= self.padding <= 64:
            raise SettingsError(f"expected 0 to 64 texels of padding, got {self.padding}: try 4")
        if self.image not in ("png", "jpeg"):
            raise SettingsError(f"expected an image format 'png' or 'jpeg', got {self.image!r}: choose one")


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
        uvs: ``(V, 2)`` float32 from the upper left corner of the texture, v downwards, as glTF has it; vertices on a
            seam are there once for each side of it.
        texture: ``(H, W, 3)`` uint8 sRGB base colour.
        normal_map: ``(H, W, 3)`` uint8, tangent space, green upwards in the picture (glTF and OpenGL).
        tangents: ``(V, 4)`` float32, unit and at right angles to the normal; the last is the bitangent's sign.
        occlusion: ``(H, W)`` uint8, 255 where all surroundings are seen.
        image: format of the colour texture inside GLB.
        tint: ``(V, 3)`` float32 linear factors over the texture, between vertices interpolated, as glTF's ``COLOR_0``;
            files have them, and of the formats written here GLB keeps them.
    """

    vertices: Floats
    faces: Ints
    normals: Floats
    colors: Floats
    level: float
    report: dict[str, Any] = field(default_factory=dict)
    uvs: Floats | None = None
    texture: Bytes | None = None
    normal_map: Bytes | None = None
    tangents: Floats | None = None
    occlusion: Bytes | None = None
    image: Literal["png", "jpeg"] = "png"
    tint: Floats | None = None
