"""FreeU over the diffusion timestep, for diffusers UNets. https://arxiv.org/abs/2309.11497.

That it follows the timestep is arXiv 2505.19868's; direction, form and end points of the schedule are ours.

At the input of every decoder layer, before the backbone features h and the skip features are joined, half the channels
of h are raised by b and the lowest frequencies of the skip are lowered by s. Here b and s are schedules over t / T and
every sample has its own. A UNet is patched by hooks that do nothing outside a ``FreeU.at`` block, so the model a caller
shares stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..devices import upload
from ..errors import PriorError, SettingsError
from ..schedules import Constant, Linear, Schedule, parse

if TYPE_CHECKING:
    from PIL.Image import Image

VERSIONS = ("v1", "v2")
LAYERS = ("width", "block")
FIRST, LAST = 0.02, 0.98


def backbone(h: Tensor, b: Tensor, version: str = "v2") -> Tensor:
    """The first half of the channels of ``(N, C, H, W)`` raised by ``b`` ``(N, 1, 1, 1)``; the rest untouched.

    v1: ``h b``. v2: ``h (1 + (b - 1) m)`` with m the mean over all channels, scaled to 0..1 for each sample, so that
    only where the features are strong are they raised. b = 1 gives h back exactly. Computed in float32. FreeU, eq. 2
    and its code.
    """
    half = h.shape[1] // 2
    factor = b.float()
    if version == "v2":
        m = h.float().mean(1, keepdim=True)
        low, high = m.amin((2, 3), keepdim=True), m.amax((2, 3), keepdim=True)
        span = high - low
        m = torch.where(span > 0, (m - low) / torch.where(span > 0, span, 1), 0)
        factor = 1 + (factor - 1) * m
    return torch.cat([(h[:, :half].float() * factor).to(h.dtype), h[:, half:]], 1)


def skip(features: Tensor, s: Tensor) -> Tensor:
    """``(N, C, H, W)`` with its four lowest frequencies scaled by ``s`` ``(N, 1, 1, 1)``, as FreeU's Fourier filter.

    The 2x2 mask of the shifted spectrum is not symmetric, so the real part has gain s at frequency 0, (1 + s) / 2 at
    its neighbours (but (1, -1)) and 1 elsewhere. Samples with s = 1 come back exactly. Computed in float32.
    """
    spectrum = torch.fft.fftshift(torch.fft.fftn(features.float(), dim=(-2, -1)), dim=(-2, -1))
    row, column = features.shape[-2] // 2, features.shape[-1] // 2
    mask = torch.ones(len(features), 1, *features.shape[-2:], device=features.device)
    mask[:, :, max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1] = s.float()
    filtered = torch.fft.ifftn(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)), dim=(-2, -1)).real
    return torch.where(s == 1, features, filtered.to(features.dtype))


@dataclass(frozen=True)
class FreeUSettings:
    """FreeU on the diffusion model. Schedules run over the timestep, 0 a clean picture and 1 pure noise, not over the
    run; end points and direction are our reading of arXiv 2505.19868."""

    enabled: bool = False
    """Patch the diffusion model with FreeU: more texture detail, and with large values more defects of shape."""
    version: str = "v2"
    """v2 raises features only where they are strong; v1 raises them everywhere."""
    b1: Schedule = field(default=Linear(1.4, 1.0, FIRST, LAST))
    """Backbone factor of the widest decoder layers, 1 is off; 1.4 is FreeU's for SD 2.1 (v2), 1.1 for v1. Strong at low
    noise, where texture forms, and off at high noise, where the shape does."""
    b2: Schedule = field(default=Linear(1.6, 1.0, FIRST, LAST))
    """Backbone factor of the second-widest decoder layers, 1 is off; 1.6 for SD 2.1 (v2), 1.2 for v1."""
    s1: Schedule = Constant(1.0)
    """Factor of the skip's lowest frequencies in the widest layers, above 0, 1 is off; it hardly matters in
    distillation."""
    s2: Schedule = Constant(1.0)
    """The same in the second-widest layers."""
    layers: str = "width"
    """Which layers are the two: width (by channels, as FreeU's code and ComfyUI do), or block (the first two decoder
    blocks, as diffusers does)."""

    def __post_init__(self) -> None:
        for name in ("b1", "b2", "s1", "s2"):
            schedule = parse(getattr(self, name))
            object.__setattr__(self, name, schedule)
            if schedule.extremes()[0] <= 0:
                raise SettingsError(f"expected freeu.{name} above 0 throughout, got {schedule}: 1 is off")
        if self.version not in VERSIONS:
            raise SettingsError(f"expected freeu.version as {' or '.join(VERSIONS)}, got {self.version!r}: choose one")
        if self.layers not in LAYERS:
            raise SettingsError(f"expected freeu.layers as {' or '.join(LAYERS)}, got {self.layers!r}: choose one")

    def plot(self, title: str = "", *, size: tuple[int, int] = (480, 240)) -> Image:
        """A PIL picture of the four factors over the timestep."""
        from ..plots import chart

        shares = [i / 200 for i in range(201)]
        lines = {name: [(p, getattr(self, name)(p)) for p in shares] for name in ("b1", "b2", "s1", "s2")}
        return chart(lines, title=title, x="t / T (0 clean, 1 noise)", y="factor", size=size)


def dynamic(b1: float, b2: float, *, reverse: bool = False, version: str = "v2") -> FreeUSettings:
    """``b(t) = 1 + (b_max - 1)(1 - clip((t - 20) / 960, 0, 1))``, our reading of arXiv 2505.19868.

    ``reverse`` makes it strong at high noise instead.
    """
    ends = ((1.0, b) if reverse else (b, 1.0) for b in (b1, b2))
    first, second = (Linear(start, end, FIRST, LAST) for start, end in ends)
    return FreeUSettings(True, version, first, second)


@dataclass
class FreeU:
    """Hooks on one UNet's decoder, inactive except inside ``at``."""

    unet: Any
    _now: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        layers = _decoder(self.unet)
        widths = sorted({channels for channels, _, _ in layers}, reverse=True)
        for channels, block, resnet in layers:
            hook = self._hook(channels, widths.index(channels), block)
            resnet.register_forward_pre_hook(hook, with_kwargs=True)

    def _hook(self, channels: int, by_width: int, block: int) -> Any:
        def apply(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._now is None:
                return None
            level = by_width if self._now["layers"] == "width" else block
            if level > 1:
                return None
            x = args[0]
            b, s = self._now[f"b{level + 1}"], self._now[f"s{level + 1}"]
            h = backbone(x[:, :channels], b, self._now["version"])
            rest = x[:, channels:]
            if not self._now[f"s{level + 1} off"]:
                rest = skip(rest, s)
            return (torch.cat([h, rest], 1), *args[1:]), kwargs

        return apply

    @contextmanager
    def at(self, settings: FreeUSettings, time: Tensor, device: torch.device) -> Iterator[None]:
        """Inside this block the UNet on ``device`` runs with FreeU at ``(N,)`` t / T, one for each of its N samples.

        ``time`` is looked at: nobody waits for it on the host.
        """
        shares = time.tolist()
        now: dict[str, Any] = {"version": settings.version, "layers": settings.layers}
        for name in ("b1", "b2", "s1", "s2"):
            schedule: Schedule = getattr(settings, name)
            values = torch.tensor([schedule(share) for share in shares])
            now[f"{name} off"] = bool((values == 1).all())
            now[name] = upload(values, device).reshape(-1, 1, 1, 1)
        self._now = now
        try:
            yield
        finally:
            self._now = None


def _decoder(unet: Any) -> list[tuple[int, int, nn.Module]]:
    """Backbone channels, block and module of every decoder layer; the rest of its input is the skip.

    Raises:
        PriorError: a UNet without diffusers' decoder blocks.
    """
    blocks = getattr(unet, "up_blocks", None)
    if not blocks or not all(hasattr(block, "resnets") for block in blocks):
        raise PriorError("FreeU needs a diffusers UNet with up_blocks of resnets, got another kind: turn FreeU off")
    incoming = unet.mid_block.resnets[-1].out_channels
    found = []
    for number, block in enumerate(blocks):
        for resnet in block.resnets:
            found.append((incoming, number, resnet))
            incoming = resnet.out_channels
    return found
