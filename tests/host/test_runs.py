"""Interrupts, many runs in one process, and every template that needs no download, on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphs
import pytest
from client import checkpoints, iteration

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
SLOW_STEP = "render.samples_per_ray = 256\nresolution = 96"
RUNS, WARM = 10, 3


def slow(iterations: int, seed: int) -> dict[str, Any]:
    """Steps long enough that each one is told."""
    graph = graphs.whole(iterations, seed=seed, extra=SLOW_STEP)
    graph["nerf"]["inputs"]["preset.batch"] = 8
    return graph


def test_an_interrupt_is_answered_within_one_iteration_and_the_graph_runs_again(server: Any) -> None:
    asked: dict[str, Any] = {}

    def cancel(seen: Any) -> None:
        steps = seen.of("distill3d.step")
        if len(steps) >= 3 and not asked:
            asked["seen"] = steps[-1]["iteration"]
            server.post("/interrupt", {})
            asked["done"] = server.get("/distill3d/history?node=nerf")["points"][-1]["iteration"]

    seen = server.run(slow(40, 11), cancel)
    assert seen.end == "execution_interrupted"
    stopped = iteration(checkpoints(server)[-1])
    assert asked["seen"] <= stopped <= asked["done"] + 1
    assert stopped == seen.of("distill3d.step")[-1]["iteration"] < 40
    again = server.run(graphs.whole(3, seed=11))
    assert again.end == "execution_success" and again.of("distill3d.step")[0]["iteration"] == 1


def test_an_interrupt_also_ends_the_turntable_and_the_mesh(server: Any) -> None:
    """After the last step there is work too: it stops between frames and between stages."""
    graph = graphs.base()
    graph |= {"loss": graphs.loss(), "nerf": graphs.optimizer(2, seed=12)}
    graph["turn"] = graphs.ours(
        "RenderTurntable", field=["nerf", 0], frames=300, size=96, elevation=15.0, kind="normal", radius=3.0, fov=42.0
    )
    graph["show"] = graphs.node("PreviewImage", images=["turn", 0])

    def cancel(seen: Any) -> None:
        frames = [data for data in seen.of("progress") if data["node"] == "turn"]
        if frames and seen.of("distill3d.end"):
            server.post("/interrupt", {})

    seen = server.run(graph, cancel)
    assert seen.end == "execution_interrupted"
    assert [data for data in seen.of("progress") if data["node"] == "turn"][-1]["value"] < 300


def test_ten_runs_do_not_grow_the_process(server: Any) -> None:
    sizes = []
    for seed in range(WARM + RUNS):
        assert server.run(graphs.whole(4, seed=100 + seed)).end == "execution_success"
        sizes.append(server.memory())
    assert max(sizes[-3:]) <= 1.05 * sizes[WARM - 1], [round(size / 2**20) for size in sizes]


# ---- templates


def shorten(prompt: dict[str, Any], steps: int) -> dict[str, Any]:
    """The template with few steps of a coarse field; everything else is as it is saved."""
    short = graphs.optimizer(steps)["inputs"]
    for item in prompt.values():
        if item["class_type"] == "Distill3D_NeRFOptimizer":
            item["inputs"] |= {name: value for name, value in short.items() if name.startswith("preset")}
        if item["class_type"] == "Distill3D_MeshExport":
            item["inputs"] |= {"resolution": 40, "texture_unwrap": "box"}
            item["inputs"]["texture_size"] = min(128, item["inputs"]["texture_size"])
        if item["class_type"] in ("Distill3D_Distill2D", "Distill3D_Toy2D"):
            item["inputs"]["iterations"] = steps
    return prompt


def template(name: str, steps: int = 4) -> dict[str, Any]:
    return shorten(graphs.to_prompt(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))), steps)


def check(seen: Any, prompt: dict[str, Any], steps: int) -> None:
    """Every node ran, and every optimiser said what a watcher sees."""
    assert seen.status == 200, seen.answer
    assert seen.end == "execution_success", seen.of("execution_error")
    cached = {name for data in seen.of("execution_cached") for name in data["nodes"]}
    assert set(seen.ran) | cached == set(prompt)
    for name, item in prompt.items():
        if item["class_type"] != "Distill3D_NeRFOptimizer":
            continue
        points = [data for data in seen.of("distill3d.step") if data["node"] == name]
        assert points[-1]["iteration"] == points[-1]["iterations"] == steps
        assert any(data["node"] == name for data in seen.of("distill3d.end"))
        assert any(metadata["node_id"] == name for metadata, _ in seen.previews)
        assert [data["value"] for data in seen.of("progress") if data["node"] == name][-1] == steps
        assert ends_with_a_jpeg(seen, name)


def ends_with_a_jpeg(seen: Any, node: str) -> bool:
    """Whether the last preview of ``node`` is a picture: the sheet of the finished object."""
    return bool(
        [picture for metadata, picture in seen.previews if metadata["node_id"] == node][-1][:3] == b"\xff\xd8\xff"
    )


@pytest.mark.parametrize("name", ["quick-draft", "method-bake-off", "dynamic-cfg-freeu", "methods-2d"])
def test_a_template_without_download_runs(server: Any, name: str) -> None:
    prompt = template(name)
    check(server.run(prompt), prompt, 4)


def test_the_resume_template_goes_on_where_quick_draft_was_cancelled(server: Any) -> None:
    def cancel(seen: Any) -> None:
        if any(data["value"] >= 3 for data in seen.of("progress") if data["node"] == "4"):
            server.post("/interrupt", {})

    first = server.run(template("quick-draft", 30), cancel)
    assert first.end == "execution_interrupted"
    stopped = iteration(checkpoints(server)[-1])
    prompt = template("resume", 30)
    seen = server.run(prompt)
    check(seen, prompt, 30)
    assert seen.of("distill3d.step")[0]["iteration"] == stopped + 1


def test_the_core_mesh_tools_template_takes_a_saved_field(server: Any) -> None:
    made = template("dynamic-cfg-freeu")
    assert server.run(made).end == "execution_success"
    prompt = template("core-mesh-tools")
    check(server.run(prompt), prompt, 4)


def test_the_last_picture_and_chart_are_there_for_a_page_that_comes_later(server: Any) -> None:
    import urllib.request

    assert server.run(graphs.whole(3, seed=21)).end == "execution_success"
    history = server.get("/distill3d/history?node=nerf")
    assert history["picture"] and history["points"] and not history["running"]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/distill3d/picture?node=nerf", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "image/jpeg" and answer.read(3) == b"\xff\xd8\xff"
    assert not server.get("/distill3d/history?node=nobody")
