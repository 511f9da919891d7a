"""The bundled tiny prior, or any folder of its layout, as the host's own MODEL, CLIP and VAE.

No loader of the host detects a UNet this narrow, but one built by hand works everywhere: KSampler, LoRA and
CLIPTextEncode included. The host fixes 32 groups in its normalisations and always has attention in a VAE's middle; both
are set to what the folder's configs say after the modules are built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as manager
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor, nn

from ...distill3d.errors import PriorError
from ...distill3d.priors.folder import read_json
from .tags import Tag, put_tag

State = dict[str, Tensor]


def load_tiny(folder: Path) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a small Stable Diffusion in diffusers layout. Raises ``PriorError`` when it is damaged."""
    try:
        vae = _vae(folder)
        model = _model(folder)
        clip = _clip(folder)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise PriorError(f"the model in {folder} cannot be built ({error}): copy the folder again") from error
    side = int(read_json(folder / "unet" / "config.json")["sample_size"]) * vae.downscale_ratio
    put_tag(model, Tag(source=str(folder), bundled=True, image_size=side))
    return model, clip, vae


def _weights(folder: Path, name: str) -> State:
    state: State = comfy.utils.load_torch_file(str(folder / f"{name}.safetensors"), safe_load=True)
    return state


def _load(module: nn.Module, state: State) -> None:
    missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"its tensors do not fit: {', '.join([*missing, *unexpected][:3])}")


def _set_groups(module: nn.Module, groups: int) -> None:
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            part.num_groups = groups


def unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """The host's UNet settings for a diffusers ``UNet2DConditionModel`` config; widths are multiples of the first."""
    widths = config["block_out_channels"]
    layers = int(config["layers_per_block"])
    down = [int(kind.startswith("CrossAttn")) for kind in config["down_block_types"]]
    up = [int(kind.startswith("CrossAttn")) for kind in config["up_block_types"]]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [depth for depth in down for _ in range(layers)],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [depth for depth in reversed(up) for _ in range(layers + 1)],
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "use_temporal_attention": False,
        "adm_in_channels": None,
        "legacy": False,
        "use_checkpoint": False,
    }


def make_model(settings: dict[str, Any], state: State, *, heads: int, groups: int, model_type: Any = None) -> Any:
    """A MODEL of ``unet_config`` settings from the host's own tensors; ``model_type`` is the parameterisation (EPS)."""
    config: Any = comfy.supported_models.SD15(settings)
    config.unet_config |= {"num_heads": heads, "num_head_channels": -1}
    device = manager.get_torch_device()
    parameters = sum(value.numel() for value in state.values())
    dtype = manager.unet_dtype(model_params=parameters, supported_dtypes=list(config.supported_inference_dtypes))
    cast = manager.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast, device=device)
    kind = comfy.model_base.ModelType.EPS if model_type is None else model_type
    offload = manager.unet_offload_device()
    base = comfy.model_base.BaseModel(config, model_type=kind, device=offload)
    _load(base.diffusion_model, {name: value.to(dtype) for name, value in state.items()})
    _set_groups(base.diffusion_model, groups)
    return comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=offload)


def _model(folder: Path) -> Any:
    config = read_json(folder / "unet" / "config.json")
    settings = unet_config(config)
    names = comfy.utils.unet_to_diffusers(settings)
    state = {names[name]: value for name, value in _weights(folder / "unet", "diffusion_pytorch_model").items()}
    heads = config["attention_head_dim"]
    return make_model(settings, state, heads=int(heads), groups=int(config["norm_num_groups"]))


