"""The distillation loop: render, encode, ask the prior, push the latent gradient back into the field.

One step of DreamFusion's algorithm (arXiv 2209.14988, figure 3), for any prior and method. All randomness comes from
named generators, one a purpose, so two methods on one seed see the same cameras, noise and initial field.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..devices import reads_late, upload
from ..errors import DivergedError, OutOfMemoryError, OutputError, is_out_of_memory
from ..fields.background import Background
from ..fields.density import DensityField
from ..methods.gradient import surrogate_loss
from ..priors.base import Prior
from ..prompts import ViewPrompts
from ..render import regularisers
from ..render.cameras import Cameras, sample
from ..render.marching import choose, functions
from ..render.occupancy import OccupancyGrid
from ..render.shading import Shading, sample_shading
from ..render.volume import Rendering, render
from . import checkpoint as checkpoints
from . import state
from .codec import to_json
from .events import Checkpointed, Event, Listener, Step, Warned
from .execution import Execution
from .guards import Guard
from .guidance import Guidance, Guided
from .memory import forget_peak
from .reading import Reading, Values
from .settings import Settings
from .stopwatch import Stopwatch

#: What changes the model's answers and is in no weight, of what a prior's ``describe`` says.
_OF_MODEL = ("image_size", "prediction_type", "sampling", "extras")
#: Drawn on the host, because it decides by them, and on the model's device.
_HOST, _DEVICE = ("cameras", "background", "shading", "timesteps", "shift"), ("jitter", "noise", "occupancy")


def seeded(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream depends on the run's seed and the purpose's name alone.

    Both are hashed into 32 bits, because that is all torch's CPU generator takes of a seed.
    """
    return torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {purpose}".encode()))


