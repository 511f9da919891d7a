"""Errors name settings as their reader can set them: dotted here, flags on the command line, inputs in a graph."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import Any

import pytest
import torch
from nodes_kit import get, loss, optimise

from distill3d.cli import app, main
from distill3d.errors import DivergedError, is_out_of_memory
from distill3d.optimize import Settings

LIBRARY = Path(__file__).resolve().parents[1] / "distill3d"
SURFACES = ("cli", "bench")
OTHERS = {"seed", "out", "resume", "dtype"}
"""Flags of a run that are no settings of its result."""


def strings(folder: Path) -> Iterator[tuple[str, str]]:
    """Every text in the library's code that a reader may see, with its place."""
    for path in sorted(folder.rglob("*.py")):
        if path.relative_to(folder).parts[0] in SURFACES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.name}:{node.lineno}", node.value


def advices() -> Iterator[tuple[str, str]]:
    """Every piece of advice with a setting in braces."""
    for place, text in strings(LIBRARY):
        try:
            names = [name for _, name, *_ in Formatter().parse(text) if name]
        except ValueError:
            continue
        yield from ((place, name) for name in names if "." in name or name in OTHERS)


def has(settings: Any, path: list[str]) -> bool:
    return not path or (
        dataclasses.is_dataclass(settings)
        and path[0] in [field.name for field in dataclasses.fields(settings)]
        and has(getattr(settings, path[0]), path[1:])
    )


def test_the_library_names_no_flag() -> None:
    said = [place for place, text in strings(LIBRARY) if re.search(r"(?<![\w-])--[a-z]", text.replace("--help", ""))]
    assert said == []


def test_every_setting_that_advice_names_exists() -> None:
    found = list(advices())
    assert len(found) >= 8
    unknown = [(place, name) for place, name in found if name not in OTHERS and not has(Settings(), name.split("."))]
    assert unknown == []


def test_advice_is_told_in_the_readers_words_and_survives_a_child_process() -> None:
    error = DivergedError("a {brace} came. ", advice="Lower {losses.sparsity} or {field.blob_density}; see {seed}")
    assert str(error) == "a {brace} came. Lower losses.sparsity or field.blob_density; see seed"
    assert error.told(app.flag) == "a {brace} came. Lower --losses.sparsity or --field.blob-density; see --seed"
    assert pickle.loads(pickle.dumps(error)).told(app.flag) == error.told(app.flag)  # noqa: S301


def test_the_command_line_tells_flags(tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--perp-neg.enabled", "True", "--sectors", "side | -180..180 | -90..90 | , side view"]
    command = ["generate", "a red cube", "--model", str(tiny_pipeline), "--out", str(tmp_path / "o"), *flags]
    assert main(command) == 2
    assert "turn --perp-neg.enabled off" in " ".join(capsys.readouterr().err.split())


def test_a_node_tells_inputs(pack: ModuleType) -> None:
    with pytest.raises(Exception, match="sectors of View Prompts, or turn perp_neg of Distill Loss off"):
        optimise(loss(perp_neg={"perp_neg": "on", "strength": "auto"}))
    name = get("words").input_name
    assert name("losses.sparsity") == "losses.sparsity (preset custom, more)"
    assert name("batch") == "batch (preset custom)" and name("gradient.clip") == "clip of Distill Loss"
    assert name("mesh.resolution") == "resolution of Mesh Export"


def test_every_node_tells_its_errors_in_words_of_the_graph(pack: ModuleType) -> None:
    for node in get("extension").NODES:
        assert hasattr(node.execute, "__wrapped__"), f"{node.__name__}.execute is not told by nodes/words.py"


def test_a_name_that_a_node_gives_is_an_input_there(pack: ModuleType) -> None:
    """``more`` takes every setting it is said to take, and the inputs of other nodes are there."""
    schemas = {node.define_schema().display_name: node.define_schema() for node in get("extension").NODES}
    inputs = {name: {item.id for item in schema.inputs} for name, schema in schemas.items()}
    (methods,) = (item for item in schemas["Distill Loss"].inputs if item.id == "method")
    inputs["Distill Loss"] |= {item.id for option in methods.options for item in option.inputs}
    for _, setting in advices():
        told = get("words").input_name(setting)
        if " of " in told:
            name, _, node = told.partition(", or ")[0].partition(" of ")
            assert name in inputs[node], told
        elif told.endswith("more)"):
            plain = importlib.import_module("pack.distill3d.optimize").Settings()
            value = {"background.mode": "white", "field.color_grid": "own"}.get(setting, "4")
            get("settings").override(plain, f"{setting} = {value}")


def test_memory_that_ran_out_is_known_by_its_class_and_by_what_devices_say() -> None:
    other = type("AcceleratorError", (RuntimeError,), {"error_code": 700})
    own = type("AcceleratorError", (RuntimeError,), {"error_code": 2})
    known = [
        MemoryError(), torch.cuda.OutOfMemoryError("Allocation on device "), own("CUDA error"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("MPS backend out of memory"),
        RuntimeError("Allocation on device 0 would exceed allowed memory"),
    ]  # fmt: skip
    assert all(is_out_of_memory(error) for error in known)
    others = [None, ValueError("out of memory"), RuntimeError("size mismatch"), other("illegal memory access")]
    assert not any(is_out_of_memory(error) for error in others)
