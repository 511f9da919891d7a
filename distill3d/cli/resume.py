"""What a run's folder says of the command that started it, so that ``--resume FOLDER`` alone goes on with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, OutputError, PriorError, SettingsError
from ..files import write_json
from ..optimize import checkpoint as checkpoints
from ..optimize.codec import from_json, to_json
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
    """The flags ``keep`` wrote, as far as they can be read; none where the file is missing or damaged."""
    defaults = kind()
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        stored = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        for name in (name for name in names if name in stored):
            default, value = getattr(defaults, name), stored[name]
            if dataclasses.is_dataclass(default):
                value = from_json(type(default), value)
            elif isinstance(value, str) and (default is None or isinstance(default, Path)):
                value = Path(value)
            found[name] = value
    return found


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


def refuse_filled(folder: Path, marks: Collection[str] = (FILE_NAME,)) -> None:
    """``refuse_used``, and a folder with other files; hidden ones and what file managers leave do not count.

    Args:
        marks: names of which one tells that the command broke off there before, and may begin again.

    Raises:
        OutputError: it is not new, and not empty.
    """
    refuse_used(folder)
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in there if not name.startswith(".") and name.lower() not in ("desktop.ini", "thumbs.db")]
    if others and not set(marks) & set(there):
        raise OutputError(
            f"expected a new or empty output folder, got one with other files in it ({others[0]}): {folder}. Choose "
            f"another --out, or a new folder in it, such as {folder / 'object'}"
        )
