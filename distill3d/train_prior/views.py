"""Whether the UNet hears what a caption says of the view, told while it trains.

The loss does not show it: front and back differ in a few pixels of a few pictures, so a model that is deaf to the words
loses next to nothing by it, and may be so for thousands of steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..world import FIGURES
from .denoiser import scheduler
from .settings import TrainPriorSettings

TIMESTEPS = (450, 600, 750)
"""Where noise hides the view of a picture and not yet all of it."""
PICTURES = 256
_VIEW = re.compile(r"\b(front|back)(?= view\b)")
_FIGURE = re.compile(rf"\b({'|'.join(FIGURES)})\b")


def turned(caption: str) -> str | None:
    """The caption with front and back exchanged; None where it names neither or its object has no front.

    >>> turned("a front view of a red mug"), turned("a red cube, back view")
    ('a back view of a red mug', None)
    """
    if not _FIGURE.search(caption) or not _VIEW.search(caption):
        return None
    return _VIEW.sub(lambda found: "back" if found[1] == "front" else "front", caption)


def front_rows(captions: Sequence[str]) -> Tensor:
    """Places ``(n,)`` int64 of the captions that name the front of an object that has one.

    >>> front_rows(["a red cube, front view", "a front view of a red mug", "a red mug, side view"])
    tensor([1])
    """
    named = [row for row, caption in enumerate(captions) if "front view" in caption and _FIGURE.search(caption)]
    return torch.tensor(named, dtype=torch.int64)


def hearing(
    unet: Any,
    text: Any,
    latents: Tensor,
    captions: Sequence[str],
    tokens: Callable[[list[str]], Tensor],
    settings: TrainPriorSettings,
    device: torch.device,
) -> Callable[[], float]:
    """A measure of the live networks: how much larger the squared error is, as a share, under ``turned`` captions.

    0 is deaf; the mean over ``TIMESTEPS`` and the first ``PICTURES`` pictures of objects with a front whose captions
    say front or back, always with the same noise. Not a number where there is no such picture.
    """
    pairs = [(row, other) for row, caption in enumerate(captions) if (other := turned(caption))][:PICTURES]
    rows = [row for row, _ in pairs]
    clean = latents[rows].float()
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(len(TIMESTEPS), *clean.shape, generator=g)
    alpha_bar = scheduler().alphas_cumprod[list(TIMESTEPS)].view(-1, 1, 1, 1, 1)
    noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    asked = [tokens([captions[row] for row in rows]), tokens([other for _, other in pairs])] if pairs else []

    def error(ids: Tensor, i: int) -> Tensor:
        context = text(ids.to(device)).last_hidden_state.float()
        t = torch.full((len(rows),), TIMESTEPS[i], device=device)
        out = unet(noisy[i].to(device, memory_format=torch.channels_last), t, context, return_dict=False)[0]
        off: Tensor = out.float().cpu() - noise[i]
        return off.square().mean()

    @torch.no_grad()
    def measure() -> float:
        if not pairs:
            return float("nan")
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            both = torch.stack([torch.stack([error(ids, i) for i in range(len(TIMESTEPS))]) for ids in asked])
        return float((both[1] / both[0] - 1).mean())

    return measure
