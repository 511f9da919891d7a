"""The prior over the host's own model against the library's diffusers prior, in one process. Needs COMFYUI_PATH."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from graphs import TEXT_WIDTH
from inside import NEGATIVE, PROMPT, get, inside


def test_predictions_and_latents_equal_the_librarys_prior(tiny: Any, theirs: Any, tmp_path: Path) -> None:
    import torch

    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 16, 16, generator=g)
    t = torch.tensor([30, 900])
    images = torch.rand(2, 3, 64, 64, generator=g)
    texts = [f"{PROMPT}, front view", f"{PROMPT}, side view", NEGATIVE]

    def body(run: Any) -> Any:
        prior = run.prior
        e = prior.embed(texts)
        alpha, sigma = prior.alpha_sigma(t)
        x_t = alpha * x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        noise = prior.predict_noise(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([e[[0, 1]], e[[2, 2]]]))
        pixels = images.clone().requires_grad_()
        z = prior.encode(pixels)
        (z * z.detach().cos()).sum().backward()
        picture = prior.decode(x)
        return alpha, sigma, x_t, noise, z.detach(), pixels.grad, picture, prior.fingerprint, type(prior)

    alpha, sigma, x_t, noise, z, gradient, picture, name, kind = inside(tiny, body, tmp_path)
    expected = theirs.alpha_sigma(t)
    torch.testing.assert_close(alpha, expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sigma, expected[1], rtol=1e-5, atol=1e-6)
    e = theirs.embed(texts)
    wanted = theirs.predict_noise(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([e[[0, 1]], e[[2, 2]]]))
    torch.testing.assert_close(noise, wanted, rtol=1e-4, atol=2e-4)
    pixels = images.clone().requires_grad_()
    latents = theirs.encode(pixels)
    (latents * latents.detach().cos()).sum().backward()
    torch.testing.assert_close(z, latents.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, pixels.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(picture, theirs.decode(x), rtol=1e-4, atol=1e-4)
    assert not picture.is_inference(), "a loss may read it"
    assert "tiny-prior" in name and kind.__name__ == "HostPrior"


def test_a_whole_gradient_of_every_method_equals_the_librarys(tiny: Any, theirs: Any, tmp_path: Path) -> None:
    """One step's latent gradient with the same generators, through both priors."""
    import torch

    loop = get("distill3d.optimize.loop")
    tbsd_settings = get("distill3d.methods").TBSDSettings
    cameras = get("distill3d.render.cameras").ring(2)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def gradient(guidance: Any) -> Any:
        purposes = ("timesteps", "shift", "noise")
        generators = {name: loop.seeded(3, name) for name in purposes}
        return guidance(latents, cameras, 0.5, generators).gradient

    for method in ("sds", "csd", "asd", "tbsd"):
        settings = {}

        def body(run: Any, settings: dict[str, Any] = settings) -> Any:
            settings["used"] = run.settings
            return gradient(run.guidance)

        # the host reads texts beyond 22 tokens, the library cuts them
        short = {"tbsd": tbsd_settings(modifier="blurry")}
        found = inside(tiny, body, tmp_path, method, settings=short)
        guidance = get("distill3d.optimize.guidance").Guidance(
            theirs, get("distill3d.prompts").ViewPrompts(PROMPT, NEGATIVE), settings["used"]
        )
        wanted = gradient(guidance)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-3 * float(wanted.abs().max()))


def test_lora_and_freeu_change_the_prediction_and_the_base_model_stays(tiny: Any, tmp_path: Path) -> None:
    import torch

    x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([400])

    def body(run: Any) -> Any:
        return run.prior.predict_noise(x, t, run.prior.embed([NEGATIVE])), run.prior.fingerprint

    plain, name = inside(tiny, body, tmp_path)
    weight = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    shape = tiny.model.model.state_dict()[weight].shape
    patched = tiny.model.clone()
    patched.add_patches({weight: (torch.full(shape, 0.05),)}, 1.0)
    with_lora, lora_name = inside(SimpleNamespace(**{**vars(tiny), "model": patched}), body, tmp_path)
    node = get("nodes.freeu").FreeUPatch
    free = node.execute(tiny.model, "v2", 1.4, 1.4, 0.5, 0.5).args[0]
    with_freeu, freeu_name = inside(SimpleNamespace(**{**vars(tiny), "model": free}), body, tmp_path)
    ones = node.execute(tiny.model, "v2", 1.0, 1.0, 1.0, 1.0).args[0]
    with_ones, _ = inside(SimpleNamespace(**{**vars(tiny), "model": ones}), body, tmp_path)
    again, name_again = inside(tiny, body, tmp_path)
    assert torch.equal(plain, again) and name == name_again
    assert torch.equal(plain, with_ones)
    assert (plain - with_lora).abs().max() > 1e-3 and (plain - with_freeu).abs().max() > 1e-3
    assert len({name, lora_name, freeu_name}) == 3


