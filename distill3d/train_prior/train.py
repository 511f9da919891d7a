"""Train the bundled prior end to end: renders, autoencoder, latents, UNet with text encoder, gates, folder.

Or go on from a prior: its autoencoder and words stay, UNet and text encoder are trained on, on new renders.
"""

from __future__ import annotations

import json
import logging
import math
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..devices import imitates_bfloat16
from ..errors import CheckpointError
from ..files import make_folder, write_json
from ..interrupts import held
from ..priors.load import resolve_device
from ..render.pictures import write_png
from ..world import COLOURS, WORLD_VERSION, all_objects, render_dataset
from . import autoencoder, checkpoints, denoiser, text
from .card import device_words, write_card
from .export import export, load, sheet
from .gates import GATES, Gates, measure_autoencoder, measure_full, measure_samples
from .loop import begin, check_seed, fit
from .optimizers import Average
from .settings import RECIPE, TrainPriorSettings
from .start import copy_vocabulary, read_start
from .views import front_rows, hearing

logger = logging.getLogger(__name__)
WORK = ".training"
HEARING_EVERY = 500
"""Steps between measures of what the UNet makes of words for views."""


def _renders(
    settings: TrainPriorSettings, seed: int, start: int | None, folder: Path, resume: bool
) -> tuple[Tensor, list[str]]:
    """Renders and captions; those of a run from another ``start`` are refused, and so is all that came after."""
    path = folder / "renders.safetensors"
    drawn = {"renders": settings.renders, "world": repr(settings.world), "world_version": WORLD_VERSION}
    facts = {"start": start, "seed": seed, **drawn}
    if resume and path.exists():
        tensors, found = checkpoints.read(path, facts)
        return tensors["images"], found["captions"]
    logger.info("rendering %d images of the %s world", settings.renders, settings.world.name)
    made = render_dataset(settings.renders, seed, settings.world)
    checkpoints.write(path, {"images": made.images}, {**facts, "captions": made.captions})
    return made.images, made.captions


def _latents(
    vae: Any,
    images: Tensor,
    settings: TrainPriorSettings,
    device: torch.device,
    folder: Path,
    resume: bool,
    *,
    white: bool = False,
) -> tuple[Tensor, int]:
    """The renders' latents, made anew where those kept are another autoencoder's.

    The autoencoder is whitened on them unless it is ``white`` already.

    Returns the latents at unit variance, float16 ``(N, 4, H, W)``, and the checksum of what they were made from.
    """
    path = folder / "latents.safetensors"
    facts = {"autoencoder": checkpoints.crc(vae.state_dict().values()), "images": checkpoints.crc([images])}
    raw = None
    if resume and path.exists():
        with suppress(CheckpointError):
            raw = checkpoints.read(path, facts)[0]["latents"]
    if raw is None:
        logger.info("encoding %d images", len(images))
        raw = autoencoder.encode_all(vae, images, device, settings.bf16)
        checkpoints.write(path, {"latents": raw}, facts)
    if white:
        return (raw * autoencoder.SCALING).half(), checkpoints.crc([raw])
    scaled, variances = autoencoder.whiten(vae, raw)
    logger.info("latent variances before whitening: %s", [round(v, 4) for v in variances.tolist()])
    return scaled.half(), checkpoints.crc([raw])


