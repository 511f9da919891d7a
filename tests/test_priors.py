"""The diffusers prior against diffusers itself, closed forms and finite differences, and every kind of bad input."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from distill3d.errors import PriorError  # noqa: E402
from distill3d.priors import (  # noqa: E402
    DiffusersPrior,
    Prior,
    load_prior,
    looks,
)
from distill3d.priors.diffusers_prior import eps_from_v, resize  # noqa: E402
from distill3d.priors.parts import abar_from_scheduler  # noqa: E402

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
# (t, alpha, sigma) of Stable Diffusion's schedule
GOLDEN = [(0, 0.999575, 0.029155), (20, 0.990613, 0.136695), (500, 0.525674, 0.850686), (999, 0.068265, 0.997667)]


@pytest.fixture(scope="module")
def prior(tiny_pipeline: Path) -> DiffusersPrior:
    return load_prior(tiny_pipeline, device="cpu")


def batch(prior: DiffusersPrior, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(count, *prior.latent_shape, generator=generator)
    t = torch.randint(0, 1000, (count,), generator=generator)
    return x_t, t, prior.embed([f"a red cube {i}" for i in range(count)])


def test_importing_the_library_imports_no_model_library() -> None:
    code = "import sys, distill3d, distill3d.priors; print('diffusers' in sys.modules, 'transformers' in sys.modules)"
    root = Path(__file__).parents[1]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_folder_shapes_and_protocol(prior: DiffusersPrior, tiny_pipeline: Path) -> None:
    assert isinstance(prior, Prior)
    assert (prior.T, prior.latent_shape, prior.image_size, prior.dtype) == (1000, (4, 16, 16), 32, torch.float32)
    assert json.loads(json.dumps(prior.describe()))["source"] == str(tiny_pipeline)
    larger = load_prior(tiny_pipeline, device="cpu", image_size=48)
    assert larger.latent_shape == (4, 24, 24)
    assert larger.encode(torch.rand(1, 3, 32, 32)).shape == (1, 4, 24, 24)


def test_loading_needs_no_network(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_prior(tiny_pipeline, device="cpu").embed(["a red cube"])


def test_loading_is_silent(tiny_pipeline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity()
    load_prior(tiny_pipeline, device="cpu", dtype="bf16")
    assert capfd.readouterr() == ("", "")
    assert before == (diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity())
    assert transformers.utils.logging.is_progress_bar_enabled()


# noise schedule


def test_alpha_sigma_golden_and_add_noise(prior: DiffusersPrior) -> None:
    t = torch.tensor([row[0] for row in GOLDEN])
    alpha, sigma = prior.alpha_sigma(t)
    assert alpha.shape == (4, 1, 1, 1) and alpha.dtype == torch.float32
    torch.testing.assert_close(alpha.flatten(), torch.tensor([row[1] for row in GOLDEN]), atol=1e-6, rtol=0)
    torch.testing.assert_close(sigma.flatten(), torch.tensor([row[2] for row in GOLDEN]), atol=1e-6, rtol=0)
    x, eps = torch.randn(2, 4, *prior.latent_shape)
    theirs = diffusers.DDPMScheduler(**SD).add_noise(x, eps, t)
    torch.testing.assert_close(alpha * x + sigma * eps, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        SD,
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 400},
        {"trained_betas": [0.01, 0.02, 0.05]},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000},
        {**SD, "rescale_betas_zero_snr": True},
        {},
    ],
)
def test_abar_is_that_of_diffusers(config: dict) -> None:
    theirs = diffusers.DDIMScheduler(**config, set_alpha_to_one=False).alphas_cumprod
    if "trained_betas" in config:  # diffusers wants the length as well
        theirs = torch.cumprod(1 - torch.tensor(config["trained_betas"]), 0)
    ours = abar_from_scheduler(config, "scheduler_config.json")
    torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config", [{"beta_schedule": "exp"}, {"trained_betas": [2.0]}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}]
)
def test_unusable_schedules_are_refused(config: dict) -> None:
    with pytest.raises(PriorError, match=r"sched\.json"):
        abar_from_scheduler(config, "sched.json")


# predict_noise


def test_prediction_is_the_direct_call_and_independent_of_the_batch(prior: DiffusersPrior, tiny_pipeline: Path) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(tiny_pipeline / "unet", local_files_only=True)
    x_t, t, cond = batch(prior, 5)
    eps = prior.predict_noise(x_t, t, cond)
    assert eps.dtype == torch.float32 and not eps.requires_grad
    with torch.no_grad():
        direct = unet(x_t, t, encoder_hidden_states=cond).sample
    assert torch.equal(eps, direct)
    single = torch.cat([prior.predict_noise(x_t[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(eps, single, atol=1e-5, rtol=1e-4)
    shuffled = prior.predict_noise(x_t, t.flip(0), cond)
    assert not torch.allclose(eps[0], shuffled[0], atol=1e-3), "every sample must have its own timestep"
    other = prior.predict_noise(x_t, t, cond.flip(0))
    assert not torch.allclose(eps[0], other[0], atol=1e-6), "every sample must have its own condition"


def test_one_call_unless_max_batch_says_otherwise(tiny_pipeline: Path) -> None:
    for limit, expected in ((None, [5]), (2, [2, 2, 1])):
        prior, calls = load_prior(tiny_pipeline, device="cpu", max_batch=limit), []
        prior.unet.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(len(args[0])))
        chunked = prior.predict_noise(*batch(prior, 5))
        assert calls == expected
        if limit is None:
            whole = chunked
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-4)


def test_9_v_prediction_is_converted(make_pipeline, tiny_pipeline: Path, tmp_path: Path) -> None:
    of_v = load_prior(make_pipeline(tmp_path / "v", prediction_type="v_prediction"), device="cpu")
    of_eps = load_prior(tiny_pipeline, device="cpu")
    assert of_v.prediction_type == "v_prediction"
    x_t, t, cond = batch(of_v, 3)
    raw = of_eps.predict_noise(x_t, t, cond)  # same seed, same weights: here the number is v
    scheduler = diffusers.DDIMScheduler(**SD, prediction_type="v_prediction")
    abar = scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    theirs = abar.sqrt() * raw + (1 - abar).sqrt() * x_t  # DDIMScheduler.step, v_prediction branch
    torch.testing.assert_close(of_v.predict_noise(x_t, t, cond), theirs, atol=1e-5, rtol=1e-4)


def test_9_v_round_trip() -> None:
    x, eps = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    angle = torch.tensor([0.1, 0.7, 1.4], dtype=torch.float64).reshape(-1, 1, 1, 1)
    alpha, sigma = angle.cos(), angle.sin()
    torch.testing.assert_close(eps_from_v(alpha * eps - sigma * x, alpha * x + sigma * eps, alpha, sigma), eps)


def test_bf16_runs_and_answers_in_float32(tiny_pipeline: Path, prior: DiffusersPrior) -> None:
    half = load_prior(tiny_pipeline, device="cpu", dtype="bf16")
    assert half.dtype == half.vae_dtype == torch.bfloat16
    x_t, t, cond = batch(prior, 2)
    eps = half.predict_noise(x_t, t, cond)
    assert eps.dtype == torch.float32
    torch.testing.assert_close(eps, prior.predict_noise(x_t, t, cond), atol=0.1, rtol=0.1)
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    latents = half.encode(images)
    latents.sum().backward()
    assert latents.dtype == torch.float32 and images.grad.isfinite().all()


def test_float16_keeps_the_vae_in_float32(tiny_pipeline: Path) -> None:
    half = load_prior(tiny_pipeline, device="cpu", dtype="fp16")
    assert (half.dtype, half.vae_dtype) == (torch.float16, torch.float32)
    assert load_prior(tiny_pipeline, device="cpu", dtype="fp16", vae_dtype="fp16").vae_dtype == torch.float16


def test_non_finite_prediction(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline, device="cpu")
    x_t, t, cond = batch(prior, 2)
    prior.unet.conv_out.bias.data.fill_(float("inf"))
    for _ in range(looks.NEVER_GOOD - 1):  # a run's guard leaves out these steps
        assert not prior.predict_noise(x_t, t, cond).isfinite().any()
    with pytest.raises(PriorError, match="non-finite"):
        prior.predict_noise(x_t, t, cond)
    prior.predict_noise(torch.full_like(x_t, torch.nan), t, cond)  # the caller's own fault is the caller's to see


def test_a_model_that_did_answer_is_given_up_later() -> None:
    looked, good, bad = looks.Looks(), torch.zeros(2), torch.tensor([0.0, torch.inf])
    assert not looked.gives_up(good, good)
    for _ in range(looks.NO_LONGER - 1):
        assert not looked.gives_up(bad, good)
    assert not looked.gives_up(bad, bad), "what was given is no model's fault"
    assert looked.gives_up(bad, good)
    assert not looked.gives_up(good, good) and not looked.gives_up(bad, good), "counted in a row"


def test_shape_errors(prior: DiffusersPrior) -> None:
    x_t, t, cond = batch(prior, 2)
    with pytest.raises(ValueError, match="one N"):
        prior.predict_noise(x_t, t[:1], cond)
    with pytest.raises(ValueError, match="axis 1"):
        prior.encode(torch.rand(1, 32, 32, 3))
    with pytest.raises(ValueError, match="sequence of texts"):
        prior.embed("a red cube")


# encode and decode


def test_encode_is_the_scaled_posterior_mean(prior: DiffusersPrior, tiny_pipeline: Path) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(tiny_pipeline / "vae", local_files_only=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        posterior = vae.encode(2 * images - 1).latent_dist
    latents = prior.encode(images)
    assert torch.equal(latents, posterior.mean * 0.18215)
    assert torch.equal(latents, prior.encode(images))
    one, two = (prior.encode(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, latents)
    draws = prior.encode(images[:1].expand(64, -1, -1, -1), torch.Generator().manual_seed(3))
    assert torch.allclose(draws.std(0).mean(), posterior.std[0].mean() * 0.18215, rtol=0.05)


def test_encode_gradient_is_that_of_finite_differences(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline, device="cpu")
    prior.vae.double()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 24, 24, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, *prior.latent_shape, generator=generator)

    def value(x: torch.Tensor) -> torch.Tensor:  # float64 throughout: encode's float32 would drown the difference
        z = prior.vae.encode(2 * resize(x, 32) - 1).latent_dist.mean
        return (z * 0.18215 * weight).sum()

    (prior.encode(images) * weight).sum().backward()
    step = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        numeric = (value(images + 1e-5 * step) - value(images - 1e-5 * step)) / 2e-5
    torch.testing.assert_close((images.grad * step).sum(), numeric, rtol=1e-4, atol=1e-6)
    assert images.grad.abs().amin() >= 0 and (images.grad != 0).double().mean() > 0.99


def test_10_no_gradient_reaches_the_model(tiny_pipeline: Path) -> None:
    prior = load_prior(tiny_pipeline, device="cpu")
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    latents = prior.encode(images)
    eps = prior.predict_noise(latents, torch.tensor([10]), prior.embed([""]))
    assert not eps.requires_grad and not prior.decode(latents).requires_grad
    (latents * eps).sum().backward()
    parameters = [*prior.unet.parameters(), *prior.vae.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    assert images.grad.abs().sum() > 0


def test_round_trip_shapes_and_range(prior: DiffusersPrior) -> None:
    for size in ((20, 20), (32, 32), (70, 50)):
        latents = prior.encode(torch.rand(2, 3, *size))
        assert latents.shape == (2, *prior.latent_shape)
        images = prior.decode(latents * 20)
        assert images.shape == (2, 3, 32, 32) and images.min() >= 0 and images.max() <= 1


def test_resize_averages_when_it_shrinks() -> None:
    stripes = (torch.arange(64) % 4 == 0).float().expand(1, 3, 64, 64)
    assert abs(float(resize(stripes, 16).mean()) - 0.25) < 0.02  # without a filter every stripe would be missed
    image = torch.rand(1, 3, 16, 16)
    assert resize(image, 16) is image


# texts


def test_embed_is_transformers_own(prior: DiffusersPrior, tiny_pipeline: Path) -> None:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(tiny_pipeline / "tokenizer"), local_files_only=True)
    encoder = transformers.CLIPTextModel.from_pretrained(str(tiny_pipeline / "text_encoder"), local_files_only=True)
    texts = ["a red cube", "", "Blue  BALL, front view", "a red cube " * 9, "a red cube"]
    ids = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(prior.tokenizer(texts), ids)
    ours = prior.embed(texts)
    with torch.no_grad():
        torch.testing.assert_close(ours, encoder(ids)[0].float(), atol=1e-6, rtol=1e-5)
    assert ours.shape == (5, 16, 32) and torch.equal(ours[0], ours[4]) and not ours.requires_grad


def test_embed_keeps_texts_and_warns_once(tiny_pipeline: Path, caplog: pytest.LogCaptureFixture) -> None:
    prior = load_prior(tiny_pipeline, device="cpu")
    with caplog.at_level(logging.WARNING):
        first = prior.embed(["a red cube " * 9, ""])
        assert len(caplog.records) == 1 and "Shorten what is yours" in caplog.text and "14 tokens" in caplog.text
        again = prior.embed(["", "a red cube " * 9])
        prior.embed(["a red cube " * 9 + ", back view"])
        prior.embed(["b red cube " * 4 + "a red cube " * 5])  # the same end
    assert len(caplog.records) == 1 and torch.equal(first.flip(0), again)
    prior.unload_text_encoder()
    assert torch.equal(prior.embed([""])[0], first[1])
    with pytest.raises(PriorError, match="load the model again"):
        prior.embed(["something new"])


# bad input


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


def test_weights_in_shards_are_the_same_model(
    copy: Path, prior: DiffusersPrior, capfd: pytest.CaptureFixture[str]
) -> None:
    in_shards(copy)
    sharded = load_prior(copy, device="cpu")
    assert capfd.readouterr() == ("", "")
    x_t, t, cond = batch(prior, 2)
    assert torch.equal(sharded.predict_noise(x_t, t, cond), prior.predict_noise(x_t, t, cond))
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
