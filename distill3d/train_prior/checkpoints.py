"""Atomic checkpoints of a training stage: one safetensors file whose header carries the JSON facts."""

from __future__ import annotations

import json
import textwrap
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError
from ..files import make_folder, write_bytes


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write in one step, so that ``path`` is always whole. Raises ``OutputError``."""
    make_folder(path.parent)
    flat = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_bytes(path, save(flat, metadata={"facts": json.dumps(facts)}))


def read(path: Path, expect: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of ``path``.

    Raises:
        CheckpointError: when the file is damaged, or when one of ``expect`` differs from its facts.
    """
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:
        raise CheckpointError(f"expected a checkpoint of this trainer at {path}, got: {error}. Delete it.") from error
    for key, value in expect.items():
        if facts.get(key) != value:
            name, *two = _where_they_differ(key, value, facts.get(key))
            asked, made = (textwrap.shorten(repr(v), 120) for v in two)
            raise CheckpointError(
                f"expected {name}={asked}, but {path} was made with {made}: "
                "use the settings it was made with, or delete it to start again"
            )
    return tensors, facts


def _where_they_differ(name: str, asked: Any, made: Any) -> tuple[str, Any, Any]:
    """The innermost of two unequal JSON values that differs, by its place, such as ``unet_parts.1.batch``."""
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(asked, dict) and isinstance(made, dict):
        pairs = [(key, asked.get(key), made.get(key)) for key in {**asked, **made}]
    elif isinstance(asked, list) and isinstance(made, list) and len(asked) == len(made):
        pairs = [(i, *both) for i, both in enumerate(zip(asked, made, strict=True))]
    for key, one, other in pairs:
        if one != other:
            return _where_they_differ(f"{name}.{key}", one, other)
    return name, asked, made


def crc(tensors: Iterable[Tensor]) -> int:
    """A checksum of the tensors' values, in order."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def split(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix/``, with the prefix taken off."""
    start = f"{prefix}/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def join(**parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``split`` for several prefixes."""
    return {f"{prefix}/{name}": t for prefix, part in parts.items() for name, t in part.items()}


def step_generator(seed: int, stage: str, step: int) -> torch.Generator:
    """Randomness of one step alone, so that a resumed run needs no generator state to go on bit-exactly.

    torch's CPU generator takes 32 bits. Seed 0 draws what the bundled model was trained with.
    """
    salt = sum(ord(c) * 257**i for i, c in enumerate(stage)) % 2**20
    low = (salt * 2**22 + step) % 2**32
    return torch.Generator().manual_seed(low ^ zlib.crc32(str(seed).encode()) if seed else low)