def test_a_lora_that_comes_as_a_hook_gives_what_the_loaded_one_gives(tiny: Any, tmp_path: Path) -> None:
    import comfy.hooks
    import comfy.sd
    import torch

    g = torch.Generator().manual_seed(0)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    shapes = {"lora_down.weight": (4, TEXT_WIDTH), "lora_up.weight": (192, 4)}
    lora = {f"{name}.{key}": torch.randn(shape, generator=g) for key, shape in shapes.items()}
    x, t = torch.randn(2, 4, 16, 16, generator=g), torch.tensor([400, 400])

    def body(run: Any) -> Any:
        return run.prior.predict_noise(x, t, run.prior.embed([f"{PROMPT}, side view", NEGATIVE]))

    hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=0.0)
    plain = inside(tiny, body, tmp_path)
    hooked = inside(tiny, body, tmp_path, extras=[[torch.zeros(1, 1, TEXT_WIDTH), {"hooks": hooks}]])
    patched, _ = comfy.sd.load_lora_for_models(tiny.model, None, lora, 1.0, 0.0)
    loaded = inside(SimpleNamespace(**{**vars(tiny), "model": patched}), body, tmp_path)
    torch.testing.assert_close(hooked, loaded, rtol=1e-5, atol=1e-6)
    assert (hooked - plain).abs().max() > 1e-3
    assert torch.equal(inside(tiny, body, tmp_path), plain)


KINDS = ["EPS", "V_PREDICTION", "EDM", "V_PREDICTION_EDM", "V_PREDICTION_CONTINUOUS", "FLOW", "FLUX"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameterisation_gives_back_the_noise_of_its_own_x0(tiny: Any, tmp_path: Path, kind: str) -> None:
    """Whatever the network says is an x0 to the host; its noise and it must combine to x again, at the host's sigma."""
    import comfy.model_base
    import torch

    build = get("nodes.host.tiny")
    config = build.unet_config(
        {
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "in_channels": 4,
            "out_channels": 4,
            "cross_attention_dim": TEXT_WIDTH,
        }
    )
    kind_of = getattr(comfy.model_base.ModelType, kind)
    supported = comfy.supported_models.SD15(config)
    supported.unet_config |= {"num_heads": 4, "num_head_channels": -1}
    supported.set_inference_dtype(torch.float32, None)
    blank = comfy.model_base.BaseModel(supported, model_type=kind_of, device=torch.device("cpu"))
    g = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=g) * 0.05 for name, value in blank.diffusion_model.state_dict().items()
    }
    model = build.make_model(config, state, heads=4, groups=32, model_type=kind_of)
    x = torch.randn(2, 4, 16, 16, generator=g)

    def body(run: Any) -> Any:
        prior, base = run.prior, model.model
        t = torch.tensor([prior.T // 2, prior.T - 2])
        s = prior.space.sigma(t)
        eps = prior.predict_noise(x, t, prior.embed([PROMPT + ", side view", NEGATIVE]))
        host_x = x * prior.space.length(s)
        scaled = base.model_sampling.noise_scaling(s, eps.clone(), prior.space.clean(host_x, eps, s).clone(), False)
        return host_x, scaled, prior.alpha_sigma(t), prior.space.flow, eps

    host_x, scaled, (alpha, sigma), flow, eps = inside(
        SimpleNamespace(**{**vars(tiny), "model": model}), body, tmp_path
    )
    assert flow == (kind in ("FLOW", "FLUX"))
    torch.testing.assert_close(scaled, host_x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert torch.isfinite(eps).all() and eps.std() > 0


def test_rescale_cfg_of_the_host_is_honoured(tiny: Any, tmp_path: Path) -> None:
    import torch
    from comfy_extras.nodes_model_advanced import RescaleCFG

    cameras = get("distill3d.render.cameras").ring(2)
    loop = get("distill3d.optimize.loop")
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def body(run: Any) -> Any:
        generators = {name: loop.seeded(3, name) for name in ("timesteps", "shift", "noise")}
        return run.guidance(latents, cameras, 0.0, generators).gradient

    window = {"window": get("distill3d.schedules").TimestepWindow(shared=True)}
    plain = inside(tiny, body, tmp_path, settings=window)

    def with_multiplier(multiplier: float) -> Any:
        out = RescaleCFG().patch(tiny.model, multiplier)
        model = out[0] if isinstance(out, tuple) else out.args[0]
        return inside(SimpleNamespace(**{**vars(tiny), "model": model}), body, tmp_path, settings=window)

    torch.testing.assert_close(with_multiplier(0.0), plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
    assert (with_multiplier(0.7) - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.parametrize(
    ("changed", "v"),
    [
        ({}, False),
        ({}, True),
        ({"rescale_betas_zero_snr": True}, False),
        ({"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}, False),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500}, True),
    ],
)
def test_a_diffusers_folder_is_read_as_its_scheduler_says(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], v: bool
) -> None:
    import comfy.model_sampling
    import torch
    from diffusers import DDPMScheduler

    load_sd, folder = get("nodes.load_sd"), tmp_path / "model"
    shutil.copytree(get("distill3d.priors.load").bundled_prior_path(), folder)
    file = folder / "scheduler" / "scheduler_config.json"
    changed = {"prediction_type": "v_prediction" if v else "epsilon", **changed}
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    monkeypatch.setattr(load_sd, "diffusers", lambda: {"model": folder})
    model, _, _ = load_sd.load_folder("model")
    sampling = model.get_model_object("model_sampling")
    assert isinstance(sampling, comfy.model_sampling.V_PREDICTION) == v
    abar = DDPMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod
    abar[abar == 0] = 4.9e-8  # the host's sigma stays finite
    torch.testing.assert_close(sampling.sigmas, (1 / abar - 1).sqrt(), rtol=1e-3, atol=0)
    assert get("nodes.host.tags").get_tag(model).bundled


def test_a_scheduler_that_says_nothing_of_its_noise_leaves_the_hosts(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "EDMEulerScheduler", "sigma_max": 80}'
    )
    assert get("nodes.load_sd").as_its_scheduler_says(tiny.model, tmp_path) is tiny.model
