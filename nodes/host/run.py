"""One run of the optimisation loop as a sampler under the host's ``CFGGuider``.

The guider loads the model and its ControlNets through the manager, installs hooks and wrappers, and puts everything
back, also after an error or an interrupt. Inside, the executor's inference mode is left for good: the field trains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management as manager
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...distill3d.errors import SettingsError
from ...distill3d.methods.base import TARGET
from ...distill3d.optimize import Distillation, Listener, Settings
from ...distill3d.optimize.checkpoint import Checkpoint
from ...distill3d.optimize.fit import TIMED_STEPS, Fit, largest_render, time_steps
from ...distill3d.optimize.guidance import Guidance
from ...distill3d.prompts import ViewPrompts
from . import fingerprint
from .conditioning import Conditioning, encode, with_extras
from .encoder import EncoderCopy, check_vae, others_loaded
from .guidance import guides_throughout, has_patches, make_guide, scale_of
from .limits import Budget, Limits, cost_of
from .prior import HostPrior
from .space import Space
from .tags import get_tag

BACKWARD_NUMBERS = 1000
"""Numbers the encoder keeps per pixel and channel for its backward pass: 1.5 GB at 512 pixels in half precision."""


@dataclass(frozen=True)
class Task:
    """What one run needs.

    Attributes:
        views: prompt, negative and sectors.
        extras: CONDITIONING whose ControlNet and hooks belong to every text.
        resume: a checkpoint to continue from, or None.
        folder: where checkpoints go.
        limits: of memory and time; settings are cut down to them.
    """

    model: Any
    clip: Any
    vae: Any
    views: ViewPrompts
    settings: Settings
    seed: int
    image_size: int
    folder: Path
    extras: Conditioning | None = None
    known: dict[str, Conditioning] | None = None
    resume: Checkpoint | None = None
    limits: Limits = Limits()


Body = Callable[[Distillation], Any]
"""What is done with a run before the host takes its model back."""


class _Recorder:
    """Stands in for a prior to learn which texts a run will embed."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Tensor:
        self.texts += texts
        return torch.zeros(len(texts), 1, 3)

    blend = staticmethod(HostPrior.blend)


def texts_of(views: ViewPrompts, settings: Settings) -> tuple[str, ...]:
    """Every text a run with these settings asks the model about, each once."""
    recorder = _Recorder()
    Guidance(recorder, views, settings)  # type: ignore[arg-type]
    return tuple(dict.fromkeys(recorder.texts))


def positive_of(views: ViewPrompts, settings: Settings) -> frozenset[str]:
    """Those of ``texts_of`` that say what to make."""
    method = Guidance(_Recorder(), views, settings).method  # type: ignore[arg-type]
    return frozenset(method.texts(text, views.negative)[TARGET.prompt] for text in views.texts)


def distill(
    task: Task,
    listeners: Sequence[Listener],
    stop: Callable[[], bool],
    finish: Body,
    started: Body = lambda run: None,
    *,
    say: Callable[[str], None] = lambda text: None,
    fitted: Callable[[Fit], None] = lambda fit: None,
) -> Any:
    """Optimise, and return what ``finish`` makes of the run; ``started`` sees it before its first step.

    Args:
        say: told what goes on before the first step.
        fitted: told, before ``started``, what the run is estimated to need and what its limits changed.

    Raises:
        SettingsError: nothing keeps within the limits; for memory before anything is loaded.
        Distill3DError: see ``Distillation.run``; the host's interrupt goes through after a checkpoint was written.
    """
    shape = latent_shape(task.model, task.vae, task.image_size)
    cost = cost_of(task.model, task.vae, task.image_size)
    budget = Budget(cost, task.limits, task.settings, task.resume)
    settings = budget.fit.settings
    known = task.known if task.known is not None else {}
    for text in texts_of(task.views, settings):
        if text not in known:
            known[text] = encode(task.clip, text)
    conds = {text: with_extras(known[text], task.extras) for text in texts_of(task.views, settings)}
    if reads_one_timestep(task.model, conds):
        settings = replace(settings, window=replace(settings.window, shared=True))

    model = task.model.clone()
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "distill3d", _reserve(task, settings))
    guider = comfy.samplers.CFGGuider(model)
    set_texts(guider, conds.values())
    task = replace(task, settings=settings)
    sampler = _Loop(task, tuple(conds), shape, budget, listeners, stop, started, finish, say, fitted)
    empty = torch.zeros(settings.batch, *shape)
    guider.sample(empty, empty, sampler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=task.seed)
    return sampler.result


