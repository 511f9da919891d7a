"""Train the image-text scorer: renders, one loss, held-out check, file and model card.

Each picture is told from the captions of all 496 objects of the full world by a softmax over cosines, CLIP's
image-to-text loss (arXiv 2103.00020, figure 3) with every other caption of the world as a negative instead of the
batch's. The other direction is left out: nothing here looks for a picture.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import write_json
from ..train_prior import checkpoints
from ..train_prior.loop import Stage, begin, check_seed, fit
from ..train_prior.optimizers import MuonAdamW, falling
from ..world import WORLD_VERSION, render_dataset
from .card import write_card
from .measure import GATES, Gates, measure
from .model import FILE_NAME, Scorer, load_scorer, save_scorer
from .settings import RECIPE, TrainScorerSettings
from .views import CORPUS, labels

logger = logging.getLogger(__name__)
WORK = ".training"
LARGEST_SCALE = 50.0


def _renders(settings: TrainScorerSettings, seed: int, folder: Path, resume: bool) -> tuple[Tensor, Tensor]:
    path = folder / "renders.safetensors"
    drawn = {"renders": settings.renders, "world": repr(settings.world), "world_version": WORLD_VERSION}
    facts = {"seed": seed, **drawn}
    if resume and path.exists():
        tensors, _ = checkpoints.read(path, facts)
        return tensors["images"], tensors["labels"]
    made = render_dataset(settings.renders, seed, settings.world)
    found = {"images": made.images, "labels": labels(made.objects)}
    checkpoints.write(path, found, facts)
    return found["images"], found["labels"]


def disturbed(images: Tensor, settings: TrainScorerSettings, generator: torch.Generator) -> Tensor:
    """Training pictures ``(N, 3, S, S)``: mirrored, moved, brighter or darker, blurred and noisy, each at random."""
    flip, gain, noise = torch.rand(3, len(images), 1, 1, 1, generator=generator)
    images = torch.where(flip < 0.5, images.flip(3), images)
    down, right = torch.randint(-settings.shift, settings.shift + 1, (2,), generator=generator).tolist()
    edge = settings.shift
    padded = F.pad(images, (edge,) * 4, mode="replicate") if edge else images
    size = images.shape[-1]
    images = padded[:, :, edge + down : edge + down + size, edge + right : edge + right + size]
    images = images * (1 + settings.gain * (2 * gain - 1))
    if float(torch.rand((), generator=generator)) < settings.blur:
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    grain = torch.randn(images.shape, generator=generator)
    noisy: Tensor = images + settings.noise * noise * grain
    return noisy.clamp(0, 1)


def _stage(scorer: Scorer, images: Tensor, owners: Tensor, settings: TrainScorerSettings, seed: int) -> Stage:
    named = dict(scorer.named_parameters())
    inner = {n for n, p in named.items() if p.ndim > 1 and n not in ("image.0.weight", "words.weight")}
    texts = CORPUS["full"]

    def loss(generator: torch.Generator, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.randint(len(images), (settings.batch,), generator=generator)
        pictures = disturbed(images[rows].float() / 255, settings, generator)
        scale = scorer.log_scale.exp().clamp(max=LARGEST_SCALE)
        cosines = scorer.embed_images(pictures) @ scorer.embed_texts(texts).T
        right = (cosines.argmax(1) == owners[rows]).float().mean()
        return F.cross_entropy(scale * cosines, owners[rows]), {"r_at_1": right, "scale": scale.detach()}

    optimizer = MuonAdamW(named, inner, settings.muon_lr, settings.adam_lr, (0.9, 0.98), settings.weight_decay)
    facts = {"seed": seed, "world_version": WORLD_VERSION, "settings": json.loads(json.dumps(asdict(settings)))}
    rate = falling(settings.steps, settings.warmup, settings.constant, settings.final_lr)
    return Stage("scorer", named, optimizer, loss, settings.steps, rate, settings.clip, settings.ema, facts)


def train(
    out: Path,
    *,
    seed: int = 0,
    settings: TrainScorerSettings = RECIPE,
    gates: Gates | None = GATES,
    resume: bool = True,
) -> dict[str, float]:
    """Train the scorer and write ``scorer.safetensors``, ``training.json`` and, unless ``gates`` is None, a model card
    with curves into ``out``; checkpoints lie in ``out/.training``.

    It computes on the CPU: the same seed and thread count on the same CPU give the same weights, also when it was
    stopped and called again.

    Returns:
        What the check measured on held-out renders; empty when ``gates`` is None.

    Raises:
        GateError: the scorer misses a gate; it is written nevertheless.
        CheckpointError: ``out`` holds checkpoints of other settings.
        SettingsError: a seed out of bounds.
        OutputError: ``out`` cannot be written.
    """
    check_seed(seed)
    work = begin(out / WORK, resume)
    images, owners = _renders(settings, seed, work, resume)
    torch.manual_seed(seed)
    scorer = Scorer(settings.architecture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = sum(p.numel() for p in scorer.parameters())
    logger.info("%d renders, scorer of %d parameters", len(images), size)
    rows = fit(_stage(scorer, images, owners, settings, seed), seed, work, settings.checkpoint_every, resume)
    record: dict[str, Any] = {"seed": seed, "settings": asdict(settings), "parameters": size}
    path = save_scorer(scorer, out / FILE_NAME, record)
    if gates is None:
        write_json(out / "training.json", {**record, "scorer": rows})
        return {}
    measured = measure(load_scorer(path).scorer, settings, seed + 1)
    write_json(out / "training.json", {**record, "measured": measured, "scorer": rows})
    write_card(out, settings, seed, measured, gates, rows, size)
    gates.check(measured)
    return measured
