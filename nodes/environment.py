"""Environment Report: what this machine offers, what was refused and why; also one line in the host's log."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from typing import Any

import comfy.model_management as manager
import comfyui_version
import torch
from comfy_api.latest import io, ui

from ..distill3d import __version__
from ..distill3d.fields import backends
from ..distill3d.render import marching
from .words import in_words

OPTIONAL = {
    "numba": "a faster hash grid on a CPU",
    "triton": "a faster hash grid on CUDA",
    "tinycudann": "the fastest hash grid on CUDA",
    "nerfacc": "compiled ray marching on CUDA; the command line takes it when asked by name",
    "av": "needed by the command line to write MP4",
}
NEEDED = ("numpy", "safetensors", "PIL", "scipy", "skimage", "trimesh", "fast_simplification")


def find(name: str) -> str:
    """``0.5.3``, ``missing``, or why the import failed. The package is imported, because only that proves it works."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return "missing" if error.name == name else f"refused: {error}"
    except Exception as error:
        return f"refused: {type(error).__name__}: {error}"
    try:
        return str(getattr(module, "__version__", None) or importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return "found"


def gather() -> dict[str, Any]:
    """Versions, device, memory, packages; for every hash grid backend and marcher whether it is used or why not."""
    device = manager.get_torch_device()
    return {
        "distill3d": __version__,
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "device": manager.get_torch_device_name(device),
        "free_memory_gb": round(manager.get_free_memory(device) / 2**30, 1),
        "vram_mode": manager.vram_state.name,
        "threads": torch.get_num_threads(),
        "needed": {name: find(name) for name in NEEDED},
        "hash_grid": backends.report(device),
        "marching": marching.report(device),
        "accelerators": {name: {"state": find(name), "what": text} for name, text in OPTIONAL.items()},
    }


def line() -> str:
    """The line for the log. Looks for packages and imports none: that would cost the host's start seconds."""
    there = [name for name in OPTIONAL if importlib.util.find_spec(name) is not None]
    absent = [name for name in OPTIONAL if name not in there]
    found = f"found {', '.join(there) or 'no optional package'}"
    missing = f", not installed {', '.join(absent)}" if absent else ""
    return (
        f"Distill3D {__version__}: torch {torch.__version__}, {found}{missing}; the first run and the node Environment "
        "Report say which work"
    )


class EnvironmentReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_EnvironmentReport",
            display_name="Environment Report",
            category="Distill3D",
            description="What this machine offers to Distill3D: versions, device, memory, accelerators "
            "found or refused.",
            search_aliases=["debug", "versions", "system info"],
            inputs=[],
            outputs=[io.String.Output("report", display_name="report", tooltip="JSON; attach it to a bug report.")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        return float("nan")

    @classmethod
    @in_words
    def execute(cls) -> io.NodeOutput:
        text = json.dumps(gather(), indent=1)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
