"""Checkpoints: one safetensors file that holds the tensors and, as JSON in its header, everything else.

One file replaced in one step cannot be half of two states. A CRC of every tensor tells a damaged file from a whole one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import CheckpointError
from ..files import write_bytes

FILE_NAME = "checkpoint.safetensors"
FORMAT = 1
_ANOTHER = "Choose another one or, if you meant to resume, leave {resume} out and start again"
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


@dataclass(frozen=True)
class Checkpoint:
    """``tensors`` by name (CPU) and ``meta``, plain JSON."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``folder/checkpoint.safetensors`` in one step. Raises ``OutputError``; an earlier file then stays whole."""
    from safetensors.torch import save as serialise

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {
        "format": FORMAT,
        "version": __version__,
        "crc32": {name: _crc(tensor) for name, tensor in tensors.items()},
        "meta": checkpoint.meta,
    }
    data = serialise(tensors, metadata={"distill3d": json.dumps(header, allow_nan=False)})
    return write_bytes(folder / FILE_NAME, data)


def _find(path: Path) -> Path:
    if path.is_dir() and (path / FILE_NAME).is_file():
        return path / FILE_NAME
    if path.is_file():
        return path
    what = "a folder without it" if path.is_dir() else "nothing at that path"
    problem = f"expected a run's output folder with {FILE_NAME} in it, got {what}: {path}. "
    runs = sorted(filter(Path.is_file, path.glob(f"*/{FILE_NAME}")), key=os.path.getmtime, reverse=True)
    if runs:
        more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
        raise CheckpointError(
            f"{problem}Give one of the runs in it: {', '.join(str(f.parent) for f in runs[:4])}{more}"
        )
    raise CheckpointError(problem, advice="Give the folder that {out} named")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint from a run's folder or the file itself.

    Raises:
        CheckpointError: missing, truncated, damaged, a pickle, not safetensors, not ours, or from a newer format.
    """
    from safetensors import SafetensorError, safe_open

    file = _find(path)
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
        if start.startswith(_PICKLE_STARTS):
            raise CheckpointError(
                f"expected a safetensors checkpoint, got a pickle or zip file: {file}. "
                "Pickles can run code and are never read. ",
                advice=_ANOTHER,
            )
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            # copies, since Windows replaces no file that is still mapped, and a resumed run replaces this one
            tensors = {name: opened.get_tensor(name).clone() for name in list(opened.keys())}
    except OSError as error:
        raise CheckpointError(f"could not read {file}: {error.strerror or error}. ", advice=_ANOTHER) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"expected a whole safetensors checkpoint, got a damaged one: {file} ({error}). ", advice=_ANOTHER
        ) from error
    if "distill3d" not in metadata:
        raise CheckpointError(
            f"expected a checkpoint written by distill3d, got another safetensors file: {file}. ", advice=_ANOTHER
        )
    try:
        header = json.loads(metadata["distill3d"])
        found, checksums, meta = int(header["format"]), dict(header["crc32"]), dict(header["meta"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"expected a distill3d header in {file}, got a damaged one ({error}). ", advice=_ANOTHER
        ) from error
    if found > FORMAT:
        raise CheckpointError(
            f"expected checkpoint format {FORMAT} or older, got {found} from distill3d {header.get('version')}: "
            f"{file}. Update distill3d"
        )
    damaged = [name for name, tensor in tensors.items() if checksums.get(name) != _crc(tensor)]
    if damaged or set(checksums) != set(tensors):
        raise CheckpointError(
            f"the checkpoint is damaged (checksum of {', '.join(damaged) or 'a missing tensor'}): {file}. ",
            advice=_ANOTHER,
        )
    return Checkpoint(tensors, meta)


def sweep(folder: Path) -> None:
    """Remove what a killed process left of a checkpoint it was writing."""
    for left in folder.glob(f".{Path(FILE_NAME).stem}-????????{Path(FILE_NAME).suffix}"):
        left.unlink(missing_ok=True)


def difference(expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One readable line for every value that differs between two nested dictionaries."""
    lines = []
    for key in sorted(set(expected) | set(found)):
        a, b = expected.get(key, "absent"), found.get(key, "absent")
        name = f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {a} in the checkpoint, {b} now")
    return lines
