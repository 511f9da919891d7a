"""A glTF primitive's base colour: factor, picture, its place and wrapping, vertex colours; and what is left unread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..color import linear_to_srgb, srgb_to_linear
from ..types import Bytes
from .part import Contents, Doubles, Part, Picture, Wrap

if TYPE_CHECKING:
    from .gltf import Table

WRAPS: dict[int, Wrap] = {10497: "repeat", 33648: "mirror", 33071: "clamp"}
GLOSSY = "KHR_materials_pbrSpecularGlossiness"
MOVED = "KHR_texture_transform"
HARMLESS = (
    "KHR_materials_unlit",
    GLOSSY,
    "KHR_materials_ior",
    "KHR_materials_specular",
    "KHR_materials_emissive_strength",
)
"""Material extensions that change nothing here, or that are told in other words."""


def base(material: dict[str, Any]) -> dict[str, Any]:
    """``baseColorFactor`` and ``baseColorTexture`` of a material of either kind, where it has them."""
    glossy = material.get("extensions", {}).get(GLOSSY)
    surface = material.get("pbrMetallicRoughness", {}) if glossy is None else glossy
    names = ("baseColor", "diffuse")[glossy is not None]
    return {f"baseColor{key}": surface[names + key] for key in ("Factor", "Texture") if names + key in surface}


def dress(part: Part, table: Table, material: dict[str, Any] | None, document: dict[str, Any], found: Contents) -> None:
    """Give the part its colours, or its picture with coordinates and tint.

    The base colour is factor times picture times ``COLOR_0``, all in linear light (sections 3.9.2 and 3.7.2.1). A
    factor, and a vertex colour that is the same everywhere, go into the picture.
    """
    _tell_unread(material or {}, found)
    surface = base(material or {})
    factor = np.array(surface.get("baseColorFactor", (1, 1, 1))[:3], np.float64)
    if factor.shape != (3,):
        raise ValueError(f"a colour factor is {surface['baseColorFactor']!r}, and three numbers or more are expected")
    tint: Doubles | None = None
    if "COLOR_0" in table:
        tint = np.nan_to_num(table.values("COLOR_0", unit=True)[:, :3].astype(np.float64), nan=1).clip(0, 1)
        if np.ptp(tint, axis=0).max(initial=0) == 0 and len(tint):
            factor, tint = factor * tint[0], None
    info = surface.get("baseColorTexture")
    placed = None if info is None else _picture(info, table, document, found)
    if placed is not None:
        pixels, wrap, part.uvs = placed
        part.picture, part.tint = Picture(_times(pixels, factor), wrap), tint
    elif "COLOR_0" in table or material is not None:
        light = np.ones((len(part.vertices), 3)) * factor * (1.0 if tint is None else tint)
        part.colors = linear_to_srgb(np.clip(light, 0, 1))


def _times(pixels: Bytes, factor: Doubles) -> Bytes:
    """sRGB pixels times a factor in linear light."""
    if np.allclose(factor, 1):
        return pixels
    levels = srgb_to_linear(np.arange(256)[:, None] / 255.0) * factor
    table = np.round(linear_to_srgb(np.clip(levels, 0, 1)) * 255).astype(np.uint8)
    return np.stack([table[pixels[..., c], c] for c in range(3)], -1)


def _picture(
    info: dict[str, Any], table: Table, document: dict[str, Any], found: Contents
) -> tuple[Bytes, tuple[Wrap, Wrap], Doubles] | None:
    """Pixels, wrapping and the coordinates of each vertex; None, and told, where any cannot be had."""
    move = info.get("extensions", {}).get(MOVED, {})
    name = f"TEXCOORD_{move.get('texCoord', info.get('texCoord', 0))}"
    texture = document["textures"][info["index"]]
    more = texture.get("extensions", {})
    source = more.get("EXT_texture_webp", texture).get("source")
    if source is None:
        found.note(f"a picture of a kind that is not known here ({', '.join(more) or 'no source'})")
        return None
    image = document["images"][source]
    if "absent" in image:
        return None
    pixels = found.pixels(table.loaded["visual"].material.baseColorTexture, image["name"])
    if pixels is None:
        return None
    if name not in table:
        found.note(f"a picture whose coordinates {name} are not there")
        return None
    sampler = document["samplers"][texture["sampler"]] if "sampler" in texture else {}
    wrap = tuple(WRAPS.get(sampler.get(key, 10497), "repeat") for key in ("wrapS", "wrapT"))
    uvs = transformed(table.values(name)[:, :2].astype(np.float64), move)
    return pixels, wrap, uvs  # type: ignore[return-value]


def transformed(uvs: Doubles, move: dict[str, Any]) -> Doubles:
    """Coordinates ``(V, 2)`` after ``KHR_texture_transform``: scaled, turned, shifted.

    The rotation turns them counter-clockwise as the picture is seen, its v axis pointing down, as viewers have it.
    """
    angle = float(move.get("rotation", 0.0))
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    moved: Doubles = (uvs * np.array(move.get("scale", (1, 1)))) @ turn.T + np.array(move.get("offset", (0, 0)))
    return moved


def _tell_unread(material: dict[str, Any], found: Contents) -> None:
    """What of a material has no place in a base colour."""
    surface = material.get("pbrMetallicRoughness", {})
    held = {
        "normal maps": "normalTexture" in material,
        "occlusion maps": "occlusionTexture" in material,
        "glow": "emissiveTexture" in material or any(material.get("emissiveFactor", ())),
        "maps of metal and roughness": "metallicRoughnessTexture" in surface,
        "transparency": material.get("alphaMode", "OPAQUE") != "OPAQUE",
    }
    for what, there in held.items():
        if there:
            found.note(what)
    for name in material.get("extensions", {}):
        if name not in HARMLESS:
            found.note(f"the extension {name}")
