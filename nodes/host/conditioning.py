"""Texts as the host's CONDITIONING, and many of them as one batch.

A conditioning is prepared once (``comfy.samplers.process_conds``); each step then joins those of its samples, so that a
batch of views with different words is one evaluation of the UNet.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...distill3d.errors import SettingsError
from ...distill3d.world.words import remark

Conditioning = list[list[Any]]
Cond = dict[str, Any]
SHARED = ("control", "control_apply_to_uncond", "hooks", "gligen")
"""Keys of a CONDITIONING that belong to a whole graph, not to its text."""


def encode(clip: Any, text: str) -> Conditioning:
    """The host's CLIPTextEncode. Raises ``SettingsError`` when there is no text encoder."""
    if clip is None:
        raise SettingsError(
            "expected a CLIP, got none: the checkpoint has no text encoder. Load one with Load CLIP and wire it here"
        )
    result: Conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)
    return [[_plain(c), {k: _plain(v) for k, v in extra.items()}] for c, extra in result]


def _plain(value: Any) -> Any:
    """Tensors of the executor's inference mode as ordinary ones."""
    return value.clone() if isinstance(value, Tensor) else value


def with_extras(conditioning: Conditioning, extras: Conditioning | None) -> Conditioning:
    """``conditioning`` with the ControlNet, hooks and the like of ``extras``; neither is changed."""
    if not extras:
        return conditioning
    shared = {key: value for key, value in extras[0][1].items() if key in SHARED}
    return [[tensor, {**values, **shared}] for tensor, values in conditioning]


def width(conditioning: Conditioning) -> int:
    return int(conditioning[0][0].shape[-1])


def joinable(conds: Sequence[list[Cond]]) -> bool:
    """Whether these prepared conditionings differ in their tensors only and can share one evaluation."""
    if any(len(cond) != 1 for cond in conds):
        return False
    first = conds[0][0]
    keys = set(first) - {"model_conds", "uuid", "cross_attn", "pooled_output"}
    for (cond,) in conds[1:]:
        if set(cond) - {"model_conds", "uuid", "cross_attn", "pooled_output"} != keys:
            return False
        if any(cond[key] is not first[key] and not _equal(cond[key], first[key]) for key in keys):
            return False
        if cond["model_conds"].keys() != first["model_conds"].keys():
            return False
        if not all(value.can_concat(cond["model_conds"][name]) for name, value in first["model_conds"].items()):
            return False  # as the host judges: only cross-attention may repeat a shorter text
    return True


def _equal(a: Any, b: Any) -> bool:
    simple = (bool, int, float, str, tuple, type(None))
    return isinstance(a, simple) and isinstance(b, simple) and a == b


def join(conds: Sequence[list[Cond]]) -> list[Cond]:
    """One conditioning whose tensors have one row a sample; see ``joinable``."""
    first = conds[0][0]
    joined = {name: _join([cond["model_conds"][name] for (cond,) in conds]) for name in first["model_conds"]}
    return [{**first, "model_conds": joined, "uuid": uuid.uuid4()}]


def mix(first: list[Cond], second: list[Cond], share: float) -> list[Cond]:
    """``share * first + (1 - share) * second`` in every tensor; ControlNet and hooks are the first's."""
    pairs = {name: (a, second[0]["model_conds"].get(name)) for name, a in first[0]["model_conds"].items()}
    mixed = {name: _mix(a, b, share) for name, (a, b) in pairs.items()}
    return [{**first[0], "model_conds": mixed, "uuid": uuid.uuid4()}]


def _mix(a: Any, b: Any, share: float) -> Any:
    if b is None or not isinstance(a.cond, Tensor) or not a.cond.is_floating_point():
        return a
    length = math.lcm(a.cond.shape[1], b.cond.shape[1]) if a.cond.ndim == 3 else 0
    x, y = (c.repeat(1, length // c.shape[1], 1) if length else c for c in (a.cond, b.cond))
    return a._copy_with(share * x + (1 - share) * y)


def _join(values: Sequence[Any]) -> Any:
    tensors = [value.cond for value in values]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        return values[0]
    if tensors[0].ndim == 3 and len({tensor.shape[1] for tensor in tensors}) > 1:
        length = math.lcm(*(tensor.shape[1] for tensor in tensors))
        tensors = [tensor.repeat(1, length // tensor.shape[1], 1) for tensor in tensors]
    return values[0]._copy_with(torch.cat(tensors))


def unknown_words(prompt: str, negative: str) -> str:
    """``words.remark`` without the host's syntax, which is no word of a prompt: ``(red:1.3)``, ``embedding:name``."""
    return remark(
        *(
            re.sub(r"embedding:[^\s,()]+|:\s{0,9}[-+]?[\d.][-+\d.e]{0,15}\s{0,9}(?=\))", " ", text)
            for text in (prompt, negative)
        )
    )