def train(
    out: Path,
    *,
    start: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: TrainPriorSettings = RECIPE,
    gates: Gates | None = GATES,
    resume: bool = True,
    snapshot: Path | None = None,
    snapshot_every: int = 500,
) -> dict[str, float]:
    """Train the prior and write it to ``out`` as a diffusers folder that ``StableDiffusionPipeline`` loads offline.

    Progress goes to this package's logger. Checkpoints and intermediate data lie in ``out/.training`` and may be
    deleted afterwards; the loss curves and measurements are written to ``out/training.json``, and to a model card with
    the whole recipe, ``out/README.md``, which replaces one that an earlier run left there.

    Args:
        out: folder for the prior, made if missing.
        start: folder of a prior to go on from: its autoencoder and words stay as they are, UNet and text encoder are
            trained on. None starts from random weights.
        seed: of data, initial weights and training. On one CPU the same seed gives the same weights.
        device: ``auto``, ``cpu`` or ``cuda``.
        settings: the recipe.
        gates: thresholds of the result; None measures nothing and writes no card.
        resume: go on from the checkpoints in ``out`` if there are any.
        snapshot: folder that gets a usable prior after the autoencoder and every ``snapshot_every`` steps.
        snapshot_every: UNet steps between snapshots.

    Returns:
        What the gates measured.

    Raises:
        GateError: when the autoencoder misses a gate, after which nothing is trained; or the prior, which is written
            nevertheless.
        CheckpointError: when ``out`` holds checkpoints of other settings, or of another ``start``.
        DivergedError: when a loss is not finite.
        PriorError: when the device is not there, or ``start`` cannot be read.
        SettingsError: a seed out of bounds; a ``start`` of another shape than the settings', or one that ``out`` or
            ``snapshot`` would write over; a share of fronts where no caption names one.
        OutputError: ``out`` or ``snapshot`` cannot be written.
    """
    where = resolve_device(device)
    check_seed(seed)
    if settings.bf16 and imitates_bfloat16(where):
        logger.warning("this CPU only imitates bfloat16: with bf16 off it is several times as fast")
    given = None if start is None else read_start(start, settings, out, snapshot)
    began_with = None if given is None else given.checksum
    if snapshot is not None:
        make_folder(snapshot)
    work = begin(out / WORK, resume)
    images, captions = _renders(settings, seed, began_with, work, resume)
    fronts = front_rows(captions)
    denoiser.check_fronts(settings, fronts)

    torch.manual_seed(seed)
    vae = autoencoder.build(settings) if given is None else given.vae
    vae = vae.to(where, memory_format=torch.channels_last)
    vae_size = sum(p.numel() for p in vae.parameters())
    logger.info("%d renders, autoencoder of %d parameters", len(images), vae_size)
    vae_log: list[dict[str, float]] = []
    if given is None:
        vae_stage = autoencoder.stage(vae, images, settings, seed, where)
        vae_stage = replace(vae_stage, facts={**vae_stage.facts, "world_version": WORLD_VERSION})
        vae_log = fit(vae_stage, seed, work, settings.checkpoint_every, resume)
    latents, origin = _latents(vae, images, settings, where, work, resume, white=given is not None)
    del images
    measured: dict[str, float] = {}
    if gates is not None:
        held_out = render_dataset(settings.held_out, seed + 1, settings.world)
        measured |= measure_autoencoder(vae, held_out, where)
        logger.info("autoencoder %s", json.dumps(measured))
        gates.check(measured, "train it for more vae_steps" if given is None else "go on from another prior")

    if given is None:
        text.write_vocabulary(work / "vocabulary", captions, settings.vocabulary)
    else:
        copy_vocabulary(given, work / "vocabulary")
    tokenizer = text.load_tokenizer(work / "vocabulary", settings.text_length)
    tokens, empty = text.tokenize(tokenizer, captions), text.tokenize(tokenizer, [""])[0]
    torch.manual_seed(seed + 1)
    encoder = (text.build_encoder(tokenizer, settings) if given is None else given.encoder).to(where)
    unet = denoiser.build(settings) if given is None else given.unet
    unet = unet.to(where, memory_format=torch.channels_last)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (unet, encoder)]
    logger.info("UNet of %d, text encoder of %d parameters, %d tokens", *sizes, len(tokenizer))

    def write(folder: Path) -> None:
        export(folder, vae, encoder, tokenizer, work / "vocabulary", unet)

    heard = hearing(unet, encoder, latents, captions, lambda words: text.tokenize(tokenizer, words), settings, where)

    def measure(done: int) -> dict[str, float]:
        if done % HEARING_EVERY or not math.isfinite(share := heard()):
            return {}
        logger.info("unet %d: the error is %.2g %% larger with front and back exchanged in captions", done, 100 * share)
        return {"views": round(share, 6)}

    def after_step(step: int, average: Average) -> None:
        if snapshot is not None and step % snapshot_every == 0:
            with held():
                average.swap()
                try:
                    write(snapshot)
                finally:
                    average.swap()

    if snapshot is not None and not (resume and (snapshot / "model_index.json").exists()):
        write(snapshot)
    unet_stage = denoiser.stage(unet, encoder, latents, tokens, empty, fronts, settings, seed, where)
    origins = {"start": began_with, "latents": origin}
    unet_stage = replace(unet_stage, facts={**origins, **unet_stage.facts}, measure=measure)
    unet_log = fit(unet_stage, seed, work, settings.checkpoint_every, resume, after_step)
    write(out)
    if gates is not None:
        pipeline = load(out).to(where)
        full = settings.world.name == "full"
        found, samples = (
            measure_full(pipeline, gates, settings.world, seed) if full else measure_samples(pipeline, gates, seed)
        )
        measured |= found
        columns = 2 * len(COLOURS) if full else len(COLOURS)
        count = len(all_objects(settings.world.name))
        write_png(out / "samples.png", Image.fromarray(sheet(samples[:count], columns).numpy()))
    told = {name: value if math.isfinite(value) else None for name, value in measured.items()}
    record = {"seed": seed, "start": began_with, "settings": asdict(settings), "measured": told}
    curves = {"autoencoder": vae_log, "unet": unet_log} if given is None else {"unet": unet_log}
    facts = {"device": device_words(where), "parameters": {"autoencoder": vae_size, "unet": sizes[0], "text": sizes[1]}}
    write_json(out / "training.json", {**record, **facts, **curves})
    if gates is not None:
        write_card(out, settings, seed, measured, gates, curves, facts)
        gates.check(measured)
    return measured
