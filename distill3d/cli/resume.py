"""What a run's folder says of the command that started it, so that ``--resume FOLDER`` alone goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import CheckpointError, OutputError, PriorError, SettingsError
from ..files import write_json
from ..optimize import checkpoint as checkpoints
from ..optimize.codec import convert, to_json
from ..priors.load import bundled_prior_path
from . import app

FILE_NAME = "flags.json"
REPORT, COMPARED = "report.json", "compare.json"
"""What the commands leave beside their pictures."""


def command(folder: Path) -> str:
    """The line that continues the run in ``folder``."""
    return app.command_line(["distill3d", "generate", "--resume", str(folder)])


def keep(folder: Path, *flags: tuple[Any, Sequence[str]]) -> None:
    """Write the flags beside a run's settings (mesh, texture, device ...) into its folder: of each object the names.

    Raises:
        OutputError: the folder cannot be written.
    """
    values = {name: getattr(holder, name) for holder, names in flags for name in names}
    paths = {name: str(value.absolute()) for name, value in values.items() if isinstance(value, Path)}
    write_json(folder / FILE_NAME, {name: to_json(value) for name, value in values.items()} | paths)


def kept(folder: Path, kind: type, names: Sequence[str]) -> dict[str, Any]:
    """The flags ``keep`` wrote, those that can be read; none where the file is missing or damaged."""
    stored, hints = _stored(folder), get_type_hints(kind)
    found: dict[str, Any] = {}
    for name in (name for name in names if name in stored):
        with suppress(ValueError, TypeError):
            found[name] = convert(hints[name], stored[name], name)
    return found


def lost(folder: Path, *taken: Mapping[str, Any]) -> list[str]:
    """What to tell of flags in the folder that ``kept`` found in none of its answers."""
    unread = [name for name in _stored(folder) if not any(name in flags for flags in taken)]
    what = f"{', '.join(unread)} of {folder / FILE_NAME} cannot be read, or are of another version of distill3d"
    return [f"{what}: give these flags again where they matter"] if unread else []


def _stored(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        if isinstance(found := json.loads((folder / FILE_NAME).read_text(encoding="utf-8")), dict):
            return found
    return {}


def discard(folder: Path) -> None:
    """Take back ``keep``, and the folder where nothing else is in it."""
    (folder / FILE_NAME).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def opened(arguments: Sequence[str]) -> tuple[checkpoints.Checkpoint, Path] | None:
    """The checkpoint behind ``--resume`` and its folder; None without the flag.

    Raises:
        CheckpointError: see ``checkpoints.load``.
        SettingsError: no folder after the flag, or a copy of a checkpoint under another name.
    """
    if not any(text == "--resume" or text.startswith("--resume=") for text in arguments):
        return None
    text = app.given(arguments, "resume", "")
    if not text.strip():
        raise SettingsError("expected a run's folder after --resume, got nothing: --resume output/a-red-cube-sds-0")
    path = Path(text)
    stored = checkpoints.load(path)
    if path.is_dir():
        return stored, path
    if path.name != checkpoints.FILE_NAME:
        raise SettingsError(
            f"expected a run's folder or its {checkpoints.FILE_NAME}, got a copy: {path}. The run would replace the "
            f"one in {path.parent}: put the copy into a folder of its own, as {checkpoints.FILE_NAME}"
        )
    return stored, path.parent


def model_of(stored: checkpoints.Checkpoint, arguments: Sequence[str]) -> Path | None:
    """The model a run was started with; None for the bundled prior, or where ``--model`` names its new place.

    Raises:
        CheckpointError: it is no longer where it was.
    """
    source = Path(str(stored.meta.get("source", "")))
    if not source.name or app.given(arguments, "model", ""):
        return None
    with suppress(PriorError):
        if source.resolve() == bundled_prior_path().resolve():
            return None
    if not source.exists():
        raise CheckpointError(
            f"expected the model the run was started with at {source}, got nothing there: name its new place with "
            "--model"
        )
    return source


def refuse_used(folder: Path) -> None:
    """Raises ``OutputError`` where ``folder`` already holds a run, or the results of any command."""
    if (folder / checkpoints.FILE_NAME).exists():
        raise OutputError(
            f"expected a fresh output folder, got one that holds a run: {folder}. Continue it with "
            f"{command(folder)}, or choose another --out"
        )
    if found := [name for name in (COMPARED, REPORT) if (folder / name).exists()]:
        raise OutputError(
            f"expected a fresh output folder, got one with results in it ({found[0]}): {folder}. Choose another --out"
        )


def refuse_filled(folder: Path, marks: Iterable[str] = ()) -> None:
    """``refuse_used``, and a folder with other files; hidden ones, what file managers leave and empty folders do not
    count.

    Args:
        marks: paths in it of which one tells that the command broke off there before, and may begin again.

    Raises:
        OutputError: it is not new, and not empty.
    """
    refuse_used(folder)
    others = sorted(filter(_counts, folder.iterdir())) if folder.is_dir() else []
    if others and not any((folder / mark).is_file() for mark in marks):
        fresh = next(name for k in count(1) if not os.path.lexists(name := folder / ("object" + f"-{k}" * (k > 1))))
        raise OutputError(
            f"expected a new or empty output folder, got one with other files in it ({others[0].name}): {folder}. "
            f"Choose another --out, or a new folder in it, such as {fresh}"
        )


def _counts(entry: Path) -> bool:
    if entry.name.startswith(".") or entry.name.lower() in ("desktop.ini", "thumbs.db", "icon\r"):
        return False
    try:
        return entry.is_symlink() or not entry.is_dir() or any(map(_counts, entry.iterdir()))
    except OSError:
        return True
