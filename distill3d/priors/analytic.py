"""Priors whose score is known in closed form, for tests and for toys that run in a second.

Data of text c is a mixture of K Gaussians with equal shares, ``x ~ sum_k N(mu_k, diag(std_k^2)) / K``. Noised,
``x_t = alpha x + sigma eps`` is again such a mixture with means ``alpha mu_k`` and variances
``v_k = alpha^2 std_k^2 + sigma^2``, so the ideal model's answer is

    e(c) = -sigma grad log p_t(x_t | c) = sigma sum_k r_k (x_t - alpha mu_k) / v_k,   r = softmax(log N_k(x_t))

(score and noise prediction: https://arxiv.org/abs/2011.13456; mixtures by hand: Bishop, PRML, section 9.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..devices import upload
from ..errors import SettingsError
from . import noise_schedule


class GaussianPrior:
    """A ``Prior`` over a Gaussian, or a mixture of them, for each text.

    Latents are the images themselves, resized to ``(h, w)``. A text is looked up whole, then by its longest known
    beginning, so "a cube, front view" finds "a cube". Unless the empty text is given it is the mixture of all others.

    Args:
        means: text -> mean ``(C, h, w)``, or ``(K, C, h, w)`` for a mixture; all of one ``(C, h, w)``.
        std: standard deviation, above 0: one number, a tensor broadcast to ``(C, h, w)``, or one of these per text.
        abar: ``(T,)`` table of cumulative alphas; Stable Diffusion's by default.

    Raises:
        SettingsError: no means, means of different shapes, or a std that is missing or not above 0.
    """

    def __init__(
        self,
        means: Mapping[str, Tensor],
        std: float | Tensor | Mapping[str, float | Tensor] = 0.1,
        *,
        abar: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not means:
            raise SettingsError("expected at least one text with its mean, got none: pass {'a cube': tensor}")
        shape = next(iter(means.values())).shape[-3:]
        if any(m.ndim not in (3, 4) or m.shape[-3:] != shape for m in means.values()):
            raise SettingsError(
                "expected means (C, h, w) or (K, C, h, w) of one shape, got "
                + ", ".join(f"{text!r}: {tuple(m.shape)}" for text, m in means.items())
            )
        self.latent_shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.device = torch.device(device)
        self.dtype = torch.float32
        self.abar = noise_schedule.alphas_cumprod() if abar is None else abar
        self._codes = {text: self._code(text, mean, std) for text, mean in means.items()}
        self._codes.setdefault("", torch.cat(list(self._codes.values())))

    @property
    def T(self) -> int:
        return len(self.abar)

    @property
    def image_size(self) -> int:
        return self.latent_shape[-1]

    @property
    def fingerprint(self) -> str:
        """See ``Prior.fingerprint``."""
        crc = 0
        for text, code in sorted(self._codes.items()):
            crc = zlib.crc32(text.encode() + code.numpy(force=True).tobytes(), crc)
        return f"analytic {crc:08x}"

    def _code(self, text: str, mean: Tensor, std: float | Tensor | Mapping[str, float | Tensor]) -> Tensor:
        """``(K, 2 C h w + 1)``: mean, std and share of each component."""
        if isinstance(std, Mapping):
            if text not in std:
                raise SettingsError(f"expected a std for every text, got none for {text!r}: add it")
            std = std[text]
        mean = mean.detach().float().reshape(-1, *self.latent_shape)
        spread = torch.as_tensor(std, dtype=torch.float32).expand(self.latent_shape)
        if not bool((spread > 0).all()):
            raise SettingsError(f"expected a std above 0, got {float(spread.min())} for {text!r}: 0.1 is a narrow mode")
        flat = spread.reshape(1, -1).expand(len(mean), -1)
        return torch.cat([mean.flatten(1), flat, torch.ones(len(mean), 1)], dim=1).to(self.device)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return noise_schedule.alpha_sigma(self.abar, t)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """``(n, K, 2 C h w + 1)``; texts with fewer components are filled up with some of share 0.

        Raises:
            SettingsError: a text that begins with none of the known ones.
        """
        codes = [self._codes[self._known(text)] for text in texts]
        out = torch.zeros(len(codes), max(map(len, codes)), codes[0].shape[1], device=self.device)
        for i, code in enumerate(codes):
            out[i, : len(code)] = code
            out[i, len(code) :, :-1] = code[:1, :-1]
        return out

    def _known(self, text: str) -> str:
        if text in self._codes:
            return text
        known = [k for k in self._codes if k and text.startswith(k)]
        if not known:
            raise SettingsError(
                f"expected a text beginning with one of {sorted(self._codes)}, got {text!r}: add its mean"
            )
        return max(known, key=len)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        size = self.latent_shape[1:]
        if images.shape[1] != self.latent_shape[0]:
            raise SettingsError(
                f"expected images with {self.latent_shape[0]} channels, got shape {tuple(images.shape)}"
            )
        if tuple(images.shape[-2:]) == size:
            return images
        return torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        alpha, sigma = (upload(v, x_t.device).reshape(-1, 1, 1) for v in self.alpha_sigma(t))
        d = x_t[0].numel()
        mean, std, share = cond[..., :d], cond[..., d:-1], cond[..., -1:]
        gap = x_t.reshape(len(x_t), 1, d) - alpha * mean
        variance = (alpha * std) ** 2 + sigma**2
        log_density = (-0.5 * (gap**2 / variance + variance.log())).sum(-1, keepdim=True) + share.log()
        r = torch.softmax(log_density, dim=1)
        eps: Tensor = sigma * (r * gap / variance).sum(1, keepdim=True)
        return eps.reshape(x_t.shape)
