"""Safe reading of weight files: safetensors only, checked before anything is built from them.

The format is 8 bytes of header length, a JSON header with the place of every tensor, then the bytes
(https://github.com/huggingface/safetensors). The header alone tells a damaged or renamed file from a good one, and one
family of models from another, without reading gigabytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import PriorError

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Header:
    """Names and shapes of the tensors in a safetensors file, and its free-form metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]

    def any(self, *prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in self.shapes)


def read_header(path: Path) -> Header:
    """The header of ``path``.

    Raises:
        PriorError: missing, empty, cut short, a pickle, or not safetensors at all; the message says which.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise PriorError(refuse_pickle(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
                _refuse_other_formats(path, head, size)
                raise PriorError(_damaged(path, f"its header would need {length} bytes and the file has {size}"))
            header: dict[str, Any] = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        shapes = {name: tuple(int(n) for n in entry["shape"]) for name, entry in header.items()}
    except OSError as error:
        raise PriorError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PriorError(_damaged(path, "its header is not what the format prescribes")) from error
    if 8 + length + end != size:
        raise PriorError(_damaged(path, f"{8 + length + end} bytes were expected, {size} are there"))
    if not shapes:
        raise PriorError(_damaged(path, "it holds no tensors"))
    return Header(shapes, metadata)


def refuse_pickle(path: Path) -> str:
    return (
        f"{path} is a pickle file, which can run any code when it is opened, so it is never read: "
        "get the .safetensors version of the model, or convert it on a machine where that risk is acceptable"
    )


def _damaged(path: Path, detail: str) -> str:
    return f"{path} is not a complete safetensors file ({detail}): copy or download it again"


def _refuse_other_formats(path: Path, head: bytes, size: int) -> None:
    if size == 0:
        raise PriorError(_damaged(path, "it is empty"))
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        raise PriorError(refuse_pickle(path) + ". Its name ends in .safetensors all the same.")
    if head.startswith(b"GGUF"):
        raise PriorError(f"{path} is a GGUF file: get the .safetensors version of the model")
    if head.startswith(b"version "):
        raise PriorError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file")


def refuse_non_finite(module: nn.Module, where: str) -> None:
    """One pass over the weights of ``module``.

    Raises:
        PriorError: a weight that is NaN or infinite; the message names the tensor, ``where`` it came from and the cure.
    """
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            cure = "the file is damaged, so copy or download it again"
            if tensor.dtype == torch.float16:
                cure += "; or, if its numbers do not fit float16, load it with dtype='bf16' or dtype='fp32'"
            raise PriorError(f"the weights {name} of {where} are not finite: {cure}")
