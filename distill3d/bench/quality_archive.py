"""``results.json``: every verdict of a quality benchmark in one small file, to publish and to go on from elsewhere.

It holds what the jobs' own ``result.json`` hold, each set of settings once, and not what is to be tried again. Fields
and pictures stay behind, so a later judge cannot judge again what came from such a file: the job is run once more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..files import make_folder, output_error, write_bytes, write_json
from .quality_job import RESULT, Job, digest, has_field, is_done, matches, read_json, tried

logger = logging.getLogger(__name__)
ARCHIVE = "results.json"


def write_archive(path: Path, results: Sequence[dict[str, Any]]) -> Path:
    """Write the outcomes among ``results``, one a line, and their settings. Raises ``OutputError``."""
    settings: dict[str, Any] = {}
    lines = []
    for result in results:
        if result["status"] != "failed":
            name = digest(result["settings"])
            settings[name] = result["settings"]
            lines.append(json.dumps({**result, "settings": name}, allow_nan=False))
    parts = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in settings.items()]
    text = f'{{"settings": {{\n{_joined(parts)}}},\n"results": [\n{_joined(lines)}]}}\n'
    return write_bytes(path, text.encode())


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line},\n" for line in lines[:-1]) + "".join(f"{line}\n" for line in lines[-1:])


def read_archive(path: Path) -> list[dict[str, Any]]:
    """The results ``write_archive`` wrote.

    Raises:
        SettingsError: no such file, or not one of these.
    """
    if not path.is_file():
        raise SettingsError(f"expected in --earlier a file {ARCHIVE}, and there is none at {path}: correct the path")
    found = read_json(path)
    try:
        settings, results = (found or {})["settings"], (found or {})["results"]
        if any("status" not in result for result in results):
            raise KeyError("status")
        return [{**result, "settings": settings[result["settings"]]} for result in results]
    except (KeyError, TypeError) as error:
        raise SettingsError(
            f"expected in --earlier a {ARCHIVE} that distill3d bench quality wrote, got {path}: "
            "give the path of such a file"
        ) from error


def add_to_archive(path: Path, results: Sequence[dict[str, Any]]) -> Path:
    """``write_archive``; what the archive held before of other runs stays in it, and a file that cannot be read is
    moved aside. Raises ``OutputError``."""
    new = {result["run_key"] for result in results if result["status"] != "failed"}
    try:
        kept = [result for result in read_archive(path) if result.get("run_key") not in new] if path.exists() else []
    except SettingsError:
        kept = []
        logger.warning("%s cannot be read; moved to %s, and a new one is begun", path, _moved_aside(path))
    return write_archive(path, [*results, *kept])


def _moved_aside(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.bad{number}") for number in ("", *range(2, 1000)))
    aside = next(name for name in names if not name.exists())
    try:
        return path.rename(aside)
    except OSError as error:
        raise output_error(path, error) from error


def take_over(jobs: Sequence[Job], archives: Sequence[Path]) -> int:
    """Give each job that is not done its result from the archives, if one was made with the same settings, prior, judge
    and scorer; returns how many got one. Of several it is the first that was tried for all the job's other prompts, or
    else the first. A job with a field of its own is judged by that.

    Raises:
        SettingsError: as ``read_archive``.
        OutputError: a job's folder cannot be written.
    """
    by_run: dict[str, list[dict[str, Any]]] = {}
    for result in (result for path in archives for result in read_archive(path)):
        by_run.setdefault(str(result.get("run_key")), []).append(result)
    taken = 0
    for job in jobs:
        fitting = [result for result in by_run.get(job.run_key(), ()) if matches(job, result)]
        found = next((result for result in fitting if tried(job, result)), fitting[0] if fitting else None)
        if found is not None and not is_done(job) and not has_field(job):
            write_json(make_folder(Path(job.folder)) / RESULT, found)
            taken += 1
    return taken
