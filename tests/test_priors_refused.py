"""What a model folder may hold, and every kind of bad input, which is an error that names it."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from distill3d.errors import PriorError  # noqa: E402
from distill3d.priors import (  # noqa: E402
    load_prior,
)


@pytest.fixture
def copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "copy"))


def refused(path: Path | None, match: str, **options: object) -> str:
    with pytest.raises(PriorError, match=match) as caught:
        load_prior(path, device="cpu", **options)  # type: ignore[arg-type]
    return str(caught.value)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_sub_folder(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    assert part in refused(copy, "missing|found none")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights(copy: Path, part: str) -> None:
    file = next((copy / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    assert part in refused(copy, "not a complete safetensors file.*again")


def test_weights_that_do_not_fit_the_config(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_out.weight"]
    save_file(tensors, file)
    refused(copy, r"conv_out\.weight.*again")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("model_index.json", "text_encoder", {"a": 1}),
        ("model_index.json", "text_encoder_2", {"a": 1}),
        ("scheduler/scheduler_config.json", "trained_betas", "abc"),
        ("vae/config.json", "scaling_factor", "x"),
        ("vae/config.json", "scaling_factor", 0),
        ("unet/config.json", "sample_size", "a"),
        ("unet/config.json", "sample_size", 0),
    ],
)
def test_values_that_no_model_has_are_errors_that_name_it(copy: Path, file: str, key: str, value: object) -> None:
    edit_json(copy / file, **{key: value})
    refused(copy, str(copy))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_name_tensor_and_file(copy: Path, part: str, bad: float) -> None:
    file = next((copy / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] = bad
    save_file(tensors, file, metadata={"format": "pt"})
    message = refused(copy, "not finite.*download it again")
    assert str(file) in message and name.removeprefix("text_model.") in message


def test_weights_too_large_for_float16(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.weight"].view(-1)[0] = 1e5
    save_file(tensors, file, metadata={"format": "pt"})
    refused(copy, "dtype='bf16'", dtype="fp16")
    load_prior(copy, device="cpu", dtype="bf16")


def in_shards(folder: Path) -> Path:
    """Its UNet in two files and an index, as diffusers writes large models; the index."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    index: dict[str, str] = {}
    for i, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        shard = f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, file.with_name(shard), metadata={"format": "pt"})
        index |= dict.fromkeys(names, shard)
    at = file.with_name("diffusion_pytorch_model.safetensors.index.json")
    at.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": index}))
    return at


def test_weights_in_shards_are_the_same_model(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = load_prior(copy, device="cpu")
    in_shards(copy)
    sharded = load_prior(copy, device="cpu")
    assert capfd.readouterr() == ("", "")
    x_t, t = torch.randn(2, *whole.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([30, 800])
    cond = whole.embed(["a red cube", "a blue torus"])
    assert torch.equal(sharded.predict_noise(x_t, t, cond), whole.predict_noise(x_t, t, cond))
    assert diffusers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    "name", ["../../other.safetensors", "/other.safetensors", "C:other.safetensors", "a\\b", "", ".."]
)
def test_shards_outside_the_folder_are_refused(copy: Path, name: str) -> None:
    index = in_shards(copy)
    named = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={**named, next(iter(named)): name})
    refused(copy, "files of its own folder")


@pytest.mark.parametrize("named", [None, [], {}, {"conv_in.weight": 3}, "abc"])
def test_a_shard_index_without_files_is_refused(copy: Path, named: object) -> None:
    edit_json(in_shards(copy), weight_map=named)
    refused(copy, "under weight_map")


def test_a_missing_shard_is_named(copy: Path) -> None:
    in_shards(copy)
    (copy / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    refused(copy, "00002-of-00002.safetensors")


def test_pickles_are_refused(copy: Path, tmp_path: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    refused(copy, "pickle.*never read")
    for name in ("old.ckpt", "renamed.safetensors"):
        torch.save({"weight": torch.zeros(3)}, tmp_path / name)
        refused(tmp_path / name, "pickle.*never read")
    torch.save({"w": torch.zeros(3)}, tmp_path / "legacy.safetensors", _use_new_zipfile_serialization=False)
    refused(tmp_path / "legacy.safetensors", "pickle.*never read")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"abc", "complete"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"GGUF" + bytes(60), "GGUF"),
        (struct.pack("<Q", 20) + b"{not json at all    ", "header"),
        (struct.pack("<Q", 10**9) + b"{}", "header"),
        (struct.pack("<Q", 2) + b"{}", "no tensors"),
        (struct.pack("<Q", 2) + b"[]", "header"),
    ],
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path / "model.safetensors", match)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no file or folder.*never downloaded")
    refused(tmp_path, "it is empty")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", r"expected a folder or a \.safetensors file")
    (tmp_path / "sd15.safetensors").write_bytes(b"x")
    assert "sd15.safetensors" in refused(tmp_path, "name the file itself")


def test_other_pipelines_are_named(copy: Path) -> None:
    index = copy / "model_index.json"
    edit_json(index, _class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "CLIPTextModel"])
    refused(copy, "StableDiffusionXLPipeline.*not supported")
    index.write_text(json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}))
    refused(copy, "FluxPipeline.*not supported")
    index.write_text("{broken")
    refused(copy, "cannot be read as JSON")


def test_inpainting_unet_is_named(copy: Path) -> None:
    edit_json(copy / "unet" / "config.json", in_channels=9)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    refused(copy, "inpainting")


def test_options_that_cannot_be(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(copy, "expected dtype", dtype="int8")
    refused(copy, "multiple of 2", image_size=33)
    refused(copy, "max_batch", max_batch=0)
    refused(copy, "prediction_type", prediction_type="x0")
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    refused(copy, "epsilon or v_prediction")
    with pytest.raises(PriorError, match="no GPU"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        load_prior(copy, device="cuda")
    with pytest.raises(PriorError, match="torch finds 2 of them: take one up to cuda:1"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        load_prior(copy, device="cuda:2")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(copy, "needs diffusers and transformers.*pip install")
