"""The nodes on a real ComfyUI server, driven through its HTTP interface. Needs COMFYUI_PATH."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from client import checkpoints, iteration
from graphs import node, ours

OURS = [
    "LoadSD",
    "FreeUPatch",
    "CFGSchedule",
    "ViewPrompts",
    "DistillLoss",
    "NeRFOptimizer",
    "RenderTurntable",
    "MeshExport",
    "SaveRadianceField",
    "LoadRadianceField",
    "Resume",
    "EnvironmentReport",
    "Distill2D",
    "Toy2D",
    "CompareRuns",
]


def linear_colours(path: Path) -> Any:
    """``(V, 3)`` of a GLB's ``COLOR_0``, read byte by byte as glTF 2.0 says."""
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    document = json.loads(data[20 : 20 + length])
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    accessor = document["accessors"][attributes["COLOR_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    dtype, top = {5126: ("<f4", 1), 5123: ("<u2", 65535), 5121: ("<u1", 255)}[accessor["componentType"]]
    width = {"VEC3": 3, "VEC4": 4}[accessor["type"]]
    begin = 20 + length + 8 + view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    values = np.frombuffer(data, dtype, accessor["count"] * width, begin).reshape(-1, width)
    return values[:, :3].astype(float) / top


def test_every_node_is_listed_with_tooltips_on_every_input(server: Any) -> None:
    info = server.get("/object_info")
    missing = [name for name in OURS if f"Distill3D_{name}" not in info]
    assert not missing
    for name in OURS:
        described = info[f"Distill3D_{name}"]
        assert described["description"] and described["category"] == "Distill3D"
        for group in ("required", "optional"):
            for key, (kind, *options) in described["input"].get(group, {}).items():
                assert options and options[0].get("tooltip"), f"{name}.{key} ({kind}) has no tooltip"


@pytest.fixture(scope="module")
def everything(server: Any) -> tuple[Any, dict[str, Any]]:
    """One run through the whole graph: schedule, FreeU, turntable, save, mesh and the host's own mesh tools."""
    ramp = {"begin": 0.0, "until": 1.0}
    graph = graphs.whole(8)
    graph |= {
        "freeu": ours("FreeUPatch", model=["load", 0], version="v2", b1=1.1, b2=1.1, s1=0.9, s2=0.9),
        "cfg": ours("CFGSchedule", start=10.0, end=7.0, over="iterations", **graphs.nested("shape", "linear", ramp)),
        "loss": graphs.loss(model=("freeu", 0), cfg=["cfg", 0]),
        "turn": ours(
            "RenderTurntable", field=["nerf", 0], frames=3, size=32, elevation=15.0, kind="colour", radius=3.0, fov=42.0
        ),
        "pictures": node("PreviewImage", images=["turn", 0]),
        "save": ours("SaveRadianceField", field=["nerf", 0], prefix="distill3d/field/test"),
        "glb": node("SaveGLB", mesh=["export", 0], filename_prefix="core"),
        "text": node("PreviewAny", source=["nerf", 2]),
        "env": ours("EnvironmentReport"),
    }
    return server.run(graph), graph


def test_the_whole_graph_runs(everything: Any) -> None:
    seen, graph = everything
    assert seen.end == "execution_success", seen.of("execution_error")
    cached = {name for event in seen.of("execution_cached") for name in event["nodes"]}
    assert set(seen.ran) | cached == set(graph) and cached <= {"load", "prompts"}


def test_progress_preview_and_chart_reach_the_client(everything: Any) -> None:
    seen, _ = everything
    steps = seen.of("distill3d.step")
    assert steps[-1]["iteration"] == steps[-1]["iterations"] == 8
    assert all(step["node"] == "nerf" for step in steps)
    assert {"loss", "gradient", "occupancy"} <= set(steps[0])
    assert any("8/8" in text and "occupancy" in text and "CFG" in text for text in seen.texts)
    assert [data["value"] for data in seen.of("progress") if data["node"] == "nerf"][-1] == 8
    metadata, picture = seen.previews[0]
    assert metadata["node_id"] == "nerf" and picture[:3] == b"\xff\xd8\xff"


def test_the_glb_carries_the_workflow_and_a_coloured_mesh(server: Any, everything: Any) -> None:
    seen, graph = everything
    entry = seen.outputs["export"]["3d"][0]
    path = server.base / "output" / entry["subfolder"] / entry["filename"]
    data = path.read_bytes()
    extras = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])["asset"]["extras"]
    assert json.loads(extras["prompt"]).keys() == graph.keys()
    assert extras["prompt"] and json.loads(extras["prompt"])["prompts"]["inputs"]["prompt"] == "a red cube"
    trimesh = pytest.importorskip("trimesh")
    ours_mesh = trimesh.load(path, force="mesh")
    core = seen.outputs["glb"]["3d"][0]
    core_path = server.base / "output" / core["subfolder"] / core["filename"]
    theirs = trimesh.load(core_path, force="mesh")
    assert len(ours_mesh.faces) == len(theirs.faces) > 50
    np.testing.assert_allclose(np.sort(ours_mesh.vertices, 0), np.sort(theirs.vertices, 0), atol=1e-5)
    np.testing.assert_allclose(linear_colours(path), linear_colours(core_path), atol=1e-4)


