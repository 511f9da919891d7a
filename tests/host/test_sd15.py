"""The full-size path on a random checkpoint of Stable Diffusion 1.5's exact layout: it loads, steps, previews, frees.

Writes 2.1 GB into a temporary folder and needs about 10 GB of memory, so it runs only with DISTILL3D_BIG=1.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
import sd15
from conftest import comfy_path
from graphs import node, ours

STEPS = 2


def test_the_layout_has_the_published_number_of_parameters() -> None:
    shapes = sd15.layout()
    for prefix, count in sd15.PARAMETERS.items():
        assert sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix)) == count, prefix


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server whose only checkpoint is the random one."""
    place = comfy_path()
    if not os.environ.get("DISTILL3D_BIG"):
        pytest.skip("DISTILL3D_BIG is not set: the run on a checkpoint of full size is left out")
    from client import Server

    base: Path = tmp_path_factory.mktemp("big")
    (base / "models" / "checkpoints").mkdir(parents=True)
    sd15.write(base / "models" / "checkpoints" / "random-sd15.safetensors")
    running = Server(place, base)
    yield running
    running.stop()
    shutil.rmtree(base)


def test_a_checkpoint_of_full_size_loads_steps_previews_and_frees_its_memory(big: Any) -> None:
    """At 128 pixels, because a CPU takes minutes for one step at 512; every layer is used at either size."""
    graph = graphs.base()
    graph |= {
        "load": ours("LoadSD", **graphs.nested("source", "checkpoint", {"ckpt_name": "random-sd15.safetensors"})),
        "loss": graphs.loss(),
        "nerf": graphs.optimizer(STEPS),
        "show": node("PreviewImage", images=["nerf", 1]),
        "text": node("PreviewAny", source=["nerf", 2]),
    }
    graph["nerf"]["inputs"] |= {"preset.image_size": 128, "preset.batch": 1}
    before = big.memory()
    seen = big.run(graph)
    assert seen.end == "execution_success", seen.of("execution_error")
    report = json.loads("".join(seen.outputs["text"]["text"]))
    assert report["prior"]["unet_parameters"] == sd15.PARAMETERS[sd15.UNET]
    assert report["prior"]["latent_shape"] == [4, 16, 16] and report["prior"]["prediction_type"] == "EPS"
    assert report["iterations"]["done"] == STEPS and report["iterations"]["skipped"] == 0
    assert [data["value"] for data in seen.of("progress") if data["node"] == "nerf"][-1] == STEPS
    assert any(metadata["node_id"] == "nerf" for metadata, _ in seen.previews)
    held = big.memory()
    assert held - before > 2**30, "the checkpoint was not in memory: nothing was tested"
    big.post("/free", {"unload_models": True, "free_memory": True})
    assert graphs_still_run(big)
    freed = big.memory()
    assert freed - before < 0.25 * (held - before), [round(size / 2**20) for size in (before, held, freed)]


def graphs_still_run(server: Any) -> bool:
    """A small prompt, before which the server does what /free asked for."""
    return bool(server.run({"env": ours("EnvironmentReport")}).end == "execution_success")