def _clip(folder: Path) -> Any:
    config = read_json(folder / "text_encoder" / "config.json")
    length = int(config["max_position_embeddings"])
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class Tokenizer(comfy.sd1_clip.SDTokenizer):  # type: ignore[misc]
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                str(folder / "tokenizer"),
                max_length=length,
                embedding_directory=embedding_directory,
                embedding_size=int(config["hidden_size"]),
                pad_token=special["pad"],
            )

    class TextModel(comfy.sd1_clip.SDClipModel):  # type: ignore[misc]
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=length,
                textmodel_json_config=dict(config),
                special_tokens=special,
                return_projected_pooled=False,
                model_options=model_options or {},
            )
            # the host fixes CLIP's own number of words
            embedding = self.operations.Embedding(
                int(config["vocab_size"]), int(config["hidden_size"]), dtype=dtype, device=device
            )
            self.transformer.text_model.embeddings.token_embedding = embedding.requires_grad_(False)

    class Tokenizers(comfy.sd1_clip.SD1Tokenizer):  # type: ignore[misc]
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=Tokenizer)

    class Texts(comfy.sd1_clip.SD1ClipModel):  # type: ignore[misc]
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=TextModel)

    weights = _weights(folder / "text_encoder", "model")
    prefix = "" if any(name.startswith("text_model.") for name in weights) else "text_model."
    skip = ("position_ids", "logit_scale")
    state = {f"clip_l.transformer.{prefix}{n}": v.float() for n, v in weights.items() if not n.endswith(skip)}
    width = int(config["hidden_size"])
    state.setdefault("clip_l.transformer.text_projection.weight", torch.eye(width))
    state.setdefault("clip_l.logit_scale", torch.tensor(4.6055))
    target = comfy.supported_models_base.ClipTarget(Tokenizers, Texts)
    parameters = sum(value.numel() for value in state.values())
    return comfy.sd.CLIP(target, parameters=parameters, state_dict=state, model_options={"dtype": torch.float32})


def vae_names(levels: int, layers: int) -> list[tuple[str, str]]:
    """(diffusers, host) prefixes of a VAE with ``levels`` resolutions; the host counts the decoder's from the end."""
    pairs = [("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut")]
    for i in range(levels):
        pairs += [(f"encoder.down_blocks.{i}.resnets.{j}.", f"encoder.down.{i}.block.{j}.") for j in range(layers)]
        up = levels - 1 - i
        pairs += [(f"decoder.up_blocks.{i}.resnets.{j}.", f"decoder.up.{up}.block.{j}.") for j in range(layers + 1)]
        pairs += [(f"encoder.down_blocks.{i}.downsamplers.0.", f"encoder.down.{i}.downsample.")]
        pairs += [(f"decoder.up_blocks.{i}.upsamplers.0.", f"decoder.up.{up}.upsample.")]
    return pairs + [(f"mid_block.resnets.{i}.", f"mid.block_{i + 1}.") for i in range(2)]


def _vae(folder: Path) -> Any:
    config = read_json(folder / "vae" / "config.json")
    widths, layers = config["block_out_channels"], int(config["layers_per_block"])
    if config.get("mid_block_add_attention", True):
        raise PriorError(f"expected a VAE without attention in {folder}, got one with it: use a diffusers loader")
    state: State = {}
    for name, value in _weights(folder / "vae", "diffusion_pytorch_model").items():
        for theirs, ours in vae_names(len(widths), layers):
            name = name.replace(theirs, ours)
        state[name] = value.float()
    # the host's middle attention is built, loaded as "add nothing", and then taken out
    for half in ("encoder", "decoder"):
        for part in ("q", "k", "v", "proj_out"):
            state[f"{half}.mid.attn_1.{part}.weight"] = torch.zeros(widths[-1], widths[-1], 1, 1)
            state[f"{half}.mid.attn_1.{part}.bias"] = torch.zeros(widths[-1])
        for kind in ("weight", "bias"):
            state[f"{half}.mid.attn_1.norm.{kind}"] = torch.zeros(widths[-1])
    channels = int(config["latent_channels"])
    shape = {
        "double_z": True,
        "z_channels": channels,
        "resolution": config["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": layers,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(sd=state, config={"params": {"ddconfig": shape, "embed_dim": channels}})
    for half in (vae.first_stage_model.encoder, vae.first_stage_model.decoder):
        half.mid.attn_1 = nn.Identity()
    _set_groups(vae.first_stage_model, int(config["norm_num_groups"]))
    vae.latent_channels = channels
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(widths) - 1)
    return vae


def is_tiny(folder: Path) -> bool:
    """Whether the host's own loaders would not know the UNet of this diffusers folder."""
    try:
        config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return int(config.get("block_out_channels", [320])[0]) != 320
