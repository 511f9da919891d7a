"""What the pack costs at the host's start, and what it leaves when optional packages are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import comfy_path

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("numba", "triton", "tinycudann", "nerfacc", "skimage", "trimesh", "fast_simplification", "xatlas")
BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, {tools!r})
sys.argv = ["start"]
import start_cost, json, pathlib
print(json.dumps(start_cost.measure(pathlib.Path({comfy!r}))))
"""


def started(names: tuple[str, ...]) -> dict[str, object]:
    """What ``tools/start_cost.py`` finds in a process without the packages ``names``."""
    code = BLOCK.format(names=names, tools=str(ROOT / "tools"), comfy=str(comfy_path()))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("names", [(), OPTIONAL], ids=["as it is", "without optional packages"])
def test_the_pack_starts_and_brings_no_package_the_host_has_not_imported(names: tuple[str, ...]) -> None:
    """Our own modules take a quarter of a second; one heavy package would take all of the half second a start may."""
    found = started(names)
    assert found["new_packages"] == []
    assert float(str(found["cpu_seconds"])) > 0
