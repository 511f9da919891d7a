"""``vram_gb`` and ``time_budget`` on a real server: cuts and their report, resume with the same graph, an error."""

from __future__ import annotations

import json
from typing import Any

import graphs
import pytest
from client import checkpoints, iteration

FAR = 1_000_000
MINUTES = 0.6


def limited(**limits: float) -> dict[str, Any]:
    """A graph that would run for days, with its report shown."""
    graph = graphs.base()
    graph |= {"loss": graphs.loss(), "nerf": graphs.optimizer(FAR, seed=31, **limits)}
    graph["show"] = graphs.node("PreviewAny", source=["nerf", 2])
    return graph


def report(seen: Any) -> dict[str, Any]:
    assert seen.end == "execution_success", (seen.answer, seen.end, seen.error if seen.end else None)
    return dict(json.loads(seen.outputs["show"]["text"][0]))


@pytest.fixture(scope="module")
def cancelled(server: Any) -> tuple[int, int]:
    """Iterations done and planned of a run with a budget that was cancelled."""

    def cancel(seen: Any) -> None:
        if any(step["iteration"] >= 5 for step in seen.of("distill3d.step")):
            server.post("/interrupt", {})

    seen = server.run(limited(time_budget=MINUTES), cancel)
    assert seen.end == "execution_interrupted"
    (note,) = seen.of("distill3d.note")
    planned = seen.of("distill3d.step")[0]["iterations"]
    assert note["message"] == f"time_budget {MINUTES}: {planned} iterations instead of {FAR}"
    assert any("timing 4 steps" in text for text in seen.texts)
    return iteration(checkpoints(server)[-1]), planned


def test_a_budget_cuts_the_iterations_to_what_fits(cancelled: tuple[int, int]) -> None:
    done, planned = cancelled
    assert 0 < done < planned and 50 <= planned < 60 * MINUTES / 0.002


def test_the_same_graph_goes_on_with_the_iterations_it_had(server: Any, cancelled: tuple[int, int]) -> None:
    done, planned = cancelled
    graph = limited(time_budget=MINUTES)
    graph["stopped"] = graphs.ours("Resume", run="latest")
    graph["nerf"]["inputs"]["resume"] = ["stopped", 0]
    seen = server.run(graph)
    told = report(seen)
    assert told["iterations"] == {"done": planned, "planned": planned, "skipped": 0}
    assert told["limits"]["changes"] == [f"{planned} iterations instead of {FAR}"]
    assert seen.of("distill3d.step")[0]["iteration"] == done + 1
    assert not any("timing" in text for text in seen.texts)


def test_a_limit_nothing_fits_into_is_an_error_on_the_node_and_the_least_is_enough(server: Any) -> None:
    graph = limited(vram_gb=0.1)
    seen = server.run(graph)
    assert seen.end == "execution_error" and seen.error["node_id"] == "nerf", seen.error
    said = seen.error["exception_message"]
    assert "expected vram_gb of at least " in said
    least = float(said.split("at least ")[1].split()[0])
    graph["nerf"]["inputs"] |= {"vram_gb": least, "preset.iterations": 2}
    told = report(server.run(graph))
    assert told["limits"]["estimated_gb"] <= least and told["limits"]["vram_gb"] == least
    assert told["iterations"]["done"] == 2


def test_the_cost_counts_what_the_host_loads(tiny: Any, theirs: Any) -> None:
    """Against the tensors themselves, and the library's own reading of the same weights from diffusers."""
    from inside import get

    cost = get("nodes.host.limits").cost_of(tiny.model, tiny.vae, 64)
    parts = [*tiny.model.model.state_dict().values(), *tiny.vae.first_stage_model.state_dict().values()]
    whole = sum(tensor.nbytes for tensor in parts)
    decoder = sum(t.nbytes for n, t in tiny.vae.first_stage_model.state_dict().items() if "decoder" in n)
    vae = sum(tensor.nbytes for tensor in tiny.vae.first_stage_model.state_dict().values())
    assert cost.weights == pytest.approx(whole + vae - decoder, rel=0.01)
    read = get("distill3d.optimize.fit").cost_of(theirs)
    assert (cost.row, cost.encoder) == (read.row, read.encoder) and theirs.image_size == 64
