"""A latent diffusion model in diffusers' parts behind the ``Prior`` protocol.

Latent diffusion: https://arxiv.org/abs/2112.10752. Works with any UNet2DConditionModel, AutoencoderKL, CLIPTextModel
quartet of Stable Diffusion 1.x or 2.x shape, at any size: the bundled tiny prior and the real thing take the same path.
"""

from __future__ import annotations

import copy
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..devices import upload
from ..errors import PriorError
from . import noise_schedule
from .accelerate import Verified, compiled, in_bf16, use_channels_last
from .freeu import FreeU, FreeUSettings
from .looks import Looks
from .small_encoder import SmallEncoder, check
from .tokenizers import Tokenizer

logger = logging.getLogger(__name__)

PREDICTION_TYPES = ("epsilon", "v_prediction")


def eps_from_v(v: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """``eps = sigma x_t + alpha v`` (Salimans and Ho, https://arxiv.org/abs/2202.00512, appendix D).

    The inverse of ``v = alpha eps - sigma x`` on ``x_t = alpha x + sigma eps``. All ``(N, C, h, w)`` or broadcastable.
    """
    return sigma * x_t + alpha * v


def resize(images: Tensor, size: int) -> Tensor:
    """``(B, 3, H, W)`` -> ``(B, 3, size, size)`` bilinearly, with an antialiasing filter where a side shrinks."""
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    shrinks = height > size or width > size
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=shrinks)


