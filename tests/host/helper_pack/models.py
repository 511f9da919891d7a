"""Small random models in the host's own formats: MODELs to refuse, and a ControlNet for any small MODEL."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as manager
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch

WIDTH = 32
UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": WIDTH,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0],
    "context_dim": 160,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
    "use_checkpoint": False,
    "num_heads": 4,
    "num_head_channels": -1,
}
KINDS: dict[str, dict[str, Any]] = {
    "flow of 16 channels": {"in_channels": 16, "out_channels": 16},
    "inpainting": {"in_channels": 9},
    "video": {},
    "wide text": {"context_dim": 768},
}


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights of unit gain, normalisations at 1, biases at 0: the host leaves memory as it finds it."""
    g = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        if value.ndim > 1:
            value.data = torch.randn(value.shape, generator=g) / value[0].numel() ** 0.5
        else:
            value.data = torch.ones_like(value) if name.endswith("weight") else torch.zeros_like(value)


class TestModel:
    """A MODEL of a kind that cannot be distilled as it is wired."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": (list(KINDS),)}}

    def make(self, kind: str) -> tuple[Any]:
        config: Any = comfy.supported_models.SD15({**UNET, **KINDS[kind]})
        config.set_inference_dtype(torch.float32, None)
        flow = kind.startswith("flow")
        if flow:
            config.latent_format = comfy.latent_formats.SD3()
        if kind == "video":
            config.latent_format = comfy.latent_formats.HunyuanVideo()
        types = comfy.model_base.ModelType
        device = torch.device("cpu")
        base = comfy.model_base.BaseModel(config, model_type=types.FLOW if flow else types.EPS, device=device)
        fill(base.diffusion_model)
        if kind == "inpainting":
            base.set_inpaint()
        return (comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device),)


class TestControlNet:
    """A random ControlNet of the MODEL's own shape; a trained one starts at no effect, this one does not."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("CONTROL_NET",)
    DROPPED: ClassVar[tuple[str, ...]] = ("out_channels", "dtype", "hint_channels")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    def make(self, model: Any) -> tuple[Any]:
        config = {k: v for k, v in model.model.model_config.unet_config.items() if k not in self.DROPPED}
        with torch.inference_mode(False):
            net = comfy.cldm.cldm.ControlNet(
                **config, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
            )
            fill(net)
        return (comfy.controlnet.ControlNet(net.eval(), load_device=manager.get_torch_device()),)


class PackMesh:
    """What ComfyUI-3D-Pack sends over wires named MESH: an object of its own class."""

    def __init__(self) -> None:
        self.v, self.f = torch.zeros(3, 3), torch.zeros(1, 3, dtype=torch.int)


class TestPackMesh:
    """A MESH as ComfyUI-3D-Pack makes it, under its own type and under the wildcard that fits every input."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("MESH", "*")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any, Any]:
        return PackMesh(), PackMesh()
