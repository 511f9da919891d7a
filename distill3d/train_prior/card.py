"""The model card a training run writes for its own prior: what it knows, the recipe, curves, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..files import write_bytes
from ..plots import chart, stack
from ..render.pictures import write_png
from ..world import COLOURS, WORLDS
from .gates import Gates
from .settings import OF_AUTOENCODER, OF_PARTS, TrainPriorSettings, part_facts

CURVES = "curves.png"
_HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, score-distillation, text-to-3d, toy]
---

# Distill3D tiny prior, {world} world

A text-to-image model with Stable Diffusion's anatomy at toy size: `AutoencoderKL`, `CLIPTextModel` and
`UNet2DConditionModel` in diffusers layout, {size} x {size} pixels, {megabytes:.0f} MB in float16. It knows the
objects of a procedural world and nothing else. Written by `distill3d train-prior` at the end of the run that made it.
"""
_MEASURES = {
    "psnr": "reconstruction of held-out renders, PSNR in dB",
    "reconstructed_hue": "nearest hue right, reconstructions",
    "sample_hue": "nearest hue right, samples",
    "sample_shape": "true shape explains the sample best",
    "sample_pattern": "true pattern explains the sample best",
    "held_out_shape": "true shape, combinations of shape, colour and pattern that training left out",
    "view_word": "objects with a front seen from where the prompt says",
    "view_word_chance": "the same for a model that ignores the word (true renders, all words)",
    "view_word_truth": "the same for true renders with their own word",
    "residual": "what the true object leaves unexplained, mean",
    "border": "standard deviation of border pixels, mean",
}


def device_words(device: torch.device) -> str:
    """What the run computed on, without the machine's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _knows(world: str) -> list[str]:
    known = WORLDS[world]
    lines = [f"- `a <colour> <shape>`: {', '.join(COLOURS)}; {', '.join(known.shapes)}."]
    if len(known.patterns) > 1:
        lines.append(f"- A pattern before the colour: {', '.join(p for p in known.patterns if p != 'plain')}.")
    if known.figures:
        lines.append(f"- Objects with one front: {', '.join(known.figures)} (the ball is `a <colour> and white ball`).")
    return [
        *lines,
        "- A view behind it (`, front view`, `, side view`, `, back view`, `, overhead view`) or before it.",
    ]


def _measured(measured: Mapping[str, float], gates: Gates) -> list[str]:
    asked = asdict(gates)
    lines = ["| what | value | gate |", "|---|---|---|"]
    for name, words in _MEASURES.items():
        if name in measured:
            gate = (
                f"{asked[name]:g}" + ("" if measured[name] >= asked[name] else " **missed**") if name in asked else ""
            )
            lines.append(f"| {words} (`{name}`) | {measured[name]:.4g} | {gate} |")
    return lines


def _recipe(settings: TrainPriorSettings, started: bool = False) -> list[str]:
    """The table; one that ``started`` from a prior leaves out what the autoencoder's own training alone reads."""
    rows = {**asdict(settings), **{f"world.{k}": v for k, v in asdict(settings.world).items()}}
    for name in (
        "world",
        "unet_parts",
        *(OF_PARTS if settings.unet_parts else ()),
        *(OF_AUTOENCODER if started else ()),
    ):
        rows.pop(name)
    for number, part in enumerate(settings.unet_parts):
        rows[f"unet_parts.{number}"] = ", ".join(f"{k} {v}" for k, v in part_facts(part).items())
    return ["| setting | value |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in rows.items())]


def _curves(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    pictures = []
    for stage, rows in curves.items():
        for key in ("loss", "mse", "psnr", "views"):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if not points:
                continue
            pictures.append(chart({key: points}, title=f"{stage}: {key}", x="step", log=key in ("loss", "mse")))
    if pictures:
        write_png(path, stack(pictures))


def write_card(
    out: Path,
    settings: TrainPriorSettings,
    seed: int,
    measured: Mapping[str, float],
    gates: Gates,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    facts: Mapping[str, Any],
) -> Path:
    """Write ``README.md`` and ``curves.png`` into the prior's folder; returns the card's path. Raises ``OutputError``.

    Args:
        measured: what the gates found.
        curves: log rows by stage.
        facts: ``device`` in words and ``parameters`` by part.
    """
    _curves(curves, out / CURVES)
    weight = sum(p.stat().st_size for p in out.glob("*/*.safetensors") if p.parent.name != ".training")
    world = settings.world.name
    parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in facts["parameters"].items())
    batches = " and ".join(dict.fromkeys(str(part.batch) for part in settings.unet_parts)) or settings.unet_batch
    fresh = "autoencoder" in curves
    steps = f"{settings.vae_steps} steps of the autoencoder, {settings.unet_steps} of {batches} latents"
    if not fresh:
        steps = f"{settings.unet_steps} steps of {batches} latents from another prior's weights"
    lines = [
        _HEAD.format(world=world, size=settings.world.image_size, megabytes=weight / 1e6),
        "![samples](samples.png)\n",
        f"*One sample of each of the world's prompts, guidance {gates.guidance:g}, 30 DDIM steps, unselected.*\n",
        "## Prompts it understands",
        *_knows(world),
        "\n## Measured",
        "Samples are judged by matching them against known renders, with no trained network "
        "(`distill3d.train_prior.match`, `.explain`).\n",
        *_measured(measured, gates),
        "\n## How it came to be",
        f"Distill3D {__version__}, torch {torch.__version__}, {facts['device']}, seed {seed}. Parameters: {parts}.",
        f"{settings.renders} renders, {steps} of UNet and text encoder. The recipe, a setting a line; "
        f"losses in `{CURVES}` and `training.json`.\n",
        f"![losses](./{CURVES})\n",
        *_recipe(settings, started=not fresh),
        "\nNo picture or text made by others was used. Apache-2.0, weights and data alike.\n"
        if fresh
        else "\nThe prior that it went on from has a card of its own, and a licence.\n",
    ]
    return write_bytes(out / "README.md", "\n".join(lines).encode())
