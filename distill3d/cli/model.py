"""Flags that name the diffusion model, and the settings that suit it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ..errors import PriorError
from ..methods import METHODS
from ..optimize import PRESETS, Settings, preset
from ..priors.diffusers_prior import DiffusersPrior
from ..priors.load import bundled_prior_path, load_prior
from ..world.words import remark
from . import app

PresetName = Literal["draft", "standard", "fine"]
Prediction = Literal["auto", "epsilon", "v_prediction"]


@dataclass(frozen=True)
class ModelFlags:
    """The diffusion model, and what it is asked to stay away from."""

    model: Path | None = None
    """Stable Diffusion model on your disk; the bundled tiny prior when left out. Never downloaded."""
    negative: str = ""
    """What to move away from, for instance "blurry, oversaturated". Read by SDS and ASD, by CSD with a negative weight
    or Perp-Neg, and by TBSD and SDS-Bridge with an empty modifier."""
    device: str = "auto"
    """One of auto (cuda where there is one, else cpu), cpu, cuda, cuda:1, mps (on a Mac; not tried)."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the diffusion model; auto is fp16 on CUDA and fp32 elsewhere."""
    tokenizer: Path | None = None
    """Folder with a CLIP tokenizer, for a single-file model that has none beside it."""
    prediction_type: Prediction = "auto"
    """What a single-file model predicts where it does not say: auto takes epsilon for Stable Diffusion 1.x, a guess for
    2.x; set it when results are only noise."""
    image_size: int | None = None
    """Side in pixels the model works at; its own when left out. Smaller takes less memory and is rougher."""

    def load(self, *, encoder: Path | None = None) -> DiffusersPrior:
        """The prior, with a small autoencoder of its own for the gradient where one is named. Raises ``PriorError``."""
        return load_prior(
            self.model,
            device=self.device,
            dtype=self.dtype,
            tokenizer=self.tokenizer,
            prediction_type=self.prediction_type,
            image_size=self.image_size,
            encoder=encoder,
        )

    def unknown(self, prompt: str) -> list[str]:
        """What to tell of words that the bundled prior does not know; nothing for any other model."""
        said = remark(prompt, self.negative) if _is_bundled(self.model) else ""
        return [said] if said else []


def bundled(arguments: Sequence[str]) -> bool:
    """Whether ``--model`` is left out, None, or the bundled prior's own folder."""
    model = app.given(arguments, "model", "")
    return _is_bundled(None if model in ("", "None") else Path(model))


def _is_bundled(model: Path | None) -> bool:
    if model is None:
        return True
    with suppress(PriorError, OSError):
        return model.resolve() == bundled_prior_path().resolve()
    return False


def preset_of(arguments: Sequence[str], method: str) -> tuple[PresetName, Settings]:
    """The preset that the flags name and its settings for a method; those of the first one where a name is unknown.

    An unknown name is left for the parser, whose message lists the choices.
    """
    name = app.given(arguments, "preset", PRESETS[0])
    if name not in PRESETS or method.upper() not in METHODS:
        return "draft", Settings()
    return cast(PresetName, name), preset(name, method, bundled=bundled(arguments))
