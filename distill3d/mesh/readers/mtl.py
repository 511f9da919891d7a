"""OBJ materials: the diffuse colour and its picture, with the options that may stand before the picture's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..beside import find, picture_of
from .part import Contents, Doubles, Picture, rgb, text_of

OPAQUE = {"d": 1.0, "tr": 0.0}
"""What MTL says of a material that one cannot see through; ``Tr`` counts the other way round."""

NEUTRAL = {"-t": [0.0, 0.0, 0.0], "-mm": [0.0, 1.0]}
"""Options that change a picture in ways not followed here, and their values that change nothing."""


@dataclass
class Material:
    """``Kd`` as sRGB, and ``map_Kd`` with its ``-s``, ``-o`` and ``-clamp``, which act on v upwards."""

    diffuse: Doubles | None = None
    picture: Picture | None = None
    scale: Doubles = field(default_factory=lambda: np.ones(2))
    offset: Doubles = field(default_factory=lambda: np.zeros(2))


def read_mtl(obj: Path, library: str, found: Contents) -> dict[str, Material]:
    """The materials of a library that ``obj`` names, by name; what is lacking is told in ``found``.

    The picture stands for the colour alone: programs write any ``Kd`` beside it, and most readers take none of it.
    """
    place = find(obj.parent, library)
    if place is None:
        found.absent.append(library)
        return {}
    made: dict[str, Material] = {}
    current = Material()
    for line in text_of(place.read_bytes()).split("\n"):
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        if key.lower() == "newmtl":
            current = made.setdefault(rest, Material())
        elif key.lower() == "kd":
            current.diffuse = _color(rest, found)
        elif key.lower() == "map_kd" and rest:
            _picture(current, rest, place, obj, found)
        elif key.lower() == "map_d" or (key.lower() in OPAQUE and _number(rest) != OPAQUE[key.lower()]):
            found.note("transparency")
    return made


def _number(text: str) -> float | None:
    try:
        return float(text.split()[-1])
    except (ValueError, IndexError):
        return None


def _color(text: str, found: Contents) -> Doubles | None:
    words = text.split()
    try:
        values = [float(word) for word in words[:3]]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        found.note(f"the material colour Kd {text!r}")
        return None
    # one number stands for all three
    color: Doubles = np.clip(np.array(values * 3 if len(values) == 1 else values + [0.0] * (3 - len(values))), 0, 1)
    return color


def _picture(material: Material, line: str, library: Path, obj: Path, found: Contents) -> None:
    name, options = picture_of(line)
    if not name:
        return
    place = find(library.parent, name) or find(obj.parent, name)
    if place is None:
        found.absent.append(name)
        return
    try:
        with Image.open(place) as image:
            pixels = rgb(image)
    except (OSError, ValueError, Image.DecompressionBombError):
        found.note(f"the picture {name}, which is damaged or of an unknown kind")
        return
    clamp = options.pop("-clamp", ["off"])[0].lower() == "on"
    material.picture = Picture(pixels, ("clamp", "clamp") if clamp else ("repeat", "repeat"))
    material.scale, material.offset = _pair(options.pop("-s", []), 1.0), _pair(options.pop("-o", []), 0.0)
    for option, neutral in NEUTRAL.items():
        values = [float(word) for word in options.get(option, [])]
        if values and values != neutral[: len(values)]:
            found.note(f"map_Kd's option {option}")


def _pair(words: list[str], missing: float) -> Doubles:
    values = [float(word) for word in words[:2]]
    return np.array(values + [missing] * (2 - len(values)))
