"""Radiance fields: the hash grid, the density field over it, and backgrounds."""

from __future__ import annotations

from .backends import EncoderName
from .background import Background, BackgroundSettings
from .base import RadianceField
from .density import DensityField, FieldSettings
from .hashgrid import HashGrid, HashGridSettings

__all__ = [
    "Background",
    "BackgroundSettings",
    "DensityField",
    "EncoderName",
    "FieldSettings",
    "HashGrid",
    "HashGridSettings",
    "RadianceField",
]
