"""A diffusion model of Stable Diffusion 1.5's size with random weights, made on the spot: its speed, not its file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import SettingsError
from ..priors import noise_schedule
from ..priors.diffusers_prior import DiffusersPrior
from ..priors.quiet import quiet

TOKENS = 77


class Letters:
    """A tokenizer that needs no vocabulary: one token a character."""

    length = TOKENS

    def __call__(self, texts: Any) -> Tensor:
        """``n`` texts to ``(n, 77)`` long."""
        rows = [[1, *(2 + ord(c) % 400 for c in text[: TOKENS - 2])] for text in texts]
        return torch.tensor([row + [0] * (TOKENS - len(row)) for row in rows])

    def split(self, text: str) -> tuple[str, str]:
        """What is read of ``text`` and what is cut off."""
        return text[: TOKENS - 2], text[TOKENS - 2 :]


def random_sd15(
    device: str = "cpu", dtype: torch.dtype = torch.float32, *, width: int = 320, pixels: int = 512
) -> DiffusersPrior:
    """UNet (860 million parameters at the width of 320) and VAE in SD 1.5's shape, a one-layer text encoder.

    Args:
        device, dtype: where and how it computes; the VAE stays in float32 where ``dtype`` is float16.
        width, pixels: channels of the first UNet level and image side; smaller ones are for trying things out.

    Raises:
        SettingsError: a width that does not divide into the 32 groups of a norm.
    """
    if width < 32 or width % 32:
        raise SettingsError(f"expected a width that is a multiple of 32, got {width}: 320 is the real one, 64 a small")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae_width = max(32, 128 * width // 320 // 32 * 32)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=pixels // 8,
            block_out_channels=(width, 2 * width, 4 * width, 4 * width),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(vae_width, 2 * vae_width, 4 * vae_width, 4 * vae_width),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=pixels,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=512,
                hidden_size=768,
                intermediate_size=768,
                num_hidden_layers=1,
                num_attention_heads=8,
                max_position_embeddings=TOKENS,
                bos_token_id=1,
                eos_token_id=0,
                pad_token_id=0,
            )
        )
    vae_dtype = torch.float32 if dtype == torch.float16 else dtype
    for module, precision in ((unet, dtype), (text, dtype), (vae, vae_dtype)):
        module.to(device=device, dtype=precision)
    abar = noise_schedule.alphas_cumprod("scaled_linear", 0.00085, 0.012, 1000)
    return DiffusersPrior(unet, vae, text, Letters(), abar, source="random SD 1.5")
