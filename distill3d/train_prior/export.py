"""Write the prior as a Stable Diffusion folder in diffusers layout, and sample from such a folder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import OutputError
from ..files import make_folder, write_bytes
from ..priors.quiet import quiet
from .denoiser import scheduler


def _half(model: Any) -> Any:
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    return nn.Module.to(plain, torch.float16)


def _classic_names(path: Path) -> None:
    """Put back ``text_model.``, which transformers 5 leaves out and reads, and without which 4 reads nothing at all."""
    tensors = parse(path.read_bytes())
    prefix = "text_model."
    renamed = {name if name.startswith(prefix) else prefix + name: t for name, t in tensors.items()}
    write_bytes(path, save(renamed, metadata={"format": "pt"}))


def export(folder: Path, vae: Any, text: Any, tokenizer: Any, vocabulary: Path, unet: Any) -> None:
    """Write the prior into ``folder`` in float16 safetensors, each file in one step; what else lies there is kept.

    Raises:
        OutputError: a file cannot be written.
    """
    with quiet():
        from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=_half(vae),
        text_encoder=_half(text),
        tokenizer=tokenizer,
        unet=_half(unet),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet():
            pipeline.save_pretrained(str(partial), safe_serialization=True)
        _classic_names(partial / "text_encoder" / "model.safetensors")
        for name in ("vocab.json", "merges.txt"):
            shutil.copyfile(vocabulary / name, partial / "tokenizer" / name)
        _move(partial, folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"could not write the prior to {folder}: {error}. Its training is kept: free some space, close what has "
            "the folder open, and call again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(source: Path, folder: Path) -> None:
    """Put every file of ``source`` into its place below ``folder``; parts of the layout keep no other file."""
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for name in sorted(files):
        make_folder((folder / name).parent)
        (source / name).chmod(0o644)
        (source / name).replace(folder / name)
    for part in {name.parent for name in files} - {Path()}:
        for path in (folder / part).iterdir():
            if path.relative_to(folder) not in files and path.is_file():
                path.unlink()


def load(folder: Path) -> Any:
    """The folder as a float32 pipeline, offline and without a safety checker."""
    with quiet():
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None, local_files_only=True)
    pipeline.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def sample(
    pipeline: Any, prompts: Sequence[str], guidance: float, seed: int, steps: int = 30, batch: int = 32
) -> Tensor:
    """``(N, 3, S, S)`` float images in [0, 1], each from noise of its own that depends on ``seed`` and its row."""
    out = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(part))]
        result = pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt"
        )
        out.append(result.images.float().cpu())
    return torch.cat(out)


def sheet(images: Tensor, columns: int) -> Tensor:
    """``(rows * S, columns * S, 3)`` uint8 contact sheet of ``(N, 3, S, S)`` images in [0, 1], filled up with white."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    padded = torch.ones(rows * columns, 3, height, width)
    padded[:count] = images
    grid = padded.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return (grid.reshape(rows * height, columns * width, 3) * 255).round().clamp(0, 255).to(torch.uint8)


def samples_sheet(pipeline: Any, prompts: Sequence[str], guidances: Sequence[float], seed: int) -> Tensor:
    """A sheet as of ``sheet``: one column a prompt, one row a guidance, the same noise down each column."""
    images = torch.cat([sample(pipeline, prompts, guidance, seed) for guidance in guidances])
    return sheet(images, len(prompts))
