"""Distill 2D, its toy and Compare Runs on the real host. Needs COMFYUI_PATH."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from graphs import node, ours
from inside import get

LOAD = {"load": ours("LoadSD", source=graphs.TINY)}


def test_the_node_ends_at_the_latents_of_the_library_on_its_own_prior(tiny: Any, theirs: Any) -> None:
    import torch

    two_d = get("distill3d.two_d")
    settings = {name: two_d.settings_for(name, bundled=True) for name in ("sds", "asd")}
    run = two_d.Settings2D(iterations=8, batch=2)
    bench = get("nodes.host.bench")
    task = get("distill3d.two_d.bench").Task("a red cube", "", 3, run, settings)

    class Silent(bench.Progress):
        """There is no server in this process to tell."""

        def _step(self, text: str, last: bool) -> None: ...

    with torch.inference_mode():
        done, prior = bench.bench(task, tiny.model, tiny.clip, tiny.vae, 64, Silent("1", task.steps, 8, 2))
        shown = prior.decode(done.results[0].latents)
    for result in done.results:
        direct = two_d.distil(theirs, "a red cube", settings[result.method], run, seed=3)
        torch.testing.assert_close(result.start, direct.start)
        torch.testing.assert_close(result.latents, direct.latents, rtol=1e-3, atol=2e-3)
        assert float((result.latents - result.start).abs().mean()) > 0.05, "it went somewhere"
    torch.testing.assert_close(shown, theirs.decode(done.results[0].latents), rtol=1e-3, atol=2e-3)
    wanted = two_d.latents.noise_errors(theirs, "a red cube", done.results[1].latents, seed=3)
    np.testing.assert_allclose(done.errors["asd"], wanted, rtol=2e-3)


def saved(server: Any, seen: Any, name: str) -> Any:
    """``(N, H, W, 3)`` uint8 of what a PreviewImage holds."""
    from PIL import Image

    files = [server.base / "temp" / entry["subfolder"] / entry["filename"] for entry in seen.outputs[name]["images"]]
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def test_a_graph_shows_sheet_curves_table_and_latents_the_hosts_decoder_reads(server: Any) -> None:
    graph = {
        **LOAD,
        "bench": graphs.bench_2d(),
        "sheet": node("PreviewImage", images=["bench", 0]),
        "curves": node("PreviewImage", images=["bench", 1]),
        "table": node("PreviewAny", source=["bench", 2]),
        "images": node("PreviewImage", images=["bench", 4]),
        "decode": node("VAEDecode", samples=["bench", 5], vae=["load", 2]),
        "decoded": node("PreviewImage", images=["decode", 0]),
    }
    seen = server.run(graph)
    assert seen.end == "execution_success", seen.of("execution_error")
    sheet, curves = saved(server, seen, "sheet"), saved(server, seen, "curves")
    assert sheet.shape[0] == 1 and sheet.shape[2] > 5 * 128 and sheet.shape[1] > 2 * 128 and curves.shape[1] > 800
    assert np.array_equal(saved(server, seen, "bench"), sheet), "the node shows its sheet itself"
    images, decoded = saved(server, seen, "images"), saved(server, seen, "decoded")
    assert images.shape == (2, 64, 64, 3) and np.abs(images.astype(int) - decoded).max() <= 1
    assert "| sds |" in seen.outputs["table"]["text"][0] and "| asd |" in seen.outputs["table"]["text"][0]
    assert [d["value"] for d in seen.of("progress") if d["node"] == "bench"][-1] == 2 * (6 + 16) + 32
    assert any("ASD (2 of 2)" in text for text in seen.texts)
    pictures = [picture for metadata, picture in seen.previews if metadata["node_id"] == "bench"]
    assert pictures and all(picture[:3] == b"\xff\xd8\xff" for picture in pictures)


def test_cancel_ends_it_and_the_graph_runs_again(server: Any) -> None:
    asked: list[int] = []

    def cancel(seen: Any) -> None:
        values = [data["value"] for data in seen.of("progress") if data["node"] == "bench"]
        if values and values[-1] >= 3 and not asked:
            server.post("/interrupt", {})
            asked.append(values[-1])

    graph = {**LOAD, "bench": graphs.bench_2d(iterations=3000), "sheet": node("PreviewImage", images=["bench", 0])}
    seen = server.run(graph, cancel)
    assert seen.end == "execution_interrupted"
    assert seen.of("progress")[-1]["value"] < 3000
    graph["bench"] = graphs.bench_2d("csd", 2)
    assert server.run(graph).end == "execution_success"


def test_the_toy_runs_without_a_model(server: Any) -> None:
    toy = ours("Toy2D", methods="sds tbsd", seed=0, iterations=5, batch=4, rate="auto", window="published", more="")
    seen = server.run({"toy": toy, "sheet": node("PreviewImage", images=["toy", 0])})
    assert seen.end == "execution_success", seen.of("execution_error")
    sheet = saved(server, seen, "sheet")
    assert sheet.shape[0] == 1 and sheet.shape[2] > sheet.shape[1] and len(np.unique(sheet)) > 20


@pytest.mark.parametrize(
    ("change", "says"),
    [({"methods": "vsd"}, "unknown method"), ({"more": "asd.e = 1"}, "unknown setting"), ({"prompt": ""}, "a prompt")],
)
def test_mistakes_are_told_in_words(server: Any, change: dict[str, Any], says: str) -> None:
    seen = server.run({**LOAD, "bench": graphs.bench_2d(**change), "out": node("PreviewImage", images=["bench", 0])})
    assert seen.end == "execution_error" and says in seen.error["exception_message"]


def test_two_methods_on_one_seed_are_compared(server: Any) -> None:
    first, second = graphs.optimizer(4), graphs.optimizer(4)
    second["inputs"]["loss"] = ["loss_csd", 0]
    graph = {
        **graphs.base(),
        "loss": graphs.loss("SDS"),
        "loss_csd": graphs.loss("CSD"),
        "nerf": first,
        "nerf_csd": second,
        "compare": ours("CompareRuns", field_1=["nerf", 0], field_2=["nerf_csd", 0], size=32),
        "curves": node("PreviewImage", images=["compare", 1]),
        "table": node("PreviewAny", source=["compare", 2]),
    }
    seen = server.run(graph)
    assert seen.end == "execution_success", seen.of("execution_error")
    assert saved(server, seen, "compare").shape[1] > 4 * 32 and saved(server, seen, "curves").shape[1] > 800
    text = seen.outputs["table"]["text"][0]
    assert "| SDS | 4 |" in text and "| CSD | 4 |" in text and "not the same" not in text
    assert not list(Path(server.base / "output").rglob("*.tmp"))
