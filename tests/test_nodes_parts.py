"""The parts of the nodes on a stand-in host: noise levels, encoder, guidance, FreeU, schedules, settings, errors."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_host
import pytest
import torch
from nodes_kit import SIZE, get, loss, model, optimise, preset, prompts

ROOT = Path(__file__).resolve().parents[1]


# ---- the prior's arithmetic


@pytest.mark.parametrize("sampling", [fake_host.EPS, fake_host.CONST])
def test_noise_added_in_vp_form_comes_back_as_itself(pack: ModuleType, sampling: type) -> None:
    """x0 is known, so the predicted noise must be the noise that was added: eps and flow models alike."""
    space = get("host.space").Space.of(sampling())
    t = torch.tensor([3, 50, 98])
    alpha, sigma = space.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, 1, 1, 1))
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    s = space.sigma(t)
    x = (alpha * x0 + sigma * eps) * space.length(s)
    by_hand = (
        (1 - s.reshape(-1, 1, 1, 1)) * x0 + s.reshape(-1, 1, 1, 1) * eps
        if space.flow
        else x0 + s.reshape(-1, 1, 1, 1) * eps
    )
    torch.testing.assert_close(x, by_hand)
    torch.testing.assert_close(space.noise(x, x0, s), eps, rtol=1e-3, atol=1e-3)


def test_the_encoder_copy_gives_the_vaes_latents_and_their_gradient(pack: ModuleType) -> None:
    vae = fake_host.Vae()
    with torch.inference_mode(False), torch.enable_grad():
        copy = get("host.encoder").EncoderCopy(vae, lambda z: 2 * z, SIZE, torch.device("cpu"))
        images = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64).float().requires_grad_()
        z = copy(images)
        z[0, 0, 0, 0].backward()
    with torch.no_grad():
        expected = 2 * vae.first_stage_model.encode(images.detach() * 2 - 1)
    torch.testing.assert_close(z.detach(), expected)
    assert images.grad is not None
    by_hand = torch.zeros(1, 3, SIZE, SIZE)
    by_hand[0, 0, :2, :2] = 2 * 2 / 4
    torch.testing.assert_close(images.grad, by_hand)
    assert isinstance(copy.module.decoder, torch.nn.Identity)


def test_the_encoder_copy_owns_nothing_of_the_manager(pack: ModuleType) -> None:
    """What the manager hangs on a VAE frees memory of the device when it goes, and so must not exist twice."""

    class Handle:
        alive = 0

        def __init__(self) -> None:
            Handle.alive += 1

        def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
            return Handle()

        def __del__(self) -> None:
            Handle.alive -= 1

    vae = fake_host.Vae()
    source = vae.first_stage_model
    source.dynamic_vbars, source.weight_lowvram_function = {torch.device("cuda"): Handle()}, Handle()
    source.of_another_pack = {"pins": [Handle()]}
    source._pin_state, source.prev_comfy_cast_weights, source.flag = {"weights": (1, 2)}, False, False
    with torch.inference_mode(False), torch.enable_grad():
        copy = get("host.encoder").EncoderCopy(vae, lambda z: z, SIZE, torch.device("cpu"))
    assert Handle.alive == 3
    gone = ("dynamic_vbars", "_pin_state", "prev_comfy_cast_weights", "weight_lowvram_function")
    assert not any(name in copy.module.__dict__ for name in gone) and copy.module.flag is False
    del copy
    assert Handle.alive == 3 and source._pin_state == {"weights": (1, 2)}


def test_loading_the_vae_leaves_the_model_loaded(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without smart memory the host puts all else aside for it, and takes the model's patches off."""
    manager = sys.modules["comfy.model_management"]
    monkeypatch.setattr(manager, "loaded", ["the model"])
    monkeypatch.setattr(manager, "load_models_gpu", lambda models: setattr(manager, "loaded", list(models)))
    vae = fake_host.Vae()
    with torch.inference_mode(False), torch.enable_grad():
        get("host.encoder").EncoderCopy(vae, lambda z: z, SIZE, torch.device("cpu"))
    assert manager.loaded == ["the model"]


