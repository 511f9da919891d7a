"""``distill3d distill2d``: methods side by side on a picture, a latent or a toy in the plane."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.status import Status
from torch import Tensor

from ..errors import SettingsError
from ..files import make_folder, write_json
from ..methods import METHODS
from ..methods.asd import ASDSettings
from ..methods.bridge import BridgeSettings
from ..methods.bsd import BSDSettings
from ..methods.csd import CSDSettings
from ..methods.nfsd import NFSDSettings
from ..methods.perp_neg import PerpNegSettings
from ..methods.sds import SDSSettings
from ..methods.tbsd import TBSDSettings
from ..optimize import preset, remarks
from ..priors.base import Prior
from ..priors.freeu import FreeUSettings
from ..render.pictures import write_png
from ..schedules import WINDOWS
from ..two_d import pictures
from ..two_d.bench import Comparison, Task, compare
from ..two_d.latents import Frame, Settings2D, choose, settings_for
from ..two_d.mixture import TARGET_TEXT, check_toy, mixture_prior, ring
from . import app
from .model import ModelFlags, bundled
from .progress import PLAIN_EVERY, clock
from .resume import REPORT, refuse_filled
from .stopping import stopped_by_signals

DESCRIPTION = """Optimise a picture directly with any method, all methods beside each other from the same start and
noise: the quickest way to see a method or to check a prompt before a 3D run. Timesteps are the same where the methods'
windows are; --window gives all of them one.