def test_report_and_environment_are_json(everything: Any) -> None:
    seen, _ = everything
    report = json.loads("".join(seen.outputs["text"]["text"]))
    assert report["iterations"]["done"] == 8 and report["prior"]["prediction_type"] == "EPS"
    assert report["settings"]["sds"]["guidance"] == {
        "kind": "linear",
        "start": 10.0,
        "end": 7.0,
        "begin": 0.0,
        "until": 1.0,
    }
    environment = json.loads("".join(seen.outputs["env"]["text"]))
    assert environment["accelerators"]["nerfacc"]["state"]


def test_the_second_run_is_cached(server: Any, everything: Any) -> None:
    _, graph = everything
    seen = server.run(graph)
    assert seen.end == "execution_success" and "nerf" not in seen.ran


def test_a_saved_field_loads_and_gives_the_same_mesh(server: Any, everything: Any) -> None:
    seen, _ = everything
    name = seen.outputs["save"]["text"][0]
    loaded = server.run(
        {
            "field": ours("LoadRadianceField", field=name),
            "export": graphs.export(("field", 0), prefix="distill3d/again"),
        }
    )
    assert loaded.end == "execution_success", loaded.answer
    files = []
    for run in (seen, loaded):
        entry = run.outputs["export"]["3d"][0]
        files.append(server.base / "output" / entry["subfolder"] / entry["filename"])
    trimesh = pytest.importorskip("trimesh")
    a, b = (trimesh.load(file, force="mesh") for file in files)
    np.testing.assert_array_equal(a.vertices, b.vertices)


def test_texture_and_normal_map_reach_the_hosts_mesh_and_the_file(server: Any, everything: Any) -> None:
    """Core SaveGLB on the MESH and our own file hold the same pictures; trimesh reads both."""
    seen, _ = everything
    graph = {
        "field": ours("LoadRadianceField", field=seen.outputs["save"]["text"][0]),
        "export": graphs.export(("field", 0), prefix="distill3d/textured", texture=True),
        "glb": node("SaveGLB", mesh=["export", 0], filename_prefix="core_textured"),
    }
    baked = server.run(graph)
    assert baked.end == "execution_success", baked.of("execution_error")
    trimesh = pytest.importorskip("trimesh")
    materials, corners = [], []
    for name in ("export", "glb"):
        entry = baked.outputs[name]["3d"][0]
        mesh = trimesh.load(server.base / "output" / entry["subfolder"] / entry["filename"], force="mesh")
        materials.append(mesh.visual.material)
        corners.append(np.sort(mesh.visual.uv, 0))
    ours_, theirs = materials
    assert ours_.baseColorTexture.size == theirs.baseColorTexture.size == (128, 128)
    for name in ("baseColorTexture", "normalTexture"):
        a, b = (np.asarray(getattr(m, name).convert("RGB"), int) for m in (ours_, theirs))
        assert np.abs(a - b).max() <= 1, name
        assert a.std() > 0, name
    np.testing.assert_allclose(*corners, atol=1e-6)


def test_perp_neg_and_rescale_cfg_run_together(server: Any) -> None:
    graph = graphs.whole(4)
    graph.pop("export")
    graph["prompts"]["inputs"]["sectors"] += "\nback | 135..225 | -90..90 | , back view"
    graph["rescale"] = node("RescaleCFG", model=["load", 0], multiplier=0.7)
    graph["loss"] = graphs.loss(model=("rescale", 0), **graphs.nested("perp_neg", "on", graphs.PERP_NEG))
    graph["show"] = node("PreviewImage", images=["nerf", 1])
    graph["text"] = node("PreviewAny", source=["nerf", 2])
    seen = server.run(graph)
    assert seen.end == "execution_success", (seen.answer, seen.of("execution_error"))
    report = json.loads("".join(seen.outputs["text"]["text"]))
    assert report["settings"]["perp_neg"]["enabled"] and report["settings"]["window"]["shared"]


@pytest.mark.parametrize("method", ["CSD", "ASD", "TBSD", "NFSD", "BRIDGE", "BSD"])
def test_every_method_runs(server: Any, method: str) -> None:
    graph = graphs.whole(4, method=method)
    graph.pop("export")
    graph["show"] = node("PreviewImage", images=["nerf", 1])
    seen = server.run(graph)
    assert seen.end == "execution_success", seen.of("execution_error")
    assert seen.of("distill3d.step")[-1]["gradient"] > 0


