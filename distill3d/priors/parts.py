"""The parts of a latent diffusion model as they come off the disk, and the noise schedule its scheduler states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PriorError, SettingsError
from . import noise_schedule
from .tokenizers import Tokenizer


@dataclass(frozen=True)
class Parts:
    """Modules on the CPU, not yet in their final precision; ``origin`` names the file of each for messages."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Tokenizer
    abar: Tensor
    prediction_type: str
    origin: dict[str, str]


def abar_from_scheduler(config: dict[str, Any], where: str) -> Tensor:
    """``(T,)`` float64 ``abar_t`` from a diffusers scheduler config; what it leaves out has DDPMScheduler's default.

    With ``rescale_betas_zero_snr`` the table is shifted and scaled so that the last ``abar`` is 0
    (https://arxiv.org/abs/2305.08891, algorithm 1).

    Raises:
        PriorError: a schedule that is no variance-preserving diffusion, or one of an unknown kind.
    """
    if "Flow" in str(config.get("_class_name", "")) or "base_image_seq_len" in config:
        raise PriorError(f"{where} is of a flow-matching model: use a Stable Diffusion 1.x or 2.x model")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise PriorError(f"the trained_betas in {where} must be a list of numbers between 0 and 1: repair the file")
        abar = torch.cumprod(1 - betas, 0)
    else:
        try:
            abar = noise_schedule.alphas_cumprod(
                config.get("beta_schedule", "linear"),
                config.get("beta_start", 0.0001),
                config.get("beta_end", 0.02),
                config.get("num_train_timesteps", 1000),
            )
        except (SettingsError, TypeError) as error:
            raise PriorError(f"the noise schedule in {where} cannot be used: {error}") from error
    if config.get("rescale_betas_zero_snr"):
        root = abar.sqrt()
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return abar
