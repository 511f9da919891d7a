"""Formulas broken on purpose, each with the tests that must notice:  python tests/mutations.py [part of a name]

Not collected by pytest. Every mutation of ``mutations.json`` replaces one piece of text in a copy of the library and runs the named tests
against it; a mutation that survives is printed and makes the exit status 1. Names begin with the number of the analytic
check where there is one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "mutations.json"


def survives(name: str, file: str, old: str, new: str, tests: str, folder: Path) -> bool:
    """Whether the tests pass although the formula is broken."""
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distill3d", folder / "distill3d", dirs_exist_ok=True, ignore=caches)
    target = folder / "distill3d" / file
    source = target.read_text(encoding="utf-8")
    if source.count(old) != 1:
        raise SystemExit(f"{name}: expected its text once in {file}, got it {source.count(old)} times")
    changed = source.replace(old, new)
    if "PERPNEG" in new:
        changed = changed.replace("from .base import ", "from .base import PERP as PERPNEG\nfrom .base import ", 1)
    target.write_text(changed, encoding="utf-8")
    path, *rest = tests.split(" -k ")
    keyword = ["-k", rest[0].replace("_or_", " or ")] if rest else []
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "--rootdir", str(folder), path, *keyword]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if found.returncode not in (0, 1):
        raise SystemExit(f"{name}: the tests did not run:\n{found.stdout[-2000:]}{found.stderr[-2000:]}")
    return found.returncode == 0


def main() -> int:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    wanted = [m for m in table if len(sys.argv) < 2 or sys.argv[1] in m["name"]]
    alive = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "assets", folder / "assets")
        shutil.copy(ROOT / "pyproject.toml", folder)
        for mutation in wanted:
            lives = survives(**mutation, folder=folder)
            alive += [mutation["name"]] if lives else []
            sys.stdout.write(f"{'SURVIVED' if lives else 'noticed '}  {mutation['name']}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wanted) - len(alive)} of {len(wanted)} noticed\n")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
