"""Settings dataclasses as node inputs: one default and one sentence, written in the library, shown in the node.

A field's docstring becomes the tooltip and its type the widget, so a new setting of a method appears in its node
without a change here. Schedules are text fields; their default "auto" takes what the preset says.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from comfy_api.latest import io

from ..distill3d.errors import SettingsError
from ..distill3d.schedules import Schedule, parse

AUTO = "auto"
NONE = "none"
PRESET_HINT = "Left at this default, the preset's value is taken."
SCHEDULE_HINT = "auto takes the preset's. Write a number (7.5), a line over the run (100->60), cosine(100, 60), "
SCHEDULE_HINT += "step(0.98, 0.5, at=0.2) or piecewise(0:0, 0.5:-1)."


def docs_in(source: str) -> dict[str, dict[str, str]]:
    """Docstrings under the fields of every class in ``source``."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        docs: dict[str, str] = {}
        for field, after in zip(node.body, node.body[1:], strict=False):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, str):
                docs[field.target.id] = " ".join(text.split())
        found[node.name] = docs
    return found


@functools.cache
def docs(cls: type) -> Mapping[str, str]:
    """The sentence under each field of ``cls`` and its bases; empty where the source is not at hand."""
    result: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            file = inspect.getsourcefile(base)
            result |= docs_in(Path(file or "").read_text(encoding="utf-8")).get(base.__name__, {})
        except (OSError, TypeError):
            continue
    return result


def plain(kind: Any) -> Any:
    """``Schedule | None`` -> ``Schedule`` and the like."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return next(a for a in typing.get_args(kind) if a is not type(None))
    return kind


def number_or_none(kind: Any) -> bool:
    """Whether ``kind`` is ``int | None`` or ``float | None``: a text field, since no widget shows an empty number."""
    return type(None) in typing.get_args(kind) and plain(kind) in (int, float)


def is_schedule(kind: Any) -> bool:
    return isinstance(plain(kind), type) and issubclass(plain(kind), Schedule)


def widget(name: str, kind: Any, default: Any, tooltip: str, *, advanced: bool = False) -> Any | None:
    """The input for one field; None for a type no widget shows."""
    if number_or_none(kind):
        shown = NONE if default is None else str(default)
        tooltip = f"{tooltip} Write a number, or none."
        return io.String.Input(name, default=shown, tooltip=tooltip, advanced=advanced or None)
    kind = plain(kind)
    more: dict[str, Any] = {"tooltip": tooltip, "advanced": advanced or None}
    if is_schedule(kind):
        return io.String.Input(name, default=AUTO, **{**more, "tooltip": f"{tooltip} {SCHEDULE_HINT}"})
    if typing.get_origin(kind) is Literal:
        options = [str(value) for value in typing.get_args(kind)]
        return io.Combo.Input(name, options=options, default=str(default), **more)
    if kind is bool:
        return io.Boolean.Input(name, default=bool(default), **more)
    if kind is int:
        return io.Int.Input(name, default=int(default), min=0, max=2**31 - 1, **more)
    if kind is float:
        return io.Float.Input(name, default=float(default), min=-1e6, max=1e6, step=0.001, round=False, **more)
    if kind is str:
        long = len(str(default)) > 40
        return io.String.Input(name, default=str(default), multiline=long, **more)
    return None


def defaults(cls: type) -> dict[str, Any]:
    """Each field's default."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def inputs(cls: type, *, skip: tuple[str, ...] = (), advanced: tuple[str, ...] = ()) -> list[Any]:
    """An input for every field of a settings class that a widget can show, in the class's order."""
    hints, said = typing.get_type_hints(cls), docs(cls)
    made: list[Any] = []
    for name, default in defaults(cls).items():
        if name not in skip:
            tip = said.get(name, "")
            if not is_schedule(hints[name]):
                tip = f"{tip} {PRESET_HINT}"
            made.append(widget(name, hints[name], default, tip, advanced=name in advanced))
    return [item for item in made if item is not None]


def chosen(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the user set: schedules and texts of numbers parsed, everything left as it was, or at "auto", absent.

    Raises:
        SettingsError: a schedule or number that cannot be read; the message names the field and lists the forms.
    """
    hints, known = typing.get_type_hints(cls), defaults(cls)
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            continue
        kind = plain(hints[name])
        if number_or_none(hints[name]):
            value = _number(name, kind, value)
        if is_schedule(kind):
            if str(value).strip().lower() not in (AUTO, ""):
                result[name] = _parse(name, value)
        elif value != known[name]:
            result[name] = value
    return result


def _number(name: str, kind: type, value: Any) -> Any:
    text = str(value).strip().lower()
    if text in (NONE, AUTO, ""):
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise SettingsError(f"{name}: expected a number, or none, got {value!r}") from error


def _parse(name: str, value: Any) -> Schedule:
    try:
        return parse(value)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
