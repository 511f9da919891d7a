"""The 2D bench as a sampler under the host's ``CFGGuider``, as ``run`` does it for objects."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management as manager
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from server import PromptServer
from torch import Tensor

from ...distill3d.methods import METHODS
from ...distill3d.optimize import remarks
from ...distill3d.priors.base import Prior
from ...distill3d.render.pictures import to_uint8
from ...distill3d.two_d.bench import Comparison, Task, compare
from ...distill3d.two_d.latents import Frame
from .conditioning import Conditioning, encode, unknown_words
from .guidance import guides_throughout, has_patches, make_guide, scale_of
from .prior import HostPrior
from .run import latent_shape, positive_of, prior_in, reserve, set_texts, texts_of
from .tags import get_tag
from .watch import SHARE, TEXT_EVERY, clock

Picture = Callable[[Tensor], Tensor]
"""``(B, C, h, w)`` latents to ``(B, 3, H, W)`` in 0..1, quickly: for a look in passing."""


class Progress:
    """Bar, line and preview of a bench run; every call raises the host's interrupt when the user cancelled.

    Args:
        node: the node's execution id.
        methods: how many there are.
    """

    def __init__(self, node: str, steps: int, iterations: int, methods: int) -> None:
        self.picture: Picture | None = None
        self.share = 0.0
        self._node, self._steps, self._iterations, self._methods = node, steps, iterations, methods
        self._bar = comfy.utils.ProgressBar(steps, node_id=node)
        self._done = self._order = 0
        self._name = ""
        self._began = self._last_text = self._next_picture = time.monotonic()

    def on_method(self, name: str) -> None:
        """A method begins; "" is the looking at results."""
        self._name, self.share = name, 0.0
        self._order += 1

    def on_frame(self, frame: Frame) -> None:
        """An iteration is done."""
        self.share = frame.iteration / self._iterations
        last = frame.iteration == self._iterations
        self._step(
            f"{self._name.upper()} ({self._order} of {self._methods}) {frame.iteration}/{self._iterations}", last
        )
        now = time.monotonic()
        if self.picture is not None and frame.latents is not None and (last or now >= self._next_picture):
            self._show(self.picture(frame.latents))
            took = time.monotonic() - now
            self._next_picture = now + max(1.0, took / SHARE)

    def on_look(self) -> None:
        """A draw or timestep of the looking is done."""
        self._step("looking at the results", self._done + 1 == self._steps)

    def _step(self, text: str, last: bool) -> None:
        manager.throw_exception_if_processing_interrupted()
        self._done += 1
        self._bar.update_absolute(self._done, self._steps)
        now = time.monotonic()
        if last or now - self._last_text >= TEXT_EVERY:
            self._last_text = now
            left = clock((now - self._began) / self._done * (self._steps - self._done))
            server = PromptServer.instance
            server.send_progress_text(f"{text} · {left} left", self._node, server.client_id)

    def _show(self, pictures: Tensor) -> None:
        from PIL import Image

        beside = torch.cat(list(to_uint8(pictures.permute(0, 2, 3, 1))), 1)
        image = Image.fromarray(beside.numpy())
        self._bar.update_absolute(self._done, self._steps, ("JPEG", image, None))


def bench(
    task: Task, model: Any, clip: Any, vae: Any, image_size: int, progress: Progress
) -> tuple[Comparison, HostPrior]:
    """Every method of ``task`` on a MODEL; the prior that comes with the result may be asked to decode, no more.

    Raises:
        Distill3DError: parts that do not fit each other; the host's interrupt goes through.
    """
    shape = latent_shape(model, vae, image_size)
    if has_patches(model.model_options):  # such a patch reads the first sample's timestep only
        chosen = {n: replace(s, window=replace(s.window, shared=True)) for n, s in task.chosen.items()}
        task = replace(task, chosen=chosen)
    texts = dict.fromkeys(text for views, settings in task.prompts for text in texts_of(views, settings))
    conds = {text: encode(clip, text) for text in (task.prompt, *texts)}
    held = model.clone()
    pixels = task.run.batch * image_size**2 if task.run.space == "image" else 0
    held.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "distill3d", reserve(vae, pixels))
    guider = comfy.samplers.CFGGuider(held)
    set_texts(guider, conds.values())
    sampler = _Bench(task, model, vae, image_size, conds, progress)
    empty = torch.zeros(task.run.batch, *shape)
    guider.sample(empty, empty, sampler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=task.seed)
    if sampler.result is None:
        raise RuntimeError("the host's guider returned without running its sampler")
    return sampler.result


class _Bench(comfy.samplers.Sampler):  # type: ignore[misc]
    def __init__(
        self, task: Task, model: Any, vae: Any, image_size: int, conds: dict[str, Conditioning], progress: Progress
    ) -> None:
        self.task, self.model, self.vae, self.image_size, self.conds = task, model, vae, image_size, conds
        self.progress = progress
        self.result: tuple[Comparison, HostPrior] | None = None

    def sample(self, model_wrap: Any, sigmas: Any, extra_args: Any, *rest: Any, **_: Any) -> Tensor:
        manager.reset_cast_buffers()  # as in run._Loop
        with torch.inference_mode(False), torch.enable_grad():
            self.result = self._run(model_wrap, extra_args["model_options"])
        return torch.zeros(1, *self.result[1].latent_shape)

    def _run(self, guider: Any, options: dict[str, Any]) -> tuple[Comparison, HostPrior]:
        encodes = self.task.run.space == "image"
        texts = tuple(self.conds)
        positive = {self.task.prompt}.union(*(positive_of(views, settings) for views, settings in self.task.prompts))
        prior = prior_in(
            guider, options, self.model, self.vae, self.image_size, texts, encodes=encodes, positive=positive
        )
        progress = self.progress
        progress.picture = picture_of(prior, self.model)

        def on_method(name: str) -> None:
            progress.on_method(name)
            own: Any = getattr(self.task.chosen[name], name) if name else None
            scale = scale_of(own, lambda: progress.share, prior.T) if own and guides_throughout(own) else None
            prior.guide = make_guide(guider.inner_model, options, scale) if scale else None
            prior.max_batch = None if name else 2 * self.task.run.batch  # the looking fits where the run did

        done = compare(prior, self.task, on_method=on_method, on_frame=progress.on_frame, on_look=progress.on_look)
        return done, prior


def picture_of(prior: Prior, model: Any) -> Picture | None:
    """A look at latents that does not disturb the models in memory: the bundled prior's own decoder, which is small, or
    the host's rough colours of a latent format; None where there are none."""
    if get_tag(model).bundled:
        return lambda latents: prior.decode(latents.to(prior.device))
    latent = model.model.latent_format
    factors = getattr(latent, "latent_rgb_factors", None)
    if factors is None or getattr(latent, "latent_rgb_factors_reshape", None) is not None:
        return None
    bias = getattr(latent, "latent_rgb_factors_bias", None)
    mixing, offset = torch.tensor(factors), torch.tensor(bias if bias is not None else [0.0, 0.0, 0.0])

    def rough(latents: Tensor) -> Tensor:
        colours = torch.einsum("bchw,cr->brhw", latents.cpu().float(), mixing) + offset.reshape(1, 3, 1, 1)
        return torch.nn.functional.interpolate(((colours + 1) / 2).clamp(0, 1), scale_factor=4)

    return rough


def unused(task: Task, model: Any) -> str:
    """What of the graph has no effect with some of the methods, or an unwanted one, in words; empty for nothing."""
    found = remarks(task.chosen.values(), task.negative)
    unknown = unknown_words(task.prompt, task.negative) if get_tag(model).bundled else ""
    found += [unknown] if unknown else []
    without = [name.upper() for name in task.chosen if not guides_throughout(METHODS[name.upper()].settings)]
    if without and has_patches(model.model_options):
        names = ", ".join(without)
        found.append(f"{names}: no CFG over the whole run, so the MODEL's RescaleCFG or other CFG patch is not used")
    return "; ".join(found)
