"""What a diffusion model must answer so that a 3D object can be distilled from it.

Score distillation (DreamFusion, https://arxiv.org/abs/2209.14988) needs five things of a model: its alpha and sigma,
text embeddings, an encoder that passes gradients to the image, a decoder to look at latents, and a noise prediction.
Methods see nothing else, so anything that implements ``Prior`` can be distilled: the diffusers models of
``diffusers_prior``, the closed-form ones of ``analytic``, or a host's own model behind an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Prior(Protocol):
    """A text-conditioned denoiser in variance-preserving form, ``x_t = alpha_t x + sigma_t eps``.

    Nothing here is a parameter of the optimisation: only ``encode`` passes gradients, and only to the images.

    One with a true ``takes_samples`` is told by ``predict_noise(..., samples=...)`` which sample each row is of. One
    whose ``guide`` is not None changes guided predictions, and is asked by ``predict_guided`` of the same arguments for
    both: the plain predictions and the changed ones.
    """

    @property
    def T(self) -> int:
        """Number of training timesteps; valid ``t`` are ``0 .. T - 1`` (1000 for Stable Diffusion)."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)`` of one latent, ``(4, 64, 64)`` for Stable Diffusion at 512 pixels."""
        ...

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that ``encode`` works on and ``decode`` returns."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model lives; tensors handed in must be there, but timesteps may be on the host."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision the denoiser computes in. Tensors in and out are float32 all the same."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short text that differs between models, weights and precisions: what a resumed run compares."""
        ...

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(B,)`` long timesteps -> ``alpha_t``, ``sigma_t``, two ``(B, 1, 1, 1)`` float32, squares adding to 1."""
        ...

    def embed(self, texts: Sequence[str]) -> Tensor:
        """``n`` texts -> ``(n, L, D)`` float32 embeddings without gradient; the empty text is the null prompt."""
        ...

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``(B, 3, H, W)`` float32 images in 0..1 -> ``(B, C, h, w)`` float32 scaled latents.

        Differentiable to ``images``. Any H and W are resized bilinearly to ``image_size``. Without a generator the
        result is the posterior mean, the same at every call; with one it is a posterior sample.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """``(B, C, h, w)`` scaled latents -> ``(B, 3, S, S)`` float32 images in 0..1, without gradient."""
        ...

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The model's ``eps(x_t; t, cond)``, float32, without gradient and without guidance.

        ``x_t`` is ``(N, C, h, w)``, ``t`` ``(N,)`` long, ``cond`` ``(N, L, D)``: every sample has its own timestep and
        its own condition, and all of them are answered in one evaluation. ``t`` comes on the host in a run, so that a
        model that has to look at it need not wait for its device. A model that predicts ``v`` converts:
        ``eps = sigma_t x_t + alpha_t v`` (https://arxiv.org/abs/2202.00512, appendix D).
        """
        ...
