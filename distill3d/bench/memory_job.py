"""One mode of ``distill3d bench memory`` in a process of its own: ``python -m distill3d.bench.memory_job JSON``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..optimize.memory import peak_bytes
from .memory import mode_settings
from .scene import Scene


def main() -> None:
    """Run the job given as JSON on the command line; writes peak memory, time and gradient."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    scene, out = Scene(job["share"]), Path(job["out"])
    settings = mode_settings(job["mode"], job["samples"], job["graph"])
    scene.step(16, settings)  # what is loaded once does not count
    before, began = peak_bytes(torch.device("cpu"))["process"], time.process_time()
    made = scene.step(job["size"], settings)
    seconds, after = time.process_time() - began, peak_bytes(torch.device("cpu"))["process"]
    points = len(made.packed.ray) if made.packed is not None else None
    save_file({"gradient": scene.gradient()}, out.with_suffix(".safetensors"))
    out.write_text(json.dumps({"mb": (after - before) / 1e6, "cpu_s": seconds, "points": points}))


if __name__ == "__main__":
    main()
