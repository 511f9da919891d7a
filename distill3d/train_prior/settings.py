"""Every knob of a prior's recipe, and the recipes; "bundled", and "faces" twice, made ``assets/tiny-prior``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..errors import SettingsError
from ..world import WorldSettings

TOKENS = 514
"""Tokens of any vocabulary: 256 bytes, the same ending a word, and the two special ones."""
_COUNTS = (
    "renders", "held_out", "vae_groups", "vae_steps", "vae_batch", "vae_warmup", "text_width", "text_layers",
    "unet_groups", "unet_heads", "unet_steps", "unet_batch", "unet_warmup", "checkpoint_every",
)  # fmt: skip
_SHARES = ("vae_constant", "unet_constant", "empty_captions", "final_lr")
_RATES = ("vae_muon_lr", "vae_adam_lr", "unet_muon_lr", "unet_adam_lr", "clip", "snr_cap")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Part:
    """A stretch of the training of UNet and text encoder with a batch, a loss weight and a plan of its own."""

    steps: int
    """Optimizer steps."""
    batch: int
    """Latents a step."""
    snr_cap: float
    """Cap of the min-SNR loss weight."""
    snr_floor: float
    """Floor of the signal-to-noise ratio in that weight."""
    number: int
    """What its first step is called: its rates and draws, and the decay of the averaged weights, go by that. A number
    that comes up twice in a run draws the same twice."""
    planned: int
    """The number by which the learning rate comes to ``final_lr``."""
    constant: float
    """Share of ``planned`` before it falls."""
    fused_attention: bool = False
    """Whether attention takes torch's fused kernel on a CPU too, which is slower and rounds otherwise."""
    fronts: float = 0.0
    """Share of each batch drawn from the renders alone whose caption names the front of an object that has one."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("planned", 1), ("number", 0)):
            value = getattr(self, name)
            if not _whole(value) or value < least:
                raise SettingsError(
                    f"expected {name} as a whole number of {least} or more in a part of unet_parts, got {value!r}"
                )
        if not 0 <= self.snr_floor < float("inf"):
            raise SettingsError(f"expected snr_floor of 0 or more in a part of unet_parts, got {self.snr_floor}")
        if not 0 < self.snr_cap < float("inf"):
            raise SettingsError(f"expected snr_cap above 0 in a part of unet_parts, got {self.snr_cap}")
        if not 0 <= self.constant <= 1:
            raise SettingsError(f"expected constant within 0..1 in a part of unet_parts, got {self.constant}")
        if not 0 <= self.fronts <= 1:
            raise SettingsError(f"expected fronts within 0..1 in a part of unet_parts, got {self.fronts}")


@dataclass(frozen=True)
class TrainPriorSettings:
    """The recipe, in steps so that it is the same on every machine."""

    renders: int = 40_960
    """Training renders; every object gets an even share."""
    held_out: int = 512
    """Renders kept from training, for the autoencoder's gates."""
    world: WorldSettings = field(default_factory=WorldSettings)
    """How training views are drawn."""

    vae_channels: tuple[int, ...] = (32, 64, 128)
    """Channels of the autoencoder's levels; each level after the first halves the side."""
    vae_groups: int = 8
    """Groups of the autoencoder's group norms."""
    vae_steps: int = 4_000
    """Optimizer steps of the autoencoder."""
    vae_batch: int = 4
    """Full frames a step; every second step takes four times as many crops of half the side instead."""
    vae_muon_lr: float = 0.02
    """Muon's learning rate for the autoencoder's inner convolutions."""
    vae_adam_lr: float = 1e-3
    """AdamW's learning rate for the rest of the autoencoder."""
    vae_constant: float = 0.35
    """Share of the steps before the learning rate falls linearly to ``final_lr``."""
    vae_warmup: int = 30
    """Steps over which the autoencoder's learning rate rises."""
    latent_noise: float = 0.05
    """Noise the decoder must bear, in standard deviations of the latents."""
    latent_prior: float = 0.01
    """Weight of the squared distance of the latents' mean and covariance to zero and identity."""

    text_width: int = 128
    """Width of the text encoder and of cross-attention."""
    text_layers: int = 2
    """Layers of the text encoder."""
    text_length: int = 24
    """Longest prompt in tokens, start and end included."""
    vocabulary: int = 640
    """Largest byte-pair vocabulary; 514 of it are bytes and the two special tokens."""
    unet_channels: tuple[int, ...] = (64, 128, 192)
    """Channels of the UNet's levels; all but the first have attention."""
    unet_groups: int = 16
    """Groups of the UNet's group norms."""
    unet_heads: int = 4
    """Attention heads of the UNet and the text encoder."""
    unet_steps: int = 4_000
    """Optimizer steps of UNet and text encoder, together."""
    unet_batch: int = 48
    """Latents a step."""
    unet_muon_lr: float = 0.02
    """Muon's learning rate for inner matrices."""
    unet_adam_lr: float = 2e-3
    """AdamW's learning rate for the rest."""
    unet_constant: float = 0.4
    """Share of the steps before the learning rate falls linearly to ``final_lr``."""
    unet_warmup: int = 60
    """Steps over which the UNet's learning rate rises."""
    empty_captions: float = 0.1
    """Share of captions replaced by the empty prompt, for classifier-free guidance."""
    snr_cap: float = 5.0
    """Cap of the min-SNR loss weight (arXiv 2303.09556)."""
    snr_floor: float = 0.2
    """Floor of the signal-to-noise ratio in that weight, so that the noisy end learns colour from the prompt."""
    unet_parts: tuple[Part, ...] = ()
    """Parts of UNet's and text encoder's run, each with its own batch, loss weight and plan instead of the above. A
    checkpoint goes on with the parts it was made with, no others."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones written."""

    weight_decay: float = 0.1
    """Muon's decoupled weight decay of the UNet; the autoencoder has none."""
    final_lr: float = 0.01
    """Last learning rate as a share of the first."""
    clip: float = 1.0
    """Largest gradient norm."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    bf16: bool = True
    """Compute in bfloat16 under autocast; turn it off for exactly equal runs on different CPUs."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                raise SettingsError(f"expected {name} as a whole number of 1 or more, got {getattr(self, name)!r}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"expected {name} within 0..1, got {getattr(self, name)}")
        for name in _RATES:
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"expected {name} above 0, got {getattr(self, name)}")
        for name in ("latent_noise", "latent_prior", "weight_decay", "snr_floor"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"expected {name} of 0 or more, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise SettingsError(f"expected ema within 0..1 and below 1, got {self.ema}: 0.999 is usual")
        if self.text_length < 3:
            raise SettingsError(f"expected a text_length of 3 or more, got {self.text_length}: start, a word, end")
        if self.vocabulary < TOKENS:
            raise SettingsError(
                f"expected a vocabulary of {TOKENS} or more, got {self.vocabulary}: that many are bytes and two more"
            )
        together = sum(part.steps for part in self.unet_parts)
        if self.unet_parts and together != self.unet_steps:
            raise SettingsError(
                f"expected as many unet_steps as the {len(self.unet_parts)} unet_parts have together, {together}, got "
                f"{self.unet_steps}: ask for {together}, or change the steps of the parts with it"
            )
        if any(part.fronts for part in self.unet_parts) and (self.world.name != "full" or not self.world.front_words):
            raise SettingsError(
                "expected parts of unet_parts without fronts, as no caption of this world names one: set their fronts "
                "to 0, or take the world full with front_words above 0"
            )
        self._check_widths()

    def _check_widths(self) -> None:
        """Channels must fit their groups and heads, and the picture its levels."""
        for part in ("vae", "unet"):
            channels, groups = getattr(self, f"{part}_channels"), getattr(self, f"{part}_groups")
            if not channels or any(c < 1 or c % groups for c in channels):
                raise SettingsError(
                    f"expected {part}_channels that {part}_groups divide, got {channels} and {groups} groups"
                )
        if len(self.unet_channels) < 2:
            raise SettingsError(
                f"expected two or more unet_channels, got {self.unet_channels}: the first has no attention"
            )
        heads = self.unet_heads
        if any(c % heads for c in self.unet_channels[1:]) or self.text_width % heads:
            raise SettingsError(
                f"expected unet_channels after the first, and text_width, that {heads} unet_heads divide, got "
                f"{self.unet_channels} and {self.text_width}"
            )
        halvings = len(self.vae_channels) + len(self.unet_channels) - 2
        if self.world.image_size % 2**halvings or self.world.image_size < 2 ** (halvings + 1):
            raise SettingsError(
                f"expected a world.image_size that autoencoder and UNet can halve {halvings} times, got "
                f"{self.world.image_size}: use a multiple of {2**halvings}, or fewer levels"
            )


OF_PARTS = {"unet_batch": "batch", "unet_constant": "constant", "snr_cap": "snr_cap", "snr_floor": "snr_floor"}
"""Settings that a run in parts does not use, and what its parts have in their place."""
OF_AUTOENCODER = (
    "vae_steps", "vae_batch", "vae_muon_lr", "vae_adam_lr", "vae_constant", "vae_warmup", "latent_noise",
    "latent_prior", "vocabulary",
)  # fmt: skip
"""Settings that a run from another prior does not use, because its autoencoder and words stay as they are."""
_FREE = ("held_out", "checkpoint_every", "vae_steps", "unet_steps")
_OF_THE_OTHER = {
    "vae": ("unet_", "text_", "snr_", "vocabulary", "empty_captions", "weight_decay"),
    "unet": ("vae_", "latent_"),
}


def part_facts(part: Part) -> dict[str, Any]:
    """A part as a card and a checkpoint have it: without fronts where it has none, as before there were any."""
    facts = asdict(part)
    return {name: value for name, value in facts.items() if name != "fronts" or value}


def compared(settings: TrainPriorSettings, stage: Literal["vae", "unet"]) -> dict[str, Any]:
    """What a checkpoint of the stage must agree with, as JSON gives it back; more steps go on with what there is.

    A run without parts has None for them, which is also what checkpoints have that do not name them.
    """
    facts: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    facts["unet_parts"] = [part_facts(part) for part in settings.unet_parts] or None
    return {n: v for n, v in facts.items() if n not in _FREE and not n.startswith(_OF_THE_OTHER[stage])}


RECIPE = TrainPriorSettings()
"""The plain world, in two hours on two cores."""

_FULL = TrainPriorSettings(
    renders=61_440,
    held_out=768,
    world=WorldSettings(name="full"),
    vae_steps=3_500,
    vae_batch=8,
    text_width=160,
    text_layers=3,
    vocabulary=1024,
    unet_batch=96,
    unet_steps=12_500,
    unet_constant=0.1,
    snr_cap=3.0,
    snr_floor=0.06,
)

FULL_RECIPE = replace(
    _FULL,
    vae_steps=4_500,
    unet_steps=12_000,
    unet_parts=(
        Part(5_000, 96, 3.0, 0.06, number=0, planned=12_500, constant=0.1),
        Part(3_500, 96, 5.0, 0.2, number=16_900, planned=23_900, constant=0.0),
        Part(3_500, 96, 5.0, 0.2, number=20_400, planned=23_900, constant=0.0, fronts=0.25),
    ),
)
"""The full world from random weights: on a CPU many hours on two cores, to be stopped and called again at any time. The
second part's rates, from 0.3 of the first's, are what lets words for views be learned; the third shows more fronts."""

BUNDLED_RECIPE = replace(
    _FULL,
    unet_steps=17_500,
    unet_parts=(
        Part(3_243, 48, 5.0, 0.2, number=0, planned=7_000, constant=0.31, fused_attention=True),
        Part(6_757, 48, 5.0, 0.2, number=3_243, planned=10_000, constant=0.217, fused_attention=True),
        Part(4_000, 96, 5.0, 0.2, number=5_000, planned=9_000, constant=0.1),
        Part(3_500, 96, 3.0, 0.06, number=9_000, planned=12_500, constant=0.1),
    ),
)
"""What the bundled prior was before its last two stages, with the plans that were changed on the way. Rates and numbers
are those of its log; that attention changed with the third part is inferred, as both came in one change."""

FACES_RECIPE = replace(
    _FULL,
    renders=40_960,
    unet_muon_lr=0.0036,
    unet_adam_lr=3.6e-4,
    unet_steps=1_950,
    unet_parts=(Part(1_950, 48, 5.0, 0.2, number=0, planned=1_950, constant=0.0, fronts=0.25),),
    bf16=False,
)
"""The bundled prior's last two stages, each from the weights before: low rates, more weight on noisy pictures, and a
quarter of each batch of objects seen from their front. See docs/tuning.md for why."""

CUDA_RECIPE = replace(
    _FULL,
    renders=122_880,
    vae_steps=6_000,
    vae_batch=32,
    unet_channels=(80, 160, 240),
    ema=0.9995,
    unet_steps=8_000,
    unet_batch=512,
    unet_warmup=200,
    unet_muon_lr=0.01,
    unet_adam_lr=1.25e-3,
    snr_cap=5.0,
    snr_floor=0.2,
    checkpoint_every=1_000,
)
"""The full world on one GPU, meant for about 20 minutes in one piece; its pace has not been measured yet. Half of the
rates and more weight on noisy pictures, for what made a prior deaf to views on a CPU (docs/tuning.md)."""

RECIPES = {
    "plain": RECIPE,
    "full": FULL_RECIPE,
    "bundled": BUNDLED_RECIPE,
    "faces": FACES_RECIPE,
    "full-cuda": CUDA_RECIPE,
}


def recipe(name: str) -> TrainPriorSettings:
    """A recipe by name.

    Raises:
        SettingsError: there is none of that name.
    """
    if name not in RECIPES:
        raise SettingsError(f"unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
