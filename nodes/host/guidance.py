"""What acts on guidance: the MODEL's own CFG patches, RescaleCFG and its kin.

Methods combine predictions themselves, ``e_s = e_0 + s (e_y - e_0)``, and do not know the host's patches. A patch comes
in through the positive prediction: it is moved so that the method's own formula, at its scale s, gives what the host
would. x0 and eps are affine in each other at one x, so this holds for both. Perp-Neg's correction is made afterwards,
perpendicular to the direction as patched, and is itself not patched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...distill3d.methods import MethodSettings
from ...distill3d.methods.base import scale_at
from .conditioning import Cond
from .prior import Guide

PATCHES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")
Scale = Callable[[Tensor], Tensor]
"""``(B,)`` timesteps to ``(B,)`` guidance scales at this step."""


def has_patches(options: dict[str, Any]) -> bool:
    """Whether the MODEL carries patches that act on guidance."""
    return any(options.get(name) for name in PATCHES)


def guides_throughout(settings: type[MethodSettings] | MethodSettings) -> bool:
    """Whether a method's gradient is ``e_0 + s (e_y - e_0)`` and the like over its whole run, so that patches fit it.

    These are the methods whose scale may also run over timesteps: SDS, ASD and NFSD. SDS-Bridge guides in its first
    stage only; CSD, TBSD and BSD have weights in the place of a scale.
    """
    return hasattr(settings, "guidance_over")


def scale_of(settings: Any, progress: Callable[[], float], T: int) -> Scale:
    """The method's own guidance scale, over iterations or timesteps, as its gradient reads it."""

    def scale(t: Tensor) -> Tensor:
        time = (t.float() / T).reshape(-1, 1, 1, 1)
        found = scale_at(settings.guidance, settings.guidance_over, progress(), time)
        return torch.as_tensor(found, dtype=torch.float32, device=t.device).reshape(-1).expand(len(t))

    return scale


def make_guide(model: Any, options: dict[str, Any], scale: Scale) -> Guide | None:
    """The change to a step's positive answer, or None when there is nothing to change.

    Args:
        scale: the method's guidance scale s at this step.
    """
    if not has_patches(options):
        return None

    def guide(
        positive: Tensor, negative: Tensor, x: Tensor, t: Tensor, s: Tensor, conds: Callable[[slice], Any]
    ) -> Tensor:
        scales = scale(t).tolist()
        whole = slice(0, len(x))
        # a patch takes one number and one conditioning: samples that differ in either go one by one
        together = len(set(scales)) == 1 and conds(whole) is not None
        rows = [whole] if together else [slice(i, i + 1) for i in range(len(x))]
        moved = []
        for r in rows:
            now = scales[r.start]
            if now == 0:
                moved.append(positive[r])
                continue
            guided = _guided(model, options, positive[r], negative[r], now, x[r], s[r], conds(r))
            moved.append(negative[r] + (guided - negative[r]) / now)
        return torch.cat(moved)

    return guide


def _guided(
    model: Any,
    options: dict[str, Any],
    positive: Tensor,
    negative: Tensor,
    scale: float,
    x: Tensor,
    s: Tensor,
    conds: list[list[Cond]],
) -> Tensor:
    """The host's own guided x0."""
    answers = [positive.clone(), negative.clone()]
    for function in options.get("sampler_pre_cfg_function", []):
        arguments = {"conds": conds, "conds_out": answers, "cond_scale": scale, "timestep": s, "input": x}
        answers = function({**arguments, "sigma": s, "model": model, "model_options": options})
    guided: Tensor = comfy.samplers.cfg_function(
        model, answers[0], answers[1], scale, x, s, model_options=options, cond=conds[0], uncond=conds[1]
    )
    return guided
