"""What acts on guidance: the MODEL's own CFG patches (RescaleCFG and its kin), and schedules over the timestep.

Methods combine predictions themselves, ``e_s = e_0 + s (e_y - e_0)``, and know neither the host's patches nor the
timestep. Both come in through the positive prediction: it is moved so that the method's own formula, at its scale s,
gives what the host or the schedule wants. x0 and eps are affine in each other at one x, so this holds for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...distill3d.schedules import Schedule
from .conditioning import Cond
from .prior import Guide
from .space import Space

PATCHES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")


def has_patches(options: dict[str, Any]) -> bool:
    """Whether the MODEL carries patches that act on guidance."""
    return any(options.get(name) for name in PATCHES)


def make_guide(
    model: Any,
    options: dict[str, Any],
    scale: Callable[[], float],
    space: Space,
    over_timesteps: Schedule | None,
) -> Guide | None:
    """The change to a step's answers, or None when there is nothing to change.

    Args:
        scale: the method's guidance scale s at this step.
        over_timesteps: the scale as a schedule over ``t / (T - 1)``, taking the place of s.
    """
    patched = has_patches(options)
    if not patched and over_timesteps is None:
        return None

    def guide(parts: list[Tensor], x: Tensor, s: Tensor, conds: list[list[Cond]]) -> list[Tensor]:
        positive, negative, now = parts[0], parts[1], scale()
        if now == 0:
            return parts
        wanted = torch.full_like(s, now)
        if over_timesteps is not None:
            index = (space.sigmas.to(s.device)[None] - s[:, None]).abs().argmin(1)
            shares = (index.double() / (space.T - 1)).tolist()
            wanted = torch.tensor([over_timesteps(share) for share in shares], dtype=s.dtype, device=s.device)
        if not patched:
            ratio = (wanted / now).reshape(-1, 1, 1, 1)
            return [negative + ratio * (positive - negative), *parts[1:]]
        guided = _guided(model, options, positive, negative, wanted, x, s, conds)
        return [negative + (guided - negative) / now, *parts[1:]]

    return guide


def _guided(
    model: Any,
    options: dict[str, Any],
    positive: Tensor,
    negative: Tensor,
    scale: Tensor,
    x: Tensor,
    s: Tensor,
    conds: list[list[Cond]],
) -> Tensor:
    """The host's own guided x0; sample by sample where they differ in scale, since a patch takes one number."""
    if len(set(scale.tolist())) > 1:
        rows = [slice(i, i + 1) for i in range(len(x))]
        parts = [_guided(model, options, positive[r], negative[r], scale[r], x[r], s[r], conds) for r in rows]
        return torch.cat(parts)
    value = float(scale[0])
    answers = [positive.clone(), negative.clone()]
    for function in options.get("sampler_pre_cfg_function", []):
        arguments = {"conds": conds[:2], "conds_out": answers, "cond_scale": value, "timestep": s, "input": x}
        answers = function({**arguments, "sigma": s, "model": model, "model_options": options})
    guided: Tensor = comfy.samplers.cfg_function(
        model, answers[0], answers[1], value, x, s, model_options=options, cond=conds[0], uncond=conds[1]
    )
    return guided
