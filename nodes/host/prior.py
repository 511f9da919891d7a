"""The host's MODEL, CLIP and VAE behind the library's ``Prior``: what the optimisation loop sees of ComfyUI.

Lives inside a sampler run by ``CFGGuider`` (see ``run``), so the host has loaded and patched the model and cleans up
after it. An embedding here is a handle, ``(first, second, share)``: the places of two texts' prepared conditionings and
the share of the first. Their tensors, ControlNet and hooks stay with the host, and every sample has a text of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...distill3d.devices import upload
from ...distill3d.errors import PriorError
from ...distill3d.priors.looks import Looks
from .conditioning import Cond, join, joinable, mix
from .space import Space

MOST_JOINED = 256
Handle = tuple[int, int, float]
Rows = list[tuple[int, int]]
"""Sample and timestep of every row of a batch."""
Equal = Callable[[slice, slice], bool]
Guide = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Callable[[slice], "list[list[Cond]] | None"]], Tensor]
"""``(positive x0, negative x0, x, t, sigma, conds of some samples) -> positive x0``: see ``guidance.make_guide``."""


class HostPrior:
    """Implements ``Prior`` over a loaded model.

    Args:
        model: the host's ``BaseModel``, inside a run of its guider.
        conds: each text's prepared conditioning.
        options: the run's ``model_options``, with every patch the user put on the MODEL.
        encoder: gradient to the image.
        decode: scaled latents to images, for looking at them.
        device: where the model computes.
        image_size: side in pixels.
        fingerprint: see ``fingerprint.of``.
        describe: what a report says of the model.
        guide: changes a step's positive answers, for patches that act on guidance.
        positive: the texts that say what to make; patches such as an image adapter's treat all others as negative.
    """

    takes_samples = True
    """See ``Prior``: which rows are of one sample is known before a step, and nobody has to compare them."""

    def __init__(
        self,
        model: Any,
        conds: Mapping[str, list[Cond]],
        options: dict[str, Any],
        encoder: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        *,
        device: torch.device,
        image_size: int,
        latent_shape: tuple[int, int, int],
        fingerprint: str,
        describe: Mapping[str, Any],
        guide: Guide | None = None,
        positive: Collection[str] = (),
    ) -> None:
        self._model, self._options, self._encoder, self._decode = model, options, encoder, decode
        self._order = {text: index for index, text in enumerate(conds)}
        self._conds = list(conds.values())
        self._negative = [text not in positive for text in conds]
        self._patched = bool(positive) and _looks_at_roles(options)
        self._joined: dict[tuple[Handle, ...], list[Cond] | None] = {}
        self._describe, self.guide = dict(describe), guide
        self.space = Space.of(model.model_sampling)
        self.device, self.image_size, self.latent_shape = device, image_size, latent_shape
        self.fingerprint = fingerprint
        self.source = str(describe.get("source", ""))
        self.max_batch: int | None = None
        self._looked = Looks()

    @property
    def T(self) -> int:
        return self.space.T

    @property
    def dtype(self) -> torch.dtype:
        return self._model.get_dtype_inference()  # type: ignore[no-any-return]

    def describe(self) -> dict[str, Any]:
        """What a run report says of the model; plain JSON values."""
        return {
            **self._describe,
            "image_size": self.image_size,
            "latent_shape": list(self.latent_shape),
            "timesteps": self.T,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Prior.alpha_sigma``."""
        return self.space.alpha_sigma(t)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """``n`` texts -> ``(n, 1, 3)`` on the host: handles of their conditionings.

        Raises:
            PriorError: an unknown text.
        """
        unknown = [text for text in texts if text not in self._order]
        if unknown:
            raise PriorError(f"the text {unknown[0]!r} was not encoded before the run: run the prompts node again")
        handles = [(float(self._order[text]), float(self._order[text]), 1.0) for text in texts]
        return torch.tensor(handles).reshape(-1, 1, 3)

    @staticmethod
    def blend(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
        """Handles of ``share * first + (1 - share) * second``; ``(N, 1, 3)`` of whole texts, share ``(N, 1, 1)``."""
        return torch.cat([first[..., :1], second[..., :1], share.to(first)], -1)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See ``Prior.encode``; always the posterior mean, which is what the host's VAE gives."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}: move the channels to axis 1")
        return self._encoder(images)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See ``Prior.decode``."""
        return torch.cat([self._decode(part) for part in latents.split(self.max_batch or max(len(latents), 1))])

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        """See ``Prior.predict_noise``. Samples that differ only in their text share one evaluation of the model.

        ``samples`` says which sample each row is of; without, rows are compared, and the device is waited for.

        Raises:
            ValueError: shapes that do not agree.
            PriorError: finite inputs and non-finite answers again and again, where they are looked at.
        """
        return self._predictions(x_t, t, cond, samples, None)[0]

    @torch.no_grad()
    def predict_guided(
        self, x_t: Tensor, t: Tensor, cond: Tensor, samples: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See ``Prior``: ``predict_noise``, and the same with the positive predictions as ``guide`` changes them.

        Raises:
            ValueError, PriorError: as ``predict_noise``; and no positive and negative prediction side by side.
        """
        return self._predictions(x_t, t, cond, samples, self.guide)

    def _predictions(
        self, x_t: Tensor, t: Tensor, cond: Tensor, samples: Sequence[int] | None, guide: Guide | None
    ) -> tuple[Tensor, Tensor]:
        if not len(x_t) == len(t) == len(cond) or x_t.ndim != 4:
            raise ValueError(
                f"expected x_t (N, C, h, w), t (N,) and cond (N, 1, 3) with one N, got {tuple(x_t.shape)}, "
                f"{tuple(t.shape)} and {tuple(cond.shape)}: repeat t and cond per sample"
            )
        s = upload(self.space.sigma(t), x_t.device)
        x = x_t.float() * self.space.length(s)
        rows = None if samples is None else list(zip(samples, t.tolist(), strict=True))
        texts = [(round(a), round(b), share) for a, b, share in cond.reshape(-1, 3).tolist()]
        step = self.max_batch or max(len(x), 1)
        cuts = [*range(0, len(x), step), len(x)]
        parts = [
            self._predict(x[a:b], s[a:b], texts[a:b], None if rows is None else rows[a:b])
            for a, b in itertools.pairwise(cuts)
        ]
        x0 = torch.cat(parts)
        plain = self.space.noise(x, x0, s)
        guided = plain
        if guide is not None:
            guided = self.space.noise(x, self._guided(guide, x0, x, t, s, texts, rows), s)
        if self._looks() and self._looked.gives_up(guided, x_t):
            raise PriorError(
                "the MODEL answered finite input with non-finite noise: float16 overflows in some models. Start the "
                "host with --force-fp32, or load the model in bf16 or fp32, and start again"
            )
        return plain, guided

    def _looks(self) -> bool:
        """Whether this answer is to be looked at; every one on a CPU. A run's guard sees all of them."""
        return self._looked.due(self.device)

    def _predict(self, x: Tensor, s: Tensor, texts: list[Handle], rows: Rows | None) -> Tensor:
        blocks = _blocks(_equal(x, s, rows), len(x))
        size = len(x) // blocks
        roles = [self._negative[first] for first, _, _ in texts]
        if self._patched and (blocks > 2 or roles != [False] * size + [True] * (len(x) - size)):
            return self._by_role(x, s, texts, roles)
        x_in, s_in = x[:size], s[:size]
        conds = [self._cond(tuple(texts[i * size : (i + 1) * size])) for i in range(blocks)]
        known = [cond for cond in conds if cond is not None]
        if len(known) < len(conds):
            return torch.cat([self._ask([self._one(k)], x[i : i + 1], s[i : i + 1])[0] for i, k in enumerate(texts)])
        return torch.cat(self._ask(known, x_in, s_in))

    def _by_role(self, x: Tensor, s: Tensor, texts: list[Handle], roles: list[bool]) -> Tensor:
        """Positive and negative rows apart, the first in the place of the host's positive conditioning and the others
        in that of its negative one: which of its places a row takes is all that some patches see."""
        out = torch.empty_like(x)
        for negative in (False, True):
            places = [i for i, role in enumerate(roles) if role is negative]
            whole = self._cond(tuple(texts[i] for i in places)) if places else None
            single = [([i], self._one(texts[i])) for i in places] if whole is None else []
            for group, cond in single if whole is None else [(places, whole)]:
                at = upload(torch.tensor(group), x.device)
                out[at] = self._ask([None, cond] if negative else [cond], x[at], s[at])[-1]
        return out

    def _guided(
        self, guide: Guide, x0: Tensor, x: Tensor, t: Tensor, s: Tensor, texts: list[Handle], rows: Rows | None
    ) -> Tensor:
        """The answers with the positive ones, which come first and the negative ones after them, changed."""
        size = _views(_equal(x, s, rows), len(x))
        if size == 0:
            raise PriorError(
                "the MODEL has a patch that acts on guidance, such as RescaleCFG, and this step asks for no positive "
                "and negative prediction side by side: take the patch off, or use SDS or ASD with a negative prompt "
                "that is not the prompt itself"
            )

        def conds(r: slice) -> list[list[Cond]] | None:
            found = [self._cond(tuple(texts[begin + r.start : begin + r.stop])) for begin in (0, size)]
            return [cond for cond in found if cond is not None] if None not in found else None

        moved = guide(x0[:size], x0[size : 2 * size], x[:size], t[:size], s[:size], conds)
        return torch.cat([moved, x0[size:]])

    def _ask(self, conds: Sequence[list[Cond] | None], x: Tensor, s: Tensor) -> list[Tensor]:
        answers = comfy.samplers.calc_cond_batch(self._model, conds, x.clone(), s.clone(), self._options)
        return [answer.float() for answer in answers]

    def _one(self, text: Handle) -> list[Cond]:
        first, second, share = text
        return self._conds[first] if share == 1 else mix(self._conds[first], self._conds[second], share)

    def _cond(self, texts: tuple[Handle, ...]) -> list[Cond] | None:
        """The conditioning of a batch of texts; None where each needs an evaluation of its own."""
        if texts in self._joined:
            return self._joined[texts]
        parts = [self._one(k) for k in texts]
        found = parts[0] if len(set(texts)) == 1 else join(parts) if joinable(parts) else None
        if all(share == 1 for _, _, share in texts):  # a blend comes once
            if len(self._joined) >= MOST_JOINED:
                self._joined.clear()
            self._joined[texts] = found
        return found


def _looks_at_roles(options: Mapping[str, Any]) -> bool:
    """Whether anything in a run's ``model_options`` may ask which rows are positive."""
    inner = options.get("transformer_options", {})
    return bool(inner.get("patches") or inner.get("patches_replace") or options.get("model_function_wrapper"))


def _equal(x: Tensor, s: Tensor, rows: Rows | None) -> Equal:
    """What tells whether two stretches of a batch are the same latents at the same noise levels.

    Latents of different samples differ in their noise everywhere, so ``rows``, where they are given, say the same.
    """
    if rows is not None:
        return lambda a, b: rows[a] == rows[b]
    return lambda a, b: torch.equal(x[a], x[b]) and torch.equal(s[a], s[b])


def _views(equal: Equal, count: int) -> int:
    """How many samples a step has, 0 where the batch does not begin with each of them twice in the same order.

    Other predictions may follow: at other timesteps, or for some of the samples only. Samples differ in their noise, so
    the smallest stretch that comes twice is all of them.
    """
    sizes = range(1, count // 2 + 1)
    return next((size for size in sizes if equal(slice(0, size), slice(size, 2 * size))), 0)


def _blocks(equal: Equal, count: int) -> int:
    """How many equal stretches the batch consists of: the evaluations of one noised latent under several texts.

    Told apart, the host sees them as it sees positive and negative, which some patches look at.
    """
    for blocks in range(count, 1, -1):
        size, rest = divmod(count, blocks)
        if not rest and all(equal(slice(i * size, (i + 1) * size), slice(0, size)) for i in range(1, blocks)):
            return blocks
    return 1
