"""Runs in a child process that the parent may kill: ``mesh_worker.py TASK IN.npz OUT.npz``.

Imports nothing of this package and no torch, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import numpy as np

KEPT: list[Any] = []
"""What is not taken apart: xatlas may wait forever for its own threads to end."""


def unwrap(vertices: Any, faces: Any, size: Any, padding: Any) -> dict[str, Any]:
    """xatlas: charts and packing. Gives ``source`` (V',), ``faces`` (F, 3), ``uvs`` (V', 2) and ``charts``."""
    import xatlas

    atlas = xatlas.Atlas()
    KEPT.append(atlas)
    atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32))
    packing = xatlas.PackOptions()
    packing.padding, packing.resolution, packing.bilinear = int(padding), int(size), True
    atlas.generate(xatlas.ChartOptions(), packing)
    source, triangles, uvs = atlas.get_mesh(0)
    pages = np.array(atlas.atlas_count)
    return {"source": source, "faces": triangles, "uvs": uvs, "charts": np.array(atlas.chart_count), "pages": pages}


def decimate(vertices: Any, faces: Any, budget: Any, haste: Any) -> dict[str, Any]:
    """fast-simplification: quadric edge collapse to ``budget`` faces."""
    import fast_simplification

    points, triangles = fast_simplification.simplify(vertices, faces, target_count=int(budget), agg=float(haste))
    return {"vertices": points, "faces": triangles}


def main() -> None:
    """Run the task named on the command line."""
    task, source, target = sys.argv[1:]
    with np.load(source, allow_pickle=False) as arrays:
        tasks: dict[str, Any] = {"unwrap": unwrap, "decimate": decimate}
        result = tasks[task](**dict(arrays))
    with open(target, "wb") as file:  # noqa: PTH123
        np.savez(file, **result)


if __name__ == "__main__":
    status = 0
    try:
        main()
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)