def test_weights_that_show_themselves_as_meta_are_told_apart(pack: ModuleType) -> None:
    """As ComfyUI-GGUF's do, whose state dict is for estimates only."""

    class Shy(torch.nn.Linear):
        def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
            destination[f"{prefix}weight"] = torch.empty(3, 3, device="meta")
            destination[f"{prefix}bias"] = torch.empty(3, device="meta")

    of, vae, found = get("host.fingerprint").of, fake_host.Vae(), []
    for fill in (1.0, 1.0, 2.0):
        patcher = model()
        patcher.model.diffusion_model = Shy(3, 3)
        torch.nn.init.constant_(patcher.model.diffusion_model.weight, fill)
        torch.nn.init.zeros_(patcher.model.diffusion_model.bias)
        found.append(of(patcher, vae))
    assert found[0] == found[1] != found[2]


def test_views_join_only_where_the_host_would_join_them(pack: ModuleType) -> None:
    conditioning = get("host.conditioning")

    class Regular(fake_host.Cond):
        def can_concat(self, other: fake_host.Cond) -> bool:
            return self.cond.shape == other.cond.shape

    def conds(kind: type, *lengths: int) -> list[Any]:
        return [[{"model_conds": {"c": kind(torch.zeros(1, n, 4))}, "uuid": n}] for n in lengths]

    assert conditioning.joinable(conds(fake_host.Cond, 77, 154))
    assert conditioning.joinable(conds(Regular, 19, 19)) and not conditioning.joinable(conds(Regular, 19, 23))


def test_numbers_and_none_through_a_wire_are_what_they_would_be_as_text(pack: ModuleType) -> None:
    plain, wired = loss(t_max="0.5"), loss(t_min=None, t_max=0.5, weighting=None, clip=None)
    assert wired.window == plain.window and wired.gradient == plain.gradient == {}


# ---- FreeU


def by_hand_v2(h: torch.Tensor, b: float) -> torch.Tensor:
    """FreeU v2's backbone as the authors write it, one sample at a time."""
    out = h.clone()
    for k in range(len(h)):
        mean = h[k].mean(0)
        m = (mean - mean.min()) / (mean.max() - mean.min())
        out[k, : h.shape[1] // 2] *= (b - 1) * m + 1
    return out


def low_by_hand(x: torch.Tensor) -> torch.Tensor:
    """The frequencies -1 and 0 by an explicit sum, for any size."""
    height, width = x.shape[-2:]
    out = torch.zeros(x.shape, dtype=torch.complex64)
    rows, columns = torch.arange(height), torch.arange(width)
    for p in (-1, 0) if height > 1 else (0,):
        for q in (-1, 0) if width > 1 else (0,):
            wave = torch.exp(-2j * torch.pi * (p * rows[:, None] / height + q * columns[None] / width))
            out += (x * wave).sum((-2, -1), keepdim=True) * wave.conj() / (height * width)
    return out.real


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 4), (3, 2)])
def test_freeu_is_the_papers_on_any_size(pack: ModuleType, size: tuple[int, int]) -> None:
    freeu = get("host.freeu")
    g = torch.Generator().manual_seed(0)
    h, skip = torch.randn(2, 2, 8, *size, generator=g).unbind()
    patch = freeu.Patch({8: (1.3, 0.4)}, 2, None)
    got_h, got_skip = patch(h.clone(), skip.clone(), {"sigmas": torch.ones(1)})
    torch.testing.assert_close(got_h, by_hand_v2(h, 1.3))
    torch.testing.assert_close(got_skip, skip + (0.4 - 1) * low_by_hand(skip), rtol=1e-4, atol=1e-5)
    other, same = freeu.Patch({16: (1.3, 0.4)}, 2, None)(h, skip, {})
    assert other is h and same is skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", [1, 2])
