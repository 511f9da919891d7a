"""Fixtures shared by the tests: a real diffusers pipeline at toy size, with random weights."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

WORDS = ("a", "red", "blue", "cube", "ball", "front", "view", "side")


def write_vocabulary(folder: Path) -> int:
    """A byte-level BPE vocabulary in CLIP's format with one merged token per word of WORDS; returns its size."""
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[str] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = f"{pieces[0]} {pieces[1]}"
            if merge not in merges:
                merges.append(merge)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            if pieces[0] not in vocabulary:
                vocabulary.append(pieces[0])
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "unk_token": "<|endoftext|>", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps({**special, "unk_token": "<|endoftext|>"}))
    return len(ids)


def write_pipeline(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """A Stable-Diffusion-shaped pipeline in diffusers layout: 32 pixels, f = 2, latents 4x16x16, 0.5M parameters."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    size = write_vocabulary(folder / "tokenizer")
    UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
            pad_token_id=size - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "clip_sample": False,
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def make_pipeline() -> Callable[..., Path]:
    """``make_pipeline(folder, prediction_type=..., seed=...)`` writes another toy pipeline."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    return write_pipeline


@pytest.fixture(scope="session")
def tiny_pipeline(make_pipeline: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random toy pipeline that predicts epsilon. Read only: copy it before you damage it."""
    return make_pipeline(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture()
def ctrl_c() -> Iterator[None]:
    """SIGINT raises ``KeyboardInterrupt``, also where the tests run in the background."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


# ---- nerfacc


@pytest.fixture()
def nerfacc_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    import nerfacc_stand_in

    nerfacc_stand_in.forget(monkeypatch)


@pytest.fixture()
def nerfacc_on_cpu(nerfacc_untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter works on a CPU: nerfacc is the stand-in."""
    import nerfacc_stand_in

    from distill3d.render import marching

    monkeypatch.setattr(marching, "DEVICES", ("cuda", "cpu"))
    nerfacc_stand_in.install(monkeypatch)


# ---- the nodes on a stand-in host


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    import fake_host

    with fake_host.installed(tmp_path_factory.mktemp("host")) as found:
        importlib.import_module("pack.nodes.extension")
        optimizer = importlib.import_module("pack.nodes.optimizer")
        optimizer.FRAMES, optimizer.FRAME_SIZE, optimizer.SHEET_SIZE = 2, 32, 32
        yield found


@pytest.fixture()
def pack(loaded: ModuleType, tmp_path: Path) -> ModuleType:
    """The pack on a host with empty folders, no messages and no interrupt."""
    import fake_host

    (tmp_path / "output").mkdir()
    sys.modules["folder_paths"].place["root"] = tmp_path
    server = sys.modules["server"].PromptServer.instance
    server.sent.clear(), server.texts.clear(), fake_host.ProgressBar.seen.clear()
    sys.modules["comfy.model_management"].interrupt = False
    return loaded
