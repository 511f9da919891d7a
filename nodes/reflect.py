"""Settings dataclasses as node inputs: one default and one sentence, written in the library, shown in the node.

A field's docstring becomes the tooltip and its type the widget, so a new setting of a method appears in its node
without a change here. What a preset may set is a text or a menu whose default is the word "auto", and its tooltip says
what that stands for; words of a prompt are shown as they are used. Every input is optional: a prompt that was saved
before a setting existed takes "auto".
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
from ..distill3d.prompts import Sector
from ..distill3d.schedules import Linear, Schedule, parse

AUTO = "auto"
NONE = "none"
SCHEDULE_HINT = "Write a number (7.5), a line over the run (100->60), cosine(100, 60), step(0.98, 0.5, at=0.2) or "
SCHEDULE_HINT += "piecewise(0:0, 0.5:-1)."
SWITCH = {True: "on", False: "off"}


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


def is_schedule(kind: Any) -> bool:
    return isinstance(plain(kind), type) and issubclass(plain(kind), Schedule)


def widget(
    name: str,
    kind: Any,
    default: Any,
    tooltip: str,
    *,
    advanced: bool = False,
    bounds: tuple[float, float] | None = None,
) -> Any | None:
    """The input for one field whose value is used as it is shown; None for a type no widget shows.

    The host refuses what is outside ``bounds`` before the graph runs.
    """
    more: dict[str, Any] = {"tooltip": tooltip, "advanced": advanced or None, "optional": True}
    if kind is bool:
        return io.Boolean.Input(name, default=bool(default), **more)
    if kind is int:
        low, high = bounds or (0, 2**31 - 1)
        return io.Int.Input(name, default=int(default), min=int(low), max=int(high), **more)
    if kind is float:
        low, high = bounds or (-1e6, 1e6)
        return io.Float.Input(name, default=float(default), min=low, max=high, step=0.001, round=False, **more)
    if typing.get_origin(kind) is Literal:
        return io.Combo.Input(name, options=[str(w) for w in typing.get_args(kind)], default=str(default), **more)
    if kind is str:
        long = len(str(default)) > 40
        return io.String.Input(name, default=str(default), multiline=long, **more)
    return None


def auto(name: str, kind: Any, tooltip: str, stands_for: str = "the preset's") -> Any | None:
    """The input for one field that a preset may set: "auto", or a value of its own."""
    bare = plain(kind)
    menu = list(SWITCH.values()) if bare is bool else [str(word) for word in typing.get_args(bare)]
    if bare is bool or typing.get_origin(bare) is Literal:
        tooltip = f"{tooltip} {AUTO} is {stands_for}."
        return io.Combo.Input(name, options=[AUTO, *menu], default=AUTO, tooltip=tooltip, optional=True)
    if is_schedule(bare):
        hint = SCHEDULE_HINT
    elif bare in (int, float):
        hint = f"Write a number, or {NONE}." if type(None) in typing.get_args(kind) else "Write a number."
    else:
        return None
    return io.String.Input(name, default=AUTO, tooltip=f"{tooltip} {AUTO} is {stands_for}. {hint}", optional=True)


def say(value: Any) -> str:
    """A setting's value as its widget takes it."""
    if isinstance(value, Linear) and (value.begin, value.until) == (0, 1):
        return f"{value.start:g}->{value.end:g}"
    if isinstance(value, float):
        return f"{value:g}"
    return NONE if value is None else SWITCH[value] if isinstance(value, bool) else str(value)


def spoken(values: Mapping[str, str]) -> str:
    """``{"SDS": "0.98", "CSD": "0.98", "ASD": "0.5"}`` -> ``0.98 (ASD 0.5)``: the usual value, then who has another."""
    usual = max(values.values(), key=list(values.values()).count)
    others = [f"{name} {value}" for name, value in values.items() if value != usual]
    return f"{usual} ({', '.join(others)})" if others else usual


def defaults(cls: type) -> dict[str, Any]:
    """Each field's default."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def inputs(cls: type, stands_for: Mapping[str, str], *, skip: tuple[str, ...] = ()) -> list[Any]:
    """An input for every field of a settings class that a widget can show, in the class's order.

    Args:
        stands_for: by field, what "auto" is.
    """
    hints, said = typing.get_type_hints(cls), docs(cls)
    made: list[Any] = []
    for name, default in defaults(cls).items():
        if name in skip:
            continue
        if hints[name] is str:
            made.append(widget(name, str, default, said.get(name, "")))
        else:
            made.append(auto(name, hints[name], said.get(name, ""), stands_for.get(name, "the preset's")))
    return [item for item in made if item is not None]


def chosen(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the user set, as the settings class takes it; what is at "auto" is absent, and so is what a prompt lacks,
    for which the host passes None.

    Raises:
        SettingsError: a value that cannot be read; the message names the field and says what it takes.
    """
    hints, known = typing.get_type_hints(cls), defaults(cls)
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known or value is None:
            continue
        if hints[name] is str:
            result[name] = str(value)
        elif str(value).strip().lower() not in (AUTO, ""):
            result[name] = _read(name, hints[name], str(value).strip())
    return result


def _read(name: str, kind: Any, text: str) -> Any:
    try:
        return convert(kind, text)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    except (TypeError, ValueError, KeyError) as error:
        bare, none = plain(kind), f", {NONE}" if type(None) in typing.get_args(kind) else ""
        words = [*SWITCH.values()] if bare is bool else [str(word) for word in typing.get_args(bare)] or ["a number"]
        raise SettingsError(f"{name}: expected {', '.join(words)}{none} or {AUTO}, got {text!r}") from error


def convert(kind: Any, text: str) -> Any:
    """``text`` as a field of type ``kind`` takes it. Raises ``SettingsError`` or ``ValueError``, ``KeyError``."""
    if text.lower() == NONE and type(None) in typing.get_args(kind):
        return None
    kind = plain(kind)
    if is_schedule(kind):
        return parse(text)
    if kind is bool:
        return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"expected one of {', '.join(map(str, typing.get_args(kind)))}")
        return text
    if typing.get_origin(kind) is tuple and Sector not in typing.get_args(kind):
        separator = ".." if ".." in text else ","
        return tuple(float(part) for part in text.strip("()[] ").split(separator))
    raise ValueError("this setting cannot be written in one line")
