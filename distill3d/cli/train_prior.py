"""``distill3d train-prior``: the bundled tiny text-to-image model, trained from nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..errors import SettingsError
from ..files import make_folder
from ..locks import claimed
from ..train_prior import TrainPriorSettings, gates_of, recipe, train
from ..train_prior.settings import OF_AUTOENCODER, OF_PARTS
from . import app

DESCRIPTION = """Train the tiny text-to-image prior: renders of a procedural world, an autoencoder, a text encoder and
a UNet in Stable Diffusion's layout. Takes a GPU some minutes and two CPU cores some hours; stop it at any time and call
it again to go on. The same seed on the same CPU gives the same weights. Ends with its gates, a model card with recipe,
curves and measurements, and fails loudly when a gate is missed.

--recipe full is the world of the bundled prior (CPU, many hours, resumable), full-cuda a wider one for one GPU. bundled
is how the bundled prior was begun and faces, twice, its end, which needs --start; any recipe can go on with --start
from a prior of its shape. --recipe plain knows eight solids in eight colours and takes two hours. Every other flag
changes the recipe it is given with; the parts of full, bundled and faces have flags of their own, in the place of
some."""


@dataclass(frozen=True)
class TrainPrior:
    """Flags of ``distill3d train-prior``."""

    recipe: str = "full"
    """Full, bundled, faces, full-cuda or plain: where the defaults of the flags below come from."""
    out: Path = Path("output/tiny-prior")
    """Folder for the prior in diffusers layout; checkpoints lie in its .training folder."""
    start: Path | None = None
    """Folder of a prior to go on from: its autoencoder and words stay, UNet and text encoder are trained on."""
    seed: int = 0
    """Decides data, initial weights and the order of training."""
    device: str = "auto"
    """Auto (CUDA when there is one), cpu or cuda."""
    fresh: bool = False
    """Start over, ignoring the checkpoints of an earlier run."""
    snapshot: Path | None = None
    """Folder for usable intermediate priors."""
    check: bool = True
    """Measure the result, hold it against the gates and write the model card."""
    settings: Annotated[TrainPriorSettings, tyro.conf.arg(name="")] = field(default_factory=TrainPriorSettings)


def _refuse_unused(settings: TrainPriorSettings, of_recipe: TrainPriorSettings, start: Path | None) -> None:
    for name in OF_AUTOENCODER if start is not None else ():
        if getattr(settings, name) != getattr(of_recipe, name):
            raise SettingsError(
                f"expected no --{name.replace('_', '-')} with --start, got {getattr(settings, name)}: autoencoder and "
                "words stay those of the prior it goes on from"
            )
    for name, own in OF_PARTS.items() if settings.unet_parts else ():
        if getattr(settings, name) != getattr(of_recipe, name):
            flag, instead = name.replace("_", "-"), own.replace("_", "-")
            raise SettingsError(
                f"expected no --{flag} with a recipe in parts, got {getattr(settings, name)}: each part has its own, "
                f"--unet-parts.0.{instead} and so on"
            )


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    name = app.given(arguments, "recipe", TrainPrior.recipe)
    default = TrainPrior(recipe=name, settings=recipe(name))
    flags = app.parse(TrainPrior, "train-prior", arguments, DESCRIPTION, default)
    _refuse_unused(flags.settings, recipe(name), flags.start)
    if name == "faces" and flags.start is None:
        raise SettingsError(
            "expected --start with the recipe faces, which trains a prior on at low rates: name the folder of one that "
            "the recipe bundled or full has made, or take such a recipe"
        )
    make_folder(flags.out)
    logging.getLogger("distill3d").setLevel(logging.INFO)
    with claimed(flags.out, flags.out.absolute().with_name(f"{flags.out.absolute().name}.lock")):
        measured = train(
            flags.out,
            start=flags.start,
            seed=flags.seed,
            device=flags.device,
            settings=flags.settings,
            gates=gates_of(flags.settings.world.name) if flags.check else None,
            resume=not flags.fresh,
            snapshot=flags.snapshot,
        )
    for name, value in measured.items():
        console.print(f"  {name:<24} {value:.4g}", highlight=False)
    app.say(console, f"  prior                    {flags.out}")
    return 0
