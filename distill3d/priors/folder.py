"""A Stable Diffusion model in diffusers' folder layout: ``model_index.json`` and one sub-folder per part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import PriorError
from .parts import Parts, abar_from_scheduler
from .quiet import quiet
from .tokenizers import FolderTokenizer, tokenizer_folder
from .weights import PICKLE_SUFFIXES, read_header, refuse_pickle

CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``. Raises PriorError when it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PriorError(f"{path} is missing: copy the whole model folder again") from error
    except (OSError, ValueError) as error:
        raise PriorError(f"{path} cannot be read as JSON ({error}): copy the model folder again") from error
    if not isinstance(value, dict):
        raise PriorError(f"{path} should hold a JSON object: copy the model folder again")
    return value


def read_folder(folder: Path, dtype: torch.dtype, tokenizer: str | Path | None = None) -> Parts:
    """Read the model in ``folder``; ``tokenizer`` replaces the one it carries.

    Raises:
        PriorError: not a diffusers folder, an unsupported kind of pipeline, or a missing or damaged file.
    """
    _check_kind(folder)
    origin = {part: str(_weights(folder, part)[0]) for part in CLASSES}
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(scheduler_file)
    abar = abar_from_scheduler(scheduler, str(scheduler_file))
    text_encoder = _load(folder, "text_encoder", dtype)
    words = FolderTokenizer(
        folder / "tokenizer" if tokenizer is None else tokenizer_folder(Path(tokenizer).expanduser()),
        max_length=text_encoder.config.max_position_embeddings,
    )
    return Parts(
        unet=_load(folder, "unet", dtype),
        vae=_load(folder, "vae", torch.float32),
        text_encoder=text_encoder,
        tokenizer=words,
        abar=abar,
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        origin=origin,
    )


def _check_kind(folder: Path) -> None:
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        content = sorted(entry.name for entry in folder.iterdir())
        files = [name for name in content if name.endswith(".safetensors")]
        hint = f"name the file itself, {folder / files[0]}" if files else "give the folder that holds model_index.json"
        raise PriorError(
            f"{folder} is no diffusers model: it has no model_index.json "
            f"({'it is empty' if not content else 'it holds ' + ', '.join(content[:6])}). To load it, {hint}"
        )
    index = read_json(index_file)
    kind = index.get("_class_name", "an unnamed pipeline")
    for part, expected in CLASSES.items():
        entry = index.get(part)
        actual = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if actual != expected or (index.get("text_encoder_2") or [None])[0] is not None:
            raise PriorError(
                f"{folder} is a {kind}, which is not supported (its {part} is {actual}, expected {expected} and one "
                "text encoder): use a Stable Diffusion 1.x or 2.x model"
            )


def _weights(folder: Path, part: str) -> tuple[Path, str | None]:
    """Weight file (or shard index) of ``part`` and its variant, such as fp16; every file is checked."""
    sub, stem = folder / part, STEMS[part]
    if not sub.is_dir():
        raise PriorError(f"the folder {sub} is missing: copy the whole model folder again")
    read_json(sub / "config.json")
    for variant in (None, "fp16", "bf16", "non_ema"):
        file = sub / f"{stem}{'.' + variant if variant else ''}.safetensors"
        if file.is_file():
            read_header(file)
            return file, variant
    shards = sub / f"{stem}.safetensors.index.json"
    if shards.is_file():
        for name in _shard_names(shards):
            read_header(sub / name)
        return shards, None
    pickles = [entry for entry in sorted(sub.iterdir()) if entry.suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        raise PriorError(refuse_pickle(pickles[0]))
    raise PriorError(f"no weights in {sub} (expected {stem}.safetensors): copy the whole model folder again")


def _shard_names(index: Path) -> list[str]:
    """The files that a shard index names, all of which lie beside it."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise PriorError(f"expected tensors and their files under weight_map in {index}: copy the model folder again")
    outside = sorted({name for name in names.values() if name in ("", ".", "..") or set(name) & set("/\\:")})
    if outside:
        raise PriorError(f"expected files of its own folder in {index}, got {outside[0]!r}: get the model elsewhere")
    return sorted(set(names.values()))


def _load(folder: Path, part: str, dtype: torch.dtype) -> Any:
    if part == "text_encoder":
        from transformers import CLIPTextModel as Model
    elif part == "vae":
        from diffusers import AutoencoderKL as Model
    else:
        from diffusers import UNet2DConditionModel as Model
    file, variant = _weights(folder, part)
    # transformers renamed torch_dtype; it is left out there and the caller converts.
    options: dict[str, Any] = {} if part == "text_encoder" else {"torch_dtype": dtype}
    try:
        with quiet():
            model, info = Model.from_pretrained(
                str(folder / part),
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PriorError(f"{part} of {folder} cannot be built ({reason}): copy the model folder again") from error
    if getattr(model.config, "time_cond_proj_dim", None):
        raise PriorError(
            f"{folder} is distilled to few steps (LCM) and has no score to distil from: take the model it was made of"
        )
    missing = sorted(set(info.get("missing_keys") or ()))
    mismatched = sorted(str(entry[0]) for entry in info.get("mismatched_keys") or ())
    if missing or mismatched:
        raise PriorError(
            f"{file} does not fit its config.json: {len(missing)} tensors are missing and {len(mismatched)} have "
            f"another shape, first {(missing or mismatched)[0]}. Copy the model folder again"
        )
    return model