def test_all_ones_is_exactly_the_identity_and_constants_are_safe(
    pack: ModuleType, version: int, dtype: torch.dtype
) -> None:
    freeu = get("host.freeu")
    h = torch.randn(2, 8, 6, 6).to(dtype)
    got, skip = freeu.Patch({8: (1.0, 1.0)}, version, None)(h, h, {})
    assert got is h and skip is h
    flat = torch.full((1, 8, 6, 6), 3.0, dtype=dtype)
    got, skip = freeu.Patch({8: (1.5, 0.5)}, version, None)(flat, flat, {})
    assert torch.isfinite(got).all() and torch.isfinite(skip).all() and got.dtype == dtype
    factor = 1.5 if version == 1 else 1.0
    torch.testing.assert_close(got[:, :4].float(), torch.full((1, 4, 6, 6), 3.0 * factor))
    torch.testing.assert_close(skip.float(), torch.full((1, 8, 6, 6), 1.5), rtol=1e-2, atol=1e-2)


def test_freeu_by_timestep_gives_each_sample_its_own_strength(pack: ModuleType) -> None:
    freeu, node = get("host.freeu"), get("freeu")
    schedules = importlib.import_module("pack.distill3d.schedules")
    space = get("host.space").Space.of(fake_host.EPS())
    strength = node.ByTimestep(schedules.Linear(0, 1), space)
    patch = freeu.Patch({8: (2.0, 1.0)}, 1, strength)
    h = torch.ones(6, 8, 4, 4)
    sigmas = space.sigma(torch.tensor([0, 99]))
    got, _ = patch(h, h, {"sigmas": sigmas})
    torch.testing.assert_close(got[:, 0, 0, 0], torch.tensor([1.0, 2, 1, 2, 1, 2]))
    assert torch.equal(got[0], h[0])


# ---- schedules, settings, errors


def test_schedules_of_every_shape(pack: ModuleType) -> None:
    module = get("cfg_schedule")
    assert module.make(100, 60, {"shape": "linear", "begin": 0.0, "until": 1.0})(0.5) == 80
    assert module.make(100, 60, {"shape": "cosine", "begin": 0.0, "until": 1.0})(0.25) == pytest.approx(
        94.142, abs=1e-3
    )
    assert module.make(100, 60, {"shape": "step", "at": 0.5})(0.5) == 60
    assert module.make(100, 60, {"shape": "constant"})(0.9) == 100
    image = module.draw(module.make(100, 60, {"shape": "step", "at": 0.5}), "iterations")
    assert image.shape == (1, 192, 384, 3) and float(image.min()) < 0.3
    flat = module.draw(module.make(7.5, 60, {"shape": "constant"}), "iterations")[0]
    line = (flat[:, 60, 2] - flat[:, 60, 0] > 0.3).nonzero().flatten().float().mean()
    label = (flat[:150, :40] < 0.5).all(-1).nonzero()[:, 0].float().mean()
    assert abs(line - label) < 6, "the value stands where the line is"


def test_settings_come_from_preset_loss_and_lines(pack: ModuleType) -> None:
    settings = get("settings")
    schedules = importlib.import_module("pack.distill3d.schedules")
    made = settings.assemble(loss(t_max="0.9->0.4", weighting="uniform"), "draft", bundled=True)
    draft = importlib.import_module("pack.distill3d.optimize").preset("draft", "sds", bundled=True)
    assert made.sds == draft.sds and made.window.maximum(0) == 0.9 and made.gradient.weighting == "uniform"
    full = settings.assemble(loss(), "draft", bundled=False)
    assert full.sds.guidance(0) == 101
    cfg = get("types").Plan(schedules.Linear(20, 10))
    assert settings.assemble(loss(cfg=cfg), "draft", bundled=True).sds.guidance(0.5) == 15
    assert settings.unused(loss(), made, bundled=True) == ""
    strange = replace(loss(), prompts=prompts("a corgi"))
    assert "'corgi'" in settings.unused(strange, made, bundled=True)
    assert settings.unused(strange, made, bundled=False) == ""
    weighted = replace(loss(), prompts=prompts("a (red:1.3) embedding:shiny-7, (blue: .5) (cube:-1.) (red:+1e-1)"))
    assert settings.unused(weighted, made, bundled=True) == ""
    csd = loss("CSD", cfg=cfg)
    assert "not used" in settings.unused(csd, settings.assemble(csd, "draft", bundled=True), bundled=True)
    more = (
        "losses.sparsity = 0->20  # haze\n\nbackground.mode = white\nfield.grid.levels = 3\ncameras.elevation = -5..40"
    )
    changed = settings.override(made, more)
    assert changed.losses.sparsity(1) == 20 and changed.background.mode == "white"
    assert changed.field.grid.levels == 3 and changed.cameras.elevation == (-5.0, 40.0)


