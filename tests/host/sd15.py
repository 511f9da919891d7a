"""A checkpoint of Stable Diffusion 1.5's exact layout with random weights: names and shapes as published, in float16.

Written from the architecture by hand, not from any loader's tables, so that it checks them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]
UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
PARAMETERS = {UNET: 859_520_964, VAE: 83_653_863, CLIP: 123_060_480}
"""What every description of Stable Diffusion 1.x gives for its three parts."""
TIME, TEXT = 1280, 768


def _layer(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _resnet(name: str, a: int, b: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.in_layers.0", a)
    yield from _layer(f"{name}.in_layers.2", b, a, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", b, TIME)
    yield from _layer(f"{name}.out_layers.0", b)
    yield from _layer(f"{name}.out_layers.3", b, b, 3, 3)
    if a != b:
        yield from _layer(f"{name}.skip_connection", b, a, 1, 1)


def _transformer(name: str, c: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.norm", c)
    yield from _layer(f"{name}.proj_in", c, c, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, width in (("attn1", c), ("attn2", TEXT)):
        yield from _layer(f"{block}.{attention}.to_q", c, c, bias=False)
        yield from _layer(f"{block}.{attention}.to_k", c, width, bias=False)
        yield from _layer(f"{block}.{attention}.to_v", c, width, bias=False)
        yield from _layer(f"{block}.{attention}.to_out.0", c, c)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * c, c)
    yield from _layer(f"{block}.ff.net.2", c, 4 * c)
    for k in (1, 2, 3):
        yield from _layer(f"{block}.norm{k}", c)
    yield from _layer(f"{name}.proj_out", c, c, 1, 1)


def unet() -> Iterator[tuple[str, Shape]]:
    widths = (320, 640, 1280, 1280)
    yield from _layer("time_embed.0", TIME, 320)
    yield from _layer("time_embed.2", TIME, TIME)
    yield from _layer("input_blocks.0.0", 320, 4, 3, 3)
    skips, now, place = [320], 320, 1
    for level, width in enumerate(widths):
        for _ in range(2):
            yield from _resnet(f"input_blocks.{place}.0", now, width)
            if level < 3:
                yield from _transformer(f"input_blocks.{place}.1", width)
            now, place = width, place + 1
            skips.append(now)
        if level < 3:
            yield from _layer(f"input_blocks.{place}.0.op", now, now, 3, 3)
            place += 1
            skips.append(now)
    yield from _resnet("middle_block.0", now, now)
    yield from _transformer("middle_block.1", now)
    yield from _resnet("middle_block.2", now, now)
    for place in range(12):
        level, width = 3 - place // 3, widths[3 - place // 3]
        yield from _resnet(f"output_blocks.{place}.0", now + skips.pop(), width)
        now = width
        if level < 3:
            yield from _transformer(f"output_blocks.{place}.1", width)
        if place % 3 == 2 and level:
            yield from _layer(f"output_blocks.{place}.{2 if level < 3 else 1}.conv", width, width, 3, 3)
    yield from _layer("out.0", 320)
    yield from _layer("out.2", 4, 320, 3, 3)


def _vae_resnet(name: str, a: int, b: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.norm1", a)
    yield from _layer(f"{name}.conv1", b, a, 3, 3)
    yield from _layer(f"{name}.norm2", b)
    yield from _layer(f"{name}.conv2", b, b, 3, 3)
    if a != b:
        yield from _layer(f"{name}.nin_shortcut", b, a, 1, 1)


def _vae_middle(name: str) -> Iterator[tuple[str, Shape]]:
    yield from _vae_resnet(f"{name}.block_1", 512, 512)
    yield from _layer(f"{name}.attn_1.norm", 512)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.attn_1.{part}", 512, 512, 1, 1)
    yield from _vae_resnet(f"{name}.block_2", 512, 512)


def vae() -> Iterator[tuple[str, Shape]]:
    widths = (128, 256, 512, 512)
    yield from _layer("encoder.conv_in", 128, 3, 3, 3)
    now = 128
    for level, width in enumerate(widths):
        for k in range(2):
            yield from _vae_resnet(f"encoder.down.{level}.block.{k}", now, width)
            now = width
        if level < 3:
            yield from _layer(f"encoder.down.{level}.downsample.conv", now, now, 3, 3)
    yield from _vae_middle("encoder.mid")
    yield from _layer("encoder.norm_out", 512)
    yield from _layer("encoder.conv_out", 8, 512, 3, 3)
    yield from _layer("decoder.conv_in", 512, 4, 3, 3)
    yield from _vae_middle("decoder.mid")
    for level in (3, 2, 1, 0):
        for k in range(3):
            yield from _vae_resnet(f"decoder.up.{level}.block.{k}", now, widths[level])
            now = widths[level]
        if level:
            yield from _layer(f"decoder.up.{level}.upsample.conv", now, now, 3, 3)
    yield from _layer("decoder.norm_out", 128)
    yield from _layer("decoder.conv_out", 3, 128, 3, 3)
    yield from _layer("quant_conv", 8, 8, 1, 1)
    yield from _layer("post_quant_conv", 4, 4, 1, 1)


def clip() -> Iterator[tuple[str, Shape]]:
    yield "embeddings.token_embedding.weight", (49408, TEXT)
    yield "embeddings.position_embedding.weight", (77, TEXT)
    for index in range(12):
        layer = f"encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _layer(f"{layer}.self_attn.{part}", TEXT, TEXT)
        yield from _layer(f"{layer}.mlp.fc1", 4 * TEXT, TEXT)
        yield from _layer(f"{layer}.mlp.fc2", TEXT, 4 * TEXT)
        yield from _layer(f"{layer}.layer_norm1", TEXT)
        yield from _layer(f"{layer}.layer_norm2", TEXT)
    yield from _layer("final_layer_norm", TEXT)


def layout() -> dict[str, Shape]:
    """Every tensor of the file."""
    parts = ((UNET, unet()), (VAE, vae()), (CLIP, clip()))
    return {prefix + name: shape for prefix, part in parts for name, shape in part}


def write(path: Path, seed: int = 0) -> Path:
    """About 2.1 GB, tensor by tensor: weights of unit gain, normalisations at 1, biases at 0."""
    shapes, at, header = layout(), 0, {}
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    pool = np.random.default_rng(seed).standard_normal(1 << 20).astype(np.float32)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, (name, shape) in enumerate(shapes.items()):
            if len(shape) == 1:
                values = np.full(shape, float(name.endswith("weight")), np.float16)
            else:
                gain = 0.02 if "embedding" in name else math.prod(shape[1:]) ** -0.5
                values = np.resize(np.roll(pool * gain, 7919 * index).astype(np.float16), math.prod(shape))
            file.write(values.tobytes())
    return path
