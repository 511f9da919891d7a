"""Formulas broken on purpose, each with the tests that must notice:  python tests/mutations.py [parts of names]

Not collected by pytest. Every mutation of ``mutations.json`` replaces one piece of text in a copy of the library and
runs the named tests on it, in a fork of this process that has torch loaded already (so: Linux or macOS). A mutation
that survives is printed and makes the exit status 1. Names begin with the number of the analytic check where there is
one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "mutations.json"


def preload() -> None:
    """What every test imports, but not the library itself."""
    import diffusers
    import hypothesis  # noqa: F401
    import PIL.ImageDraw  # noqa: F401
    import safetensors.torch  # noqa: F401
    import transformers

    for package, name in (
        (diffusers, "UNet2DConditionModel"),
        (diffusers, "AutoencoderKL"),
        (transformers, "CLIPTextModel"),
    ):
        getattr(package, name)
    if any(name.split(".")[0] == "distill3d" for name in sys.modules):
        raise SystemExit("expected the library not to be loaded yet: run this file by itself")


def broken_copy(name: str, file: str, old: str, new: str, folder: Path) -> None:
    """The library under ``folder`` with one formula broken."""
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distill3d", folder / "distill3d", dirs_exist_ok=True, ignore=caches)
    target = folder / "distill3d" / file
    source = target.read_text(encoding="utf-8")
    if source.count(old) != 1:
        raise SystemExit(f"{name}: expected its text once in {file}, got it {source.count(old)} times")
    target.write_text(source.replace(old, new), encoding="utf-8")


def passes(tests: str, folder: Path) -> bool:
    """Whether the named tests pass on the library under ``folder``; everything happens in a fork."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        import pytest

        import distill3d

        if Path(distill3d.__file__).parents[1].resolve() != folder.resolve():
            os._exit(99)
        path, *rest = tests.split(" -k ")
        keyword = ["-k", rest[0]] if rest else []
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(folder), path, *keyword]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1):
        raise SystemExit(f"the tests {tests} did not run ({status}):\n{(folder / 'log.txt').read_text()[-2000:]}")
    return status == 0


def main() -> int:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    parts = sys.argv[1:] or [""]
    wanted = [m for m in table if any(part in m["name"] for part in parts)]
    preload()
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "assets", folder / "assets")
        shutil.copy(ROOT / "pyproject.toml", folder)
        for mutation in wanted:
            broken_copy(mutation["name"], mutation["file"], mutation["old"], mutation["new"], folder)
            lives = passes(mutation["tests"], folder)
            shutil.rmtree(folder / "distill3d")
            alive += lives
            sys.stdout.write(f"{'SURVIVED' if lives else 'noticed '}  {mutation['name']}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wanted) - alive} of {len(wanted)} noticed\n")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
