"""Base of the frozen settings in this package: schedules from text, and plain dicts for JSON files."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import SettingsError
from ..schedules import Schedule, parse, to_json

S = TypeVar("S", bound="MethodSettings")


@dataclass(frozen=True)
class MethodSettings:
    """Fields typed ``Schedule`` take whatever ``schedules.parse`` reads; those typed ``Schedule | None`` also None."""

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if kind is Schedule or (Schedule in typing.get_args(kind) and value is not None):
                object.__setattr__(self, name, parse(value))

    def to_json(self) -> dict[str, Any]:
        """A plain dict of JSON types, one entry a field."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: to_json(v) if isinstance(v, Schedule) else v for name, v in values.items()}

    @classmethod
    def from_json(cls: type[S], data: Mapping[str, Any]) -> S:
        """The settings ``to_json`` wrote; missing fields keep their defaults.

        Raises:
            SettingsError: a field these settings do not have, or a value it cannot hold.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise SettingsError(f"expected {cls.__name__} with {', '.join(known)}, got {', '.join(unknown)}: remove it")
        try:
            return cls(**data)
        except SettingsError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise SettingsError(
                f"expected {cls.__name__} such as {cls().to_json()}, got {dict(data)} ({error}): "
                "write values of the same kinds"
            ) from error
