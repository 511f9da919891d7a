"""Load SD: a checkpoint, a diffusers folder, or the bundled tiny prior, as the host's own MODEL, CLIP and VAE."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.diffusers_load
import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io

from ..distill3d.errors import PriorError, is_out_of_memory
from ..distill3d.priors.folder import read_json
from ..distill3d.priors.load import bundled_prior_path
from ..distill3d.priors.parts import abar_from_scheduler
from ..distill3d.priors.weights import read_header
from .host.tags import Tag, put_tag
from .host.tiny import is_tiny, load_tiny
from .words import in_words

SAFE = (".safetensors", ".sft")
TINY = "bundled tiny prior"
NONE = "none found"
"""What an empty menu shows: one without an entry the host refuses in words of its own."""


def checkpoints() -> list[str]:
    """The host's checkpoints in safetensors; pickles are never read."""
    return [name for name in folder_paths.get_filename_list("checkpoints") if name.lower().endswith(SAFE)]


def diffusers() -> dict[str, Path]:
    """Folders in diffusers layout under the host's ``models/diffusers``, by their path below it."""
    found = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        seen = set()
        for folder, below, files in os.walk(root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or "model_index.json" in files:
                below.clear()
            if real not in seen and "model_index.json" in files:
                found[Path(folder).relative_to(root).as_posix()] = Path(folder)
            seen.add(real)
            below.sort()
    return found


class LoadSD(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        option = io.DynamicCombo.Option
        checkpoint = io.Combo.Input(
            "ckpt_name",
            options=checkpoints() or [NONE],
            tooltip="A .safetensors checkpoint in models/checkpoints; .ckpt pickles can run code and are not listed.",
        )
        folder = io.Combo.Input(
            "folder", options=list(diffusers()) or [NONE], tooltip="A model in diffusers layout below models/diffusers."
        )
        return io.Schema(
            node_id="Distill3D_LoadSD",
            display_name="Load SD",
            category="Distill3D",
            description=(
                "The text-to-image model an object is distilled from. The bundled tiny prior needs no "
                "download and runs on a CPU: twenty kinds of toy objects in eight colours. Any other loader's MODEL, "
                "CLIP and VAE work as well."
            ),
            search_aliases=["checkpoint", "stable diffusion", "model", "prior", "loader", "tiny"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[option(TINY, []), option("checkpoint", [checkpoint]), option("diffusers", [folder])],
                    tooltip="Where the model comes from. Start with the bundled tiny prior to see the whole "
                    "graph run in "
                    "minutes; take a checkpoint for real objects.",
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="For Distill Loss, KSampler, LoRA loaders ..."),
                io.Clip.Output("clip", display_name="CLIP", tooltip="For View Prompts and CLIP Text Encode."),
                io.Vae.Output("vae", display_name="VAE", tooltip="For NeRF Optimizer and VAE Decode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, **inputs: Any) -> bool | str:
        """Takes all inputs, so that the host leaves the menus to it; what a wire brings is asked when it has come."""
        source = inputs.get("source")
        if not isinstance(source, dict):
            return True
        try:
            if source.get("source") == "checkpoint" and source.get("ckpt_name") is not None:
                find_checkpoint(source["ckpt_name"])
            if source.get("source") == "diffusers" and source.get("folder") is not None:
                find_folder(source["folder"])
        except PriorError as error:
            return str(error)
        return True

    @classmethod
    @in_words
    def execute(cls, source: dict[str, Any]) -> io.NodeOutput:
        kind = source["source"]
        if kind == TINY:
            return io.NodeOutput(*load_tiny(bundled_prior_path()))
        if kind == "checkpoint":
            return io.NodeOutput(*load_checkpoint(source.get("ckpt_name")))
        return io.NodeOutput(*load_folder(source.get("folder")))


def find_checkpoint(name: str | None) -> str:
    """The path of a checkpoint by its name in the menu. Raises ``PriorError``."""
    path = folder_paths.get_full_path("checkpoints", name) if name else None
    if path is None or not path.lower().endswith(SAFE):
        raise PriorError(
            f"expected a .safetensors checkpoint in models/checkpoints, got {name or NONE}: {_how(checkpoints())}"
        )
    return path


def _how(there: Sequence[str]) -> str:
    if there:
        return "choose one in the menu, or the bundled tiny prior"
    return "put one there and reload the page, or choose the bundled tiny prior"


def load_checkpoint(name: str | None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a checkpoint file. Raises ``PriorError`` when it is missing, damaged or no checkpoint."""
    path = find_checkpoint(name)
    read_header(Path(path))
    directories = folder_paths.get_folder_paths("embeddings")
    loaded = comfy.sd.load_checkpoint_guess_config(
        path, output_vae=True, output_clip=True, embedding_directory=directories
    )
    if loaded is None or loaded[0] is None:
        raise PriorError(f"{name} is no checkpoint the host knows: choose a Stable Diffusion checkpoint")
    put_tag(loaded[0], Tag(source=path))
    return loaded[0], loaded[1], loaded[2]


PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
"""The folders of a diffusers model, the last of SDXL alone, and the name the host reads there, before
``.fp16.safetensors`` and the like."""


def _lacking(path: Path) -> list[str]:
    """Folders in which the host would find no weights but pickles, of which it reads none where there are others."""
    endings = (".safetensors", ".fp16.safetensors")
    parts = {part: stem for part, stem in PARTS.items() if part != "text_encoder_2" or (path / part).is_dir()}
    return [part for part, stem in parts.items() if not any((path / part / (stem + e)).exists() for e in endings)]


def find_folder(name: str | None) -> Path:
    """A diffusers folder by its name in the menu. Raises ``PriorError``."""
    there = diffusers()
    if (path := there.get(name or "")) is None:
        raise PriorError(
            f"expected a folder in diffusers layout below models/diffusers, got {name or NONE}: {_how(list(there))}"
        )
    return path


def load_folder(name: str | None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a diffusers folder. Raises ``PriorError`` when it is missing or cannot be used."""
    path = find_folder(name)
    if is_tiny(path):
        model, clip, vae = load_tiny(path)
        return as_its_scheduler_says(model, path), clip, vae
    if lacking := _lacking(path):
        raise PriorError(
            f"expected a Stable Diffusion model in diffusers layout with its weights in one .safetensors file each, "
            f"got {path} without such in {', '.join(lacking)}: copy the missing files (pickles, .bin, can run code and "
            "are not read), or load a model of another kind with the host's own loaders"
        )
    directories = folder_paths.get_folder_paths("embeddings")
    try:
        model, clip, vae = comfy.diffusers_load.load_diffusers(
            str(path), output_vae=True, output_clip=True, embedding_directory=directories
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise PriorError(
            f"expected a Stable Diffusion model in diffusers layout, got {path}, which the host cannot read "
            f"({type(error).__name__}: {error}): get it again, or choose another"
        ) from error
    put_tag(model, Tag(source=str(path)))
    return as_its_scheduler_says(model, path), clip, vae


BETAS = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
"""What a scheduler says of its noise levels; where it says nothing, the host's stay."""


def as_its_scheduler_says(model: Any, path: Path) -> Any:
    """MODEL with the noise schedule and the prediction of the folder's scheduler.

    The host does not read it and guesses the prediction by weights; its schedule is Stable Diffusion's.

    Raises:
        PriorError: the scheduler is of a kind whose noise levels are not known.
    """
    file = path / "scheduler" / "scheduler_config.json"
    if not file.exists():
        return model
    from comfy.model_sampling import V_PREDICTION, rescale_zero_terminal_snr_sigmas
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    config = read_json(file)
    sampling = model.get_model_object("model_sampling")
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    v = config.get("prediction_type") == "v_prediction" or isinstance(sampling, V_PREDICTION)
    sigmas = sampling.sigmas.double()
    if any(config.get(name) is not None for name in BETAS):
        abar = abar_from_scheduler({**config, "rescale_betas_zero_snr": False}, str(file))
        sigmas = ((1 - abar) / abar).sqrt()
    if zero_snr:
        sigmas = rescale_zero_terminal_snr_sigmas(sigmas)
    known = sampling.sigmas.to(sigmas)
    same = len(known) == len(sigmas) and torch.allclose(known, sigmas, rtol=1e-4)
    if same and isinstance(sampling, V_PREDICTION) == v:
        return model
    patched = ModelSamplingDiscrete().patch(model, "v_prediction" if v else "eps", zero_snr)[0]
    patched.get_model_object("model_sampling").set_sigmas(sigmas)
    return patched
