"""Peak memory of one large render, forward and backward, each mode in a process of its own.

whole: everything in one graph. chunks: the graph of one chunk at a time, all samples kept. tiles: nothing kept but
pixels, rendered twice. All three start from one field and one jitter, so their gradients must agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingsError
from ..render.settings import RenderSettings
from .timing import at_least

#: Settings of each mode, given the points of one graph.
MODES = ("whole", "chunks", "tiles")


def mode_settings(mode: str, samples: int, graph: int) -> RenderSettings:
    """The render settings of a mode; ``graph`` is the most points in one graph. Nothing is culled, so modes agree."""
    points, memory = {"whole": (1 << 40, 1e6), "chunks": (graph, 1e6), "tiles": (graph, 0.0)}[mode]
    return RenderSettings(
        samples_per_ray=samples, cull_below=0.0, cull_transmittance=0.0, max_points=points, memory_gb=memory
    )


def run(
    size: int = 512, samples: int = 512, share: float = 0.1, graph: int = 1 << 17, whole: bool = True
) -> dict[str, Any]:
    """Measure the modes one after the other.

    Args:
        size: pixels along each side.
        samples: steps along the diagonal of the box.
        share: occupied part of the box.
        graph: most points in one graph of 'chunks' and 'tiles'.
        whole: also the mode that takes 0.6 kB for each point; without it there is nothing to compare gradients with.

    Returns:
        ``mb_{mode}`` above the loaded process, ``cpu_s_{mode}``, ``gradient_difference_{mode}`` relative to 'whole' (or
        'chunks'), ``points``.

    Raises:
        SettingsError: sizes that cannot be, or this system cannot tell a process's peak memory.
    """
    at_least(1, size=size, samples=samples, graph=graph)
    if not 0 < share <= 1:
        raise SettingsError(f"expected a share of the box above 0 and up to 1, got {share}: try 0.1")
    result: dict[str, Any] = {"benchmark": "memory", "size": size, "samples": samples, "graph": graph}
    reference = None
    with tempfile.TemporaryDirectory(prefix="distill3d-") as folder:
        for mode in MODES if whole else MODES[1:]:
            found, gradient = _measure(mode, Path(folder), size=size, samples=samples, share=share, graph=graph)
            result |= {f"mb_{mode}": found["mb"], f"cpu_s_{mode}": found["cpu_s"]}
            result["points"] = found["points"] or result.get("points")
            reference = gradient if reference is None else reference
            difference = (gradient - reference).norm() / reference.norm()
            result[f"gradient_difference_{mode}"] = float(difference)
    return {**result, "torch": torch.__version__}


def _measure(mode: str, folder: Path, **job: Any) -> tuple[dict[str, Any], torch.Tensor]:
    from safetensors.torch import load_file

    package, out = __package__ or "distill3d.bench", folder / f"{mode}.json"
    text = json.dumps({"mode": mode, "out": str(out), **job})
    done = subprocess.run(
        [sys.executable, "-m", f"{package}.memory_job", text], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not out.exists():
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise SettingsError(f"the mode {mode} could not be measured: {last}. Try a smaller --size")
    found: dict[str, Any] = json.loads(out.read_text())
    return found, load_file(out.with_suffix(".safetensors"))["gradient"]
