"""Stable Diffusion 1.x and 2.x checkpoints in one .safetensors file, the layout of CompVis' latent-diffusion.

The key mapping is diffusers' own (``diffusers/loaders/single_file_utils.py``); the model configurations, which
diffusers would download, are the functions below. Widths are read off the tensors, so narrower models load as well.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PriorError
from . import noise_schedule
from .parts import Parts
from .quiet import quiet
from .tokenizers import find_tokenizer
from .weights import Header, read_header

logger = logging.getLogger(__name__)

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
SGM_OPEN_CLIP = "conditioner.embedders.0.model."
FIRST_CONV = UNET + "input_blocks.0.0.weight"
FIRST_CROSS = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_LAST_NORM = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_V_SPREAD = 0.09

# What other files are, by the start of a key only they have; the first match names the file.
_OTHERS = (
    (("conditioner.embedders.1.", UNET + "label_emb."), "a Stable Diffusion XL or unCLIP checkpoint"),
    ((UNET + "joint_blocks.", "joint_blocks."), "a Stable Diffusion 3 checkpoint"),
    ((UNET + "double_blocks.", "double_blocks."), "a Flux (or similar transformer) checkpoint"),
    (("transformer.", "transformer_blocks.", UNET + "transformer_blocks."), "a diffusion transformer"),
    (("control_model.",), "a ControlNet"),
    (("lora_", "unet.lora", "base_model.model."), "a LoRA, which only changes a model"),
    (("down_blocks.", "encoder.down_blocks.", "text_model."), "one part of a model in diffusers layout"),
    (("encoder.down.", "decoder.up."), "a VAE alone"),
)
_SCALES = (".scale_weight", ".weight_scale", ".scale_input", "scaled_fp8")
_CHANNELS = {
    9: "an inpainting model",
    8: "an InstructPix2Pix model",
    7: "an up-scaling model",
    5: "a depth-conditioned model",
}
_ADVICE = "only Stable Diffusion 1.x and 2.x text-to-image checkpoints are supported as single files"


def identify(header: Header, where: str) -> int:
    """Major version, 1 or 2, of the Stable Diffusion checkpoint with this header.

    Told by the width of the cross-attention's keys: 768 (CLIP ViT-L/14) or 1024 (OpenCLIP ViT-H/14).

    Raises:
        PriorError: any other kind of file; the message names it.
    """
    for prefixes, name in _OTHERS:
        if header.any(*prefixes):
            raise PriorError(f"{where} is {name}: {_ADVICE}")
    if any(name.endswith(_SCALES) for name in header.shapes):
        raise PriorError(f"{where} holds scaled 8-bit weights, which are not read: get the full checkpoint in fp16")
    if header.any(UNET + "time_embed.cond_proj."):
        raise PriorError(f"{where} is distilled to few steps (LCM) and has no score to distil from: {_ADVICE}")
    if FIRST_CONV not in header.shapes or FIRST_CROSS not in header.shapes:
        raise PriorError(f"{where} is no Stable Diffusion checkpoint (no {FIRST_CROSS}): {_ADVICE}")
    channels = header.shapes[FIRST_CONV][1]
    if channels != 4:
        kind = _CHANNELS.get(channels, "not a plain text-to-image model")
        raise PriorError(f"{where} is {kind} ({channels} input channels): {_ADVICE}")
    width = header.shapes[FIRST_CROSS][-1]
    if width not in (768, 1024):
        raise PriorError(f"{where} has a cross-attention {width} wide, expected 768 (1.x) or 1024 (2.x): {_ADVICE}")
    parts = {"VAE": (VAE,), "text encoder": (CLIP,) if width == 768 else (OPEN_CLIP, SGM_OPEN_CLIP)}
    for name, prefixes in parts.items():
        if not header.any(*prefixes):
            raise PriorError(f"{where} holds no {name} ({prefixes[0]}*): get the full checkpoint, not a pruned one")
    return 1 if width == 768 else 2


def unet_config(header: Header, version: int, sample_size: int) -> dict[str, Any]:
    """UNet2DConditionModel's config; 8 heads a layer in 1.x, heads of 64 channels in 2.x."""
    base = header.shapes[FIRST_CONV][0]
    widths = (base, 2 * base, 4 * base, 4 * base)
    proj_in = UNET + "input_blocks.1.1.proj_in.weight"
    return {
        "sample_size": sample_size,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "cross_attention_dim": header.shapes[FIRST_CROSS][-1],
        # diffusers' historical name: this is the number of heads.
        "attention_head_dim": 8 if version == 1 else tuple(max(width // 64, 1) for width in widths),
        "use_linear_projection": len(header.shapes.get(proj_in, (0, 0, 0, 0))) == 2,
        "upcast_attention": version == 2,
    }


def vae_config(header: Header) -> dict[str, Any]:
    """AutoencoderKL's config, the same in 1.x and 2.x."""
    base = header.shapes.get(VAE + "encoder.conv_in.weight", (128,))[0]
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (base, 2 * base, 4 * base, 4 * base),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }


def text_config(text: dict[str, Tensor], version: int) -> dict[str, Any]:
    """CLIPTextConfig's fields from converted tensors: heads of 64 channels, quick GELU in 1.x and exact GELU in 2.x."""
    vocabulary, hidden = text["embeddings.token_embedding.weight"].shape
    depth = 1 + max(int(name.split(".")[2]) for name in text if name.startswith("encoder.layers."))
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": text["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // 64,
        "max_position_embeddings": text["embeddings.position_embedding.weight"].shape[0],
        "hidden_act": "quick_gelu" if version == 1 else "gelu",
        "projection_dim": hidden,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


def convert_text(tensors: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """Text encoder tensors under transformers' names without a ``text_model.`` prefix.

    2.x was trained on the last layer but one, so its last residual block is dropped.
    """
    from diffusers.loaders import single_file_utils as ldm

    if version == 1:
        converted = ldm.convert_ldm_clip_checkpoint(tensors)
    else:
        tensors = {name.replace(SGM_OPEN_CLIP, OPEN_CLIP): value for name, value in tensors.items()}
        blocks = OPEN_CLIP + "transformer.resblocks."
        last = max(int(name[len(blocks) :].split(".")[0]) for name in tensors if name.startswith(blocks))
        kept = {name: value for name, value in tensors.items() if not name.startswith(f"{blocks}{last}.")}
        kept.pop(OPEN_CLIP + "text_projection", None)
        shell = nn.Module()
        shell.config = _Width(kept[OPEN_CLIP + "positional_embedding"].shape[-1])  # type: ignore[assignment]
        converted = ldm.convert_open_clip_checkpoint(shell, kept, prefix=OPEN_CLIP)
    plain = {name.removeprefix("text_model."): value for name, value in converted.items()}
    return {name: value for name, value in plain.items() if not name.endswith("position_ids")}


class _Width:
    """All that diffusers' converter asks of a text model."""

    def __init__(self, hidden_size: int) -> None:
        self.hidden_size = hidden_size


def guess_prediction(header: Header, version: int, last_norm: Tensor | None, where: str) -> str:
    """What the UNet predicts: stated by the file's metadata, epsilon for 1.x, for 2.x a guess that is logged.

    The guess is ComfyUI's (``comfy/supported_models.py``, class SD20): the last attention block's norm bias spreads
    more than 0.09 in the models trained on v.
    """
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    if stated:
        return "v_prediction" if stated.startswith("v") else "epsilon"
    if version == 1 or last_norm is None:
        return "epsilon"
    guess = "v_prediction" if float(last_norm.float().std(unbiased=False)) > _V_SPREAD else "epsilon"
    logger.warning(
        "%s does not say what it predicts; its weights look like %s. If results are only noise, set "
        "prediction_type='%s'.",
        where,
        guess,
        "epsilon" if guess == "v_prediction" else "v_prediction",
    )
    return guess


def read_single_file(
    path: Path, dtype: torch.dtype, tokenizer: str | Path | None = None, prediction_type: str = "auto"
) -> Parts:
    """Read the checkpoint at ``path``; see ``load.load_prior``.

    Raises:
        PriorError: damaged, of another kind, incomplete, or without a tokenizer.
    """
    header = read_header(path)
    version = identify(header, str(path))
    words = find_tokenizer(path, tokenizer, pad_id=0 if version == 2 else None)
    tensors = _read(path, header)
    if prediction_type == "auto":
        prediction_type = guess_prediction(header, version, tensors.get(_LAST_NORM), str(path))
    sample_size = 96 if version == 2 and prediction_type == "v_prediction" else 64
    try:
        unet, vae, text_encoder = _build(tensors, header, version, sample_size, dtype)
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:400]
        raise PriorError(
            f"{path} looks like Stable Diffusion {version}.x and does not have its tensors ({reason}): it is "
            "incomplete or of a changed architecture; get the original"
        ) from error
    return Parts(
        unet,
        vae,
        text_encoder,
        words,
        noise_schedule.alphas_cumprod(),
        prediction_type,
        {part: str(path) for part in ("unet", "vae", "text_encoder")},
    )


def _read(path: Path, header: Header) -> dict[str, Tensor]:
    from safetensors import safe_open

    wanted = (UNET, VAE, CLIP, OPEN_CLIP, SGM_OPEN_CLIP)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in header.shapes if name.startswith(wanted)}
    except Exception as error:
        raise PriorError(f"{path} cannot be read ({error}): copy or download it again") from error


def _build(
    tensors: dict[str, Tensor], header: Header, version: int, sample_size: int, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, nn.Module]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as ldm
    from transformers import CLIPTextConfig, CLIPTextModel

    def part(*prefixes: str) -> dict[str, Tensor]:
        return {name: value for name, value in tensors.items() if name.startswith(prefixes)}

    with quiet():
        config = unet_config(header, version, sample_size)
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        _fill(unet, ldm.convert_ldm_unet_checkpoint(part(UNET), unet.config), dtype)
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(vae_config(header))
        _fill(vae, ldm.convert_ldm_vae_checkpoint(part(VAE), vae.config), torch.float32)
        text = convert_text(part(CLIP, OPEN_CLIP, SGM_OPEN_CLIP), version)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(text, version)))
        if hasattr(text_encoder, "text_model"):
            text = {f"text_model.{name}": value for name, value in text.items()}
        _fill(text_encoder, text, dtype)
    return unet, vae, text_encoder


def _fill(module: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Give ``module`` its weights without a second copy of them. Raises RuntimeError for any that is missing or odd."""
    own = module.state_dict().keys()
    fitting = {name: value.to(dtype) for name, value in tensors.items() if name in own}
    module.load_state_dict(fitting, strict=True, assign=True)
