"""The nodes on a stand-in host: schemas, a whole run inside inference mode, interrupt, Stop & keep, resume, errors."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_host
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
RECORDED = json.loads((Path(__file__).parent / "host_signatures.json").read_text())["api"]
SIZE = 16
COARSE = "field.grid.levels = 2\nrender.samples_per_ray = 16\noccupancy_resolution = 16\nresolution = 16"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with fake_host.installed(tmp_path_factory.mktemp("host")) as found:
        importlib.import_module("pack.nodes.extension")
        optimizer = get("optimizer")
        optimizer.FRAMES, optimizer.FRAME_SIZE, optimizer.SHEET_SIZE = 2, 32, 32
        yield found


@pytest.fixture()
def pack(loaded: ModuleType, tmp_path: Path) -> ModuleType:
    """The pack on a host with empty folders, no messages and no interrupt."""
    (tmp_path / "output").mkdir()
    sys.modules["folder_paths"].place["root"] = tmp_path
    server = sys.modules["server"].PromptServer.instance
    server.sent.clear(), server.texts.clear(), fake_host.ProgressBar.seen.clear()
    sys.modules["comfy.model_management"].interrupt = False
    return loaded


def get(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"pack.nodes.{name}")


def model(sampling: Any = None) -> Any:
    red = torch.tensor([1.0, -1.0, -1.0, 0.0]).reshape(4, 1, 1).expand(4, SIZE // 2, SIZE // 2) * 2
    base = fake_host.Base({"red": red, "grey": torch.zeros_like(red)}, sampling or fake_host.EPS())
    patcher = fake_host.Patcher(base)
    tags = get("host.tags")
    tags.put_tag(patcher, tags.Tag("fake", bundled=True, image_size=SIZE))
    return patcher


def prompts(text: str = "a red ball") -> Any:
    sectors = "side | -180..180 | -90..90 | , side view"
    node = get("view_prompts").ViewPromptsNode
    return node.execute(fake_host.Clip({f"{text}, side view": 0, "": 1}), text, "", sectors).args[0]


def loss(name: str = "SDS", patcher: Any = None, **more: Any) -> Any:
    return get("distill_loss").DistillLoss.execute(patcher or model(), prompts(), {"method": name}, **more).args[0]


def preset(iterations: int, more: str = "") -> dict[str, Any]:
    values = {"base": "draft", "iterations": iterations, "batch": 2, "resolution": "auto", "image_size": 0}
    return {"preset": "custom", **values, "checkpoint_every": 50, "more": f"{COARSE}\n{more}"}


def optimise(made: Any = None, iterations: int = 3, more: str = "", **rest: Any) -> Any:
    node = get("optimizer").NeRFOptimizer
    with torch.inference_mode():
        return node.execute(made or loss(), fake_host.Vae(), preset(iterations, more), 0, "distill3d/run/t", **rest)


# ---- the stand-in itself


def names(signature: str) -> list[str]:
    """Parameter names of a recorded signature."""
    inside = signature[1 : signature.rindex(")")]
    depth, parts, current = 0, [], ""
    for letter in inside:
        depth += letter in "[({"
        depth -= letter in "])}"
        if letter == "," and depth == 0:
            parts, current = [*parts, current], ""
        else:
            current += letter
    return [re.split(r"[:=]", part.strip())[0].lstrip("*") for part in [*parts, current] if part.strip(" *")]


CHECKED = {
    "comfy.samplers:CFGGuider.__init__": fake_host.CFGGuider.__init__,
    "comfy.samplers:CFGGuider.sample": fake_host.CFGGuider.sample,
    "comfy.samplers:CFGGuider.inner_set_conds": fake_host.CFGGuider.inner_set_conds,
    "comfy.samplers:Sampler.sample": fake_host.Sampler.sample,
    "comfy.samplers:calc_cond_batch": fake_host.calc_cond_batch,
    "comfy.samplers:cfg_function": fake_host.cfg_function,
    "comfy.model_patcher:ModelPatcher.add_wrapper_with_key": fake_host.Patcher.add_wrapper_with_key,
    "comfy.model_management:load_models_gpu": fake_host.Manager.load_models_gpu,
    "comfy.model_management:get_free_memory": fake_host.Manager.get_free_memory,
    "comfy.model_management:get_torch_device": fake_host.Manager.get_torch_device,
    "comfy.model_management:throw_exception_if_processing_interrupted": (
        fake_host.Manager.throw_exception_if_processing_interrupted
    ),
    "comfy.utils:ProgressBar.__init__": fake_host.ProgressBar.__init__,
    "comfy.utils:ProgressBar.update_absolute": fake_host.ProgressBar.update_absolute,
    "folder_paths:get_save_image_path": fake_host.get_save_image_path,
    "comfy_api.latest:io.NodeOutput": fake_host.NodeOutput.__init__,
    "comfy_api.latest:ui.PreviewImage": fake_host.PreviewImage.__init__,
    "comfy_api.latest:ui.PreviewText": fake_host.PreviewText.__init__,
    "comfy_api.latest._util:File3D.__init__": fake_host.File3D.__init__,
}


@pytest.mark.parametrize("place", sorted(CHECKED))
def test_the_stand_in_has_the_recorded_signature(place: str) -> None:
    ours = [name for name in inspect.signature(CHECKED[place]).parameters if name != "self"]
    recorded = [name for name in names(RECORDED[place]) if name != "self"]
    assert ours == recorded[: len(ours)]
    assert set(recorded[len(ours) :]) <= {"lazy"}, "the host has parameters that the stand-in lacks"


@pytest.mark.parametrize(
    ("place", "cls"),
    [("comfy_api.latest:io.Schema", fake_host.Schema), ("comfy_api.latest._util:MESH.__init__", fake_host.MESH)],
)
def test_the_stand_in_takes_no_field_the_host_does_not_have(place: str, cls: type) -> None:
    assert set(inspect.signature(cls).parameters) <= set(names(RECORDED[place]))


# ---- schemas


def every_input(items: list[Any]) -> Iterator[Any]:
    for item in items:
        yield item
        for option in getattr(item, "options", []) or []:
            yield from every_input(option.inputs) if hasattr(option, "inputs") else ()


def test_every_node_and_input_explains_itself(pack: ModuleType) -> None:
    nodes = get("extension").NODES
    ids = [node.define_schema().node_id for node in nodes]
    assert len(set(ids)) == len(ids) == 12 and all(name.startswith("Distill3D_") for name in ids)
    for node in nodes:
        schema = node.define_schema()
        assert schema.display_name and schema.category == "Distill3D" and len(schema.description) > 40
        assert schema.search_aliases
        for item in every_input(schema.inputs):
            assert getattr(item, "tooltip", ""), f"{schema.node_id}.{item.id}"
        for item in schema.outputs:
            assert item.tooltip, f"{schema.node_id} -> {item.id}"
        assert (ROOT / "js" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8").count("## What to try")


def test_a_new_setting_of_a_method_appears_in_its_node(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = importlib.import_module("pack.distill3d.methods")
    options = {option.key: option.inputs for option in get("distill_loss").method_options()}
    assert set(options) == set(methods.METHODS)
    for name, entry in methods.METHODS.items():
        fields = set(inspect.signature(entry.settings).parameters)
        assert {item.id for item in options[name]} == fields, f"{name} shows other inputs than it has settings"
    guidance = options["SDS"][0]
    assert guidance.default == "auto" and "DreamFusion" in guidance.tooltip


def test_execute_takes_exactly_what_the_schema_offers(pack: ModuleType) -> None:
    for node in get("extension").NODES:
        wanted = {item.id for item in node.define_schema().inputs}
        parameters = inspect.signature(node.execute).parameters
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        named = {name for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
        named -= {"perp_neg"} - wanted  # shown where the library has it
        assert named <= wanted and (open_ended or named == wanted), node


def test_locales_name_every_node_and_top_level_input(pack: ModuleType) -> None:
    for language in ("en", "zh"):
        said = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for node in get("extension").NODES:
            schema = node.define_schema()
            entry = said[schema.node_id]
            assert entry["display_name"] and entry["description"]
            for item in schema.inputs:
                assert entry["inputs"][item.id]["tooltip"], f"{language} {schema.node_id}.{item.id}"
            assert len(entry["outputs"]) == len(schema.outputs)


def test_the_door_imports_without_comfyui_and_says_what_an_old_host_lacks() -> None:
    code = f"""
