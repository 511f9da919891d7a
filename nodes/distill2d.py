"""Distill 2D and Toy 2D: methods beside each other on a picture, or on points in the plane, before any 3D run."""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..distill3d.errors import SettingsError
from ..distill3d.methods import METHODS
from ..distill3d.optimize import Settings, remarks
from ..distill3d.schedules import WINDOWS
from ..distill3d.two_d import TARGET_TEXT, mixture_prior, pictures
from ..distill3d.two_d.bench import Comparison, Task, compare
from ..distill3d.two_d.latents import Settings2D, choose, settings_for
from ..distill3d.two_d.mixture import check_toy, ring
from . import reflect
from . import settings as assembled
from .distill_loss import check_model, check_width
from .host import tags
from .host.bench import Progress, bench, unused
from .host.encoder import check_vae
from .images import tensor_of
from .types import Prompts
from .words import in_words, input_name

log = logging.getLogger(__name__)

SETTABLE = (*(name.lower() for name in METHODS), "window", "gradient", "perp_neg")
"""Groups of settings that the input more may change."""
PUBLISHED = "published"
TOY = Settings2D(batch=16, iterations=300)
TOY_WORDS = {
    "batch": "Points on the circle from which they start, each with its own noise.",
    "rate": "Adam's learning rate over the run; the target's modes are 0.15 wide.",
}
NAMES = " ".join(name.lower() for name in METHODS)


def _shared() -> list[Any]:
    """Inputs that both nodes begin with."""
    return [
        io.String.Input(
            "methods",
            default="sds csd asd tbsd",
            tooltip=f"Methods to compare, one row each: all, or any of {NAMES}. TBSD is our reading of its abstract, "
            "not a reproduction.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="One start and one noise for all methods, and the same timesteps where their windows agree. Same "
            "seed, same device: same pictures.",
        ),
    ]


def _ways() -> list[Any]:
    """Inputs that both nodes end with."""
    return [
        io.Combo.Input(
            "window",
            options=[PUBLISHED, *WINDOWS],
            default=PUBLISHED,
            advanced=True,
            optional=True,
            tooltip="Diffusion timesteps of all methods: published (each its own), or one for all.",
        ),
        io.String.Input(
            "more",
            default="",
            multiline=True,
            advanced=True,
            optional=True,
            tooltip="Other settings, one a line: asd.eta = 0.5, sds.guidance = 100->60, perp_neg.enabled = true, "
            "gradient.weighting = uniform. Lines with a method's name are for that one, others for all.",
        ),
    ]


def _run_inputs(default: Settings2D, *names: str, **told: str) -> list[Any]:
    """Widgets for these settings of a run, at the values of ``default``; ``told`` replaces a setting's own sentence."""
    hints, said = typing.get_type_hints(Settings2D), {**reflect.docs(Settings2D), **told}
    made = []
    for name in names:
        if name == "rate":
            auto = f"{said[name]} auto is {default.rate(0):g}->{default.rate(1):g}; write a number or a schedule."
            made.append(io.String.Input(name, default=reflect.AUTO, tooltip=auto, advanced=True, optional=True))
        else:
            far = name == "start"
            made.append(reflect.widget(name, hints[name], getattr(default, name), said[name], advanced=far))
    return made


def run_settings(values: Mapping[str, Any], default: Settings2D) -> Settings2D:
    """The run of a node's widgets; what a prompt lacks is as in ``default``. Raises ``SettingsError``."""
    given = {name: value for name, value in values.items() if name != "rate" and value is not None}
    return replace(default, **given, **reflect.chosen(Settings2D, {"rate": values.get("rate")}))


def choices(methods: str, window: str, more: str, *, bundled: bool) -> dict[str, Settings]:
    """Settings of every method asked for, in that order.

    Raises:
        SettingsError: an unknown method or one twice, or a line of ``more`` that cannot be used.
    """
    names = choose(tuple(methods.replace(",", " ").lower().split()))
    chosen = {name: settings_for(name, bundled=bundled, window=WINDOWS.get(window)) for name in names}
    return {name: assembled.override(settings, more, known=SETTABLE) for name, settings in chosen.items()}


def _told(done: Comparison, note: str = "") -> tuple[Tensor, str, str]:
    """Curves, table and report of a comparison; what failed is said after the table, and in the log."""
    failed = [f"{name.upper()} has no result: {error.told(input_name)}" for name, error in done.failed.items()]
    for line in failed:
        log.warning(line)
    note = "\n".join(part for part in (note, *failed) if part)
    table = pictures.table(done.rows())
    return tensor_of(done.curves()), f"{table}\n{note}\n" if note else table, json.dumps(done.report(), indent=1)


def _progress(cls: Any, task: Task) -> Progress:
    return Progress(str(cls.hidden.unique_id), task.steps, task.run.iterations, len(task.chosen))


def _common_outputs() -> list[Any]:
    return [
        io.Image.Output(
            "curves",
            display_name="curves",
            tooltip="Gradient lengths, generation and classifier terms, noise-prediction error e(t), and all methods' "
            "gradients on one state over the timestep.",
        ),
        io.String.Output("table", display_name="table", tooltip="A row a method, as markdown: for Preview as Text."),
        io.String.Output("report", display_name="report", tooltip="Settings and all curves as JSON."),
    ]


