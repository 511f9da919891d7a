"""What the schemas say, without ComfyUI: writes locales/en/nodeDefs.json, nodes.json, the release file, and the table
of every setting in NeRF Optimizer's help page.

``python tools/schemas.py`` after a node was changed. nodes.json freezes ids, inputs, menus and outputs: they may only
be added to, and what is added must be optional, because the host refuses a saved prompt that lacks a required input.
``broken`` says what a change would break in saved workflows and prompts, and the tests call it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RELEASE = ROOT / "nodes.json"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
HELP = ROOT / "js" / "docs" / "Distill3D_NeRFOptimizer.md"
TABLE = "## Every setting\n"
"""The heading in the help page below which the table of settings stands, to the page's end."""
Release = dict[str, dict[str, Any]]
NARROWED = {"STRING": "COMBO"}
"""A text that only ever took a few words may become a menu of them: the saved word is still one of the menu."""


def schemas() -> Iterator[Any]:
    """Every node's schema, read on the tests' stand-in for the host."""
    sys.path.insert(0, str(ROOT / "tests"))
    fake = importlib.import_module("fake_host")
    with tempfile.TemporaryDirectory() as folder, fake.installed(Path(folder)):
        for node in importlib.import_module("pack.nodes.extension").NODES:
            yield node.define_schema()