import importlib.util, sys, types, asyncio
spec = importlib.util.spec_from_file_location("door", {str(ROOT / "__init__.py")!r})
door = importlib.util.module_from_spec(spec); spec.loader.exec_module(door)
assert not [m for m in sys.modules if m.split(".")[0] in ("comfy", "torch", "nodes")]
sys.modules["comfyui_version"] = types.SimpleNamespace(__version__="0.3.64")
try:
    asyncio.run(door.comfy_entrypoint())
except RuntimeError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "needs ComfyUI 0.33 or newer and this is 0.3.64" in out


# ---- a run


def test_a_run_learns_the_models_dream_inside_inference_mode(pack: ModuleType) -> None:
    out = optimise(iterations=40, more="background.mode = white\nlosses.sparsity = 0\nlosses.entropy = 0")
    field, images, report = out.args
    assert images.shape == (2, 32, 32, 3) and float(images.min()) >= 0 and float(images.max()) <= 1
    told = json.loads(report)
    assert told["iterations"] == {"done": 40, "planned": 40, "skipped": 0}
    assert told["prior"]["prediction_type"] == "EPS"
    centre = images[:, 13:19, 13:19].mean((0, 1, 2))
    assert centre[0] > centre[1] + 0.2 and centre[0] > centre[2] + 0.2
    for tensor in field.checkpoint.tensors.values():
        assert not tensor.is_inference() and not tensor.requires_grad and tensor.device.type == "cpu"


