"""Where runs, fields and meshes lie: in the host's output folder, under ``distill3d``, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths

from ...distill3d.errors import CheckpointError, OutputError
from ...distill3d.files import make_folder, output_error
from ...distill3d.optimize.checkpoint import FILE_NAME

ROOT = "distill3d"
RUNS = f"{ROOT}/run"
FIELDS = f"{ROOT}/field"
LATEST = "latest"
UNFIT = '<>:"|?*' if os.name == "nt" else ""
"""What names of files cannot hold here."""
NOTHING = {
    RUNS: ("a run", "run NeRF Optimizer first; a run that is stopped or cancelled is kept too"),
    FIELDS: ("a saved field", "run a graph with Save Radiance Field first, or take Resume's field"),
}


def output() -> Path:
    return Path(folder_paths.get_output_directory())


def shown(path: Path) -> str:
    """A path as the host's menus show it, below the output folder; the whole one where it lies elsewhere."""
    root = output()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def bad_prefix(prefix: Any) -> str:
    """Why nothing can be saved under a prefix, before anything runs; '' where it can, or where a wire will bring it."""
    if prefix is None:
        return ""
    if not isinstance(prefix, str) or "\0" in prefix:
        return f"expected a file prefix of letters, got {prefix!r}: write e.g. {ROOT}/cube"
    unfit = sorted(set(os.path.splitdrive(prefix)[1]) & set(UNFIT))
    if unfit:
        return f"expected a file prefix that Windows takes, got {' '.join(unfit)} in {prefix!r}: write e.g. {ROOT}/cube"
    root, file = (Path(os.path.normpath(path)) for path in (output(), output() / (prefix.strip() or ROOT)))
    return "" if file.parent.is_relative_to(root) else _elsewhere(prefix)


def _elsewhere(prefix: str) -> str:
    return f"expected a file prefix inside the output folder {output()}, got {prefix!r}: write e.g. {ROOT}/cube"


def numbered(prefix: str) -> tuple[Path, str, int, str]:
    """``(folder, name, number, subfolder)`` as the host's own save nodes count.

    Raises:
        OutputError: a prefix that leads out of the output folder, or to a folder that cannot be made.
    """
    wrong = bad_prefix(prefix)
    if wrong:
        raise OutputError(wrong)
    try:
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(prefix.strip() or ROOT, str(output()))
    except OSError as error:
        raise output_error(output() / prefix.strip(), error) from error
    except Exception as error:
        raise OutputError(_elsewhere(prefix)) from error
    return Path(folder), name, number, subfolder


def new_folder(prefix: str) -> Path:
    """A folder of a number not used yet, made and proven writable. Raises ``OutputError``."""
    parent, name, number, _ = numbered(prefix)
    make_folder(parent)
    while True:
        folder = parent / f"{name}_{number:05}_"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise output_error(folder, error) from error
        else:
            return make_folder(folder)


def new_file(prefix: str, suffix: str) -> tuple[Path, str]:
    """A file of a number not used yet, and its subfolder as the host's menus show it. Nothing is left there, but the
    file system has taken the name. Raises ``OutputError``."""
    folder, name, number, subfolder = numbered(prefix)
    path = unused(make_folder(folder) / f"{name}_{number:05}_.{suffix}")
    try:
        path.touch()
        path.unlink()
    except OSError as error:
        raise output_error(path, error) from error
    return path, subfolder


def unused(path: Path) -> Path:
    """``path`` or one of a higher number: another server that saves into the same folder may have been faster."""
    try:
        while path.exists():
            name, number = re.fullmatch(r"(.*)_(\d+)_", path.stem).groups()  # type: ignore[union-attr]
            path = path.with_name(f"{name}_{int(number) + 1:05}_{path.suffix}")
    except OSError as error:
        raise output_error(path, error) from error
    return path


@contextlib.contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """Remove a run's folder in the end if nothing was written there: the run ended before its first step."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def found(kind: str) -> list[str]:
    """Runs or fields on the disk, newest first, as paths relative to the output folder."""
    root = output() / ROOT
    files = [path for path in root.rglob(FILE_NAME) if _is_run(path) == (kind == RUNS)] if root.is_dir() else []
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.relative_to(output()).as_posix() for path in files]


def _is_run(path: Path) -> bool:
    return not (path.parent / "field.json").exists()


def inside(name: str, kind: str) -> Path:
    """The folder of a run or field by what a menu shows; ``latest`` is the newest.

    Raises:
        CheckpointError: nothing there, or a path outside the output folder.
    """
    if name == LATEST:
        names = found(kind)
        if not names:
            what, how = NOTHING[kind]
            raise CheckpointError(f"expected {what} in {output() / ROOT}, found none: {how}")
        name = names[0]
    if not isinstance(name, str):
        raise CheckpointError(f"expected the name of a folder, got {name!r}: choose one from the menu")
    root = output().resolve()
    path = (root / name).resolve()
    if root not in path.parents:
        raise CheckpointError(
            f"expected a folder inside the host's output folder, got {name!r}: copy it into {root / ROOT} first"
        )
    if not (path / FILE_NAME).is_file():
        raise CheckpointError(
            f"expected {FILE_NAME} in {path}, found none: refresh the page (R) and choose one from the menu"
        )
    return path


def refused(name: str | None, kind: str) -> str:
    """Why a menu entry cannot be used, before anything runs; '' where it can, or where a wire will say which."""
    if name is None or name == LATEST:
        return ""
    try:
        inside(name, kind)
    except CheckpointError as error:
        return str(error)
    return ""


def stamp(name: str | None, kind: str) -> str | float:
    """What changes when the file behind a menu entry does, for the host's cache; of a name that comes through a wire,
    which is not known before, it is never the same."""
    if name is None:
        return float("nan")
    try:
        file = inside(name, kind) / FILE_NAME
        return f"{file} {file.stat().st_mtime_ns}"
    except (CheckpointError, OSError):
        return name
