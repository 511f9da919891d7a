"""A short text that differs between models: name, precision, weights, and the patches the user put on them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .tags import get_tag

_READ = 1024


def of(model: Any, vae: Any) -> str:
    """A CRC over the start of every weight of MODEL and VAE, every LoRA and its strength, and the named patches."""
    crc = 0
    network = model.model.diffusion_model
    held = dict(network.named_parameters())
    for name, tensor in network.state_dict().items():
        if tensor.is_meta and name in held:  # as GGUF weights show themselves
            tensor = held[name].as_subclass(Tensor)
        patched = model.backup.get(f"diffusion_model.{name}")  # a loaded LoRA lies in the weights themselves
        crc = zlib.crc32(_start(tensor if patched is None else patched.weight), crc)
    for tensor in _tensors(vae.first_stage_model.state_dict()):
        crc = zlib.crc32(_start(tensor), crc)
    for key in sorted(model.patches):
        for patch in model.patches[key]:
            crc = zlib.crc32(f"{key} {patch[0]} {patch[2]}".encode(), crc)
            for tensor in _tensors(getattr(patch[1], "weights", patch[1])):
                crc = zlib.crc32(_start(tensor), crc)
    crc = zlib.crc32(json.dumps(patch_names(model)).encode(), crc)
    name = Path(get_tag(model).source).name or type(model.model).__name__
    dtype = str(model.model.get_dtype_inference()).removeprefix("torch.")
    return f"{name} {dtype} {crc:08x}"


def patch_names(model: Any) -> list[str]:
    """The patches beside the weights, by the function that does each; ours carry their settings in ``label``."""
    options = model.model_options
    found = [key for key in sorted(options) if key != "transformer_options" and options[key]]
    for kind, functions in sorted(options.get("transformer_options", {}).get("patches", {}).items()):
        for function in functions:
            module = str(getattr(function, "__module__", "")).rsplit(".", 1)[-1]
            place = f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"
            found.append(f"{kind} {getattr(function, 'label', place)}")
    return found


def _start(tensor: Tensor) -> bytes:
    if tensor.is_meta:
        return f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    head = tensor.detach().flatten()[:_READ]
    return bytes(head.float().cpu().numpy().tobytes())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in value:
            yield from _tensors(value[key])
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