class Distillation:
    """A run: a field, its optimiser and everything random about it. Step it, or ``run`` it to the end.

    Attributes:
        field: the radiance field being optimised, on the prior's device.
        occupancy: its occupancy grid.
        iteration: iterations done.
        last: the last step's event, or None.
        first_seconds: from the beginning, texts included, to the end of the first step here: when there is a picture.
        warnings: what listeners were warned of.
    """

    def __init__(
        self,
        prior: Prior,
        prompt: str,
        settings: Settings,
        *,
        negative: str = "",
        seed: int = 0,
        execution: Execution | None = None,
    ) -> None:
        """``execution`` makes it faster and is no part of the run; None is the defaults.

        Raises:
            SettingsError: a prompt or settings that cannot be used.
            BackendError: an accelerator was named that does not work here.
        """
        self._began = time.perf_counter()
        self.prior, self.settings, self.seed = prior, settings, seed
        self.settings_json: dict[str, Any] = to_json(settings)
        self.device = prior.device
        self.prompts = ViewPrompts(prompt, negative, settings.sectors)
        self.guidance = Guidance(prior, self.prompts, settings)
        self.generators = {name: seeded(seed, name) for name in _HOST}
        self.generators |= {name: seeded(seed, name, self.device) for name in _DEVICE}
        self.field, self.occupancy = self._build(settings, seed)
        self.execution = execution or Execution()
        self.execution.apply(prior)
        self.field.use(self.execution.hash_grid)
        self.marching = functions(choose(self.device, self.execution.marching))
        self.background = Background(settings.background, generator=seeded(seed, "background field")).to(self.device)
        o, self._later = settings.optimizer, reads_late(self.device)
        self.optimizer = torch.optim.Adam(
            self._groups(), lr=0.0, betas=o.betas, eps=o.eps, fused=True if self._later else None
        )
        self.guard = Guard(settings.guards)
        self.watch = Stopwatch(self.device)
        forget_peak(self.device)
        self.iteration = 0
        self.skipped = 0
        self.last: Step | None = None
        self.first_seconds: float | None = None
        self.warnings: list[str] = []
        self._listeners: Sequence[Listener] = ()
        self._shrunk = False
        self._torn = False
        self._unread: Reading | None = None
        self._read: Values | None = None

    def _build(self, settings: Settings, seed: int) -> tuple[DensityField, OccupancyGrid]:
        try:
            field = DensityField(settings.field, generator=seeded(seed, "field")).to(self.device)
            return field, OccupancyGrid(settings.occupancy_resolution).to(self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                "the field does not fit into memory: ",
                advice="lower {field.grid.log2_table_size}, {field.hidden} or {occupancy_resolution}, or set "
                "{field.color_grid} to shared",
            ) from error

    def _groups(self) -> list[dict[str, Any]]:
        groups = [{"name": name, "params": list(params)} for name, params in self.field.parameter_groups().items()]
        behind = list(self.background.parameters())
        return groups + ([{"name": "background", "params": behind}] if behind else [])

    @property
    def progress(self) -> float:
        """Share of the planned iterations that is done, 0..1: what schedules are read at."""
        return min(1.0, self.iteration / self.settings.iterations)

    @property
    def facts(self) -> dict[str, Any]:
        """What a file made from this run says of it."""
        return {
            "prompt": self.prompts.prompt,
            "method": self.settings.method,
            "seed": self.seed,
            "iterations": self.iteration,
        }

    @property
    def done(self) -> bool:
        return self.iteration >= self.settings.iterations

    def run(
        self,
        *,
        listeners: Sequence[Listener] = (),
        folder: Path | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Step to the end, writing checkpoints into ``folder``; True when finished, False when ``stop`` asked to end.

        A checkpoint is written every ``checkpoint_every`` iterations, at the end, when ``stop`` answers True, and
        before any error leaves, a listener's own included. An error inside a step leaves the state before that step;
        one that tears the optimiser's update itself (a second Ctrl-C) leaves the earlier checkpoint. While the object
        has vanished or fills the view an earlier checkpoint stays: it is from before.

        Raises:
            DivergedError: see ``guards``.
            OutOfMemoryError: memory ran out with smaller chunks too, or in the optimiser's update.
            PriorError: the prior answered with non-finite numbers.
            OutputError: a checkpoint could not be written; the earlier one is whole.
        """
        rows = getattr(self.prior, "max_batch", None)
        try:
            if self._shrunk:
                self._one_row()
            return self._run(listeners, folder, stop)
        finally:
            if hasattr(self.prior, "max_batch"):
                self.prior.max_batch = rows  # the prior may be another run's next

    def _run(self, listeners: Sequence[Listener], folder: Path | None, stop: Callable[[], bool]) -> bool:
        self._listeners, began = listeners, self.iteration
        if folder is not None:
            checkpoints.sweep(folder)
        due = False
        try:
            while not self.done and not stop():
                self._emit(self.step())
                due = due or self.iteration % self.settings.checkpoint_every == 0
                if folder is not None and due and not self.guard.lost and not self.done:
                    due = False
                    self.save(folder)
        except OutputError:
            raise
        except BaseException:
            good = not self.guard.lost or not (folder and (folder / checkpoints.FILE_NAME).exists())
            if folder is not None and self.iteration and not self._torn and good:
                self.save(folder)
            raise
        moved = self.iteration > began
        if folder is not None and self.iteration and (moved or not (folder / checkpoints.FILE_NAME).exists()):
            self.save(folder)
        self.guard.check_kept(self.iteration, self.skipped)
        return self.done

    def _emit(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(f"iteration {event.iteration}: {event.message}")
        for listener in self._listeners:
            listener(event)

    def step(self) -> Step:
        """One iteration. Out of memory is retried once with smaller chunks. Raises as ``run``."""
        started, undo = self.iteration, self._undo()
        try:
            return self._step()
        except BaseException as error:
            untouched = self.iteration == started and not self._torn
            if untouched:
                undo()
                self.optimizer.zero_grad(set_to_none=True)
            if not is_out_of_memory(error):
                raise
            if self._shrunk or not untouched:
                raise OutOfMemoryError(
                    "memory ran out, with smaller chunks too or in the update itself: ",
                    advice="go on from the checkpoint after closing other programs that use memory, or with a lower "
                    "{render.memory_gb}; or start again with a lower {resolution}, {batch} or "
                    "{render.samples_per_ray}",
                ) from error
        self._shrink()
        return self.step()

    def _undo(self) -> Callable[[], None]:
        """Puts back, when it is called, what an iteration changes before the optimiser's update."""
        generators = {name: g.get_state() for name, g in self.generators.items()}
        grid = {name: value.clone() for name, value in self.occupancy.state_dict().items()}
        guard = self.guard.state()

        def undo() -> None:
            for name, earlier in generators.items():
                self.generators[name].set_state(earlier)
            self.occupancy.load_state_dict(grid)
            self.occupancy.forget()
            self.guard.load(guard)

        return undo

    def _shrink(self) -> None:
        self._shrunk = True
        self.optimizer.zero_grad(set_to_none=True)
        smaller = max(1024, self.settings.render.max_points // 8)
        render_settings = replace(
            self.settings.render, max_points=smaller, memory_gb=self.settings.render.memory_gb / 4
        )
        self.settings = replace(self.settings, render=render_settings)
        self._one_row()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._emit(Warned("memory ran out: going on with smaller chunks, which is slower", self.iteration))

    def _one_row(self) -> None:
        if hasattr(self.prior, "max_batch"):
            self.prior.max_batch = 1

    def _step(self) -> Step:
        s, progress, watch = self.settings, self.progress, self.watch
        size = max(1, round(s.resolution(progress)))
        cameras = sample(s.cameras, s.batch, self.generators["cameras"], progress)
        self._set_rates(progress)
        self.field.hardness.fill_(s.hardness(progress))
        with watch("occupancy"):
            self._refresh_occupancy()
        with watch("render"):
            shading = sample_shading(s.shading, cameras, progress, self.generators["shading"])
            rendering = self._render(cameras, size, progress, shading)
        with watch("encode"):
            latents = self.prior.encode(rendering.rgb.permute(0, 3, 1, 2))
        with watch("unet"):
            diagnose = self.device.type == "cpu" or self.iteration % s.diagnose_every == 0
            guided = self.guidance(latents.detach(), cameras, progress, self.generators, diagnose=diagnose)
        terms = {"guidance": surrogate_loss(latents, guided.gradient)}
        terms |= self._regularisers(rendering, progress, guided, shading)
        loss = torch.stack(list(terms.values())).sum()
        with watch("backward"):
            loss.backward()
        with watch("optimizer"):
            step = self._update(loss, terms, guided, rendering, size)
        self.last = replace(step, seconds=watch.lap())
        if self.first_seconds is None:
            self.first_seconds = time.perf_counter() - self._began
        return self.last

    def _render(self, cameras: Cameras, size: int, progress: float, shading: Shading) -> Rendering:
        generators, losses = self.generators, self.settings.losses
        asked = [n for n in regularisers.OF_SAMPLES if shading.needs_normals or n not in regularisers.OF_NORMALS]
        return render(
            self.field,
            cameras.to(self.device),
            size,
            size,
            occupancy=self.occupancy,
            background=lambda direction: self.background(direction, generators["background"]),
            settings=self.settings.render,
            shading=shading,
            generator=generators["jitter"],
            terms={n: getattr(regularisers, n) for n in asked if getattr(losses, n)(progress)},
            marching=self.marching,
        )

    def _refresh_occupancy(self) -> None:
        every = self.settings.occupancy_every
        if self.iteration % every == 0:
            self.occupancy.update(
                self.field,
                step_size=self.settings.render.step_size,
                generator=self.generators["occupancy"],
                warmup=self.iteration < 8 * every,
            )

    def _set_rates(self, progress: float) -> None:
        o = self.settings.optimizer
        rates = {"encoder": o.rate_grid, "mlp": o.rate_mlp, "background": o.rate_background}
        warm = min(1.0, (self.iteration + 1) / max(1, o.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]](progress) * warm * self.guard.rate

    def _regularisers(
        self, rendering: Rendering, progress: float, guided: Guided, shading: Shading
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, schedule in self.settings.losses.schedules():
            weight, term = schedule(progress), getattr(regularisers, name)
            if not weight or (rendering.normal is None and name in regularisers.OF_NORMALS):
                continue
            if name == "tint":
                if shading.mode != "textureless" and (pictures := self._expected(guided)):
                    terms[name] = weight * term(rendering, *pictures)
                continue
            known = rendering.terms.get(name)
            terms[name] = weight * (term(rendering) if known is None else known)
        return terms

    def _expected(self, guided: Guided) -> tuple[Tensor, Tensor] | None:
        """What the prior expects of the prompt alone, as pictures, and which views they are of: those in which there is
        more signal than noise, ``alpha^2 >= 1/2``, for of the others it knows no detail."""
        if guided.expected is None:
            return None
        alpha, _ = self.prior.alpha_sigma(guided.timesteps)
        clear = torch.nonzero(alpha.flatten().cpu().square() >= 0.5).flatten()
        if not len(clear):
            return None
        views = upload(clear, self.device)
        with self.watch("decode"):
            return self.prior.decode(guided.expected[views]).to(self.device), views

    def _update(
        self, loss: Tensor, terms: Mapping[str, Tensor], guided: Guided, rendering: Rendering, size: int
    ) -> Step:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        squares = torch.stack([p.grad.square().sum() for p in parameters]) if parameters else loss.new_zeros(1)
        reading = Reading(
            loss.detach(),
            squares.sum(),
            guided.finite,
            guided.gradient.norm(),
            rendering.opacity.detach().mean(),
            self.occupancy,
            terms,
        )
        if self._later:
            seen = self._settle(reading)
            cast(Any, self.optimizer).found_inf = reading.bad.float()
        else:
            seen = reading.read()
        warning = None if self._later else seen.warning(self.guard)
        self._torn = True
        if self._later or seen.finite:
            self.optimizer.step()
        else:
            self.skipped += 1
        self.iteration += 1
        self._torn = False
        self.optimizer.zero_grad(set_to_none=True)
        if warning:
            self._emit(Warned(warning, self.iteration))
        if seen.finite and not self._later:
            self.guard.check_opacity(seen.opacity)
        return Step(
            iteration=self.iteration,
            iterations=self.settings.iterations,
            loss=seen.loss,
            terms=seen.terms,
            gradient_norm=seen.norm,
            opacity=seen.opacity,
            occupancy=seen.occupied,
            timesteps=guided.bounds,
            resolution=size,
            seconds={},
            diagnostics=guided.diagnostics,
            skipped=not seen.finite,
            errors=guided.errors,
        )

    def forget(self) -> None:
        """Drop numbers of earlier steps that were not read: the state was replaced."""
        self._unread = self._read = None

    def _settle(self, reading: Reading | None = None) -> Values:
        """Read the step before and let the guard see it; ``reading`` is the next, read at once if it is the first.

        Where numbers are read late the optimiser itself leaves out an update that is not finite. Raises as ``guards``.
        """
        earlier, self._unread = self._unread, reading
        if earlier is None and self._read is None and reading is not None:
            earlier, self._unread = reading, None
        if earlier is not None:
            self._read = earlier.read()
            if warning := self._read.warning(self.guard):
                self._emit(Warned(warning, self.iteration))
            if self._read.finite:
                self.guard.check_opacity(self._read.opacity)
            else:
                self.skipped += 1
        assert self._read is not None
        self.occupancy.known_share = self._read.seen
        return self._read

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues."""
        told: dict[str, Any] = getattr(self.prior, "describe", dict)()
        return {
            "prompt": self.prompts.prompt,
            "negative": self.prompts.negative,
            "seed": self.seed,
            "prior": self.prior.fingerprint,
            "model": {name: value for name, value in told.items() if name in _OF_MODEL},
            "device": self.device.type,
            "settings": self.settings_json,
        }

    def save(self, folder: Path) -> Path:
        """Write the run's checkpoint in one step. Raises ``OutputError``; an earlier checkpoint then stays whole."""
        late = None
        try:
            if self._unread is not None:
                self._settle()
        except DivergedError as error:
            late = error
        self.watch.lap(wait=True)
        with contextlib.suppress(OSError):  # removed meanwhile; what cannot be made is said by the writer
            folder.mkdir(parents=True, exist_ok=True)
        path = checkpoints.save(folder, state.capture(self))
        self._emit(Checkpointed(path, self.iteration))
        if late is not None:
            raise late
        return path

    def load(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Continue from ``checkpoint``. Raises ``CheckpointError`` with every difference when it is another run's."""
        state.restore(self, checkpoint)

    @classmethod
    def resume(
        cls, prior: Prior, checkpoint: checkpoints.Checkpoint, *, execution: Execution | None = None
    ) -> Distillation:
        """The run that wrote ``checkpoint``, ready to go on. Raises ``CheckpointError``."""
        settings, identity = state.described(checkpoint)
        run = cls(
            prior,
            identity["prompt"],
            settings,
            negative=identity["negative"],
            seed=identity["seed"],
            execution=execution,
        )
        run.load(checkpoint)
        return run
