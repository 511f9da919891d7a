"""The nodes on a stand-in host: schemas, a whole run inside inference mode, interrupt, Stop & keep, resume."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_host
import numpy as np
import pytest
import torch
from nodes_kit import get, loss, model, optimise, preset
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RECORDED = json.loads((Path(__file__).parent / "host_signatures.json").read_text())["api"]


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
    "comfy.model_management:loaded_models": fake_host.Manager.loaded_models,
    "comfy.model_management:reset_cast_buffers": fake_host.Manager.reset_cast_buffers,
    "comfy.model_patcher:ModelPatcher.get_free_memory": fake_host.Patcher.get_free_memory,
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
    assert len(set(ids)) == len(ids) == 16 and all(name.startswith("Distill3D_") for name in ids)
    for node in nodes:
        schema = node.define_schema()
        assert schema.display_name and schema.category == "Distill3D" and len(schema.description) > 40
        assert schema.search_aliases
        for item in every_input(schema.inputs):
            assert getattr(item, "tooltip", ""), f"{schema.node_id}.{item.id}"
        for item in schema.outputs:
            assert item.tooltip, f"{schema.node_id} -> {item.id}"
        assert (ROOT / "js" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8").count("## What to try")


MENUS = {
    "SDS": {"guidance_over"},
    "ASD": {"guidance_over"},
    "NFSD": {"guidance_over"},
    "TBSD": {"source", "time", "opening"},
    "BRIDGE": {"source"},
}


SWITCHES = {"ASD": {"random"}, "TBSD": {"unit_norm"}, "BRIDGE": {"weighted"}, "BSD": {"auto"}}


def test_a_setting_that_takes_a_few_words_is_a_menu_of_those_it_takes(pack: ModuleType) -> None:
    methods, chosen = importlib.import_module("pack.distill3d.methods"), get("reflect").chosen
    for option in get("distill_loss").method_options():
        settings = methods.METHODS[option.key].settings
        combos = {item.id: item for item in option.inputs if item.io_type == "COMBO"}
        switches = {name for name, item in combos.items() if item.options == ["auto", "on", "off"]}
        assert switches == SWITCHES.get(option.key, set())
        assert set(combos) - switches == MENUS.get(option.key, set())
        for name, item in combos.items():
            assert item.default == item.options[0] == "auto" and not chosen(settings, {name: "auto"})
            for word in item.options[1:]:
                room = {"start": 0.3} if name == "opening" else {}  # an opening needs a start
                made = settings(**chosen(settings, {name: word}), **room)
                assert getattr(made, name) == ({"on": True, "off": False}[word] if name in switches else word)
            if name in switches:
                continue
            with pytest.raises(importlib.import_module("pack.distill3d.errors").SettingsError):
                settings(**{name: "anything else"})


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
        assert named <= wanted and (open_ended or named == wanted), node


def inner_inputs(item: Any) -> list[Any]:
    """What the entries of a menu bring along; the host's page looks for their words under menu_input."""
    return [inner for option in getattr(item, "options", None) or [] for inner in getattr(option, "inputs", [])]


def test_locales_name_every_node_and_input(pack: ModuleType) -> None:
    for language in ("en", "zh"):
        said = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for node in get("extension").NODES:
            schema = node.define_schema()
            entry = said[schema.node_id]
            assert entry["display_name"] and entry["description"]
            for item in schema.inputs:
                assert entry["inputs"][item.id]["tooltip"], f"{language} {schema.node_id}.{item.id}"
            assert len(entry["outputs"]) == len(schema.outputs)
            nested = {(item.id, inner.id) for item in schema.inputs for inner in inner_inputs(item)}
            assert not [pair for pair in nested if "_".join(pair) not in entry["inputs"]], schema.node_id


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
    out = optimise(iterations=40, more="background.mode = white\nlosses.sparsity = 0\noptimizer.eps = 1e-15")
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
    optimise(loss(own={"guidance": "9->3"}), iterations=3)
    server = sys.modules["server"].PromptServer.instance
    steps = [data for event, data in server.sent if event == "distill3d.step"]
    assert steps[-1]["iteration"] == 3 and steps[-1]["node"] == "7" and steps[-1]["occupancy"] > 0
    # the third of three steps is at two thirds of the run
    assert any("3/3" in text and "CFG 5.0" in text and "occupancy" in text for text in server.texts)
    pictures = [preview for _, preview in fake_host.ProgressBar.seen if preview]
    assert pictures and pictures[0][0] == "JPEG" and pictures[0][1].size == (4 * 96, 3 * 96)
    assert server.sent[-1][0] == "distill3d.end"


