"""The diffusers prior against diffusers itself, closed forms and finite differences."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

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
