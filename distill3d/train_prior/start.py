"""The prior that a training run goes on from, instead of random weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import OutputError, PriorError, SettingsError
from ..files import make_folder, real
from ..priors.folder import read_folder
from . import autoencoder, checkpoints, denoiser, text
from .settings import TrainPriorSettings

WORDS = ("vocab.json", "merges.txt")
OF_FUNCTION = (
    "attention_head_dim", "norm_num_groups", "scaling_factor", "num_attention_heads", "hidden_act", "layers_per_block",
)  # fmt: skip
"""What decides a network's function and not the shapes of its weights, by the names of its ``config``."""


@dataclass(frozen=True)
class Start:
    """A prior's parts in float32.

    Attributes:
        vae: its autoencoder, whitened, which stays as it is.
        vocabulary: folder with ``WORDS``, which stay too.
        checksum: of all weights, CRC-32.
    """

    vae: Any
    encoder: Any
    unet: Any
    vocabulary: Path
    checksum: int


def read_start(folder: Path, settings: TrainPriorSettings, *written: Path | None) -> Start:
    """Read the prior in ``folder``, a Stable Diffusion model in diffusers' layout as the trainer writes it.

    Args:
        written: folders that the run is to write a prior into.

    Raises:
        PriorError: it cannot be read, or was trained for another prediction or noise schedule than the trainer's.
        SettingsError: its networks are not those that the settings describe, or the run would write over it.
    """
    if not folder.is_dir():
        raise PriorError(f"expected the folder of a prior to go on from, got {folder}, which is none: check the path")
    if any(other is not None and real(other) == real(folder) for other in written):
        raise SettingsError(f"expected another folder for the result than {folder}, which the run is to go on from")
    parts = read_folder(folder, torch.float32)
    missing = [name for name in WORDS if not (folder / "tokenizer" / name).is_file()]
    if missing:
        raise PriorError(f"expected {' and '.join(WORDS)} in {folder / 'tokenizer'}, got no {missing[0]}: take another")
    abar = denoiser.scheduler().alphas_cumprod.double()
    if (
        parts.prediction_type != "epsilon"
        or parts.abar.shape != abar.shape
        or not torch.allclose(parts.abar.double(), abar, atol=1e-5)
    ):
        raise PriorError(
            f"expected a prior that predicts noise on Stable Diffusion's schedule to go on from, got {folder} with "
            f"another ({parts.prediction_type}): take one that this trainer wrote"
        )
    tokenizer = text.load_tokenizer(folder / "tokenizer", settings.text_length)
    built = autoencoder.build(settings), text.build_encoder(tokenizer, settings), denoiser.build(settings)
    for name, found, made in zip(
        ("autoencoder", "text encoder", "UNet"), (parts.vae, parts.text_encoder, parts.unet), built, strict=True
    ):
        if _facts(found) != _facts(made):
            raise SettingsError(
                f"expected a prior to go on from whose {name} is as the recipe describes, got another in {folder}: "
                "take the recipe, widths, groups, heads and text_length that it was trained with (in its training.json)"
            )
        made.load_state_dict(found.state_dict())
    vae, encoder, unet = built
    tensors = [value for model in built for _, value in sorted(model.state_dict().items())]
    return Start(vae, encoder, unet, folder / "tokenizer", checkpoints.crc(tensors))


def _facts(model: nn.Module) -> tuple[dict[str, torch.Size], list[Any]]:
    config: Any = model.config
    return (
        {name: value.shape for name, value in model.named_parameters()},
        [getattr(config, name, None) for name in OF_FUNCTION],
    )


def copy_vocabulary(start: Start, folder: Path) -> None:
    """Put the words' files into ``folder``. Raises ``OutputError``."""
    make_folder(folder)
    for name in WORDS:
        try:
            shutil.copyfile(start.vocabulary / name, folder / name)
        except OSError as error:
            raise OutputError(f"could not copy {name} to {folder}: {error}. Free some space and call again") from error