class DiffusersPrior:
    """Implements ``Prior`` over a diffusers UNet and VAE and a transformers CLIP text encoder.

    The modules are put in evaluation mode and frozen. The VAE may run in another precision than the UNet: Stable
    Diffusion's VAE overflows in float16. Build one with ``load.load_prior``.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Tokenizer,
        abar: Tensor,
        *,
        prediction_type: str = "epsilon",
        image_size: int | None = None,
        max_batch: int | None = None,
        source: str = "",
    ) -> None:
        """Wrap modules that are already on one device in the precision they shall run in.

        Args:
            abar: ``(T,)`` float64, the running product of ``1 - beta``.
            prediction_type: ``epsilon`` or ``v_prediction``.
            image_size: side in pixels to work at; None takes what the UNet was trained for.
            max_batch: most samples per UNet or decoder call; None sends all at once. Changes memory, not results.
            source: where the model came from, for messages and reports.

        Raises:
            PriorError: parts that do not fit together, or a kind of model that is not supported.
        """
        if prediction_type not in PREDICTION_TYPES:
            raise PriorError(
                f"expected a model that predicts {' or '.join(PREDICTION_TYPES)}, got {prediction_type!r}: "
                "use another model"
            )
        if max_batch is not None and max_batch < 1:
            raise PriorError(f"expected max_batch of 1 or more, got {max_batch}: leave it out for no limit")
        _check_parts(unet, vae, text_encoder)
        self.unet, self.vae, self._text_encoder = unet, vae, text_encoder
        for module in (unet, vae, text_encoder):
            module.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.abar = abar
        self.prediction_type = prediction_type
        self.max_batch = max_batch
        self.source = source
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_size = _image_size(unet.config.sample_size, self.factor, image_size)
        side = self.image_size // self.factor
        self.latent_shape: tuple[int, int, int] = (int(unet.config.in_channels), side, side)
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        if not (math.isfinite(self._scale) and self._scale > 0 and math.isfinite(self._shift)):
            raise ValueError(f"expected a scaling_factor above 0 in the VAE's config.json, got {self._scale:g}")
        self._embeddings: dict[str, Tensor] = {}
        self._cut: set[str] = set()
        self._freeu: FreeU | None = None
        self._freeu_settings: FreeUSettings | None = None
        self._small: SmallEncoder | None = None
        self._looked = Looks()
        self._unet_call: Callable[..., Tensor] = self._plain_unet
        self._vae_call: Callable[..., Tensor] = self._plain_vae

    @property
    def T(self) -> int:
        return len(self.abar)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def vae_dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def weights_bytes(self) -> int:
        """What its models take on the device: UNet, VAE, text encoder while it is loaded, small encoder."""
        models = (self.unet, self.vae, self._text_encoder, self.small_encoder)
        return sum(p.numel() * p.element_size() for m in models if m is not None for p in m.parameters())

    @property
    def small_encoder(self) -> Any:
        """The autoencoder whose encoder the gradient goes through instead of the VAE's; or None."""
        return self._small.module if self._small else None

    @cached_property
    def fingerprint(self) -> str:
        """See ``Prior.fingerprint``: the source's name, the precision, and a CRC of the start of every tensor."""
        crc = _checksum(self.unet, self.vae)
        small = f" encoder {self._small.fingerprint}" if self._small else ""
        return f"{Path(self.source).name} {str(self.dtype).removeprefix('torch.')} {crc:08x}{small}"

    def text_checksum(self) -> str:
        """A CRC of the start of every tensor of the text encoder, which the fingerprint leaves out.

        Raises:
            PriorError: after ``unload_text_encoder``.
        """
        if self._text_encoder is None:
            raise PriorError("the text encoder was unloaded: ask for its checksum before")
        return f"{_checksum(self._text_encoder):08x}"

    def describe(self) -> dict[str, Any]:
        """What a run report says of the model; plain JSON values."""
        return {
            "source": self.source,
            "prediction_type": self.prediction_type,
            "image_size": self.image_size,
            "latent_shape": list(self.latent_shape),
            "timesteps": self.T,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "vae_dtype": str(self.vae_dtype).removeprefix("torch."),
            "unet_parameters": sum(p.numel() for p in self.unet.parameters()),
            "gradient_encoder": str(self._small.path) if self._small else None,
            "accelerators": self.accelerators,
        }

    @property
    def accelerators(self) -> dict[str, str]:
        """What :meth:`accelerate` added: 'used', or why not."""
        calls = [call for call in (self._unet_call, self._vae_call) if isinstance(call, Verified)]
        found = {call.name: call.state for call in calls}
        if self._small is not None and isinstance(self._vae_call, Verified):
            found[self._vae_call.name] = "not used: the gradient goes through the small encoder"
        return found

    def accelerate(
        self, *, channels_last: bool = False, compile: bool = False, bf16_encoder: bool = False
    ) -> DiffusersPrior:
        """Ask for faster ways to compute; none of them can make a run fail, what does not work is logged and left out.

        Args:
            channels_last: lay weights out for convolutions.
            compile: ``torch.compile`` for UNet and encoder, compared with the plain way at first, gradients included.
            bf16_encoder: the encoder in bf16, its gradient compared with the plain one's.

        Returns:
            This prior.
        """
        if channels_last:
            use_channels_last(self.unet, self.vae)
        self._unet_call = compiled("UNet", self._plain_unet) if compile else self._plain_unet
        self._vae_call = self._plain_vae
        if bf16_encoder:
            self._vae_call = in_bf16("encoder", self._plain_vae)
        elif compile:
            self._vae_call = compiled("encoder", self._plain_vae)
        return self

    def use_small_encoder(self, small: SmallEncoder) -> DiffusersPrior:
        """Encode with ``small`` from now on. Raises ``PriorError`` when it does not make this VAE's latents.

        Returns:
            This prior; its fingerprint now names the encoder, because gradients differ.
        """
        self._small = None
        check(small, self)
        self._small = small
        self.__dict__.pop("fingerprint", None)
        return self

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Prior.alpha_sigma``. Raises SettingsError for timesteps outside ``0 .. T - 1``."""
        return noise_schedule.alpha_sigma(self.abar, t)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """See ``Prior.embed``. Each text is encoded once and kept; prompts that
        are cut off are reported once for all with the same beginning or the same end.

        Raises:
            PriorError: a new text after ``unload_text_encoder``.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"expected a non-empty sequence of texts, got {texts!r}: pass [text]")
        new = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        if new and self._text_encoder is None:
            raise PriorError(f"the text encoder was unloaded before {new[0]!r} was embedded: load the model again")
        for text in new:
            read, lost = self.tokenizer.split(text)
            if lost and not self._cut & {read, lost}:
                logger.warning(
                    "the text encoder reads %d tokens and ignores %r at the end of %r (the prompt with what view and "
                    "method add to it). Shorten what is yours, and put what matters first; a method's own may stay.",
                    self.tokenizer.length - 2,
                    lost,
                    text,
                )
            self._cut |= {read, lost} if lost else set()
        if new:
            states = self._text_encoder(self.tokenizer(new).to(self.device))[0].float()
            if not torch.isfinite(states).all():
                raise PriorError(f"the text encoder of {self.source} answered non-finite numbers. {self._advice()}")
            self._embeddings.update(zip(new, states, strict=True))
        return torch.stack([self._embeddings[text] for text in texts])

    def unload_text_encoder(self) -> None:
        """Free the text encoder's memory; texts embedded so far stay known."""
        self._text_encoder = None

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See ``Prior.encode``. Latents are ``(z - shift_factor) scaling_factor``, as diffusers' pipelines have them.

        A small encoder has no posterior: ``generator`` is not used with one.

        Raises:
            ValueError: images that are not ``(B, 3, H, W)``.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}: move the channels to axis 1")
        signed = 2 * resize(images, self.image_size) - 1
        if self._small is not None:
            return self._small(signed)
        if generator is None:
            return (self._vae_call(signed.to(self.vae_dtype)).float() - self._shift) * self._scale
        posterior = self.vae.encode(signed.to(self.vae_dtype)).latent_dist
        z: Tensor = posterior.mean.float()
        noise = torch.randn(z.shape, generator=generator, device=generator.device, dtype=torch.float32)
        z = z + posterior.std.float() * noise.to(z.device)
        return (z - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See ``Prior.decode``."""
        z = (latents.float() / self._scale + self._shift).to(self.vae_dtype)
        images = torch.cat([self.vae.decode(part, return_dict=False)[0].float() for part in self._parts(z)])
        return (images / 2 + 0.5).clamp(0, 1)

    def with_freeu(self, settings: FreeUSettings) -> DiffusersPrior:
        """This prior with FreeU on its UNet, over the timestep; the modules are shared and this one stays without.

        Raises:
            PriorError: a UNet that FreeU does not fit.
        """
        if self._freeu is None:
            self._freeu = FreeU(self.unet)
        patched = copy.copy(self)
        patched._freeu_settings = settings if settings.enabled else None
        return patched

    def _evaluate(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        there = upload(t, x.device)
        if self._freeu is None or self._freeu_settings is None:
            return self._unet_call(x, there, cond).float()
        with self._freeu.at(self._freeu_settings, t / self.T, x.device):
            return self._plain_unet(x, there, cond).float()

    def _plain_unet(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.unet(x, t, encoder_hidden_states=cond, return_dict=False)[0]  # type: ignore[no-any-return]

    def _plain_vae(self, signed: Tensor) -> Tensor:
        return self.vae.encode(signed).latent_dist.mean  # type: ignore[no-any-return]

    def _looks(self) -> bool:
        """Whether this answer is to be looked at; every one on a CPU."""
        return self._looked.due(self.device)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See ``Prior.predict_noise``; more than ``max_batch`` samples are split over several evaluations.

        Raises:
            ValueError: shapes that do not agree.
            PriorError: finite inputs and non-finite answers again and again, where they are looked at: of single ones a
                run's guard leaves out the step.
        """
        if not len(x_t) == len(t) == len(cond) or x_t.ndim != 4 or cond.ndim != 3:
            raise ValueError(
                f"expected x_t (N, C, h, w), t (N,) and cond (N, L, D) with one N, got {tuple(x_t.shape)}, "
                f"{tuple(t.shape)} and {tuple(cond.shape)}: repeat t and cond per sample"
            )
        parts = zip(*(self._parts(v) for v in (x_t.to(self.dtype), t, cond.to(self.dtype))), strict=True)
        out = torch.cat([self._evaluate(x, at, c) for x, at, c in parts])
        if self.prediction_type == "v_prediction":
            out = eps_from_v(out, x_t.float(), *(upload(v, x_t.device) for v in self.alpha_sigma(t)))
        if self._looks() and self._looked.gives_up(out, x_t, cond):
            raise PriorError(f"the model {self.source} answered finite input with non-finite noise. {self._advice()}")
        return out

    def _parts(self, batch: Tensor) -> tuple[Tensor, ...]:
        return torch.split(batch, self.max_batch or max(len(batch), 1))

    def _advice(self) -> str:
        if self.dtype == torch.float16:
            return "float16 overflows in some models: load it with dtype='bf16' or dtype='fp32', and start again"
        return "its weights are likely damaged: copy or download the model again, and start again"


def _image_size(sample_size: int | Sequence[int] | None, factor: int, chosen: int | None) -> int:
    if chosen is not None:
        if chosen < factor or chosen % factor:
            raise PriorError(f"expected an image size that is a multiple of {factor}, got {chosen}: choose such a one")
        return chosen
    if sample_size is None:
        raise PriorError("the UNet's config.json has no sample_size: give image_size=... in pixels")
    if not isinstance(sample_size, int):
        if len(set(sample_size)) != 1:
            raise PriorError(f"expected square latents, got sample_size {list(sample_size)}: give image_size=...")
        sample_size = int(sample_size[0])
    if sample_size < 1:
        raise ValueError(f"expected a sample_size of 1 or more in the UNet's config.json, got {sample_size}")
    return sample_size * factor


def _check_parts(unet: nn.Module, vae: nn.Module, text_encoder: nn.Module) -> None:
    u: Any = unet.config
    v: Any = vae.config
    width = text_encoder.config.hidden_size  # type: ignore[union-attr]
    if getattr(u, "addition_embed_type", None) is not None:
        raise PriorError("this UNet takes extra conditions (Stable Diffusion XL does): use Stable Diffusion 1.x or 2.x")
    if getattr(u, "class_embed_type", None) is not None or getattr(u, "num_class_embeds", None) is not None:
        raise PriorError("this UNet wants class labels (up-scalers do): use a plain text-to-image model")
    if u.in_channels != v.latent_channels:
        kind = {9: "an inpainting model", 8: "an instruction-editing model", 5: "a depth-conditioned model"}
        raise PriorError(
            f"this UNet reads {u.in_channels} channels and the VAE makes {v.latent_channels}: it is "
            f"{kind.get(u.in_channels, 'no plain text-to-image model')}; use the text-to-image version"
        )
    if u.out_channels != u.in_channels:
        raise PriorError(f"this UNet answers with {u.out_channels} channels for {u.in_channels}: not supported")
    if u.cross_attention_dim != width:
        raise PriorError(
            f"the UNet expects text embeddings {u.cross_attention_dim} wide, the text encoder makes {width}: "
            "these parts are of different models"
        )


def _checksum(*modules: Any) -> int:
    crc = 0
    for module in modules:
        for value in module.state_dict().values():
            crc = zlib.crc32(value.detach().flatten()[:1024].float().cpu().numpy().tobytes(), crc)
    return crc