class _Loop(comfy.samplers.Sampler):  # type: ignore[misc]
    def __init__(
        self,
        task: Task,
        texts: tuple[str, ...],
        shape: tuple[int, int, int],
        budget: Budget,
        listeners: Sequence[Listener],
        stop: Callable[[], bool],
        started: Body,
        finish: Body,
        say: Callable[[str], None],
        fitted: Callable[[Fit], None],
    ) -> None:
        self.task, self.texts, self.shape, self.budget = task, texts, shape, budget
        self.say, self.fitted = say, fitted
        self.listeners, self.stop, self.started, self.finish = listeners, stop, started, finish
        self.result: Any = None

    def sample(self, model_wrap: Any, sigmas: Any, extra_args: Any, *rest: Any, **_: Any) -> Tensor:
        manager.reset_cast_buffers()  # those of a run under inference mode cannot be written outside of it
        with torch.inference_mode(False), torch.enable_grad():
            self.result = self._run(model_wrap, extra_args["model_options"])
        return torch.zeros(1, *self.shape)

    def _run(self, guider: Any, options: dict[str, Any]) -> Any:
        task = self.task
        positive = positive_of(task.views, task.settings)
        prior = prior_in(
            guider, options, task.model, task.vae, task.image_size, self.texts, extras=task.extras, positive=positive
        )
        prior.max_batch = self.budget.fit.max_batch

        def begin(settings: Settings) -> Distillation:
            run = Distillation(prior, task.views.prompt, settings, negative=task.views.negative, seed=task.seed)
            own = run.guidance.method.settings
            if guides_throughout(own):
                prior.guide = make_guide(guider.inner_model, options, scale_of(own, lambda: run.progress, prior.T))
            return run

        settings = task.settings
        if self.budget.times:
            self.say(f"timing {TIMED_STEPS} steps for a time_budget of {task.limits.minutes:g} minutes")
            seconds = time_steps(begin(settings), self.stop)
            if self.stop():
                raise _nothing_kept()
            settings = replace(settings, iterations=self.budget.timed(seconds).settings.iterations)
            prior.guide = None
        self.fitted(self.budget.fit)
        run = begin(settings)
        if task.resume is not None:
            run.load(task.resume)
        self.started(run)
        try:
            run.run(listeners=self.listeners, folder=task.folder, stop=self.stop)
            if not run.iteration:
                raise _nothing_kept()
            return self.finish(run)
        finally:
            prior.guide = None  # it reads the run's progress, and the run has the prior


def _nothing_kept() -> SettingsError:
    return SettingsError("stopped before the first step, so there is nothing to keep: run the graph again")


def set_texts(guider: Any, conds: Iterable[Conditioning]) -> None:
    """Hands a guider the texts that ``prior_in`` will find in it, in the same order."""
    guider.inner_set_conds({f"text {index}": cond for index, cond in enumerate(conds)})


def latent_shape(model: Any, vae: Any, image_size: int) -> tuple[int, int, int]:
    """``(C, h, w)`` of an image of this side. Raises ``PriorError`` for a VAE of another family."""
    channels = int(model.model.latent_format.latent_channels)
    check_vae(vae, channels)
    side = image_size // int(vae.downscale_ratio)
    return channels, side, side


def prior_in(
    guider: Any,
    options: dict[str, Any],
    model: Any,
    vae: Any,
    image_size: int,
    texts: Sequence[str],
    *,
    extras: Conditioning | None = None,
    encodes: bool = True,
    positive: Collection[str] = (),
) -> HostPrior:
    """The prior inside a sampler of ``guider``, which has loaded its model and prepared the texts (``set_texts``).

    Args:
        extras: what was added to every text.
        encodes: whether images will be encoded; without, the encoder is not copied.
        positive: see ``HostPrior``.
    """
    base, device = guider.inner_model, guider.model_patcher.load_device

    def decode(z: Tensor) -> Tensor:
        with others_loaded():
            image: Tensor = vae.decode(base.process_latent_out(z)).movedim(-1, 1).float()
        return image

    return HostPrior(
        base,
        {text: guider.conds[f"text {index}"] for index, text in enumerate(texts)},
        options,
        EncoderCopy(vae, base.process_latent_in, image_size, device) if encodes else _no_encoder,
        decode,
        device=device,
        image_size=image_size,
        latent_shape=latent_shape(model, vae, image_size),
        fingerprint=fingerprint.of(model, vae),
        describe={**_describe(model), "extras": fingerprint.of_extras(extras)},
        positive=positive,
    )


def _no_encoder(images: Tensor) -> Tensor:
    raise RuntimeError("this run encodes no images")


def _describe(model: Any) -> dict[str, Any]:
    base = model.model
    return {
        "source": get_tag(model).source or type(base).__name__,
        "prediction_type": base.model_type.name,
        "sampling": fingerprint.of_sampling(base.model_sampling),
        "patches": fingerprint.patch_names(model),
        "lora_patches": len(model.patches),
        "unet_parameters": fingerprint.parameters(base.diffusion_model),
    }


def reads_one_timestep(model: Any, conds: Mapping[str, Conditioning]) -> bool:
    """Whether something looks at the first sample's timestep only: ControlNet ranges, hook keyframes, CFG patches."""
    keys = {"control", "hooks"}
    return has_patches(model.model_options) or any(keys & set(c[1]) for cond in conds.values() for c in cond)


def _reserve(task: Task, settings: Settings) -> Callable[..., Any]:
    return reserve(task.vae, settings.batch * task.image_size**2, largest_render(settings).bytes)


def reserve(vae: Any, pixels: int, more: float = 0) -> Callable[..., Any]:
    """Frees what the encoder's backward pass over so many pixels, and the renderer, will need before the manager loads
    the model; ``more`` in bytes."""

    def prepare(executor: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        device = model.load_device
        if not manager.is_device_cpu(device):
            size = torch.empty(0, dtype=vae.vae_dtype).element_size()
            manager.free_memory(pixels * 3 * size * BACKWARD_NUMBERS + more + vae.model_size(), device)
        return executor(model, *args, **kwargs)

    return prepare


def space_of(model: Any) -> Space:
    """The noise levels of a MODEL that is not running, with the sampling the user may have patched in."""
    return Space.of(copy.copy(model.get_model_object("model_sampling")))
