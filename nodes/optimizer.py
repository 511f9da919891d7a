"""NeRF Optimizer: the loop. Watch it grow, stop and keep it, cancel and continue it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management as manager
import torch
from comfy_api.latest import io, ui

from ..distill3d.errors import CheckpointError, SettingsError
from ..distill3d.locks import claimed
from ..distill3d.optimize import Distillation, Settings, report
from ..distill3d.optimize import checkpoint as checkpoints
from ..distill3d.optimize.curves import Recorder
from ..distill3d.optimize.fit import TIMED_STEPS, Fit
from ..distill3d.optimize.state import capture
from ..distill3d.render.pictures import contact_sheet, turntable
from . import reflect
from . import settings as assembled
from .field import from_checkpoint
from .host import folders, limits, tags
from .host.encoder import check_vae
from .host.run import Task, distill
from .host.tell import tell
from .host.watch import Watch, workflow_of
from .images import tensor_of
from .types import CheckpointType, FieldType, Loss, LossType, RadianceField, Stopped
from .words import in_words

log = logging.getLogger(__name__)

PRESET_NAMES = ("draft", "standard", "fine")
FRAMES, FRAME_SIZE, SHEET_SIZE = 12, 128, 128


class NeRFOptimizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_NeRFOptimizer",
            display_name="NeRF Optimizer",
            category="Distill3D",
            description=(
                "Grows a radiance field until its renders look like the prompt from every side. Stop & keep ends early "
                "with what there is; Cancel writes a checkpoint that Resume continues."
            ),
            search_aliases=["nerf", "text to 3d", "dreamfusion", "distill", "optimize", "train"],
            inputs=[
                LossType.Input("loss", tooltip="From Distill Loss."),
                io.Vae.Input(
                    "vae", tooltip="The VAE that belongs to the MODEL; its encoder passes gradients to the renders."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Same seed, same settings, same device: same object. Try another when the shape is wrong.",
                ),
                io.String.Input(
                    "prefix",
                    default=f"{folders.RUNS}/run",
                    tooltip="Where checkpoints go, inside the output folder; numbered. Resume lists those below "
                    f"{folders.ROOT}. A resumed run stays in its own folder.",
                    advanced=True,
                ),
                CheckpointType.Input(
                    "resume",
                    optional=True,
                    tooltip="From Resume: continue that run. Prompt, seed, method and settings must be the ones it was "
                    "started with; every difference is listed.",
                ),
                io.DynamicCombo.Input("preset", options=_presets(), tooltip=PRESET_TIP),
                io.Float.Input(
                    "vram_gb",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Most memory on the graphics card, in GB; 0 for no limit. Renders, UNet rows at once and "
                    "views a step are cut down, in this order, to an estimate that fits, whatever the preset. An "
                    "estimate, not a promise: leave what other programs use.",
                ),
                io.Float.Input(
                    "time_budget",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=100_000.0,
                    step=0.1,
                    advanced=True,
                    tooltip=f"Most minutes of optimisation; 0 for no limit. {TIMED_STEPS} steps are timed first, and "
                    "iterations cut to what fits: schedules run over their share of the run and keep their shape.",
                ),
            ],
            outputs=[
                FieldType.Output("field", display_name="field", tooltip="For Mesh Export, Render Turntable and Save."),
                io.Image.Output(
                    "images", display_name="images", tooltip=f"{FRAMES} views around the object, {FRAME_SIZE} pixels."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The run as JSON: settings, seconds, versions, curves.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    @in_words
    def execute(
        cls,
        loss: Loss,
        vae: Any,
        preset: dict[str, Any],
        seed: int,
        prefix: str = "",
        resume: Stopped | None = None,
        vram_gb: float | None = 0.0,
        time_budget: float | None = 0.0,
    ) -> io.NodeOutput:
        tag = tags.get_tag(loss.model)
        settings = choose(loss, preset, bundled=tag.bundled)
        size = int(preset.get("image_size", 0)) or tags.image_size(loss.model)
        check_vae(vae, loss.model.model.latent_format.latent_channels)
        ratio = int(vae.downscale_ratio)
        if size % ratio:
            raise SettingsError(
                f"expected an image size that is a multiple of {ratio}, got {size}: try {size // ratio * ratio}"
            )
        folder = resume.folder if resume else folders.new_folder(prefix)
        task = Task(
            loss.model,
            loss.prompts.clip,
            vae,
            loss.prompts.views,
            settings,
            seed,
            size,
            folder,
            extras=loss.extras,
            known=dict(loss.prompts.known),
            resume=resume.checkpoint if resume else None,
            limits=limits.Limits(float(vram_gb or 0), float(time_budget or 0)),
        )
        note = assembled.unused(loss, settings, bundled=tag.bundled)
        facts = {"method": loss.method.upper(), "prompt": loss.prompts.views.prompt, "note": note}
        if note:
            log.warning(note)
        node = str(cls.hidden.unique_id)
        with (
            folders.kept_if_used(folder),
            claimed(folder),
            Watch(
                node, settings.iterations, facts, workflow_of(cls.hidden.extra_pnginfo), folders.shown(folder)
            ) as watch,
        ):
            done = int(resume.checkpoint.meta["iteration"]) if resume else 0
            if resume and int(checkpoints.load(folder).meta["iteration"]) != done:
                raise CheckpointError(
                    f"expected the run in {folders.shown(folder)} as Resume read it, at iteration {done}, and it has "
                    "gone on meanwhile: run the graph again"
                )
            recorder, estimates = Recorder(folder, done), Estimates(task, watch, note)
            finish = partial(_finish, recorder=recorder, estimates=estimates, say=watch.say)
            field, images, sheet, text = distill(
                task,
                (watch, recorder),
                watch.stop,
                finish,
                started=partial(watch.attach, recorder=recorder),
                say=watch.say,
                fitted=estimates,
            )
            watch.show((sheet[0] * 255).round().to(torch.uint8))
        return io.NodeOutput(field, images, text)


class Estimates:
    """Says before a run what it is estimated to need and what its limits changed, and keeps it for the report."""

    def __init__(self, task: Task, watch: Watch, note: str) -> None:
        self._task, self._watch, self._note = task, watch, note
        self.report: dict[str, Any] = {}

    def __call__(self, fit: Fit) -> None:
        given, available = self._task.limits, limits.room(self._task.model)
        words, warning = limits.changed(fit, given), limits.warning(fit, available)
        told = "; ".join(part for part in (limits.estimate(fit), words) if part)
        log.info(told)
        if warning:
            log.warning(warning)
        self._watch.say(told)
        self._watch.note("; ".join(part for part in (self._note, words, warning) if part))
        self.report = limits.to_json(fit, given, available)


PRESET_TIP = (
    "draft: the first shape, 500 steps with the bundled prior (about two minutes of one CPU core), 2,000 with Stable "
    "Diffusion. standard: two to three times as long. fine: the longest. custom: all yours."
)


def _presets() -> list[Any]:
    said = {"tooltip": "What everything that is not set here is taken from."}
    custom = [
        io.Combo.Input("base", options=list(PRESET_NAMES), default="draft", **said),
        _count("iterations", 1_000_000),
        _count("batch", 64),
        io.String.Input("resolution", default="auto", tooltip=f"{_tip('resolution')} auto takes the preset's."),
        io.Int.Input(
            "image_size",
            default=0,
            min=0,
            max=2048,
            step=8,
            tooltip="Side in pixels at which the MODEL sees the renders; 0 takes its own (SD 1.5 512, SDXL "
            "1024). Smaller "
            "is faster and rougher.",
        ),
        _count("checkpoint_every", 1_000_000),
        io.String.Input(
            "more",
            default="",
            multiline=True,
            tooltip="Any other setting of the library, one a line: losses.opaque = 3, "
            "render.samples_per_ray = 96, "
            "field.blob_density = 8, background.mode = white. The help page lists them all.",
        ),
    ]
    plain = [io.DynamicCombo.Option(name, []) for name in PRESET_NAMES]
    return [*plain, io.DynamicCombo.Option("custom", custom)]


def _tip(name: str) -> str:
    return reflect.docs(Settings).get(name, "")


def _count(name: str, most: int) -> Any:
    return io.Int.Input(name, default=0, min=0, max=most, tooltip=f"{_tip(name)} 0 takes the base preset's.")


def choose(loss: Loss, preset: dict[str, Any], *, bundled: bool) -> Settings:
    """The run's settings. Raises ``SettingsError``."""
    name = str(preset["preset"])
    if name != "custom":
        return assembled.assemble(loss, name, bundled=bundled)
    settings = assembled.assemble(loss, str(preset["base"]), bundled=bundled)
    counts: dict[str, Any] = {name: int(preset[name]) for name in ("iterations", "batch", "checkpoint_every")}
    settings = replace(settings, **{name: count for name, count in counts.items() if count})
    if str(preset["resolution"]).strip().lower() not in ("", "auto"):
        settings = assembled.override(settings, f"resolution = {preset['resolution']}")
    return assembled.override(settings, str(preset.get("more", "")))