def test_one_evaluation_a_step_and_the_model_is_left_as_it_was(pack: ModuleType) -> None:
    patcher = model()
    before = {"options": str(patcher.model_options), "attachments": dict(patcher.attachments)}
    vae = fake_host.Vae()
    weight = vae.first_stage_model.weight
    made = loss(patcher=patcher)
    with torch.inference_mode():
        get("optimizer").NeRFOptimizer.execute(made, vae, preset(3), 0, "distill3d/run/t")
    assert patcher.model.calls == [(2, 2)] * 3, "positive and negative of two views in one call"
    assert {"options": str(patcher.model_options), "attachments": dict(patcher.attachments)} == before
    assert vae.first_stage_model.weight is weight and weight.is_inference() and not hasattr(weight, "grad_fn_")
    assert isinstance(vae.first_stage_model.decoder, torch.nn.Linear) and not patcher.wrappers


def test_events_text_points_and_pictures_are_sent(pack: ModuleType) -> None:
    optimise(iterations=3)
    server = sys.modules["server"].PromptServer.instance
    steps = [data for event, data in server.sent if event == "distill3d.step"]
    assert steps[-1]["iteration"] == 3 and steps[-1]["node"] == "7" and steps[-1]["occupancy"] > 0
    assert any("3/3" in text and "CFG 8.5" in text and "occupancy" in text for text in server.texts)
    pictures = [preview for _, preview in fake_host.ProgressBar.seen if preview]
    assert pictures and pictures[0][0] == "JPEG" and pictures[0][1].size == (4 * 96, 3 * 96)
    assert server.sent[-1][0] == "distill3d.end"


def test_cancel_saves_and_resume_goes_on_bit_for_bit(pack: ModuleType, tmp_path: Path) -> None:
    manager = sys.modules["comfy.model_management"]
    watch = get("host.watch")
    plain = watch.Watch._step

    def cancel_at_two(self: Any, step: Any) -> None:
        plain(self, step)
        if step.iteration == 2:
            manager.interrupt = True

    watch.Watch._step = cancel_at_two
    with pytest.raises(fake_host.InterruptProcessingException):
        optimise(iterations=5)
    watch.Watch._step = plain
    assert manager.interrupt is False
    resume = get("optimizer").Resume
    stopped, so_far, info = resume.execute("latest").args
    assert "2/5" in info and so_far.saved.facts["iterations"] == 2
    resumed = optimise(iterations=5, resume=stopped).args[0]
    straight = optimise(iterations=5).args[0]
    for name, tensor in straight.checkpoint.tensors.items():
        assert torch.equal(tensor, resumed.checkpoint.tensors[name]), name


def test_resume_with_other_settings_lists_them(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    optimise(iterations=2)
    stopped = get("optimizer").Resume.execute("latest").args[0]
    with pytest.raises(errors.CheckpointError, match=r"settings\.iterations: 2 in the checkpoint, 4 now"):
        optimise(iterations=4, resume=stopped)


def test_stop_and_keep_gives_what_there_is(pack: ModuleType) -> None:
    board = get("host.stop").BOARD
    watch = get("host.watch")
    plain = watch.Watch._step

    def stop_at_two(self: Any, step: Any) -> None:
        plain(self, step)
        if step.iteration == 2:
            assert board.stop("7")

    watch.Watch._step = stop_at_two
    out = optimise(iterations=50)
    watch.Watch._step = plain
    assert json.loads(out.args[2])["iterations"]["done"] == 2
    assert not board.stop("7")
    assert board.history("7")["points"][0]["iteration"] == 1


def test_a_field_is_saved_loaded_turned_and_exported(pack: ModuleType, tmp_path: Path) -> None:
    field = optimise(iterations=12).args[0]
    with torch.inference_mode():
        name = get("field").SaveField.execute(field, "distill3d/field/ball").args[0]
        again = get("field").LoadField.execute(name).args[0]
        frames = get("turntable").RenderTurntable.execute(again, 3, 24, 15.0, "colour").args[0]
        out = get("mesh_export").MeshExport.execute(again, "distill3d/ball", "glb", resolution=24)
    assert frames.shape == (3, 24, 24, 3)
    mesh, file, path = out.args
    assert mesh.vertices.shape[::2] == (1, 3) and mesh.faces.shape[::2] == (1, 3)
    assert mesh.vertex_colors.shape == mesh.vertices.shape == mesh.normals.shape
    assert (tmp_path / "output" / path).read_bytes()[:4] == b"glTF" and file.format == "glb"
    assert out.ui["3d"][0]["filename"].endswith(".glb")


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


def test_a_schedule_over_timesteps_scales_each_samples_own_guidance(pack: ModuleType) -> None:
    schedules = importlib.import_module("pack.distill3d.schedules")
    space = get("host.space").Space.of(fake_host.EPS())
    guide = get("host.guidance").make_guide(None, {}, lambda: 5.0, space, schedules.Linear(2, 12))
    positive, negative = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1)).unbind()
    t = torch.tensor([0, 33, 99])
    moved = guide([positive, negative], torch.zeros(3, 4, 2, 2), space.sigma(t), [])[0]
    guided = negative + 5.0 * (moved - negative)
    scale = torch.tensor([2 + 10 * k / 99 for k in (0, 33, 99)]).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(guided, negative + scale * (positive - negative))


