"""What the pack adds to a start of ComfyUI: seconds, and packages the host had not imported already.

``python tools/start_cost.py /path/to/ComfyUI``, with a Python that can run ComfyUI, prints JSON. The host's own imports
come first and are not counted; then the pack is imported and every schema is made, as the host does at its start.
Processor seconds do not grow when other programs work; wall seconds do. The host logs the wall seconds too.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "host"))


def measure(comfy: Path) -> dict[str, Any]:
    """Seconds of the import and of the schemas, and top-level packages that came with them."""
    inside = importlib.import_module("inside")
    inside.host(comfy)
    for name in ("nodes", "server", "execution", "comfy.sd", "comfy_api.latest"):
        importlib.import_module(name)
    before = set(sys.modules)
    wall, cpu = time.perf_counter(), time.process_time()
    inside.pack(comfy)
    extension = importlib.import_module("pack.nodes.extension")
    imported = time.process_time()
    for node in extension.NODES:
        node.GET_SCHEMA()
    done = time.process_time()
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    return {
        "import_cpu_seconds": round(imported - cpu, 3),
        "schemas_cpu_seconds": round(done - imported, 3),
        "cpu_seconds": round(done - cpu, 3),
        "wall_seconds": round(time.perf_counter() - wall, 3),
        "new_packages": sorted(new - {"pack"}),
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    sys.argv = sys.argv[:1]  # the host reads the command line too
    sys.stdout.write(json.dumps(measure(place)) + "\n")
