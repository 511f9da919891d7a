"""The prior that a training run goes on from, instead of random weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import OutputError, PriorError, SettingsError
from ..files import make_folder
from ..priors.folder import read_folder
from . import autoencoder, checkpoints, denoiser, text
from .settings import TrainPriorSettings


@dataclass(frozen=True)
class Start:
    """A prior's parts in float32.

    Attributes:
        vae: its autoencoder, whitened, which stays as it is.
        vocabulary: folder with ``vocab.json`` and ``merges.txt``, which stay too.
        checksum: of all weights, CRC-32.
    """

    vae: Any
    encoder: Any
    unet: Any
    vocabulary: Path
    checksum: int


def read_start(folder: Path, settings: TrainPriorSettings) -> Start:
    """Read the prior in ``folder``, a Stable Diffusion model in diffusers' layout as the trainer writes it.

    Raises:
        PriorError: it cannot be read.
        SettingsError: its networks are not of the shape that the settings describe.
    """
    if not folder.is_dir():
        raise PriorError(f"expected the folder of a prior to go on from, got {folder}, which is none: check the path")
    parts = read_folder(folder, torch.float32)
    vae, encoder, unet = (model.float() for model in (parts.vae, parts.text_encoder, parts.unet))
    tokenizer = text.load_tokenizer(folder / "tokenizer", settings.text_length)
    with torch.device("meta"):
        described = autoencoder.build(settings), text.build_encoder(tokenizer, settings), denoiser.build(settings)
    for name, found, asked in zip(
        ("autoencoder", "text encoder", "UNet"), (vae, encoder, unet), described, strict=True
    ):
        if _sizes(found) != _sizes(asked):
            raise SettingsError(
                f"expected a prior to go on from whose {name} has the recipe's shape, got another in {folder}: take "
                "the recipe, widths and text_length that it was trained with (its training.json has them)"
            )
    tensors = [value for model in (vae, encoder, unet) for _, value in sorted(model.state_dict().items())]
    return Start(vae, encoder, unet, folder / "tokenizer", checkpoints.crc(tensors))


def _sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {name.removeprefix("text_model."): value.shape for name, value in model.named_parameters()}


def copy_vocabulary(start: Start, folder: Path) -> None:
    """Put the words' files into ``folder``. Raises ``OutputError``."""
    make_folder(folder)
    for name in ("vocab.json", "merges.txt"):
        try:
            shutil.copyfile(start.vocabulary / name, folder / name)
        except OSError as error:
            raise OutputError(f"could not copy {name} to {folder}: {error}. Free some space and call again") from error
