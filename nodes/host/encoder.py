"""A differentiable copy of the encoder half of the host's VAE.

``VAE.encode`` gives no gradient: the executor holds inference mode and its weights are inference tensors. The copy has
parameters of its own, outside the manager, and a decoder replaced by nothing, so the user's VAE is never touched.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as manager
import torch
from torch import Tensor, nn

from ...distill3d.errors import PriorError
from ...distill3d.priors.diffusers_prior import resize

DECODERS = ("decoder", "taesd_decoder", "decoder_model")
_HANDLES = (
    *("_v", "_v_block", "_v_weight", "_v_bias", "_v_signature", "_prefetch", "_pins", "_pin_state"),
    *("dynamic_vbars", "dynamic_pins", "dynamic_patchers", "prev_comfy_cast_weights"),
    *("weight_lowvram_function", "bias_lowvram_function"),
)
"""What the manager leaves on a module: memory of the device and of the host, which a second owner would free again."""


@contextlib.contextmanager
def others_loaded() -> Iterator[None]:
    """Loads again at the end what was loaded before: without smart memory the host puts all of it aside for a model."""
    held = [model for model in manager.loaded_models(only_currently_used=True) if model is not None]
    try:
        yield
    finally:
        if held:
            manager.load_models_gpu(held)


def _owns(value: Any) -> bool:
    """Whether a value, or one in it, has something to free when it goes."""
    if isinstance(value, dict):
        return any(map(_owns, value.values()))
    if isinstance(value, (list, tuple, set)):
        return any(map(_owns, value))
    return hasattr(type(value), "__del__")


class EncoderCopy:
    """Images to latents as the host's MODEL wants them, with gradient. Make it outside inference mode.

    Args:
        vae: the host's VAE.
        scale: the model's ``process_latent_in``.
        image_size: side in pixels that images are resized to.
    """

    def __init__(self, vae: Any, scale: Callable[[Tensor], Tensor], image_size: int, device: torch.device) -> None:
        source = vae.first_stage_model
        memo: dict[int, Any] = {id(getattr(source, name)): nn.Identity() for name in DECODERS if hasattr(source, name)}
        with others_loaded():
            manager.load_models_gpu([vae.patcher])
            for module in source.modules():
                for name, value in module.__dict__.items():
                    if (name in _HANDLES and not isinstance(value, bool | int | None)) or _owns(value):
                        memo[id(value)] = None
            self.module: Any = copy.deepcopy(source, memo)
        for module in self.module.modules():
            _release(module, device)
        self.module.eval().requires_grad_(False)
        self._prepare, self._scale, self._size = vae.process_input, scale, image_size
        self.dtype: torch.dtype = vae.vae_dtype

    @property
    def bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.module.parameters())

    def __call__(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` float32 in 0..1 -> ``(B, C, h, w)`` float32."""
        pixels = self._prepare(resize(images, self._size)).to(self.dtype)
        z: Tensor = self.module.encode(pixels).float()
        return self._scale(z)


def _release(module: nn.Module, device: torch.device) -> None:
    """Fresh tensors on ``device`` for one module, and no handle of the manager on it."""
    for name, value in list(module._parameters.items()):
        if value is not None:
            module._parameters[name] = nn.Parameter(_fresh(value, device), requires_grad=False)
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            module._buffers[name] = _fresh(buffer, device)
    for name in ("weight_function", "bias_function"):
        if getattr(module, name, None):
            setattr(module, name, [])
    for name in _HANDLES:
        module.__dict__.pop(name, None)


def _fresh(value: Tensor, device: torch.device) -> Tensor:
    return value.detach().clone().to(device)


def check_vae(vae: Any, channels: int) -> None:
    """Raises ``PriorError`` when ``vae`` does not make the latents a model of ``channels`` channels reads."""
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise PriorError("expected a VAE, got none: the checkpoint carries no VAE. Load one with Load VAE and wire it")
    if vae.latent_dim != 2:
        raise PriorError("expected a VAE for images, got one for video or audio: wire the VAE of your image model")
    if vae.latent_channels != channels:
        raise PriorError(
            f"the VAE makes latents of {vae.latent_channels} channels and the MODEL reads {channels}: they are of "
            "different families. Wire the VAE that belongs to the MODEL (Load SD and Load Checkpoint give both)"
        )
