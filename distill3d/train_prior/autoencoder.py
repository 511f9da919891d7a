"""The prior's AutoencoderKL: Stable Diffusion's layout at f = 4, trained without sampling, then whitened.

The latents are held near zero mean and identity covariance instead of a KL term: at this size a KL weight that
matters at all erases colour. ``whiten`` then makes that exact by folding an affine map into ``quant_conv`` and
``post_quant_conv``, so that Stable Diffusion's scaling factor 0.18215, hard-coded in many hosts, fits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loop import Stage
from .optimizers import MuonAdamW, falling
from .settings import TrainPriorSettings, compared

SCALING = 0.18215
LOG_VARIANCE = -20.0
SMALLEST_EIGENVALUE = 0.02


def build(settings: TrainPriorSettings) -> Any:
    from diffusers import AutoencoderKL

    levels = len(settings.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.vae_channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=settings.vae_groups,
        sample_size=settings.world.image_size,
        scaling_factor=SCALING,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def to_signed(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return images.float() / 127.5 - 1


def encode(vae: Any, images: Tensor) -> Tensor:
    """Latent means ``(N, 4, S / 4, S / 4)`` of images in [-1, 1], not scaled."""
    latents: Tensor = vae.encode(images, return_dict=False)[0].mode()
    return latents


def decode(vae: Any, latents: Tensor) -> Tensor:
    images: Tensor = vae.decode(latents, return_dict=False)[0]
    return images


def _chroma(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def reconstruction_loss(out: Tensor, target: Tensor) -> Tensor:
    """L1 and L2 on colours, on chroma, on 4 x 4 means of both, and L1 on pixel differences; images in [-1, 1]."""
    error = out - target
    chroma, pooled = _chroma(error), F.avg_pool2d(error, 4)
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    flat = 2 * pooled.square().mean() + 3 * _chroma(pooled).square().mean()
    return error.abs().mean() + 3 * error.square().mean() + chroma.abs().mean() + flat + 0.3 * (across + down)


def latent_penalty(latents: Tensor) -> Tensor:
    """Squared distance of the mean and covariance over all positions to zero and identity; every direction is used."""
    flat = latents.transpose(0, 1).flatten(1)
    mean = flat.mean(1, keepdim=True)
    centred = flat - mean
    covariance = centred @ centred.T / flat.shape[1]
    return (covariance - torch.eye(len(flat), device=flat.device)).square().sum() + mean.square().sum()


def _batch(images: Tensor, count: int, step: int, g: torch.Generator) -> Tensor:
    """``count`` frames, or at odd steps ``4 * count`` half-size crops from around the middle; half are mirrored."""
    crop = step % 2 == 1
    rows = torch.randint(len(images), (count * (4 if crop else 1),), generator=g)
    batch = images[rows]
    if crop:
        side = images.shape[-1] // 2
        low, high = side // 4, images.shape[-1] - side - side // 4
        corners = torch.randint(low, high + 1, (len(rows), 2), generator=g).tolist()
        batch = torch.stack([b[:, y : y + side, x : x + side] for b, (y, x) in zip(batch, corners, strict=True)])
    mirrored = torch.rand(len(rows), generator=g) < 0.5
    return to_signed(torch.where(mirrored[:, None, None, None], batch.flip(3), batch))


def stage(vae: nn.Module, images: Tensor, settings: TrainPriorSettings, seed: int, device: torch.device) -> Stage:
    named = dict(vae.named_parameters())
    outer = ("encoder.conv_in.", "encoder.conv_out.", "decoder.conv_in.", "decoder.conv_out.", "quant_conv.")
    muon = {n for n, p in named.items() if p.ndim == 4 and not n.startswith((*outer, "post_quant_conv."))}
    optimizer = MuonAdamW(named, muon, settings.vae_muon_lr, settings.vae_adam_lr, (0.9, 0.99), 0.0, settings.bf16)

    def loss(g: torch.Generator, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        target = _batch(images, settings.vae_batch, step, g).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            latents = encode(vae, target).float()
            noise = torch.randn(latents.shape, generator=g).to(device)
            scale = settings.latent_noise * latents.detach().std((0, 2, 3), keepdim=True)
            out = decode(vae, latents + scale * noise).float()
        error = reconstruction_loss(out, target)
        penalty = latent_penalty(latents)
        psnr = -10 * torch.log10((out.detach() - target).square().mean() / 4)
        return error + settings.latent_prior * penalty, {"psnr": psnr, "penalty": penalty.detach()}

    return Stage(
        name="autoencoder",
        named=named,
        optimizer=optimizer,
        loss=loss,
        steps=settings.vae_steps,
        rate=falling(settings.vae_steps, settings.vae_warmup, settings.vae_constant, settings.final_lr),
        clip=settings.clip,
        ema=settings.ema,
        facts={"seed": seed, **compared(settings, "vae")},
    )


@torch.no_grad()
def encode_all(vae: nn.Module, images: Tensor, device: torch.device, bf16: bool, batch: int = 64) -> Tensor:
    """Latent means of uint8 images, float32 on the CPU, not scaled."""
    out = []
    for part in images.split(batch):
        signed = to_signed(part).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            out.append(encode(vae, signed).float().cpu())
    return torch.cat(out)


@torch.no_grad()
def decode_all(vae: nn.Module, latents: Tensor, device: torch.device, batch: int = 64) -> Tensor:
    """uint8 images of unscaled latents, in float32."""
    out = []
    for part in latents.split(batch):
        images = decode(vae, part.to(device)).float().cpu()
        out.append(((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)


@torch.no_grad()
def whiten(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Fold ``z -> C^(-1/2) (z - m) / 0.18215`` into the quant convolutions, for ``m`` and ``C`` of ``latents``.

    Returns the same latents as the changed encoder gives them, times 0.18215, and the eigenvalues of ``C``.

    Eigenvalues are floored at 2 % of the largest: a direction with next to no variance is mostly noise, and full
    whitening would multiply it.
    """
    flat = latents.transpose(0, 1).flatten(1).double()
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    root = values.clamp(min=float(values.max()) * SMALLEST_EIGENVALUE).sqrt()
    forward = vectors @ torch.diag(1 / (root * SCALING)) @ vectors.T
    backward = vectors @ torch.diag(root * SCALING) @ vectors.T
    quant, post = vae.quant_conv, vae.post_quant_conv
    device = quant.weight.device
    weight, bias = quant.weight[:4, :, 0, 0].cpu().double(), quant.bias[:4].cpu().double()
    quant.weight.zero_()
    quant.bias.fill_(LOG_VARIANCE)
    quant.weight[:4, :, 0, 0] = (forward @ weight).float().to(device)
    quant.bias[:4] = (forward @ (bias - mean)).float().to(device)
    weight, bias = post.weight[:, :, 0, 0].cpu().double(), post.bias.cpu().double()
    post.weight[:, :, 0, 0] = (weight @ backward).float().to(device)
    post.bias.copy_((weight @ mean + bias).float().to(device))
    white = (SCALING * forward @ (flat - mean[:, None])).float()
    return white.unflatten(1, (len(latents), *latents.shape[2:])).transpose(0, 1).contiguous(), values.float()
