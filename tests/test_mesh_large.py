"""Large inputs and textures in bounded memory; minutes of work, so only where DISTILL3D_SLOW is set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill3d.mesh import SurfaceMesh, read, write

pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not os.environ.get("DISTILL3D_SLOW"), reason="takes minutes: set DISTILL3D_SLOW=1")

ROOT = Path(__file__).parents[1]
MEASURED = """
import json, resource, sys, time
began = time.process_time()
{body}
usage = [resource.getrusage(k) for k in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({{"peak_mb": usage[0].ru_maxrss / 1e3, "peak_mb_child": usage[1].ru_maxrss / 1e3,
                  "cpu_seconds": time.process_time() - began + usage[1].ru_utime, **found}}))
"""


def measured(body: str, *arguments: object) -> dict[str, float]:
    """The figures that ``body`` leaves in ``found``, and peak memory and processor time of a process of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(body=body), *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{figures}\n")
    return figures


def bumpy_torus(rows: int, columns: int) -> SurfaceMesh:
    """A closed torus with waves on it, of ``2 rows columns`` triangles."""
    u, v = np.meshgrid(np.arange(rows) * 2 * np.pi / rows, np.arange(columns) * 2 * np.pi / columns, indexing="ij")
    tube = 0.25 + 0.02 * np.sin(9 * u) * np.cos(5 * v)
    ring = 0.6 + tube * np.cos(v)
    points = np.stack([ring * np.cos(u), tube * np.sin(v), -ring * np.sin(u)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    a, b = (i * columns + j).ravel(), ((i + 1) % rows * columns + j).ravel()
    c, d = ((i + 1) % rows * columns + (j + 1) % columns).ravel(), (i * columns + (j + 1) % columns).ravel()
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    outward = np.stack([np.cos(v) * np.cos(u), np.sin(v), -np.cos(v) * np.sin(u)], -1).reshape(-1, 3)
    colors = 0.5 + 0.5 * np.sin(7 * points)
    return SurfaceMesh(
        *(x.astype(np.float32) if x.dtype != np.int64 else x for x in (points, faces, outward, colors)), 0
    )


def test_two_million_faces_are_cut_down_and_painted(tmp_path: Path) -> None:
    mesh = bumpy_torus(1000, 1000)
    assert len(mesh.faces) == 2_000_000
    source = write(mesh, tmp_path / "large.ply")
    figures = measured(
        """
from distill3d.mesh import MeshSettings, TextureSettings, convert, read_parts, write
settings = MeshSettings(face_budget=20000, component_share=0.0)
done = convert(read_parts(sys.argv[1]), settings, TextureSettings(size=1024))
write(done, sys.argv[2])
found = {"faces": len(done.faces), "volume": done.report["volume"], "watertight": done.report["watertight"]}
""",
        source,
        tmp_path / "small.glb",
    )
    assert figures["faces"] <= 20000 and figures["watertight"]
    assert figures["volume"] == pytest.approx(2 * np.pi**2 * 0.6 * 0.25**2, rel=0.05)
    assert figures["peak_mb"] < 4000 and figures["peak_mb_child"] < 4000
    assert read(tmp_path / "small.glb").texture is not None


def test_two_million_faces_that_all_stay_are_unwrapped_by_boxes_and_say_so(tmp_path: Path) -> None:
    source = write(bumpy_torus(1000, 1000), tmp_path / "large.ply")
    figures = measured(
        """
from distill3d.mesh import MeshSettings, TextureSettings, convert, read_parts
told = []
settings = MeshSettings(face_budget=0, component_share=0.01)
done = convert(read_parts(sys.argv[1]), settings, TextureSettings(size=1024), lambda *stage: told.append(stage))
found = {"faces": len(done.faces), "stages": len({name for name, _ in told}), "told": len(told),
         "warned": sum("box projection" in text for text in done.report["warnings"])}
""",
        source,
    )
    assert figures["faces"] == 2_000_000 and figures["warned"] == 1
    assert figures["stages"] == 3 and figures["told"] > 10
    assert figures["peak_mb"] < 5000


def test_a_texture_of_4096_is_painted_in_bounded_memory(tmp_path: Path) -> None:
    figures = measured(
        """
from mesh_fields import WavyField
from distill3d.mesh import MeshSettings, TextureSettings, build, write
texture = TextureSettings(size=4096, unwrap="box")
done = build(WavyField("torus"), settings=MeshSettings(resolution=96, face_budget=20000), texture=texture)
write(done, sys.argv[1])
found = {"coverage": done.report["texture"]["coverage"]}
""",
        tmp_path / "fine.obj",
    )
    with Image.open(tmp_path / "fine_color.png") as picture:
        assert picture.size == (4096, 4096)
    assert figures["coverage"] > 0.3 and figures["peak_mb"] < 3000
