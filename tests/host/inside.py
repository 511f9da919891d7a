"""The pack beside the real host in the tests' own process: for what no graph shows."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROMPT, NEGATIVE = "a red cube", "blue"


def load(name: str, file: Path, **more: Any) -> ModuleType:
    """The module in ``file``, once, under ``name``."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file, **more)
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def host(comfy: Path) -> None:
    """Makes the host in ``comfy`` importable, on the CPU."""
    if str(comfy) not in sys.path:
        sys.path.insert(0, str(comfy))
    load("helper", Path(__file__).parent / "helper_pack" / "prestartup_script.py")
    import comfy.cli_args

    comfy.cli_args.args.cpu = True


def pack(comfy: Path) -> ModuleType:
    """The pack, imported beside the host in ``comfy`` on the CPU."""
    host(comfy)
    return load("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])


def get(name: str) -> Any:
    return importlib.import_module(f"pack.{name}")


def inside(tiny: Any, body: Callable[[Any], Any], tmp_path: Path, method: str = "sds", **changes: Any) -> Any:
    """``body`` of a run with two views and no steps, where the host has the model loaded."""
    import torch

    run = get("nodes.host.run")
    settings = get("distill3d.optimize").preset("draft", method)
    grid = replace(settings.field, grid=replace(settings.field.grid, levels=2))
    settings = replace(settings, iterations=1, field=grid, **changes.pop("settings", {}))
    views = get("distill3d.prompts").ViewPrompts(PROMPT, NEGATIVE)
    task = run.Task(tiny.model, tiny.clip, tiny.vae, views, settings, 0, 64, tmp_path, **changes)
    found: list[Any] = []
    try:
        with torch.inference_mode():
            run.distill(task, (), lambda: True, lambda made: None, lambda made: found.append(body(made)))
    except get("distill3d.errors").SettingsError:  # nothing is to be kept of no steps
        if not found:
            raise
    return found[0]