def test_the_hosts_cfg_patches_act_through_any_method(pack: ModuleType) -> None:
    def halve(arguments: dict[str, Any]) -> torch.Tensor:
        return arguments["denoised"] / 2

    options = {"sampler_post_cfg_function": [halve]}
    space = get("host.space").Space.of(fake_host.EPS())
    guide = get("host.guidance").make_guide(None, options, lambda: 7.5, space, None)
    positive, negative, x = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(2)).unbind()
    moved = guide([positive, negative], x, space.sigma(torch.tensor([5, 5])), [None, None])[0]
    guided = negative + 7.5 * (moved - negative)
    torch.testing.assert_close(guided, (negative + 7.5 * (positive - negative)) / 2, rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_are_told_apart(pack: ModuleType) -> None:
    prior = get("host.prior")
    g = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 2, 4, 2, 2, generator=g).unbind()
    s = torch.tensor([1.0, 2.0])
    assert prior._blocks(torch.cat([x, x, x]), s.repeat(3)) == 3
    assert prior._blocks(torch.cat([x, x, other]), s.repeat(3)) == 1
    assert prior._cuts(torch.cat([x, x, other]), s.repeat(3), None, apart=True) == [0, 4, 6]
    assert prior._cuts(torch.cat([x, x, other]), s.repeat(3), None, apart=False) == [0, 6]
    assert prior._cuts(torch.cat([x, x]), s.repeat(2), 3, apart=False) == [0, 3, 4]


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


def test_settings_come_from_preset_loss_and_lines(pack: ModuleType) -> None:
    settings = get("settings")
    schedules = importlib.import_module("pack.distill3d.schedules")
    made = settings.assemble(loss(t_max="0.9->0.4", weighting="uniform"), "draft", bundled=True)
    assert made.sds.guidance(0) == 8.5 and made.window.maximum(0) == 0.9 and made.gradient.weighting == "uniform"
    full = settings.assemble(loss(), "draft", bundled=False)
    assert full.sds.guidance(0) == 101
    cfg = get("types").Plan(schedules.Linear(20, 10))
    assert settings.assemble(loss(cfg=cfg), "draft", bundled=True).sds.guidance(0.5) == 15
    assert "not used" in settings.unused(loss("CSD", cfg=cfg))
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
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD.keys())
def test_lines_that_cannot_be_used_say_why(pack: ModuleType, line: str, message: str) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    settings = get("settings")
    made = settings.assemble(loss(), "draft", bundled=True)
    with pytest.raises(errors.SettingsError, match=re.escape(message)):
        settings.override(made, line)


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


def test_files_outside_the_output_folder_are_refused(pack: ModuleType, tmp_path: Path) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    folders = get("host.folders")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "checkpoint.safetensors").write_bytes(b"x")
    assert get("field").LoadField.validate_inputs("../secret").startswith("expected a folder inside")
    assert "found none" in get("optimizer").Resume.validate_inputs("distill3d/none")
    assert get("optimizer").Resume.validate_inputs("latest") is True
    with pytest.raises(errors.CheckpointError, match="run NeRF Optimizer first"):
        folders.inside("latest", folders.RUNS)
    with pytest.raises(errors.OutputError, match="inside the output folder"):
        folders.new_folder("../../elsewhere/run")


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
    assert run._reads_one_timestep(model(), {"a": out}) and not run._reads_one_timestep(model(), {"a": text})
