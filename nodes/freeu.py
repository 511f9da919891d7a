"""FreeU Patch: FreeU v1 or v2 on any UNet, static or by the diffusion timestep of each sample."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..distill3d.errors import PriorError, SettingsError
from ..distill3d.schedules import Schedule
from .host.freeu import Patch
from .host.run import space_of
from .host.space import Space
from .types import Plan, ScheduleType
from .words import in_words


class FreeUPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def factor(name: str, default: float, text: str) -> Any:
            tip = f"{text} No unit; 1 changes nothing."
            return io.Float.Input(name, default=default, min=0.0, max=10.0, step=0.01, tooltip=tip)

        return io.Schema(
            node_id="Distill3D_FreeUPatch",
            display_name="FreeU Patch",
            category="Distill3D",
            description=(
                "FreeU weighs a UNet's backbone against its skip connections, at no cost. With a "
                "schedule it fades with the diffusion timestep; each view of a batch has its own."
            ),
            search_aliases=["freeu", "free lunch", "dynamic freeu"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A MODEL with a UNet (SD 1.x, SD 2, SDXL). It is not changed; a copy is."
                ),
                io.Combo.Input(
                    "version",
                    options=["v2", "v1"],
                    default="v2",
                    tooltip="v2 scales the backbone where it is strong, v1 everywhere. v2 is the gentler one.",
                ),
                factor(
                    "b1",
                    1.3,
                    "Backbone of the deepest stage. More: more texture detail; far above 1, defects of shape.",
                ),
                factor("b2", 1.4, "Backbone of the stage after it."),
                factor("s1", 0.9, "Low frequencies of the deepest stage's skip. Less: fewer repeated details."),
                factor("s2", 0.2, "Low frequencies of the next stage's skip."),
                ScheduleType.Input(
                    "schedule",
                    optional=True,
                    tooltip="Strength 0 to 1 over the diffusion timestep, from CFG Schedule set to "
                    "timesteps with start "
                    "and end within 0..1. Our reading of dynamic FreeU; the end points are ours.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="MODEL", tooltip="The patched model.")],
        )

    @classmethod
    @in_words
    def execute(
        cls, model: Any, version: str, b1: float, b2: float, s1: float, s2: float, schedule: Plan | None = None
    ) -> io.NodeOutput:
        stages = stages_of(model, (b1, s1), (b2, s2))
        strength = None if schedule is None else ByTimestep(check(schedule), space_of(model))
        patched = model.clone()
        patched.set_model_output_block_patch(Patch(stages, int(version[1]), strength))
        return io.NodeOutput(patched)


def stages_of(model: Any, first: tuple[float, float], second: tuple[float, float]) -> dict[int, tuple[float, float]]:
    """The two widest stages of the UNet and their factors. Raises ``PriorError`` for a model without a UNet."""
    config = model.model.model_config.unet_config
    width, multiples = config.get("model_channels"), config.get("channel_mult")
    if not width or not multiples:
        raise PriorError(
            f"FreeU needs a UNet and {type(model.model).__name__} has none: leave this node out for transformer models"
        )
    widths = sorted({int(width * m) for m in multiples}, reverse=True)
    return dict(zip(widths, (first, second), strict=False))


def check(plan: Plan) -> Schedule:
    """The schedule of strengths. Raises ``SettingsError`` when it runs over iterations or leaves 0..1."""
    if plan.over != "timesteps":
        raise SettingsError(
            "expected a schedule over timesteps, got one over iterations: a MODEL does not know the "
            "iteration. Set over "
            "to timesteps in CFG Schedule"
        )
    low, high = plan.schedule.extremes()
    if low < 0 or high > 1:
        raise SettingsError(
            f"expected FreeU strengths within 0..1, got {low:g}..{high:g}: set start and end of the "
            "schedule between 0 (off) and 1 (full)"
        )
    return plan.schedule


class ByTimestep:
    """Strengths of sigmas, by the share of the diffusion that they stand for."""

    def __init__(self, schedule: Schedule, space: Space) -> None:
        self.schedule, self.space = schedule, space
        self.label = str(schedule)
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, sigmas: Tensor) -> Tensor:
        levels, strengths = self._table(sigmas.device)
        return strengths[(levels[None] - sigmas.detach().float()[:, None]).abs().argmin(1)]

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """``(T,)`` sigmas and strengths where they are asked for, so that nobody waits for a sigma to look it up."""
        if device not in self._tables:
            with torch.inference_mode(False):
                strengths = torch.tensor([self.schedule(i / (self.space.T - 1)) for i in range(self.space.T)])
                self._tables[device] = self.space.sigmas.to(device), strengths.to(device)
        return self._tables[device]