class Distill2D(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Distill2D",
            display_name="Distill 2D",
            category="Distill3D",
            description=(
                "Optimises a picture with each distillation method, on one start and one noise: the quickest way to "
                "see a method, or whether the MODEL understands a prompt, before a 3D run."
            ),
            search_aliases=[*METHODS, "compare methods", "2d bench", "score distillation", "contact sheet"],
            inputs=[
                io.Model.Input("model", tooltip="Any text-to-image MODEL, with its LoRA, FreeU and other patches."),
                io.Clip.Input("clip", tooltip="The CLIP that was loaded with the MODEL."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the MODEL."),
                io.String.Input(
                    "prompt",
                    default="a red cube",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw. Plain words: views are added by the input view.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to move away from; empty is the usual choice. Read by SDS and ASD, by CSD with a "
                    "negative weight or Perp-Neg, and by TBSD and SDS-Bridge with an empty modifier.",
                ),
                *_shared(),
                *_run_inputs(Settings2D(), "iterations", "batch", "space", "view", "rate", "start"),
                io.Int.Input(
                    "image_size",
                    default=0,
                    min=0,
                    max=2048,
                    step=8,
                    advanced=True,
                    optional=True,
                    tooltip="Side of the pictures in pixels; 0 takes the MODEL's own (SD 1.5 512, SDXL 1024).",
                ),
                *_ways(),
            ],
            outputs=[
                io.Image.Output(
                    "sheet", display_name="sheet", tooltip="A row a method, five moments from the start to the end."
                ),
                *_common_outputs(),
                io.Image.Output(
                    "images", display_name="images", tooltip="The final pictures, a batch: methods in their order."
                ),
                io.Latent.Output(
                    "latents", display_name="latents", tooltip="The same as LATENT, for KSampler or VAE Decode."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    @in_words
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        prompt: str,
        negative: str,
        methods: str,
        seed: int,
        window: str = PUBLISHED,
        more: str = "",
        image_size: int = 0,
        **run: Any,
    ) -> io.NodeOutput:
        check_model(model)
        if not prompt.strip():
            raise SettingsError("expected a prompt, got none: write what to draw, for instance a red cube")
        tag = tags.get_tag(model)
        size = image_size or tags.image_size(model)
        check_vae(vae, model.model.latent_format.latent_channels)
        ratio = int(vae.downscale_ratio)
        if size % ratio:
            raise SettingsError(
                f"expected an image_size that is a multiple of {ratio}, got {size}: try {size // ratio * ratio}"
            )
        task = Task(
            prompt, negative, seed, run_settings(run, Settings2D()), choices(methods, window, more, bundled=tag.bundled)
        )
        check_width(model, Prompts(task.prompts[0][0], clip))
        if note := unused(task, model):
            log.warning(note)
        done, prior = bench(task, model, clip, vae, size, _progress(cls, task))
        sheet = tensor_of(pictures.sheet(prior, done.results, title=prompt))
        last = torch.cat([result.latents for result in done.results])
        images = torch.cat([prior.decode(part.to(prior.device)).cpu() for part in last.split(task.run.batch)])
        raw = model.model.process_latent_out(last)
        shown = ui.PreviewImage(sheet, cls=cls)
        return io.NodeOutput(sheet, *_told(done, note), images.movedim(1, -1), {"samples": raw}, ui=shown)


class Toy2D(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Toy2D",
            display_name="Distill Toy 2D",
            category="Distill3D",
            description=(
                "Points in the plane, driven by each distillation method to a mixture of three Gaussians whose score "
                "is known: figure 2 of the ASD paper in kind. No MODEL, seconds."
            ),
            search_aliases=[*METHODS, "gaussian mixture", "toy", "trajectories"],
            inputs=[*_shared(), *_run_inputs(TOY, "iterations", "batch", "rate", **TOY_WORDS), *_ways()],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="A panel a method: the target's density, the path of every point, and where it ends.",
                ),
                *_common_outputs(),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    @in_words
    def execute(cls, methods: str, seed: int, window: str = PUBLISHED, more: str = "", **run: Any) -> io.NodeOutput:
        task = Task(
            TARGET_TEXT, "", seed, run_settings(run, TOY), choices(methods, window, more, bundled=False), plane=True
        )
        check_toy(task.run, task.chosen.values())
        if note := "; ".join(remarks(task.chosen.values(), "")):
            log.warning(note)
        seen = _progress(cls, task)
        with torch.inference_mode(False), torch.enable_grad():
            done = compare(
                mixture_prior(),
                task,
                start=ring(task.run.batch),
                on_method=seen.on_method,
                on_frame=seen.on_frame,
                on_look=seen.on_look,
            )
        sheet = tensor_of(pictures.trajectories(done.results))
        return io.NodeOutput(sheet, *_told(done, note), ui=ui.PreviewImage(sheet, cls=cls))
