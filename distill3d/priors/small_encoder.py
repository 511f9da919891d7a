"""A small autoencoder in place of the VAE's encoder, for gradients that cost a tenth.

The backward pass through Stable Diffusion's VAE encoder costs more than its UNet at two samples a step. TAESD
(https://github.com/madebyollin/taesd) maps pictures to the same latents in a few thin layers. Whatever is given must
make the latents of the model's own VAE: that is measured before it is used.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import PriorError
from .folder import read_json
from .quiet import quiet
from .weights import read_header, refuse_non_finite

if TYPE_CHECKING:
    from .diffusers_prior import DiffusersPrior

#: Least cosine between the small encoder's latents and the VAE's, means removed, over the test pictures.
AGREEMENT = 0.8


class SmallEncoder:
    """Images ``(B, 3, H, W)`` in -1..1 to scaled latents ``(B, C, h, w)`` float32, differentiable.

    Attributes:
        fingerprint: a CRC of its weights.
    """

    def __init__(self, module: Any, path: Path) -> None:
        self.module, self.path = module.eval().requires_grad_(False), path
        config = module.config
        self._kl = type(module).__name__ == "AutoencoderKL"
        self._scale = float(config.scaling_factor)
        self._shift = float(getattr(config, "shift_factor", None) or 0.0)
        code = 0
        for value in module.state_dict().values():
            code = zlib.crc32(value.detach().flatten()[:1024].float().cpu().numpy().tobytes(), code)
        self.fingerprint = f"{code:08x}"

    def __call__(self, images: Tensor) -> Tensor:
        dtype = next(self.module.parameters()).dtype
        found = self.module.encode(images.to(dtype))
        z: Tensor = found.latent_dist.mean if self._kl else found.latents
        return (z.float() - self._shift) * self._scale


def load_small_encoder(path: str | Path, device: torch.device, dtype: torch.dtype) -> SmallEncoder:
    """Read an AutoencoderTiny or AutoencoderKL folder of diffusers, or a TAESD encoder in one .safetensors file.

    Raises:
        PriorError: nothing there, another kind of model, a pickle, or damaged weights.
    """
    at = Path(path).expanduser()
    if at.is_dir():
        module = _folder(at)
    elif at.is_file():
        module = _file(at)
    else:
        raise PriorError(f"expected a small autoencoder at {at}, got nothing: give its folder or .safetensors file")
    refuse_non_finite(module, str(at))
    return SmallEncoder(module.to(device=device, dtype=dtype), at)


def _folder(at: Path) -> Any:
    import diffusers

    kind = read_json(at / "config.json").get("_class_name")
    if kind not in ("AutoencoderTiny", "AutoencoderKL"):
        raise PriorError(f"expected an AutoencoderTiny or AutoencoderKL in {at}, got {kind}: use one of these")
    try:
        with quiet():
            return getattr(diffusers, kind).from_pretrained(str(at), local_files_only=True, use_safetensors=True)
    except Exception as error:
        raise PriorError(f"{at} cannot be loaded ({' '.join(str(error).split())}): copy the folder again") from error


def _file(at: Path) -> Any:
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file

    names = read_header(at).shapes
    prefix = "encoder.layers." if any(n.startswith("encoder.layers.") for n in names) else ""
    tensors = {n.removeprefix(prefix): v for n, v in load_file(at).items() if n.startswith(prefix)}
    last = max((int(n.split(".")[0]) for n in tensors if n.split(".")[0].isdigit()), default=-1)
    if f"{last}.weight" not in tensors:
        raise PriorError(f"{at} holds no TAESD encoder (tensors such as 0.weight): use taesd_encoder.safetensors")
    with quiet():
        module = AutoencoderTiny(latent_channels=len(tensors[f"{last}.weight"]))
    try:
        module.encoder.layers.load_state_dict(tensors)
    except RuntimeError as error:
        raise PriorError(
            f"{at} is no TAESD encoder ({' '.join(str(error).split())[:300]}): use another file"
        ) from error
    return module


def pictures(count: int, size: int) -> Tensor:
    """``(count, 3, size, size)`` smooth, colourful test pictures in -1..1, the same every time."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    made = []
    for k in range(count):
        ball = torch.sigmoid(20 * (0.6 - (x - 0.2 * math.sin(k)).square() - (y - 0.2 * math.cos(k)).square()))
        waves = [torch.sin((2 + c + k) * x + (3 - c) * y + k) for c in range(3)]
        made.append(torch.stack([ball * wave + (1 - ball) * (1 - k % 2 * 1.5) for wave in waves]))
    return torch.stack(made).clamp(-1, 1)


@torch.no_grad()
def agreement(small: Callable[[Tensor], Tensor], prior: DiffusersPrior) -> float:
    """Cosine between the small encoder's latents of :func:`pictures` and those of the prior's VAE, means removed.

    Raises:
        PriorError: latents of another shape.
    """
    images = pictures(4, prior.image_size).to(prior.device)
    wanted, found = prior.encode((images + 1) / 2), small(images)
    if wanted.shape != found.shape:
        raise PriorError(
            f"expected an encoder that makes latents {tuple(wanted.shape[1:])}, got {tuple(found.shape[1:])}: it "
            "belongs to another family of models; use the one made for this model"
        )
    a, b = ((v - v.mean((0, 2, 3), keepdim=True)).flatten() for v in (wanted, found))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def check(small: SmallEncoder, prior: DiffusersPrior) -> None:
    """Raises ``PriorError`` when ``small`` does not make the prior's latents; without a gradient encoder set yet."""
    found = agreement(small, prior)
    if not found >= AGREEMENT:
        raise PriorError(
            f"expected an encoder that makes the latents of this model's VAE, got one that agrees to {found:.2f} (at "
            f"least {AGREEMENT} is needed): {small.path} belongs to another model"
        )