BAD = {
    "unknown name": ("losses.sparcity = 1", "expected one of sparsity"),
    "no value": ("losses.sparsity", "write name = value"),
    "not a number": ("field.grid.levels = many", "cannot be 'many'"),
    "too deep": ("iterations.x = 1", "too deep"),
    "another node's": ("method = csd", "unknown setting"),
    "no schedule": ("losses.sparsity = nan", "losses.sparsity: "),
    "endless": ("render.samples_per_ray = 100000000", "1 to 16384"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD.keys())
def test_lines_that_cannot_be_used_say_why(pack: ModuleType, line: str, message: str) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    settings = get("settings")
    made = settings.assemble(loss(), "draft", bundled=True)
    with pytest.raises(errors.SettingsError, match=re.escape(message)):
        settings.override(made, line)


def test_a_prompt_that_cannot_be_used_is_told_before_a_model_is_loaded(pack: ModuleType) -> None:
    asked = get("view_prompts").ViewPromptsNode.validate_inputs
    assert asked("a red cube", "any | -180..180 | -90..90 |") is True
    assert asked(None, None) is True, "wires bring them"
    assert asked("  ", None).startswith("expected a prompt")
    assert "expected at least one sector" in asked("a red cube", "")
    assert "cover every view" in asked("a red cube", "front | -45..45 | -90..90 | , front view")


def test_ends_that_cross_are_told_by_the_node_that_has_them(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    with pytest.raises(errors.SettingsError, match=r"t_max never below t_min, got 0\.9 and 0\.1"):
        loss(t_min="0.9", t_max="0.1")
    for shape in ("linear", "cosine"):
        with pytest.raises(errors.SettingsError, match=r"begin below until, got 0\.8 and 0\.2"):
            get("cfg_schedule").make(1, 0, {"shape": shape, "begin": 0.8, "until": 0.2})


@pytest.mark.parametrize("given", [{"t_min": "foo"}, {"t_max": "nan"}, {"t_max": "0.5->"}], ids=str)
def test_a_bad_end_of_the_window_is_refused_by_its_own_node_and_name(pack: ModuleType, given: dict[str, str]) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    with pytest.raises(errors.SettingsError, match=f"^{next(iter(given))}: "):
        loss(**given)


def test_models_that_cannot_be_distilled_are_refused_with_advice(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    check = get("distill_loss").check_model
    inpainting, video, editing = model(), model(), model()
    inpainting.model.concat_keys = ("mask", "masked_image")
    video.model.latent_format = SimpleNamespace(latent_channels=16, latent_dimensions=3)
    editing.model.model_sampling = type("IMG_TO_IMG", (fake_host.EPS,), {})()
    for bad, message in ((inpainting, "plain version"), (video, "image model"), (editing, "image-to-image")):
        with pytest.raises(errors.Distill3DError, match=message):
            check(bad)
    wide = model()
    wide.model.model_config.unet_config["context_dim"] = 2048
    with pytest.raises(errors.SettingsError, match="2048 wide and the CLIP of View Prompts makes 1"):
        loss(patcher=wide)
    flow = fake_host.Vae()
    flow.latent_channels = 16
    with pytest.raises(errors.PriorError, match="different families"):
        get("optimizer").NeRFOptimizer.execute(loss(), flow, preset(2), 0, "distill3d/run/t")
    with pytest.raises(errors.SettingsError, match="describe one object"):
        prompts("   ")
    with pytest.raises(errors.SettingsError, match="expected a radiance field, got Tensor"):
        get("mesh_export").MeshExport.execute(torch.zeros(1), "x", "glb")


def test_a_full_disk_is_an_output_error_and_leaves_no_half_file(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    field = optimise(iterations=2).args[0]

    def full(self: Path, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(errors.OutputError, match="free some space"):
        get("field").SaveField.execute(field, "distill3d/field/full")
    assert not list((tmp_path / "output").rglob("full*/*"))


def test_the_environment_says_what_was_refused_and_why(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = get("environment")
    assert environment.find("numpy")[0].isdigit() and environment.find("no_such_package") == "missing"
    grids = environment.gather()["hash_grid"]
    assert grids["loop"] in ("chosen", "usable") and grids["tinycudann"].startswith("refused: ")
    assert environment.gather()["marching"]["torch"] == "chosen"

    with monkeypatch.context() as patch:
        patch.setattr(environment.importlib.util, "find_spec", lambda name: object() if name == "triton" else None)
        patch.setattr(environment.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
        line = environment.line()
    assert "found triton, not installed numba, tinycudann, nerfacc, av;" in line and "Environment Report" in line

    def broken(name: str) -> Any:
        raise RuntimeError("CUDA kernel image is missing")

    monkeypatch.setattr(environment.importlib, "import_module", broken)
    assert environment.find("nerfacc") == "refused: RuntimeError: CUDA kernel image is missing"


def test_texts_are_joined_one_a_sample_and_blended_by_share(pack: ModuleType) -> None:
    conditioning = get("host.conditioning")
    g = torch.Generator().manual_seed(0)
    short, long = torch.randn(1, 2, 3, generator=g), torch.randn(1, 4, 3, generator=g)
    control = object()

    def cond(tensor: torch.Tensor, **more: Any) -> list[dict[str, Any]]:
        return [{"model_conds": {"c_crossattn": fake_host.Cond(tensor)}, "uuid": 1, "control": control, **more}]

    first, second = cond(short), cond(long)
    assert conditioning.joinable([first, second])
    assert not conditioning.joinable([first, cond(long, control=object())])
    assert not conditioning.joinable([first, cond(long, mask=torch.ones(1))])
    joined = conditioning.join([first, second])[0]["model_conds"]["c_crossattn"].cond
    assert torch.equal(joined, torch.cat([short.repeat(1, 2, 1), long]))
    mixed = conditioning.mix(first, second, 0.25)[0]
    assert mixed["control"] is control
    torch.testing.assert_close(mixed["model_conds"]["c_crossattn"].cond, 0.25 * short.repeat(1, 2, 1) + 0.75 * long)
    prior = get("host.prior").HostPrior
    handles = torch.tensor([[[0.0, 0.0, 1.0]], [[2.0, 2.0, 1.0]]])
    blended = prior.blend(handles, handles.flip(0), torch.tensor([0.3, 1.0]).reshape(2, 1, 1))
    torch.testing.assert_close(blended, torch.tensor([[[0, 2, 0.3]], [[2, 0, 1.0]]]))


def test_a_controlnet_in_extras_goes_with_every_view_and_shares_a_timestep(pack: ModuleType) -> None:
    control = object()
    conditioning, run = get("host.conditioning"), get("host.run")
    text = [[torch.zeros(1, 1, 1), {"pooled_output": 1}]]
    extras = [[torch.ones(1, 1, 1), {"control": control, "pooled_output": 2, "start_percent": 0.5}]]
    out = conditioning.with_extras(text, extras)
    assert out[0][1] == {"pooled_output": 1, "control": control} and out[0][0] is text[0][0]
    assert text[0][1] == {"pooled_output": 1}
    assert run.reads_one_timestep(model(), {"a": out}) and not run.reads_one_timestep(model(), {"a": text})


def test_what_a_preset_sets_shows_auto_and_what_that_is(pack: ModuleType) -> None:
    """ASD's eta is 0.1 in the library, 1 in the bundled prior's preset: no widget shows either as if it were used."""
    errors, methods = (importlib.import_module(f"pack.distill3d.{name}") for name in ("errors", "methods"))
    reflect, asd = get("reflect"), methods.METHODS["ASD"].settings
    fields = {item.id: item for item in reflect.inputs(asd, get("stands_for").of_method("ASD"))}
    assert {item.default for item in fields.values()} == {"auto"} and all(item.optional for item in fields.values())
    assert "auto is 1 with the bundled prior, 0.1 with any other MODEL. Write a number." in fields["eta"].tooltip
    assert fields["random"].options == ["auto", "on", "off"] and "auto is off with" in fields["random"].tooltip
    assert "auto is 0.02 with the bundled prior, none with any other" in fields["t_min"].tooltip
    assert (
        "auto is piecewise(0.0:5.0, 0.4:5.0, 0.55:7.5, 1.0:2.5) with the bundled prior, 7.5 with"
        in fields["guidance"].tooltip
    )
    assert reflect.chosen(asd, dict.fromkeys(fields, " auto ")) == reflect.chosen(asd, {}) == {}
    assert reflect.chosen(asd, dict.fromkeys(fields)) == {}, "the host passes None for what a prompt lacks"
    written = {"eta": "0.1", "random": "on", "t_min": "none", "guidance_over": "iterations"}
    assert reflect.chosen(asd, written) == {"eta": 0.1, "random": True, "t_min": None, "guidance_over": "iterations"}
    assert reflect.chosen(asd, {"eta": 0.1, "random": False}) == {"eta": 0.1, "random": False}, "numbers of old prompts"
    for name, said in {
        "t_min": "expected a number, none or auto, got 'x'",
        "random": "expected on, off or auto",
    }.items():
        with pytest.raises(errors.SettingsError, match=f"{name}: {said}"):
            reflect.chosen(asd, {name: "x"})


def test_what_the_widgets_show_is_what_runs(pack: ModuleType) -> None:
    """The library's default can be asked for where a preset has another value, and words are used as they are shown."""
    assemble = get("settings").assemble
    draft = importlib.import_module("pack.distill3d.optimize").preset("draft", "asd", bundled=True)
    plain = assemble(loss("ASD"), "draft", bundled=True)
    assert plain.asd == draft.asd and plain.asd.eta == 1.0
    written = assemble(loss("ASD", own={"eta": "0.1", "random": "on", "t_min": "none"}), "draft", bundled=True).asd
    assert (written.eta, written.random, written.t_min) == (0.1, True, None)
    for bundled in (True, False):
        for name, entry in importlib.import_module("pack.distill3d.methods").METHODS.items():
            shown = {item.id: item.default for item in get("reflect").inputs(entry.settings, {})}
            used = getattr(assemble(loss(name, own=shown), "draft", bundled=bundled), name.lower())
            auto = getattr(assemble(loss(name), "draft", bundled=bundled), name.lower())
            lacking = loss(name, own=dict.fromkeys(shown))
            assert getattr(assemble(lacking, "draft", bundled=bundled), name.lower()) == auto
            assert used == auto, f"{name}: a text is shown that the preset replaces"


def test_counts_of_zero_keep_the_base_preset_s(pack: ModuleType) -> None:
    choose, made = get("optimizer").choose, loss("SDS")
    chosen = {"preset": "custom", "base": "standard", "resolution": "auto", "image_size": 0, "more": ""}
    zero = {"iterations": 0, "batch": 0, "checkpoint_every": 0}
    for bundled in (True, False):
        plain = choose(made, {"preset": "standard"}, bundled=bundled)
        assert choose(made, {**chosen, **zero}, bundled=bundled) == plain
        own = choose(made, {**chosen, **zero, "batch": 3}, bundled=bundled)
        assert (own.batch, own.iterations) == (3, plain.iterations)