def test_cancel_writes_a_checkpoint_and_resume_equals_a_run_without_cancel(server: Any) -> None:
    graph = graphs.whole(30, seed=5)
    state: dict[str, Any] = {}

    def cancel_at_five(seen: Any) -> None:
        steps = [data for data in seen.of("progress") if data["node"] == "nerf"]
        if steps and steps[-1]["value"] >= 5 and "asked" not in state:
            state["asked"] = steps[-1]["value"]
            server.post("/interrupt", {})

    seen = server.run(graph, cancel_at_five)
    assert seen.end == "execution_interrupted"
    stopped = iteration(checkpoints(server)[-1])
    assert state["asked"] <= stopped < 30
    graph["resume"] = ours("Resume", run="latest")
    graph["nerf"] = graphs.optimizer(30, seed=5, resume=["resume", 0])
    resumed = server.run(graph)
    assert resumed.end == "execution_success", resumed.of("execution_error")
    first = next(data["value"] for data in resumed.of("progress") if data["node"] == "nerf")
    assert first == stopped + 1
    straight = server.run(graphs.whole(30, seed=5))
    assert straight.end == "execution_success"
    ends = [run.of("distill3d.step")[-1] for run in (resumed, straight)]
    assert ends[0]["loss"] == ends[1]["loss"] and ends[0]["gradient"] == ends[1]["gradient"]


def test_stop_and_keep_finishes_the_graph_with_what_there_is(server: Any) -> None:
    asked: list[float] = []

    def stop_at_three(seen: Any) -> None:
        steps = seen.of("distill3d.step")
        if steps and steps[-1]["iteration"] >= 3 and not asked:
            status, answer = server.post("/distill3d/stop", {"node": "nerf"})
            assert status == 200 and answer["stopping"]
            asked.append(steps[-1]["iteration"])

    seen = server.run(graphs.whole(400, seed=6), stop_at_three)
    assert seen.end == "execution_success" and "export" in seen.ran
    assert iteration(checkpoints(server)[-1]) < 60
    status, _ = server.post("/distill3d/stop", {"node": "nerf"})
    assert status == 404
    history = server.get("/distill3d/history?node=nerf")
    assert not history["running"] and history["points"][0]["iterations"] == 400


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("unreadable schedule", {"loss": {"method.guidance": "lots"}}, "loss", "write one of"),
    ("unknown setting", {"nerf": {"preset.more": "losses.sparcity = 1"}}, "nerf", "expected one of sparsity"),
    ("odd image size", {"nerf": {"preset.image_size": 61}}, "nerf", "multiple of"),
    ("prefix outside", {"nerf": {"prefix": "../../elsewhere/run"}}, "nerf", "inside the output folder"),
]


