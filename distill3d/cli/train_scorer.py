"""``distill3d train-scorer``: the image-text scorer behind the benchmark's Sim and R@1, trained from nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..files import make_folder
from ..locks import claimed
from ..scorer.measure import Gates
from ..scorer.settings import TrainScorerSettings
from ..scorer.train import train
from . import app

DESCRIPTION = """Train the image-text scorer that gives bench quality its columns Sim and R@1: renders of the full
world, a small CNN and a bag of words, told apart over all 496 captions. Takes some minutes on one core; stop it at any
time and call it again to go on. The same seed and threads on the same CPU give the same weights. Ends with a check on
held-out renders and a model card, and fails loudly when a gate is missed."""


@dataclass(frozen=True)
class TrainScorer:
    """Flags of ``distill3d train-scorer``."""

    out: Path = Path("output/scorer")
    """Folder for scorer.safetensors and its model card; checkpoints lie in its .training folder."""
    seed: int = 0
    """Decides data, initial weights and the order of training."""
    fresh: bool = False
    """Start over, ignoring the checkpoints of an earlier run."""
    check: bool = True
    """Measure the result, hold it against the gates and write the model card."""
    settings: Annotated[TrainScorerSettings, tyro.conf.arg(name="")] = field(default_factory=TrainScorerSettings)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; returns the exit status."""
    flags = app.parse(TrainScorer, "train-scorer", arguments, DESCRIPTION)
    make_folder(flags.out)
    logging.getLogger("distill3d").setLevel(logging.INFO)
    with claimed(flags.out):
        measured = train(
            flags.out,
            seed=flags.seed,
            settings=flags.settings,
            gates=Gates() if flags.check else None,
            resume=not flags.fresh,
        )
    for name, value in measured.items():
        console.print(f"  {name:<24} {value:.4g}", highlight=False)
    app.say(console, f"  scorer                   {flags.out}")
    return 0