def _finish(
    run: Distillation, recorder: Recorder, estimates: Estimates, say: Callable[[str], None]
) -> tuple[RadianceField, torch.Tensor, torch.Tensor, str]:
    """The node's outputs, made while the run is at hand: everything detached and on the CPU."""
    say(f"{run.iteration}/{run.settings.iterations} · rendering the turntable and the sheet")
    field = from_checkpoint(capture(run))

    def on_frame(done: int, total: int) -> None:
        manager.throw_exception_if_processing_interrupted()

    images = turntable(run.field, frames=FRAMES, size=FRAME_SIZE, occupancy=run.occupancy, on_frame=on_frame)
    sheet = contact_sheet(run.field, size=SHEET_SIZE, occupancy=run.occupancy, title=run.prompts.prompt)
    built = report.build(run, files={"checkpoint": checkpoints.FILE_NAME})
    built |= {"limits": estimates.report, "curves": recorder.to_json(run.prior.T)}
    return replace(field, report=built), images.float() / 255, tensor_of(sheet), json.dumps(built, indent=1)


class Resume(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Resume",
            display_name="Resume",
            category="Distill3D",
            description="A stopped, cancelled or crashed run. Wire it into the same graph's NeRF Optimizer to go on.",
            search_aliases=["continue", "checkpoint", "restart"],
            inputs=[
                io.Combo.Input(
                    "run",
                    options=[folders.LATEST, *folders.found(folders.RUNS)],
                    default=folders.LATEST,
                    tooltip="Which run, newest first; latest is whatever is newest when the graph runs. "
                    "Press R to refresh.",
                ),
            ],
            outputs=[
                CheckpointType.Output("checkpoint", display_name="checkpoint", tooltip="For NeRF Optimizer's resume."),
                FieldType.Output("field", display_name="field", tooltip="The object as far as it came."),
                io.String.Output(
                    "info", display_name="info", tooltip="Prompt, method, seed and iterations of the run."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, run: str | None) -> bool | str:
        return folders.refused(run, folders.RUNS) or True

    @classmethod
    def fingerprint_inputs(cls, run: str | None) -> str | float:
        return folders.stamp(run, folders.RUNS)

    @classmethod
    @in_words
    def execute(cls, run: str) -> io.NodeOutput:
        folder = folders.inside(run, folders.RUNS)
        checkpoint = checkpoints.load(folder)
        field = from_checkpoint(checkpoint)
        facts = field.saved.facts
        planned = field.saved.settings.iterations
        info = f"{facts['prompt']} · {facts['method'].upper()} · seed {facts['seed']} · {facts['iterations']}/{planned}"
        if facts["iterations"] >= planned:
            info += " · finished"
        tell(cls.hidden.unique_id, info)
        return io.NodeOutput(Stopped(checkpoint, folder), field, info, ui=ui.PreviewText(info))
