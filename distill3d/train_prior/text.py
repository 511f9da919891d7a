"""Byte-pair vocabulary in CLIP's format, and the small CLIP text encoder over it.

Byte-pair encoding after R. Sennrich et al. (arXiv 1508.07909) on CLIP's bytes: 256 byte symbols, the same ending a
word (``</w>``), the merges, and two special tokens, of which the end token has the largest id and pads.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor

from .settings import TrainPriorSettings

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")


def byte_symbols() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def learn_merges(captions: list[str], count: int) -> list[tuple[str, str]]:
    """At most ``count`` merges, most frequent pair first and ties in alphabetical order.

    >>> learn_merges(["aab aab"], 9)
    [('a', 'a'), ('aa', 'b</w>')]
    """
    symbols = byte_symbols()
    words: Counter[tuple[str, ...]] = Counter()
    for text, times in Counter(captions).items():
        for word in WORDS.findall(text.lower()):
            letters = [symbols[b] for b in word.encode()]
            ending = (*letters[:-1], letters[-1] + "</w>")
            words[ending] += times
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[_merge(word, best)] += times
        words = merged
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def write_vocabulary(folder: Path, captions: list[str], size: int) -> None:
    """Write ``vocab.json`` and ``merges.txt`` as CLIP's tokenizer reads them."""
    symbols = list(byte_symbols().values())
    merges = learn_merges(captions, size - 2 * len(symbols) - 2)
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), "utf-8")


def load_tokenizer(folder: Path, length: int) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=length, local_files_only=True)


def tokenize(tokenizer: Any, captions: list[str]) -> Tensor:
    """``(N, length)`` int64 token ids, padded with the end token as in Stable Diffusion."""
    unique = list(dict.fromkeys(captions))
    length = tokenizer.model_max_length
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    ids: Tensor = tokenizer(unique, **options).input_ids
    row = {text: i for i, text in enumerate(unique)}
    return ids[torch.tensor([row[text] for text in captions])]


def build_encoder(tokenizer: Any, settings: TrainPriorSettings) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    end = tokenizer.eos_token_id
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.text_width,
        intermediate_size=4 * settings.text_width,
        projection_dim=settings.text_width,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.unet_heads,
        max_position_embeddings=settings.text_length,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModel(config)
