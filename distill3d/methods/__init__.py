"""Distillation methods: noise predictions in, latent gradient out. No model, no state, no I/O.

To add one: a file with its pure function, settings and ``Method`` class, and an entry in ``METHODS``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import SettingsError
from .asd import ASD, ASDSettings
from .base import PROMPTS, Evaluation, Method, Preset
from .bridge import Bridge, BridgeSettings
from .bsd import BSD, BSDSettings
from .csd import CSD, CSDSettings
from .gradient import GradientSettings, process, surrogate_loss
from .nfsd import NFSD, NFSDSettings
from .perp_neg import PerpNegSettings
from .sds import SDS, SDSSettings
from .settings import MethodSettings
from .tbsd import TBSD, TBSDSettings
from .weights import WEIGHTS, weight

__all__ = [
    "METHODS",
    "PROMPTS",
    "WEIGHTS",
    "Evaluation",
    "GradientSettings",
    "Method",
    "MethodSettings",
    "PerpNegSettings",
    "Preset",
    "create",
    "lookup",
    "preset",
    "process",
    "surrogate_loss",
    "weight",
]


class Entry(NamedTuple):
    """A method's class and the class of its settings."""

    method: type[Method[Any]]
    settings: type[MethodSettings]


METHODS: dict[str, Entry] = {
    "SDS": Entry(SDS, SDSSettings),
    "CSD": Entry(CSD, CSDSettings),
    "ASD": Entry(ASD, ASDSettings),
    "TBSD": Entry(TBSD, TBSDSettings),
    "NFSD": Entry(NFSD, NFSDSettings),
    "BRIDGE": Entry(Bridge, BridgeSettings),
    "BSD": Entry(BSD, BSDSettings),
}


def lookup(name: str) -> Entry:
    """The entry of a method, its name in any case.

    Raises:
        SettingsError: an unknown name; the message lists the known ones.
    """
    entry = METHODS.get(str(name).strip().upper())
    if entry is None:
        raise SettingsError(f"unknown method {name!r}: expected one of {', '.join(METHODS)}; write one of them")
    return entry


def preset(name: str, which: str | None = None) -> Preset[Any]:
    """Settings, timestep window and gradient settings published for a method; the first preset by default.

    Raises:
        SettingsError: an unknown method or preset.
    """
    presets = lookup(name).method.presets
    which = which or next(iter(presets))
    if which not in presets:
        raise SettingsError(f"unknown preset {which!r} of {name}: expected one of {', '.join(presets)}; choose one")
    return presets[which]


def create(name: str, settings: MethodSettings | None = None) -> Method[Any]:
    """A method by name, with its default settings unless others are given.

    Raises:
        SettingsError: an unknown name, or settings of another method.
    """
    entry = lookup(name)
    settings = entry.settings() if settings is None else settings
    if not isinstance(settings, entry.settings):
        raise SettingsError(
            f"expected {entry.settings.__name__} for {name}, got {type(settings).__name__}: use its own settings"
        )
    return entry.method(settings)
