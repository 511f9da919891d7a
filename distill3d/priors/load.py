"""Find a diffusion model on disk and make a ``DiffusersPrior`` of it. Never the network, never a pickle.

``load_prior()`` is the bundled tiny prior; ``load_prior(folder)`` a model in diffusers layout; ``load_prior(file)`` a
Stable Diffusion 1.x or 2.x checkpoint in one .safetensors file. diffusers and transformers are imported on use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import PriorError
from .diffusers_prior import PREDICTION_TYPES, DiffusersPrior
from .parts import Parts
from .quiet import quiet
from .small_encoder import load_small_encoder
from .weights import PICKLE_SUFFIXES, refuse_non_finite, refuse_pickle

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKAGES_HINT = 'pip install "diffusers>=0.31" "transformers>=4.45" safetensors'


def bundled_prior_path() -> Path:
    """Folder of the tiny prior that comes with the library.

    Raises:
        PriorError: this installation has none.
    """
    package = Path(__file__).resolve().parents[1]
    places = (package / "_assets" / "tiny-prior", package.parent / "assets" / "tiny-prior")
    for place in places:
        if (place / "model_index.json").is_file():
            return place
    raise PriorError(
        f"the bundled tiny prior is not in this installation (looked in {places[0]} and {places[1]}): install the "
        "package again, or name a Stable Diffusion model of your own"
    )


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU; Apple's MPS, where nobody has seen a run, by its name."""
    if isinstance(device, str):
        device = device.lower()
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise PriorError(f"expected a device such as auto, cpu or cuda, got {device!r}: choose one") from error
        if chosen.type not in ("cpu", "cuda", "mps"):
            raise PriorError(f"expected a device of auto, cpu, cuda or mps, got {device!r}: choose one")
        if chosen.type == "mps" and not torch.backends.mps.is_available():
            raise PriorError("device mps was asked for and torch finds none: take the device cpu")
        if chosen.type == "cuda" and not torch.cuda.is_available():
            raise PriorError(
                "device cuda was asked for and torch finds no GPU: take the device cpu, or install a PyTorch with CUDA"
            )
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise PriorError(
                f"device {chosen} was asked for and torch finds {torch.cuda.device_count()} of them: take one up to "
                f"cuda:{torch.cuda.device_count() - 1}"
            )
        return chosen
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """``auto`` is float16 on CUDA, float32 elsewhere; else fp32, bf16, fp16 or the torch type."""
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise PriorError(f"expected dtype auto, {', '.join(DTYPES)}, got {dtype!r}: choose one")
    return chosen  # type: ignore[return-value]


def resolve_vae_dtype(dtype: str | torch.dtype, model: torch.dtype, device: torch.device) -> torch.dtype:
    """``auto`` follows the model, but never into float16, where Stable Diffusion's VAE overflows: float32 instead."""
    if dtype == "auto":
        return torch.float32 if model == torch.float16 else model
    return resolve_dtype(dtype, device)


def load_prior(
    path: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    tokenizer: str | Path | None = None,
    vae_dtype: str | torch.dtype = "auto",
    prediction_type: str = "auto",
    image_size: int | None = None,
    max_batch: int | None = None,
    encoder: str | Path | None = None,
) -> DiffusersPrior:
    """Load a prior for distillation.

    Args:
        path: a folder in diffusers layout (with ``model_index.json``), a ``.safetensors`` checkpoint of Stable
            Diffusion 1.x or 2.x, or None for the bundled tiny prior.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16`` for UNet and text encoder.
        tokenizer: folder with a CLIP tokenizer; needed for a single file when no other is found.
        vae_dtype: the same choices for the VAE; ``auto`` keeps it out of float16.
        prediction_type: ``auto``, ``epsilon`` or ``v_prediction``. A folder states it. A single file does not: ``auto``
            then takes epsilon for 1.x and, for 2.x, a guess from the weights which is logged.
        image_size: side in pixels to work at; None takes the model's own. Smaller is faster and rougher.
        max_batch: most samples per UNet call; None is no limit.
        encoder: a small autoencoder (TAESD, or any AutoencoderTiny or AutoencoderKL of diffusers) that makes the same
            latents; gradients then pass through it instead of the VAE.

    Raises:
        PriorError: whatever is wrong with the path, the files or the kind of model, and what to do about it.
    """
    at = bundled_prior_path() if path is None else Path(path).expanduser()
    if prediction_type not in ("auto", *PREDICTION_TYPES):
        raise PriorError(f"expected prediction_type auto, {' or '.join(PREDICTION_TYPES)}, got {prediction_type!r}")
    if not at.exists():
        raise PriorError(
            f"there is no file or folder {at}: give a diffusers folder or a .safetensors checkpoint on this disk, or "
            "nothing for the bundled tiny prior. Models are never downloaded here: a name such as owner/model has to "
            "be fetched first"
        )
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise PriorError(f"loading needs diffusers and transformers ({error}): run `{PACKAGES_HINT}`") from error
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    vae_precision = resolve_vae_dtype(vae_dtype, precision, where)
    with _said_of(at):
        parts = _read(at, precision, tokenizer, prediction_type)
        with quiet():
            parts.unet.to(device=where, dtype=precision)
            parts.text_encoder.to(device=where, dtype=precision)
            parts.vae.to(device=where, dtype=vae_precision)
        for name in ("unet", "text_encoder", "vae"):
            refuse_non_finite(getattr(parts, name), parts.origin[name])
        prior = DiffusersPrior(
            parts.unet,
            parts.vae,
            parts.text_encoder,
            parts.tokenizer,
            parts.abar,
            prediction_type=parts.prediction_type if prediction_type == "auto" else prediction_type,
            image_size=image_size,
            max_batch=max_batch,
            source=str(at.absolute()),
        )
    if encoder is not None:
        prior.use_small_encoder(load_small_encoder(encoder, where, vae_precision))
    return prior


def _read(at: Path, precision: torch.dtype, tokenizer: str | Path | None, prediction_type: str) -> Parts:
    if at.is_dir():
        from .folder import read_folder

        return read_folder(at, precision, tokenizer)
    if at.suffix.lower() in PICKLE_SUFFIXES:
        raise PriorError(refuse_pickle(at))
    if at.suffix.lower() != ".safetensors":
        raise PriorError(f"expected a folder or a .safetensors file, got {at}: get the model in that format")
    from .single_file import read_single_file

    return read_single_file(at, precision, tokenizer, prediction_type)


@contextmanager
def _said_of(at: Path) -> Iterator[None]:
    """Any error that a malformed file causes inside becomes one that names the model."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ZeroDivisionError, RecursionError) as error:
        raise PriorError(
            f"expected a whole Stable Diffusion model, got one with values that cannot be used: {at} "
            f"({type(error).__name__}: {error}). Check the JSON files in it, or get the model again"
        ) from error