It writes sheet.png (one row a method, from start to end), curves.png (gradient norms, terms, noise-prediction error and
all methods' gradients at one state over the timestep), report.json, and prints a table. Ctrl-C stops and writes what is
there. --prior mixture takes a toy
prior in the plane whose score is known, and draws trajectories instead."""


@dataclass(frozen=True)
class Distill2D:
    """Flags of ``distill3d distill2d``."""

    prompt: tyro.conf.Positional[str] = ""
    """What to draw, for instance "a red cube"; not needed with --prior mixture."""
    methods: tuple[str, ...] = ("all",)
    """Methods to compare: all, or any of sds csd asd tbsd nfsd bridge bsd."""
    prior: Literal["model", "mixture"] = "model"
    """Model is a diffusion model (--model, or the bundled one); mixture is a toy in the plane."""
    seed: int = 0
    """Same seed, same CPU: same pictures. On a GPU nearly the same."""
    out: Path | None = None
    """New folder for the results; by default output/2d-<prompt>, numbered when that exists."""
    source: Annotated[ModelFlags, tyro.conf.arg(name="")] = field(default_factory=ModelFlags)
    settings: Annotated[Settings2D, tyro.conf.arg(name="")] = field(default_factory=Settings2D)
    sds: SDSSettings = field(default_factory=SDSSettings)
    csd: CSDSettings = field(default_factory=CSDSettings)
    asd: ASDSettings = field(default_factory=ASDSettings)
    tbsd: TBSDSettings = field(default_factory=TBSDSettings)
    nfsd: NFSDSettings = field(default_factory=NFSDSettings)
    bridge: BridgeSettings = field(default_factory=BridgeSettings)
    bsd: BSDSettings = field(default_factory=BSDSettings)
    window: str = "published"
    """Timestep window of all methods: published (each its own), fixed, annealed, halved, refine, sliding, multi-view
    or sqrt."""
    perp_neg: PerpNegSettings = field(default_factory=PerpNegSettings)
    freeu: FreeUSettings = field(default_factory=FreeUSettings)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    flags = _parse(arguments)
    toy = flags.prior == "mixture"
    prompt = TARGET_TEXT if toy else app.checked_prompt(flags.prompt, "distill2d")
    negative = flags.source.negative
    methods = choose(flags.methods)
    if flags.window not in ("published", *WINDOWS):
        raise SettingsError(f"expected a window of published, {', '.join(WINDOWS)}, got {flags.window!r}: choose one")
    if flags.out is not None:
        refuse_filled(flags.out)
    window = WINDOWS.get(flags.window)
    overrides = {name.lower(): getattr(flags, name.lower()) for name in METHODS}
    chosen = {
        name: settings_for(
            name,
            bundled=not toy and bundled(arguments),
            overrides=overrides,
            window=window,
            perp_neg=flags.perp_neg,
            freeu=flags.freeu,
        )
        for name in methods
    }
    app.warn(console, remarks(chosen.values(), negative))
    prior: Prior
    start: Tensor | None = None
    if toy:
        check_toy(flags.settings, chosen.values(), negative)
        if flags.prompt:
            app.warn(console, ["the toy has no words: the prompt is not used"])
        prior, start = mixture_prior(), ring(flags.settings.batch)
    else:
        app.warn(console, flags.source.unknown(prompt))
        with console.status("loading the model"):
            prior = flags.source.load()
    task = Task(prompt, negative, flags.seed, flags.settings, chosen, plane=toy)
    folder = make_folder(flags.out) if flags.out else app.free_folder(Path("output") / f"2d-{app.slug(prompt)}")
    try:
        done, stopped = _compared(prior, task, start, console)
    except BaseException:
        with suppress(OSError):  # as it was: only an empty one can go
            folder.rmdir()
        raise
    if toy:
        write_png(folder / "sheet.png", pictures.trajectories(done.results))
    else:
        write_png(folder / "sheet.png", pictures.sheet(prior, done.results, title=prompt))
    write_png(folder / "curves.png", done.curves())
    write_json(folder / REPORT, done.report())
    sys.stdout.write(pictures.table(done.rows()))
    app.warn(console, [f"{name} has no result: {error.told(app.flag)}" for name, error in done.failed.items()])
    if stopped:
        app.say(console, f"stopped; what was done by then is in {folder}")
        return 130
    for name in ("sheet.png", "curves.png", REPORT):
        app.say(console, f"  {Path(name).stem:<9} {folder / name}")
    return 0


def _compared(prior: Prior, task: Task, start: Tensor | None, console: Console) -> tuple[Comparison, bool]:
    """What came of it, and whether it was stopped on the way."""
    with console.status("") as status, stopped_by_signals(console) as stopped:
        told = _Told(console, status, task)
        done = compare(
            prior,
            task,
            start=start,
            on_method=told.on_method,
            on_frame=told.on_frame,
            on_look=told.on_look,
            stop=lambda: bool(stopped),
        )
    return done, bool(stopped)


class _Told:
    """Where a run stands: on a terminal in one moving line, elsewhere a line for every method and every few seconds."""

    def __init__(self, console: Console, status: Status, task: Task) -> None:
        self._console, self._status, self._task = console, status, task
        self._began = self._last = time.monotonic()
        self._name, self._order, self._steps = "", 0, 0

    def on_method(self, name: str) -> None:
        self._name, self._order = name, self._order + 1
        start = f"distilling with {name} ({self._order} of {len(self._task.chosen)})"
        self._tell(start if name else "looking at the results", now=True)

    def on_frame(self, frame: Frame) -> None:
        self._steps += 1
        of = f"({self._order} of {len(self._task.chosen)}) {frame.iteration}/{self._task.run.iterations}"
        self._tell(f"distilling with {self._name} {of}{self._left()}")

    def on_look(self) -> None:
        self._steps += 1
        self._tell(f"looking at the results{self._left()}")

    def _left(self) -> str:
        left = self._task.steps - self._steps
        return f", {clock((time.monotonic() - self._began) / self._steps * left)} left"

    def _tell(self, text: str, now: bool = False) -> None:
        if self._console.is_terminal:
            self._status.update(text)
        elif now or time.monotonic() - self._last >= PLAIN_EVERY:
            self._last = time.monotonic()
            app.say(self._console, text)


def _parse(arguments: Sequence[str]) -> Distill2D:
    """Flags over defaults that suit the prior: scales of the bundled one, more points and steps for the toy."""
    toy = app.given(arguments, "prior", "model") == "mixture"
    own = not toy and bundled(arguments)
    base = {name.lower(): getattr(preset("draft", name, bundled=own), name.lower()) for name in METHODS}
    settings = Settings2D(batch=16, iterations=300) if toy else Settings2D()
    return app.parse(Distill2D, "distill2d", arguments, DESCRIPTION, Distill2D(settings=settings, **base))
