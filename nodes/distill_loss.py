"""Distill Loss: a MODEL, view prompts and a method; only the chosen method's own settings are shown.

The method comes last: saved workflows hold widget values by place, and a new setting must not move the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..distill3d.errors import PriorError, SettingsError
from ..distill3d.methods import METHODS, GradientSettings, PerpNegSettings
from ..distill3d.methods.weights import WEIGHTS
from ..distill3d.optimize import Settings
from ..distill3d.schedules import TimestepWindow
from . import reflect, stands_for
from .host.conditioning import encode, width
from .host.space import Space
from .settings import WINDOW, schedule
from .types import Loss, LossType, Plan, Prompts, PromptsType, ScheduleType
from .words import in_words

LABELS = {"TBSD": "TBSD (our reading of its abstract, not a reproduction)"}


def method_options() -> list[Any]:
    """One option a method, with its own settings."""
    return [
        io.DynamicCombo.Option(name, reflect.inputs(entry.settings, stands_for.of_method(name)))
        for name, entry in METHODS.items()
    ]


def common_inputs() -> list[Any]:
    """Timestep window and treatment of the gradient, which every method has."""

    def tip(text: str, read: Callable[[Settings], Any], more: str = "") -> str:
        return f"{text} {reflect.AUTO} is {stands_for.shared(read)}. {more}".rstrip()

    low = "Lowest diffusion timestep as a share of 0..1; small ones shape texture."
    high = (
        "Highest diffusion timestep as a share of 0..1; large ones shape the whole object, lower it late in the run: "
    )
    high += "0.98->0.5."
    said = reflect.docs(GradientSettings)
    text = {"default": reflect.AUTO, "advanced": True}
    return [
        io.String.Input("t_min", tooltip=tip(low, lambda s: s.window.minimum, reflect.SCHEDULE_HINT), **text),
        io.String.Input("t_max", tooltip=tip(high, lambda s: s.window.maximum, reflect.SCHEDULE_HINT), **text),
        io.Combo.Input(
            "weighting",
            options=[reflect.AUTO, *WEIGHTS],
            tooltip=tip(said["weighting"], lambda s: s.gradient.weighting),
            **text,
        ),
        io.String.Input(
            "clip", tooltip=tip(said["clip"], lambda s: s.gradient.clip, "Write none for no limit."), **text
        ),
        io.Combo.Input(
            "normalise",
            options=[reflect.AUTO, "none", "norm", "std"],
            tooltip=tip(said["normalise"], lambda s: s.gradient.normalise),
            **text,
        ),
    ]


def _given(**values: Any) -> dict[str, str]:
    """What is not at "auto"; a wire may bring a number, or None, which is auto."""
    texts = {key: reflect.AUTO if value is None else str(value).strip() for key, value in values.items()}
    return {key: text for key, text in texts.items() if text not in ("", reflect.AUTO)}


class DistillLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        notes = "; ".join(f"{name}: {text}" for name, text in LABELS.items())
        return io.Schema(
            node_id="Distill3D_DistillLoss",
            display_name="Distill Loss",
            category="Distill3D",
            description=(
                "Score distillation: asks the MODEL how each render should change to look more like the prompt. SDS is "
                "the classic; CSD needs no large guidance scale; ASD gives finer detail at ordinary scales; TBSD "
                f"balances shape against texture; NFSD, BRIDGE and BSD are relatives. {notes}."
            ),
            search_aliases=[
                *METHODS,
                "Perp-Neg",
                "score distillation",
                "dreamfusion",
                "text to 3d",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Any text-to-image MODEL: SD 1.5, SD 2, SDXL, SD 3, Flux. LoRA, FreeU, "
                    "ControlNet hooks and "
                    "RescaleCFG on it are honoured. Inpainting and video models cannot be used.",
                ),
                PromptsType.Input("prompts", tooltip="What to build, from View Prompts."),
                ScheduleType.Input(
                    "cfg",
                    optional=True,
                    tooltip="Guidance scale over the run or over the diffusion timestep, from CFG Schedule. It takes "
                    "the place of the method's guidance; CSD, TBSD and BSD have none, and leave it unused.",
                ),
                io.Conditioning.Input(
                    "extras",
                    optional=True,
                    tooltip="A CONDITIONING whose ControlNet and hooks are used for every view, for "
                    "instance from Apply "
                    "ControlNet. Its text is not used.",
                ),
                *common_inputs(),
                perp_neg_input(),
                io.DynamicCombo.Input(
                    "method",
                    options=method_options(),
                    tooltip="How the MODEL's predictions become a gradient. Start with SDS; try CSD "
                    "when colours burn out. Repeated faces: another seed, or narrower sectors.",
                ),
            ],
            outputs=[LossType.Output("loss", display_name="loss", tooltip="Wire it to NeRF Optimizer.")],
        )

    @classmethod
    @in_words
    def execute(
        cls,
        model: Any,
        prompts: Prompts,
        method: dict[str, Any],
        cfg: Plan | None = None,
        extras: Any = None,
        t_min: str = reflect.AUTO,
        t_max: str = reflect.AUTO,
        weighting: str = reflect.AUTO,
        clip: str = reflect.AUTO,
        normalise: str = reflect.AUTO,
        perp_neg: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        name = str(method["method"])
        settings = METHODS[name].settings
        own = reflect.chosen(settings, {key: value for key, value in method.items() if key != "method"})
        check_model(model)
        check_width(model, prompts)
        gradient: dict[str, Any] = _given(weighting=weighting, clip=clip, normalise=normalise)
        if gradient.get("clip", "").lower() == "none":
            gradient["clip"] = None
        GradientSettings(**gradient)
        window = _given(minimum=t_min, maximum=t_max)
        for key, value in window.items():
            schedule(WINDOW[key], value)
        if len(window) == 2:
            check_window(**window)
        return io.NodeOutput(
            Loss(model, prompts, name.lower(), own, window, gradient, cfg, extras, settings, perp_neg_choice(perp_neg))
        )


def check_window(minimum: Any, maximum: Any) -> None:
    """Raises ``SettingsError`` in the words of the inputs."""
    try:
        TimestepWindow(minimum, maximum)
    except SettingsError as error:
        raise SettingsError(
            f"expected t_min and t_max from 0 to 1, t_max never below t_min, got {minimum} and {maximum}: shares of "
            "the model's timesteps such as 0.02 and 0.98"
        ) from error


PUBLISHED = "what was published with the method: 1 for SDS, 0.5 for ASD, 3 for CSD; 1, our choice, for the others"


def perp_neg_input() -> Any:
    """Perp-Neg off, or on with its settings."""
    options = [
        io.DynamicCombo.Option("off", []),
        io.DynamicCombo.Option("on", reflect.inputs(PerpNegSettings, {"strength": PUBLISHED}, skip=("enabled",))),
    ]
    return io.DynamicCombo.Input("perp_neg", options=options, tooltip=reflect.docs(PerpNegSettings)["enabled"])


def perp_neg_choice(given: dict[str, Any] | None) -> dict[str, Any]:
    """What ``Settings.perp_neg`` is changed by; empty for off."""
    if not given or given.get("perp_neg") != "on":
        return {}
    return {"enabled": True, **reflect.chosen(PerpNegSettings, {k: v for k, v in given.items() if k != "perp_neg"})}


def check_model(model: Any) -> None:
    """Raises ``PriorError`` for a MODEL that is not a plain text-to-image one."""
    if model is None:
        raise PriorError("expected a MODEL, got none: wire Load SD or Load Checkpoint")
    base = model.model
    latent = base.latent_format
    if getattr(latent, "latent_dimensions", 2) != 2:
        raise PriorError(
            f"expected a text-to-image MODEL, got {type(base).__name__}, which works on video, sound or 3D "
            f"latents: use "
            "an image model such as Stable Diffusion"
        )
    channels = base.model_config.unet_config.get("in_channels", latent.latent_channels)
    if getattr(base, "concat_keys", ()):
        raise PriorError(
            f"expected a plain text-to-image MODEL, got one for inpainting or editing (its UNet reads {channels} "
            f"channels, latents have {latent.latent_channels}): load the plain version of the checkpoint"
        )
    try:
        Space.of(model.get_model_object("model_sampling"))
    except AttributeError as error:
        raise PriorError(f"expected a diffusion MODEL, got {type(base).__name__}, which has no noise levels") from error


def check_width(model: Any, prompts: Prompts) -> None:
    """Raises ``SettingsError`` when the CLIP's conditioning is not as wide as the MODEL's UNet expects."""
    expected = model.model.model_config.unet_config.get("context_dim")
    text = prompts.views.texts[0]
    found = width(prompts.known.get(text) or encode(prompts.clip, text))
    if isinstance(expected, int) and expected != found:
        raise SettingsError(
            f"the MODEL expects text conditioning {expected} wide and the CLIP of View Prompts makes {found}: wire "
            "the CLIP that was loaded with this MODEL into View Prompts"
        )