@pytest.mark.parametrize(("changes", "where", "advice"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_ends_on_the_right_node(server: Any, changes: Any, where: str, advice: str) -> None:
    graph = graphs.whole(2)
    for name, values in changes.items():
        graph[name]["inputs"].update(values)
    seen = server.run(graph)
    assert seen.end == "execution_error", seen.answer
    assert seen.error["node_id"] == where
    assert advice in seen.error["exception_message"]


def test_what_the_host_can_refuse_is_refused_before_it_runs(server: Any) -> None:
    graph = graphs.whole(-1)
    status, answer = server.post("/prompt", {"prompt": graph})
    assert status == 400 and "nerf" in answer["node_errors"]
    graph = graphs.whole(2)
    graph["glb"] = node("SaveGLB", mesh=["nerf", 0], filename_prefix="core")
    status, answer = server.post("/prompt", {"prompt": graph})
    assert "glb" in answer["node_errors"]
    assert "DISTILL3D_FIELD" in json.dumps(answer["node_errors"]["glb"])
    graph = graphs.whole(2)
    graph["export"]["inputs"]["prefix"] = "../../elsewhere/mesh"
    graph["save"] = ours("SaveRadianceField", field=["nerf", 0], prefix="/elsewhere/field")
    graph["turn"] = ours("RenderTurntable", field=["nerf", 0], frames=2, size=32, prefix="../turn")
    status, answer = server.post("/prompt", {"prompt": graph})
    assert status == 400
    for change, advice in (
        ({"prompt": "  "}, "describe one object"),
        ({"sectors": "front | 1..2"}, "expected a sector"),
    ):
        wrong = graphs.whole(2)
        wrong["prompts"]["inputs"].update(change)
        assert advice in json.dumps(server.post("/prompt", {"prompt": wrong})[1]["node_errors"]["prompts"])
    for name in ("export", "save", "turn"):
        assert "inside the output folder" in json.dumps(answer["node_errors"][name])
    for name in ("../../secret", "distill3d/run/none"):
        graph = {"field": ours("LoadRadianceField", field=name), "export": graphs.export(("field", 0))}
        status, answer = server.post("/prompt", {"prompt": graph})
        assert status == 400 and "expected" in json.dumps(answer["node_errors"]["field"])


def test_a_checkpoint_of_other_settings_lists_the_differences(server: Any, everything: Any) -> None:
    graph = graphs.whole(12, seed=77)
    graph["resume"] = ours("Resume", run="latest")
    graph["nerf"] = graphs.optimizer(12, seed=77, resume=["resume", 0])
    seen = server.run(graph)
    assert seen.end == "execution_error" and seen.error["node_id"] == "nerf"
    assert "77 now" in seen.error["exception_message"]


def test_the_bundled_prior_is_a_model_like_any_other(server: Any) -> None:
    """CLIPTextEncode, KSampler and VAEDecode on it; 128 here because the host's empty latent divides by 8, not by 4."""
    graph = graphs.base()
    graph |= {
        "yes": node("CLIPTextEncode", clip=["load", 1], text="a red cube, front view"),
        "no": node("CLIPTextEncode", clip=["load", 1], text=""),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sample": node(
            "KSampler",
            model=["load", 0],
            positive=["yes", 0],
            negative=["no", 0],
            latent_image=["empty", 0],
            seed=1,
            steps=8,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "show": node("SaveImage", images=["decode", 0], filename_prefix="sample"),
    }
    graph.pop("prompts")
    seen = server.run(graph)
    assert seen.end == "execution_success", seen.of("execution_error")
    image = pytest.importorskip("PIL.Image")
    entry = seen.outputs["show"]["images"][0]
    picture = np.asarray(image.open(server.base / "output" / entry["subfolder"] / entry["filename"]), float)
    assert picture.shape == (64, 64, 3)
    red = picture[20:44, 20:44].mean((0, 1))
    assert red[0] > red[1] + 30 and red[0] > red[2] + 30


def test_a_prior_in_a_diffusers_folder_is_loaded_from_there(server: Any) -> None:
    """What ``distill3d train-prior`` writes, put where the host keeps diffusers models, is the same model."""
    import shutil

    source = Path(__file__).resolve().parents[2] / "assets" / "tiny-prior"
    shutil.copytree(source, server.base / "models" / "diffusers" / "mine", dirs_exist_ok=True)
    losses = []
    for load in (
        ours("LoadSD", source=graphs.TINY),
        ours("LoadSD", **{"source": "diffusers", "source.folder": "mine"}),
    ):
        graph = graphs.base() | {"load": load, "loss": graphs.loss(), "nerf": graphs.optimizer(3)}
        graph["text"] = node("PreviewAny", source=["nerf", 2])
        seen = server.run(graph)
        assert seen.end == "execution_success", (seen.answer, seen.of("execution_error"))
        losses.append(json.loads("".join(seen.outputs["text"]["text"])))
    bundled, mine = losses
    assert bundled["prior"]["unet_parameters"] == mine["prior"]["unet_parameters"]
    assert mine["prior"]["source"].endswith("mine") and not bundled["prior"]["source"].endswith("mine")


def test_a_prompt_saved_before_a_setting_existed_runs(server: Any) -> None:
    """BSD's auto came late: the host fills it in, and what was saved under old kinds of widgets still fits."""
    graph = graphs.base() | {"loss": graphs.loss("BSD"), "nerf": graphs.optimizer(2)}
    graph["text"] = node("PreviewAny", source=["nerf", 2])
    for name in list(graph["loss"]["inputs"]):
        if name.startswith("method."):
            del graph["loss"]["inputs"][name]
    graph["loss"]["inputs"]["method.denoise"] = 1.25
    seen = server.run(graph)
    assert seen.end == "execution_success", (seen.answer, seen.of("execution_error"))
    settings = json.loads("".join(seen.outputs["text"]["text"]))["settings"]["bsd"]
    assert settings["denoise"] == 1.25 and settings["auto"] is False


def test_a_schedule_drawn_by_hand_is_drawn_again(server: Any) -> None:
    curve = {"points": [[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]], "interpolation": "linear"}
    graph = {
        "cfg": ours(
            "CFGSchedule", start=10.0, end=2.0, over="timesteps", **graphs.nested("shape", "curve", {"curve": curve})
        ),
        "show": node("SaveImage", images=["cfg", 1], filename_prefix="curve"),
    }
    seen = server.run(graph)
    assert seen.end == "execution_success", (seen.answer, seen.of("execution_error"))
    assert seen.outputs["cfg"]["images"] and seen.outputs["show"]["images"]