def points_of_last_run() -> list[int]:
    """Iterations on the chart."""
    return [point["iteration"] for point in get("host.stop").BOARD.history("7")["points"]]


def test_cancel_saves_and_resume_goes_on_bit_for_bit(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = sys.modules["comfy.model_management"]
    watch = get("host.watch")
    monkeypatch.setattr(watch, "POINT_EVERY", 1e9)  # as if steps were fast: only the first and the last are told
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
    texts = sys.modules["server"].PromptServer.instance.texts
    assert texts[-1].startswith("cancelled at 2/5 · kept in distill3d/run/t_00001_ · the node Resume goes on")
    resume = get("optimizer").Resume
    assert points_of_last_run() == [1, 2], "the chart does not end at the last step before Cancel"
    stopped, so_far, info = resume.execute("latest").args
    assert "2/5" in info and so_far.saved.facts["iterations"] == 2
    resumed, _, report = optimise(iterations=5, resume=stopped).args
    assert points_of_last_run() == [1, 2, 3, 5], "the chart does not go on where the checkpoint ended"
    events = [event for event, _ in sys.modules["server"].PromptServer.instance.sent]
    assert events.count("distill3d.begin") == 1, "the page is not told to ask for the points"
    again, _, info = resume.execute("latest").args
    assert info.endswith("5/5 · finished") and texts[-1] == info
    optimise(iterations=5, resume=again)
    history = get("host.stop").BOARD.history("7")
    assert history["note"] == "finished before, nothing is left to do" and points_of_last_run() == [1, 2, 3, 4, 5]
    straight, _, whole = optimise(iterations=5).args
    assert texts[-1].startswith("5/5 · done in 0:0") and "kept in distill3d/run/t_00002_" in texts[-1]
    assert json.loads(report)["curves"] == json.loads(whole)["curves"], "the report's curves begin with the run"
    for name, tensor in straight.checkpoint.tensors.items():
        assert torch.equal(tensor, resumed.checkpoint.tensors[name]), name


def test_resume_with_other_settings_lists_them(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    optimise(iterations=2)
    stopped = get("optimizer").Resume.execute("latest").args[0]
    with pytest.raises(errors.CheckpointError, match=r"settings\.iterations: 2 in the checkpoint, 4 now"):
        optimise(iterations=4, resume=stopped)


def test_stop_and_keep_gives_what_there_is(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    board = get("host.stop").BOARD
    watch = get("host.watch")
    monkeypatch.setattr(watch, "POINT_EVERY", 1e9)
    plain = watch.Watch._step

    def stop_at_two(self: Any, step: Any) -> None:
        plain(self, step)
        if step.iteration == 2:
            assert board.stop("7")

    watch.Watch._step = stop_at_two
    out = optimise(iterations=50)
    watch.Watch._step = plain
    assert json.loads(out.args[2])["iterations"]["done"] == 2
    texts = sys.modules["server"].PromptServer.instance.texts
    assert texts[-2].startswith("2/50 · rendering") and texts[-1].startswith("stopped at 2/50 · kept in")
    assert not board.stop("7")
    assert points_of_last_run() == [1, 2]


def test_a_run_stopped_before_its_first_step_says_so_and_leaves_no_folder(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    monkeypatch.setattr(get("host.watch").Watch, "stop", lambda self: True)
    for budget in (0.0, 5.0):
        with pytest.raises(errors.SettingsError, match="before the first step"):
            optimise(iterations=5, time_budget=budget)
    assert not list((tmp_path / "output").rglob("t_0*"))


def test_a_run_whose_folder_is_removed_meanwhile_keeps_its_object(pack: ModuleType, tmp_path: Path) -> None:
    watch = get("host.watch")
    plain = watch.Watch._step

    def remove(self: Any, step: Any) -> None:
        plain(self, step)
        if step.iteration == 2:
            for folder in (tmp_path / "output").rglob("t_0*"):
                shutil.rmtree(folder)

    watch.Watch._step = remove
    out = optimise(iterations=3)
    watch.Watch._step = plain
    assert out.args[0].saved.facts["iterations"] == 3
    assert get("optimizer").Resume.execute("latest").args[2].endswith("3/3 · finished")


def test_a_field_is_saved_loaded_turned_and_exported(pack: ModuleType, tmp_path: Path) -> None:
    field = optimise(iterations=12).args[0]
    with torch.inference_mode():
        name = get("field").SaveField.execute(field, "distill3d/field/ball").args[0]
        again = get("field").LoadField.execute(name).args[0]
        frames = get("turntable").RenderTurntable.execute(again, 3, 24, 15.0, "colour").args[0]
        out = get("mesh_export").MeshExport.execute(
            again, "distill3d/ball", "glb", resolution=24, texture_size=64, texture_unwrap="box"
        )
    assert frames.shape == (3, 24, 24, 3)
    mesh, file, path = out.args
    assert mesh.vertices.shape[::2] == (1, 3) and mesh.faces.shape[::2] == (1, 3)
    assert mesh.normals.shape == mesh.vertices.shape and mesh.uvs.shape == (*mesh.vertices.shape[:2], 2)
    assert (tmp_path / "output" / path).read_bytes()[:4] == b"glTF" and file.format == "glb"
    assert out.ui["3d"][0]["filename"].endswith(".glb")


def pictures_of(glb: bytes) -> dict[str, torch.Tensor]:
    """Base colour and normal map of a GLB, 0..1, read from its chunks as glTF 2.0 says."""
    length = struct.unpack("<I", glb[12:16])[0]
    document = json.loads(glb[20 : 20 + length])
    body = glb[20 + length + 8 :]

    def picture(texture: dict[str, int]) -> torch.Tensor:
        image = document["images"][document["textures"][texture["index"]]["source"]]
        view = document["bufferViews"][image["bufferView"]]
        begin = view.get("byteOffset", 0)
        opened = Image.open(io.BytesIO(body[begin : begin + view["byteLength"]])).convert("RGB")
        return torch.from_numpy(np.asarray(opened).copy()) / 255

    material = document["materials"][0]
    colour = picture(material["pbrMetallicRoughness"]["baseColorTexture"])
    return {"texture": colour, "normal_map": picture(material["normalTexture"])}


def test_texture_and_normal_map_reach_the_hosts_mesh_and_the_file(pack: ModuleType, tmp_path: Path) -> None:
    field = optimise(iterations=12).args[0]
    export = get("mesh_export").MeshExport.execute
    more = {"resolution": 24, "texture_size": 128, "texture_unwrap": "box", "texture_occlusion": True}
    with torch.inference_mode():
        mesh, _, path = export(field, "distill3d/ball", "glb", **more).args
        plain, _, bare = export(field, "distill3d/ball", "glb", resolution=24, texture_size=0).args
    assert mesh.texture.shape == mesh.normal_map.shape == mesh.metallic_roughness.shape == (1, 128, 128, 3)
    assert mesh.tangents.shape == (1, mesh.vertices.shape[1], 4) and mesh.occlusion_in_mr
    assert float(mesh.uvs.min()) >= 0 and float(mesh.uvs.max()) <= 1 and mesh.vertex_colors is None
    saved = pictures_of((tmp_path / "output" / path).read_bytes())
    for name, pixels in saved.items():
        torch.testing.assert_close(pixels, getattr(mesh, name)[0], atol=1e-6, rtol=0)
    assert float(saved["texture"].std()) > 0 and float(saved["normal_map"][..., 2].mean()) > 0.6
    assert plain.texture is None and plain.uvs is None and plain.vertex_colors.shape == plain.vertices.shape
    assert b'"images"' not in (tmp_path / "output" / bare).read_bytes()
    assert plain.faces.shape == mesh.faces.shape and plain.vertices.shape[1] <= mesh.vertices.shape[1]


def test_mesh_settings_are_widgets_with_the_librarys_defaults(pack: ModuleType) -> None:
    types = importlib.import_module("pack.distill3d.mesh.types")
    shown = {item.id: item.default for item in get("mesh_export").MeshExport.define_schema().inputs[3:]}
    assert shown.pop("level") == 0
    mesh, texture = (dataclasses.asdict(kind()) for kind in (types.MeshSettings, types.TextureSettings))
    del mesh["level"], mesh["chunk"]
    assert shown == mesh | {f"texture_{name}": value for name, value in texture.items()}