def _flat(items: list[Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items:
        found[f"{prefix}{item.id}"] = item.io_type
        for option in getattr(item, "options", None) or []:
            if hasattr(option, "inputs"):
                found |= _flat(option.inputs, f"{prefix}{item.id}.{option.key}.")
    return found


def _required(items: list[Any], prefix: str = "") -> list[str]:
    """Names of the inputs without which the host refuses a prompt."""
    found = []
    for item in items:
        if not getattr(item, "optional", False):
            found.append(f"{prefix}{item.id}")
        for option in getattr(item, "options", None) or []:
            found += _required(getattr(option, "inputs", []), f"{prefix}{item.id}.{getattr(option, 'key', '')}.")
    return found


FILES = ("ckpt_name", "folder", "run", "field")
"""Menus that list what is on the disk."""


def _menus(items: list[Any], prefix: str = "") -> dict[str, list[str]]:
    """The words of every menu that does not list files."""
    found: dict[str, list[str]] = {}
    for item in items:
        options = getattr(item, "options", None) or []
        if options and item.id not in FILES:
            found[f"{prefix}{item.id}"] = [str(getattr(option, "key", option)) for option in options]
        for option in options:
            found |= _menus(getattr(option, "inputs", []), f"{prefix}{item.id}.{getattr(option, 'key', '')}.")
    return found


def frozen(all_schemas: list[Any]) -> Release:
    """What a saved workflow relies on, of each node."""
    return {
        schema.node_id: {
            "inputs": _flat(schema.inputs),
            "required": _required(schema.inputs),
            "menus": _menus(schema.inputs),
            "outputs": [[item.io_type, item.id] for item in schema.outputs],
        }
        for schema in all_schemas
    }


def _groups(inputs: dict[str, str]) -> dict[str, list[str]]:
    """The inputs of the node, and of each choice of its combos, in order: saved workflows hold values by place."""
    found: dict[str, list[str]] = {}
    for key in inputs:
        found.setdefault(key.rpartition(".")[0], []).append(key)
    return found


def _demanded(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Inputs that ``now`` requires and a prompt saved with ``was`` may lack; a new choice may bring its own."""
    known = set(was.get("required", was["inputs"]))
    found = []
    for key in now.get("required", []):
        combo, _, choice = key.rpartition(".")[0].rpartition(".")
        if key not in known and not (combo and choice not in was.get("menus", {}).get(combo, [choice])):
            found.append(key)
    return found


def broken(old: Release, new: Release) -> list[str]:
    """One line for every node, input, word of a menu or output of ``old`` that is gone, moved or of another type in
    ``new``, and for every input that ``new`` requires and ``old`` did not."""
    lines = []
    for name, was in old.items():
        if name not in new:
            lines.append(f"{name} is gone")
            continue
        now = new[name]
        for key, kind in was["inputs"].items():
            given = now["inputs"].get(key)
            # an input that takes more kinds than it did still takes the saved wire
            wider = given is not None and set(kind.split(",")) < set(given.split(","))
            if given not in (kind, NARROWED.get(kind, kind)) and not wider:
                lines.append(f"{name}.{key} was {kind}, is {now['inputs'].get(key, 'gone')}")
        groups = _groups(now["inputs"])
        for group, keys in _groups(was["inputs"]).items():
            kept = [key for key in keys if key in now["inputs"]]
            if groups.get(group, [])[: len(kept)] != kept:
                lines.append(f"{name}: inputs changed places; add new ones at the end of {group or 'the list'}")
        for key, words in was.get("menus", {}).items():
            if lost := [word for word in words if word not in now.get("menus", {}).get(key, words)]:
                lines.append(f"{name}.{key} no longer offers {', '.join(lost)}")
        for key in _demanded(was, now):
            lines.append(f"{name}.{key} is required, and saved prompts lack it: make it optional, with a default")
        if now["outputs"][: len(was["outputs"])] != was["outputs"]:
            lines.append(f"{name}: outputs were {was['outputs']}, are {now['outputs']}")
    return lines


def english(schema: Any) -> dict[str, Any]:
    inputs = {item.id: {"name": item.id.replace("_", " "), "tooltip": item.tooltip} for item in schema.inputs}
    for menu in schema.inputs:  # under one name for all entries of a menu, whose tooltips differ
        inner = [own for option in getattr(menu, "options", None) or [] for own in getattr(option, "inputs", [])]
        inputs |= {f"{menu.id}_{own.id}": {"name": own.id.replace("_", " ")} for own in inner}
    outputs = {str(k): {"name": item.display_name, "tooltip": item.tooltip} for k, item in enumerate(schema.outputs)}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": outputs,
    }


def _leaves(owner: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    reflect, nodes = (importlib.import_module(f"pack.nodes.{name}") for name in ("reflect", "settings"))
    said = reflect.docs(type(owner))
    for field in dataclasses.fields(owner):
        if not prefix and (field.name in (*nodes.OWNED, "freeu") or field.name.upper() in nodes.METHODS):
            continue
        value, name = getattr(owner, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, nodes.Schedule):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, reflect.say(value), said[field.name]


def every_setting() -> list[tuple[str, str, str]]:
    """Name, value in the bundled prior's draft, and sentence of every setting that NeRF Optimizer's ``more`` takes; not
    FreeU's, which a MODEL of the host has from its own node."""
    sys.path.insert(0, str(ROOT / "tests"))
    fake = importlib.import_module("fake_host")
    with tempfile.TemporaryDirectory() as folder, fake.installed(Path(folder)):
        return list(_leaves(importlib.import_module("pack.nodes.settings").preset("draft")))


def help_page(page: str) -> str:
    """The help page with its table of settings made anew."""
    rows = ["| setting | draft, bundled prior | what it is |", "|---|---|---|"]
    rows += [f"| `{name}` | `{value}` | {said} |" for name, value, said in every_setting()]
    return page.partition(TABLE)[0] + TABLE + "\n" + "\n".join(rows) + "\n"


def main() -> None:
    found = list(schemas())
    release = frozen(found)
    if RELEASE.exists() and (lines := broken(json.loads(RELEASE.read_text(encoding="utf-8")), release)):
        sys.exit("saved workflows would break:\n" + "\n".join(lines))
    RELEASE.write_text(json.dumps(release, indent=1) + "\n", encoding="utf-8")
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    texts = {schema.node_id: english(schema) for schema in found}
    ENGLISH.write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    HELP.write_text(help_page(HELP.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
