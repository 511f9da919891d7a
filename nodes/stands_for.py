"""What "auto" stands for in each input that a preset may set, in words: read off the presets themselves."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

from ..distill3d.methods import METHODS
from ..distill3d.optimize import PRESETS, Settings, preset
from . import reflect

PRIORS = {True: "with the bundled prior", False: "with any other MODEL"}


@functools.cache
def _preset(name: str, method: str, bundled: bool) -> Settings:
    return preset(name, method, bundled=bundled)


def words(read: Callable[[Settings], Any], methods: Iterable[str]) -> str:
    """What ``read`` finds in every preset: ``0.005 with the bundled prior, 1e-15 with any other MODEL``.

    The usual value comes first; methods and presets that have another follow in brackets.
    """
    methods = list(methods)
    found = []
    for bundled, where in PRIORS.items():
        of_method = {}
        for method in methods:
            values = {name: reflect.say(read(_preset(name, method, bundled))) for name in PRESETS}
            of_method[method] = reflect.spoken(values)
        found.append((reflect.spoken(of_method), where))
    if len({said for said, _ in found}) == 1:
        return found[0][0]
    return ", ".join(f"{said} {where}" for said, where in found)


def of_method(method: str) -> dict[str, str]:
    """For each of a method's own settings."""
    own, fields = method.lower(), reflect.defaults(METHODS[method].settings)
    return {name: words(operator.attrgetter(f"{own}.{name}"), [method]) for name in fields}


def shared(read: Callable[[Settings], Any]) -> str:
    """For a setting that every method has."""
    return words(read, METHODS)
