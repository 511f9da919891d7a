"""Single checkpoint files against the same weights in diffusers folders; the key mapping here is written anew."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from distill3d.errors import PriorError  # noqa: E402
from distill3d.priors import load_prior  # noqa: E402
from distill3d.priors.tokenizers import InstantTokenizer  # noqa: E402

HAS_INSTANT = importlib.util.find_spec("instant_clip_tokenizer") is not None
UNET = "model.diffusion_model."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_key(name: str) -> str:
    """diffusers' UNet key -> CompVis' key, for four levels of two layers."""
    stem, leaf = name.rsplit(".", 1)
    if stem in TOP:
        return f"{TOP[stem]}.{leaf}"
    if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", stem):
        side, block, kind, layer, rest = match.groups()
        index = 3 * int(block) + int(layer) + (side == "down")
        rest = RESNET[rest] if kind == "resnets" else rest
        return f"{'input' if side == 'down' else 'output'}_blocks.{index}.{int(kind == 'attentions')}.{rest}.{leaf}"
    if match := re.match(r"(down|up)_blocks\.(\d)\.(down|up)samplers\.0\.conv", stem):
        side, block = match[1], int(match[2])
        if side == "down":
            return f"input_blocks.{3 * (block + 1)}.0.op.{leaf}"
        return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.conv.{leaf}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", stem)
    kind, layer, rest = match.groups()
    if kind == "attentions":
        return f"middle_block.1.{rest}.{leaf}"
    return f"middle_block.{2 * int(layer)}.{RESNET[rest]}.{leaf}"


def vae_key(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for theirs, ldm in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{theirs}.", f"mid.attn_1.{ldm}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


def open_clip_text(state: dict[str, Tensor], hidden: int) -> dict[str, Tensor]:
    """transformers' text encoder -> OpenCLIP's, with one more block at the end that nobody may use."""
    out = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": torch.randn(hidden, hidden),
    }
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("encoder.layers."))
    for layer in range(depth + 1):
        source, target = f"encoder.layers.{min(layer, depth - 1)}.", f"transformer.resblocks.{layer}."
        scale = 1.0 if layer < depth else 7.0
        for leaf in ("weight", "bias"):
            qkv = [state[f"{source}self_attn.{x}_proj.{leaf}"] for x in "qkv"]
            out[f"{target}attn.in_proj_{leaf}"] = scale * torch.cat(qkv)
            for theirs, ours in names.items():
                out[f"{target}{ours}.{leaf}"] = scale * state[f"{source}{theirs}.{leaf}"]
    return {f"cond_stage_model.model.{k}": v for k, v in out.items()}


def write_pair(folder: Path, tokenizer: Path, version: int) -> tuple[Path, Path]:
    """The same narrow random model as a diffusers folder and as one CompVis file."""
    torch.manual_seed(version)
    hidden = 768 if version == 1 else 1024
    shutil.copytree(tokenizer, folder / "model" / "tokenizer")
    words = len(json.loads((tokenizer / "vocab.json").read_text()))
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=hidden,
        attention_head_dim=8 if version == 1 else (1, 1, 2, 2),
        use_linear_projection=version == 2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=words,
            hidden_size=hidden,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=hidden // 64,
            max_position_embeddings=77,
            bos_token_id=words - 2,
            eos_token_id=words - 1,
            hidden_act="quick_gelu" if version == 1 else "gelu",
        )
    )
    for part in (unet, vae, text):  # the zeros and ones of a fresh model would hide swapped norms and biases
        for parameter in part.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.05 * torch.randn_like(parameter)
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        part.save_pretrained(folder / "model" / name)
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "epsilon"}
    (folder / "model" / "scheduler").mkdir()
    (folder / "model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    index = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    (folder / "model" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))

    tensors = {UNET + unet_key(k): v for k, v in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        is_map = "mid_block.attentions" in key and value.ndim == 2
        tensors["first_stage_model." + vae_key(key)] = value[:, :, None, None] if is_map else value
    state = {k.removeprefix("text_model."): v for k, v in text.state_dict().items() if "position_ids" not in k}
    if version == 1:
        tensors |= {f"cond_stage_model.transformer.text_model.{k}": v for k, v in state.items()}
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        tensors |= open_clip_text(state, hidden)
    tensors["model_ema.decay"] = torch.tensor(0.5)
    file = folder / "single" / f"sd{version}.safetensors"
    file.parent.mkdir()
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, file)
    return folder / "model", file


@pytest.fixture(scope="module", params=[1, 2])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path
) -> tuple[int, Path, Path]:
    version: int = request.param
    return version, *write_pair(tmp_path_factory.mktemp(f"sd{version}"), tiny_pipeline / "tokenizer", version)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> dict[str, Tensor]:
    return load_file(write_pair(tmp_path_factory.mktemp("one"), tiny_pipeline / "tokenizer", 1)[1])


def test_file_and_folder_are_the_same_model(pair: tuple[int, Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    version, folder, file = pair
    words = folder / "tokenizer"
    options: dict = {"device": "cpu", "image_size": 64, "tokenizer": words}
    of_folder = load_prior(folder, **options)
    with caplog.at_level(logging.WARNING):
        of_file = load_prior(file, **options)
    assert (of_file.T, of_file.prediction_type, of_file.factor) == (1000, "epsilon", 8)
    assert ("does not say what it predicts" in caplog.text) == (version == 2)
    texts = ["a red cube", ""]
    ids = of_folder.tokenizer(texts)
    assert of_file.tokenizer(texts)[1, -1] == (0 if version == 2 else ids[1, -1])  # 2.x pads with 0
    cond = of_folder.embed(texts)
    if version == 2:
        of_file.tokenizer = of_folder.tokenizer
    assert torch.equal(of_file.embed(texts), cond)
    images = torch.rand(2, 3, 64, 64)
    latents = of_folder.encode(images)
    torch.testing.assert_close(of_file.encode(images), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_file.decode(latents), of_folder.decode(latents), atol=1e-5, rtol=1e-5)
    t = torch.tensor([20, 700])
    theirs = of_folder.predict_noise(latents, t, cond)
    torch.testing.assert_close(of_file.predict_noise(latents, t, cond), theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_file.abar.float(), of_folder.abar.float())


def test_native_size_and_prediction_type_of_2(pair: tuple[int, Path, Path], tmp_path: Path) -> None:
    version, folder, file = pair
    options: dict = {"device": "cpu", "tokenizer": folder / "tokenizer"}
    assert load_prior(file, **options).image_size == 512
    as_v = load_prior(file, prediction_type="v_prediction", **options)
    assert as_v.prediction_type == "v_prediction" and as_v.image_size == (768 if version == 2 else 512)
    tensors = load_file(file)
    stated = tmp_path / "stated.safetensors"
    save_file(tensors, stated, metadata={"modelspec.prediction_type": "v"})
    assert load_prior(stated, **options).prediction_type == "v_prediction"
    tensors[UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"][::2] += 1.0
    save_file(tensors, stated)
    expected = "v_prediction" if version == 2 else "epsilon"
    assert load_prior(stated, **options).prediction_type == expected


def refused(path: Path, match: str, **options: object) -> str:
    with pytest.raises(PriorError, match=match) as caught:
        load_prior(path, device="cpu", **options)  # type: ignore[arg-type]
    return str(caught.value)


def small(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


CROSS = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = UNET + "input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({FIRST: (8, 9, 3, 3), CROSS: (8, 768)}, "inpainting"),
        ({FIRST: (8, 8, 3, 3), CROSS: (8, 768)}, "InstructPix2Pix"),
        ({FIRST: (8, 4, 3, 3), CROSS: (8, 512)}, "512 wide"),
        ({FIRST: (8, 4, 3, 3), CROSS: (8, 768)}, "holds no VAE"),
        ({FIRST: (8, 4, 3, 3), CROSS: (8, 768), "first_stage_model.x": (1,)}, "holds no text encoder"),
        ({FIRST: (8, 4, 3, 3), "conditioner.embedders.1.model.ln_final.weight": (8,)}, "Stable Diffusion XL"),
        ({UNET + "label_emb.0.0.weight": (8, 8)}, "XL or unCLIP"),
        ({UNET + "joint_blocks.0.x_block.attn.qkv.weight": (8, 8)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (8, 8)}, "Flux"),
        ({"control_model.input_blocks.0.0.weight": (8, 8)}, "ControlNet"),
        ({"lora_unet_down_blocks_0.lora_up.weight": (8, 8)}, "LoRA"),
        ({"down_blocks.0.resnets.0.conv1.weight": (8, 8)}, "one part of a model"),
        ({"encoder.down.0.block.0.conv1.weight": (8, 8)}, "a VAE alone"),
        ({"anything.weight": (8, 8)}, "no Stable Diffusion checkpoint"),
        ({FIRST: (8, 4, 3, 3), CROSS: (8, 768), FIRST.replace("weight", "scale_weight"): (1,)}, "scaled 8-bit"),
        ({FIRST: (8, 4, 3, 3), CROSS: (8, 768), UNET + "time_embed.cond_proj.weight": (8, 8)}, "few steps"),
    ],
)
def test_other_files_are_named(tmp_path: Path, shapes: dict[str, tuple[int, ...]], match: str) -> None:
    file = tmp_path / "other.safetensors"
    save_file(small(**shapes), file)
    assert "1.x and 2.x" in refused(file, match) or "full checkpoint" in refused(file, match)


def test_incomplete_and_damaged_files(sd1: dict[str, Tensor], tmp_path: Path, tiny_pipeline: Path) -> None:
    file, words = tmp_path / "sd.safetensors", tiny_pipeline / "tokenizer"
    for name in (
        UNET + "middle_block.1.norm.weight",
        "first_stage_model.decoder.up.2.block.1.conv1.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ):
        save_file({k: v for k, v in sd1.items() if k != name}, file)
        refused(file, "incomplete or of a changed architecture", tokenizer=words)
    bad = {**sd1, UNET + "out.2.weight": sd1[UNET + "out.2.weight"] * float("nan")}
    save_file(bad, file)
    assert "conv_out.weight" in refused(file, "not finite.*download it again", tokenizer=words)
    file.write_bytes(file.read_bytes()[:-1])
    refused(file, "not a complete safetensors file", tokenizer=words)


def test_where_the_tokenizer_comes_from(
    sd1: dict[str, Tensor], tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sd.safetensors"
    save_file(sd1, file)
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    message = refused(file, "no text vocabulary")
    assert "pip install instant-clip-tokenizer" in message and str(tmp_path / "tokenizer") in message
    assert "tokenizer=" in message
    refused(file, "found none", tokenizer=tmp_path)
    monkeypatch.setenv("HOME", str(tiny_pipeline.parent))
    monkeypatch.setenv("USERPROFILE", str(tiny_pipeline.parent))
    load_prior(file, device="cpu", tokenizer=f"~/{tiny_pipeline.name}")
    explicit = load_prior(file, device="cpu", tokenizer=tiny_pipeline)  # a whole model's folder serves as well
    shutil.copytree(tiny_pipeline / "tokenizer", tmp_path / "tokenizer")
    beside = load_prior(file, device="cpu")
    assert torch.equal(explicit.tokenizer(["a red cube"]), beside.tokenizer(["a red cube"]))


@pytest.mark.skipif(not HAS_INSTANT, reason="instant-clip-tokenizer is not installed")
def test_instant_tokenizer_has_clips_ids() -> None:
    tokenizer, padded = InstantTokenizer(), InstantTokenizer(pad_id=0)
    ids = tokenizer(["A person  riding\na Motorcycle", "cafe\u0301"])
    assert ids.shape == (2, 77) and ids.dtype == torch.long
    # openai/clip-vit-large-patch14's ids of this sentence
    assert ids[0, :9].tolist() == [49406, 320, 2533, 6765, 320, 10297, 49407, 49407, 49407]
    assert torch.equal(ids[1:], tokenizer(["caf\u00e9"]))
    assert padded(["a"])[0, :4].tolist() == [49406, 320, 49407, 0]
    long = tokenizer(["a red cube " * 40])[0]
    assert long[0] == 49406 and long[-1] == 49407 and (long == 49407).sum() == 1
    read, lost = tokenizer.split("a red cube " * 40)
    assert len(read.split()) == 75 and len(lost.split()) == 45 and tokenizer.split("a")[1] == ""
