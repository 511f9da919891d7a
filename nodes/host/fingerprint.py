"""A short text that differs between models: name, precision, weights, and the patches the user put on them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .conditioning import SHARED, Conditioning
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
    crc = _added(crc, vae.first_stage_model.state_dict())
    for key in sorted(model.patches):
        for patch in model.patches[key]:
            crc = zlib.crc32(f"{key} {patch[0]} {patch[2]}".encode(), crc)
            crc = _added(crc, getattr(patch[1], "weights", patch[1]))
    crc = zlib.crc32(json.dumps(patch_names(model)).encode(), crc)
    name = Path(get_tag(model).source).name or type(model.model).__name__
    dtype = str(model.model.get_dtype_inference()).removeprefix("torch.")
    return f"{name} {dtype} {crc:08x}"


def of_extras(extras: Conditioning | None) -> str:
    """A CRC over the ControlNets of a CONDITIONING (kind, weights, hint, strength, range) and over its hooks; 'none'
    without."""
    shared = {key: value for key, value in extras[0][1].items() if key in SHARED} if extras else {}
    if not shared:
        return "none"
    crc = zlib.crc32(json.dumps(sorted(shared)).encode())
    control = shared.get("control")
    while control is not None:
        crc = _told(crc, control, "strength", "timestep_percent_range")
        hint = getattr(control, "cond_hint_original", None)
        if isinstance(hint, Tensor):
            crc = zlib.crc32(hint.detach().float().cpu().contiguous().numpy().tobytes(), crc)
        for name in ("control_model", "t2i_model", "control_weights"):
            held = getattr(control, name, None)
            crc = _added(crc, held.state_dict() if isinstance(held, torch.nn.Module) else held)
        control = getattr(control, "previous_controlnet", None)
    for hook in getattr(shared.get("hooks"), "hooks", ()):
        crc = _told(crc, hook, "_strength_model", "_strength_clip")
        for frame in getattr(getattr(hook, "hook_keyframe", None), "keyframes", ()):
            crc = _told(crc, frame, "strength", "start_percent", "guarantee_steps")
        for weights in (getattr(hook, "weights", None) or {}).values():
            crc = _added(crc, getattr(weights, "weights", weights))
    return f"{crc:08x}"


def of_sampling(sampling: Any) -> str:
    """Noise levels and what is predicted: the classes of a ``model_sampling``, which nodes replace, and its sigmas."""
    bases = type(sampling).__mro__[1:]  # the host makes a class of them for each model
    kinds = [kind.__name__ for kind in bases if kind not in (torch.nn.Module, object)]
    return f"{'/'.join(kinds)} {_added(0, getattr(sampling, 'sigmas', None)):08x}"


def _told(crc: int, thing: Any, *names: str) -> int:
    values = [type(thing).__name__, *(repr(getattr(thing, name, None)) for name in names)]
    return zlib.crc32(" ".join(values).encode(), crc)


def _added(crc: int, value: Any) -> int:
    for tensor in _tensors(value):
        crc = zlib.crc32(_start(tensor), crc)
    return crc


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
