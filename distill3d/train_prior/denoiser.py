"""The prior's UNet and text encoder, trained together to predict noise.

Stable Diffusion's scaled-linear schedule, min-SNR weights (arXiv 2303.09556), timesteps stratified over the batch.

On a CPU attention is computed without torch's fused kernel, whose backward pass is slow over 64 places and fewer: a
whole step takes 0.84 of the time.

The UNet is not compiled: with torch 2.13 on a CPU, ``torch.compile`` under bfloat16 autocast gave it a backward pass
in which everything below the outermost level, and so the text encoder too, received a gradient of exactly zero, while
the loss still fell on what was left. ``loop.fit`` therefore stops a run in which a parameter gets no gradient.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import SettingsError
from .loop import Stage
from .optimizers import MuonAdamW, falling
from .settings import Part, TrainPriorSettings, compared

TIMESTEPS = 1000


def build(settings: TrainPriorSettings) -> Any:
    from diffusers import UNet2DConditionModel

    inner = len(settings.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=settings.world.image_size // 2 ** (len(settings.vae_channels) - 1),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * inner,
        up_block_types=("CrossAttnUpBlock2D",) * inner + ("UpBlock2D",),
        block_out_channels=settings.unet_channels,
        layers_per_block=1,
        norm_num_groups=settings.unet_groups,
        attention_head_dim=settings.unet_heads,
        cross_attention_dim=settings.text_width,
    )


def scheduler() -> Any:
    """Stable Diffusion 1's training schedule as a DDIM scheduler."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def min_snr_weight(alpha_bar: Tensor, cap: float, floor: float = 0.0) -> Tensor:
    """``min(SNR, cap) / SNR`` for noise prediction, with ``SNR = a / (1 - a)``; section 3.4 of the paper.

    ``floor`` keeps ``SNR`` in the numerator from vanishing: at the noisy end, where an object's colour is decided by
    the prompt alone, the error of the clean image would otherwise count for next to nothing.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(floor, cap) / snr


def stratified_timesteps(count: int, g: torch.Generator) -> Tensor:
    """``(count,)`` int64, one in each of ``count`` equal shares of 0..999."""
    share = (torch.arange(count) + torch.rand(count, generator=g)) / count
    return (share * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)


def part_at(settings: TrainPriorSettings, step: int) -> tuple[Part, int]:
    """The part of the run that a step lies in, and the step's number; without parts the whole run is one."""
    place = step
    for part in settings.unet_parts:
        if place < part.steps:
            return part, part.number + place
        place -= part.steps
    s = settings
    whole = Part(s.unet_steps, s.unet_batch, s.snr_cap, s.snr_floor, 0, s.unet_steps, s.unet_constant)
    return whole, step


def rate(settings: TrainPriorSettings, step: int) -> float:
    """Share of the learning rates at a step."""
    part, number = part_at(settings, step)
    return falling(part.planned, settings.unet_warmup, part.constant, settings.final_lr)(number)


def _muon_names(named: dict[str, nn.Parameter]) -> set[str]:
    outer = ("conv_in.", "conv_out.", "time_embedding.", "embeddings.")
    return {n for n, p in named.items() if p.ndim >= 2 and not any(part in n for part in outer)}


def check_fronts(settings: TrainPriorSettings, fronts: Tensor) -> None:
    """Raises ``SettingsError`` where a part has a share of fronts and there is no row ``fronts (n,)`` to draw from."""
    if any(part.fronts for part in settings.unet_parts) and not len(fronts):
        raise SettingsError(
            f"expected a caption that names a front among {settings.renders} renders for the fronts of unet_parts, got "
            "none: ask for more renders, for cameras that are not all overhead, or for fronts of 0"
        )


def stage(
    unet: Any,
    text: Any,
    latents: Tensor,
    tokens: Tensor,
    empty: Tensor,
    fronts: Tensor,
    settings: TrainPriorSettings,
    seed: int,
    device: torch.device,
) -> Stage:
    """The joint stage over scaled ``latents (N, 4, H, W)`` with ``tokens (N, L)``; ``empty (L,)`` is no prompt.

    ``fronts (n,)`` are the rows that a part's share of fronts is drawn from. Raises as ``check_fronts``.
    """
    check_fronts(settings, fronts)
    named = {f"unet.{n}": p for n, p in unet.named_parameters()}
    named |= {f"text.{n}": p for n, p in text.named_parameters()}
    rates = settings.unet_muon_lr, settings.unet_adam_lr
    optimizer = MuonAdamW(named, _muon_names(named), *rates, (0.9, 0.98), settings.weight_decay, settings.bf16)
    alpha_bar = scheduler().alphas_cumprod

    def attention(part: Part) -> contextlib.AbstractContextManager[Any]:
        fused = part.fused_attention or device.type != "cpu"
        return contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)

    def loss(g: torch.Generator, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        part, _ = part_at(settings, step)
        batch = part.batch
        rows = torch.randint(len(latents), (batch,), generator=g)
        if part.fronts:
            facing = fronts[torch.randint(len(fronts), (batch,), generator=g)]
            rows = torch.where(torch.rand(batch, generator=g) < part.fronts, facing, rows)
        dropped = torch.rand(batch, generator=g) < settings.empty_captions
        ids = torch.where(dropped[:, None], empty, tokens[rows]).to(device)
        t = stratified_timesteps(batch, g)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=g)
        a = alpha_bar[t][:, None, None, None]
        noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16), attention(part):
            context = text(ids).last_hidden_state.float()
            out = unet(noisy, t.to(device), context, return_dict=False)[0].float()
        error = (out - noise.to(device)).square().mean((1, 2, 3))
        weighted = (min_snr_weight(alpha_bar[t], part.snr_cap, part.snr_floor).to(device) * error).mean()
        return weighted, {"mse": error.detach().mean()}

    return Stage(
        name="unet",
        named=named,
        optimizer=optimizer,
        loss=loss,
        steps=settings.unet_steps,
        rate=functools.partial(rate, settings),
        clip=settings.clip,
        ema=settings.ema,
        facts={"seed": seed, **compared(settings, "unet")},
        number=lambda step: part_at(settings, step)[1],
    )
