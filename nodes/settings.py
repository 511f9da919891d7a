"""From widgets to the library's ``Settings``: a preset, the loss's own choices, and what the user overrides by name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..distill3d.errors import SettingsError
from ..distill3d.methods import METHODS, GradientSettings
from ..distill3d.optimize import Settings, preset, remarks
from ..distill3d.schedules import Schedule, TimestepWindow, parse
from . import reflect
from .host.conditioning import unknown_words
from .host.guidance import guides_throughout, has_patches
from .types import Loss, Plan

LARGEST_TINY_CFG = 15.0
"""Twice the highest scale of the bundled prior's presets."""
WINDOW = {"minimum": "t_min", "maximum": "t_max"}
"""Distill Loss's inputs for the ends of the timestep window."""
OWNED = ("method", "sectors", "window", "gradient")
"""Settings that belong to Distill Loss and View Prompts."""


def assemble(loss: Loss, name: str, *, bundled: bool) -> Settings:
    """The settings of preset ``name`` with the choices of Distill Loss.

    Raises:
        SettingsError: a choice that cannot be used.
    """
    base = preset(name, loss.method, bundled=bundled)
    own = dict(loss.chosen)
    if loss.plan is not None and _takes(loss, loss.plan):
        own["guidance"] = loss.plan.schedule
        if guides_throughout(loss.settings_type):
            own["guidance_over"] = loss.plan.over
    window = {name: schedule(WINDOW[name], text) for name, text in loss.window.items()}
    return replace(
        base,
        perp_neg=replace(base.perp_neg, **loss.perp_neg),
        **{loss.method: replace(getattr(base, loss.method), **own)},
        window=TimestepWindow(**{**_fields(base.window), **window}),
        gradient=GradientSettings(**{**_fields(base.gradient), **loss.gradient}),
        sectors=loss.prompts.views.sectors,
    )


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _takes(loss: Loss, plan: Plan) -> bool:
    """Whether the loss's method has a guidance scale that may follow this schedule."""
    known = reflect.defaults(loss.settings_type)
    return "guidance" in known and (plan.over == "iterations" or "guidance_over" in known)


def unused(loss: Loss, settings: Settings, *, bundled: bool) -> str:
    """What of the graph has no effect with this method and model, or an unwanted one, in words; empty for nothing."""
    name, found = loss.method.upper(), []
    if loss.plan is not None and not _takes(loss, loss.plan):
        over = " over timesteps" if "guidance" in reflect.defaults(loss.settings_type) else ""
        found.append(f"{name} has no guidance scale{over}: the CFG schedule is not used")
    if has_patches(loss.model.model_options) and not guides_throughout(loss.settings_type):
        found.append(f"{name} combines predictions without CFG: the MODEL's RescaleCFG or other CFG patch is not used")
    found += strengths(loss, bundled=bundled)
    views = loss.prompts.views
    unknown = unknown_words(views.prompt, views.negative) if bundled else ""
    return "; ".join([*found, *remarks([settings], views.negative), *filter(None, [unknown])])


def strengths(loss: Loss, *, bundled: bool) -> list[str]:
    """What is known to do harm: a CFG that leads away from the prompt, and on the bundled prior what others need."""
    found = []
    if loss.plan is not None and _takes(loss, loss.plan):
        low, high = loss.plan.schedule.extremes()
        if low < 0:
            found.append(f"CFG falls to {low:g}: below 0 it leads away from the prompt")
        if bundled and high > LARGEST_TINY_CFG:
            found.append(f"CFG rises to {high:g}: the bundled prior wants about 5, colours burn out above it")
    if bundled and loss.perp_neg.get("enabled"):
        found.append("perp_neg does harm with the bundled prior: it is for Stable Diffusion")
    return found


def schedule(name: str, text: str) -> Schedule:
    """``text`` of the input ``name``. Raises ``SettingsError`` with that name."""
    try:
        return parse(text)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error


def override(settings: Settings, text: str, known: Sequence[str] | None = None) -> Settings:
    """``settings`` changed by lines such as ``losses.sparsity = 0->20``; ``#`` begins a remark.

    Args:
        known: what may be changed; by default everything that belongs to no node of its own.

    Raises:
        SettingsError: a line, name or value that cannot be used; the message lists the names that are known there.
    """
    for line in text.splitlines():
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise SettingsError(f"expected a line such as losses.sparsity = 2, got {line!r}: write name = value")
        settings = _set(settings, name.replace("-", "_").split("."), value, name, known)
    return settings


def _set(owner: Any, path: list[str], value: str, name: str, known: Sequence[str] | None = None) -> Any:
    if known is None:
        known = [field.name for field in dataclasses.fields(owner)]
        if isinstance(owner, Settings):
            known = [field for field in known if field not in OWNED and field.upper() not in METHODS]
    head = path[0]
    if head not in known:
        raise SettingsError(f"unknown setting {name!r}: expected one of {', '.join(known)} at {head!r}")
    inner = getattr(owner, head)
    if len(path) > 1:
        if not dataclasses.is_dataclass(inner) or isinstance(inner, Schedule):
            raise SettingsError(f"{name!r} goes too deep: {head} is a single value")
        return replace(owner, **{head: _set(inner, path[1:], value, name)})
    kind = typing.get_type_hints(type(owner))[head]
    try:
        return replace(owner, **{head: reflect.convert(kind, value)})
    except SettingsError as error:
        raise SettingsError(f"{name}: {error.message}", advice=error.advice) from error
    except (TypeError, ValueError, KeyError) as error:
        raise SettingsError(f"{name} cannot be {value!r} ({error}): it is {inner} now") from error
