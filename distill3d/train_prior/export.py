"""Write the prior as a Stable Diffusion folder in diffusers layout, and sample from such a folder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..priors.quiet import quiet
from .denoiser import scheduler


def _half(model: Any) -> Any:
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    return nn.Module.to(plain, torch.float16)


def _classic_names(path: Path) -> None:
    """Put back ``text_model.``, which transformers 5 leaves out and reads, and without which 4 reads nothing at all."""
    tensors = load_file(path)
    prefix = "text_model."
    renamed = {name if name.startswith(prefix) else prefix + name: t for name, t in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})


def export(folder: Path, vae: Any, text: Any, tokenizer: Any, vocabulary: Path, unet: Any) -> None:
    """Replace ``folder`` by the prior in float16 safetensors; files that are not part of the layout are kept."""
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
    with quiet():
        pipeline.save_pretrained(str(partial), safe_serialization=True)
    _classic_names(partial / "text_encoder" / "model.safetensors")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(vocabulary / name, partial / "tokenizer" / name)
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)
    if folder.exists():
        written = {p.name for p in partial.iterdir()}
        for kept in folder.iterdir():
            if kept.name not in written:
                kept.rename(partial / kept.name)
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


def load(folder: Path) -> Any:
    """The folder as a float32 pipeline, offline and without a safety checker."""
    from diffusers import StableDiffusionPipeline

    with quiet():
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
