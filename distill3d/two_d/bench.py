"""Several methods from one start, and all that their pictures, tables and reports are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import Distill3DError, SettingsError
from ..optimize.codec import to_json
from ..optimize.report import versions
from ..optimize.settings import Settings
from ..priors.base import Prior
from ..prompts import ViewPrompts
from . import pictures
from .latents import (
    Distilled,
    Frame,
    Points,
    Settings2D,
    distil,
    mean_norm,
    noise_errors,
    norms_over_timesteps,
    prompts_for,
    settings_for,
)

if TYPE_CHECKING:
    from PIL.Image import Image

DRAWS, ERROR_POINTS = 32, 16
#: The same for a run that was stopped, whose user waits for it to end.
STOPPED_DRAWS, STOPPED_POINTS = 4, 4


@dataclass(frozen=True)
class Task:
    """What a bench run is asked for.

    Attributes:
        chosen: the settings of every method, by its name in lower case, in the order of the rows.
        plane: whether the latents are points of the toy.
    """

    prompt: str
    negative: str
    seed: int
    run: Settings2D
    chosen: Mapping[str, Settings]
    plane: bool = False

    @property
    def published(self) -> dict[str, Settings]:
        """Every method at its published scales: what the comparison on one state is made with."""
        return {name: settings_for(name, bundled=False) for name in self.chosen}

    @property
    def prompts(self) -> list[tuple[ViewPrompts, Settings]]:
        """Prompts and settings of everything the model is asked for."""
        asked = [*((s, self.run.view) for s in self.chosen.values()), *((s, "none") for s in self.published.values())]
        return [(prompts_for(self.prompt, self.negative, settings, view), settings) for settings, view in asked]

    @property
    def steps(self) -> int:
        """How often ``compare`` calls ``on_frame`` and ``on_look`` when nothing stops it."""
        return len(self.chosen) * (self.run.iterations + ERROR_POINTS) + DRAWS


@dataclass
class Comparison:
    """What came of it.

    Attributes:
        same_state: ``(t, ||G||)`` of each method at the first one's result; see ``norms_over_timesteps``.
        errors: ``(t, e(t))`` of each method's result; see ``noise_errors``.
        failed: methods without a result, and why.
    """

    task: Task
    results: list[Distilled] = field(default_factory=list)
    same_state: dict[str, Points] = field(default_factory=dict)
    errors: dict[str, Points] = field(default_factory=dict)
    failed: dict[str, Distill3DError] = field(default_factory=dict)
    fingerprint: str = ""
    T: int = 1000

    def rows(self) -> list[dict[str, Any]]:
        """The table, one row a method."""
        plane = pictures.plane_row if self.task.plane else lambda result: {}
        return [pictures.row(r, mean_norm(self.same_state[r.method])) | plane(r) for r in self.results]

    def curves(self) -> Image:
        """See ``pictures.curves``."""
        errors = {name.upper(): points for name, points in self.errors.items()}
        return pictures.curves(self.results, errors, self.same_state, self.T)

    def report(self) -> dict[str, Any]:
        """Everything that was asked and measured; plain JSON."""
        return {
            "prompt": self.task.prompt,
            "negative_prompt": self.task.negative,
            "seed": self.task.seed,
            "prior": self.fingerprint,
            "settings": to_json(self.task.run),
            "methods": self.rows(),
            "failed": {name: error.told() for name, error in self.failed.items()},
            "iterations_done": {r.method: len(r.frames) for r in self.results},
            "noise_error": {name.upper(): [list(p) for p in points] for name, points in self.errors.items()},
            "gradient_norm": {r.method: [f.norm for f in r.frames] for r in self.results},
            "gradient_norm_on_one_state": {name: [list(p) for p in points] for name, points in self.same_state.items()},
            "method_settings": {name: to_json(s) for name, s in self.task.chosen.items()},
            "versions": versions(),
        }


def compare(
    prior: Prior,
    task: Task,
    *,
    start: Tensor | None = None,
    on_method: Callable[[str], None] = lambda name: None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    on_look: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Comparison:
    """Distil with every method, then look at the results. A method that fails takes no other's result with it.

    Args:
        start: see ``distil``.
        on_method: called with a method's name before its first iteration, and with "" before the results are looked at.
        on_frame: called after every iteration; ``on_look`` after every draw or timestep of the looking. Either may
            raise to end the run.
        stop: asked after every iteration; True ends the method there, leaves out those that follow, and goes on to a
            short looking.

    Raises:
        SettingsError: settings that a method cannot use.
        Distill3DError: see ``distil``; of the last method, when none has a result.
    """
    done = Comparison(task, fingerprint=prior.fingerprint, T=prior.T)
    for name, settings in task.chosen.items():
        if done.results and stop():
            break
        on_method(name)
        try:
            result = distil(
                prior,
                task.prompt,
                settings,
                task.run,
                negative=task.negative,
                seed=task.seed,
                start=start,
                on_frame=on_frame,
                stop=stop,
            )
        except SettingsError:
            raise
        except Distill3DError as error:
            done.failed[name] = error
            continue
        done.results.append(result if task.plane else pictures.thinned(result))
    if not done.results:
        raise list(done.failed.values())[-1]
    on_method("")
    draws, points = (STOPPED_DRAWS, STOPPED_POINTS) if stop() else (DRAWS, ERROR_POINTS)
    done.same_state = norms_over_timesteps(
        prior,
        task.prompt,
        task.published,
        done.results[0].latents.to(prior.device),
        negative=task.negative,
        draws=draws,
        seed=task.seed,
        on_draw=on_look,
    )
    for result in done.results:
        done.errors[result.method] = noise_errors(
            prior, task.prompt, result.latents, points=points, seed=task.seed, on_point=on_look
        )
    return done
