"""The scorer's model card: what it is for, what it measured, its recipe and its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from .. import __version__
from ..files import write_bytes
from ..plots import chart, stack
from ..render.pictures import write_png
from .measure import Gates
from .settings import TrainScorerSettings

CURVES = "curves.png"
_HEAD = """---
license: apache-2.0
library_name: distill3d
tags: [image-text, clip, toy]
---

# Distill3D image-text scorer

Two small towers in CLIP's manner, a CNN of 64 x 64 pictures and a bag of words, {parameters:.2f} M parameters, trained
on renders of this project's own full world (14 shapes x 8 colours x 4 patterns, 6 objects with a front). It gives
`distill3d bench quality` its columns Sim and R@1. Written by `distill3d train-scorer` at the end of the run that made
it.

## What it is not
- **Not a judge.** A CNN is blind off the pictures it was trained on: it names something in every blob. The verdicts of
  the benchmark come from exact geometry alone; Sim and R@1 stand beside them and decide nothing.
- It knows only words of shapes, colours and patterns; views, grounds and all else in a prompt are skipped. So it counts
  no faces: a head with two scores as a true one does.
- It says nothing about any other picture, and its figures compare with no CLIP's.
"""
_WORDS = {
    "shapes": "renders of the fourteen shapes in all patterns, drawn as training's",
    "protocol": "the same shapes as the benchmark looks at them: around, elevation 15, on white",
    "figures_from_front": "objects with a front, seen from there",
    "figures": "objects with a front, from all sides",
    "protocol_figures": "objects with a front as the benchmark looks at them",
    "all": "all renders drawn as training's",
}


def _curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    pictures = [
        chart({key: [(row["step"], row[key]) for row in rows]}, title=key, x="step", log=key == "loss")
        for key in ("loss", "r_at_1")
        if rows
    ]
    if pictures:
        write_png(path, stack(pictures))


def write_card(
    out: Path,
    settings: TrainScorerSettings,
    seed: int,
    measured: Mapping[str, float],
    gates: Gates,
    rows: Sequence[Mapping[str, float]],
    parameters: int,
) -> Path:
    """Write ``README.md`` and ``curves.png`` into ``out``; returns the card's path. Raises ``OutputError``."""
    _curves(rows, out / CURVES)
    asked = asdict(gates)
    table = ["| held-out renders | own caption nearest of 496 | gate |", "|---|---|---|"]
    for name, words in ((name, words) for name, words in _WORDS.items() if name in measured):
        value = measured[name]
        gate = f"{asked[name]:.0%}{'' if value >= asked[name] else ' **missed**'}" if name in asked else ""
        table.append(f"| {words} (`{name}`) | {value:.1%} | {gate} |")
    flat = {k: v for k, v in asdict(settings).items() if k not in ("world", "architecture")}
    flat |= {f"world.{k}": v for k, v in asdict(settings.world).items()}
    flat |= {f"architecture.{k}": v for k, v in asdict(settings.architecture).items()}
    lines = [
        _HEAD.format(parameters=parameters / 1e6),
        "## Measured",
        f"{settings.held_out} renders of seed {seed + 1}, and 8 views of each of the 496 objects; true renders all. "
        "From above and from behind some objects look alike, so that less than all is the most there is.\n",
        *table,
        "\n## How it came to be",
        f"`distill3d train-scorer`, seed {seed}, Distill3D {__version__}, torch {torch.__version__}, CPU, "
        f"{torch.get_num_threads()} threads: {settings.renders} renders, {settings.steps} steps of {settings.batch}. "
        f"The same command gives the same weights on the same CPU. Losses in `{CURVES}` and `training.json`.\n",
        f"![loss and R@1 on training pictures](./{CURVES})\n",
        "| setting | value |",
        "|---|---|",
        *(f"| `{k}` | {v} |" for k, v in flat.items()),
        "\nNo picture or text made by others was used. Apache-2.0, weights and data alike.\n",
    ]
    return write_bytes(out / "README.md", "\n".join(lines).encode())
