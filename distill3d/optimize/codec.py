"""Settings to plain JSON and back, for checkpoints, reports and comparisons: frozen dataclasses, schedules, tuples."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from .. import schedules
from ..errors import SettingsError

T = TypeVar("T")
PLAIN = (bool, int, float, str, Path)
"""Kinds that a value either is or is not."""


def to_json(value: Any) -> Any:
    """Plain JSON of a settings object, a schedule, or anything made of them."""
    if isinstance(value, schedules.Schedule):
        return schedules.to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return value


def convert(kind: Any, value: Any, name: str) -> Any:
    """A value of the annotation ``kind`` from what ``to_json`` makes of one. Paths are text, whole numbers floats too.

    Raises:
        SettingsError, TypeError, ValueError: it is of another kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, schedules.Schedule):
        return schedules.from_json(value)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(convert(k, v, name) for k, v in zip(kinds, value, strict=True))
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type, kind), value, f"{name}.")
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    fits = value in arguments if origin is Literal else kind not in PLAIN or type(value) is kind
    if not fits:
        raise TypeError(f"expected {name} as {getattr(kind, '__name__', kind)}, got {value!r}")
    return value


def from_json(cls: type[T], data: Any, prefix: str = "") -> T:
    """The settings object of class ``cls`` that ``to_json`` wrote as ``data``.

    Raises:
        SettingsError: a name that ``cls`` does not have, or a value that does not fit it.
    """
    if not isinstance(data, dict):
        raise SettingsError(f"expected settings of {cls.__name__} at {prefix or 'the top'}, got {data!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise SettingsError(
            f"expected settings of {cls.__name__}, got the unknown {', '.join(prefix + n for n in unknown)}: "
            "they come from another version of distill3d"
        )
    try:
        return cls(**{name: convert(hints[name], value, f"{prefix}{name}") for name, value in data.items()})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SettingsError(
            f"could not read the settings of {cls.__name__} at {prefix or 'the top'}: {error}"
        ) from error
