"""Bad input on a real server: the error is on the node that can cure it, and says how."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import graphs
import pytest
from graphs import node, ours

WRONG_MODELS = [
    ("inpainting", "loss", "load the plain version"),
    ("video", "loss", "use an image model"),
    ("wide text", "loss", "the CLIP that was loaded with this MODEL"),
    ("flow of 16 channels", "nerf", "Wire the VAE that belongs to the MODEL"),
]


@pytest.mark.parametrize(("kind", "where", "advice"), WRONG_MODELS, ids=[w[0] for w in WRONG_MODELS])
def test_a_model_that_does_not_fit_is_refused_where_it_is_wired(
    server: Any, kind: str, where: str, advice: str
) -> None:
    graph = graphs.whole(2)
    graph["other"] = node("TestModel", kind=kind)
    graph["loss"] = graphs.loss(model=("other", 0))
    seen = server.run(graph)
    assert seen.end == "execution_error", seen.answer
    assert seen.error["node_id"] == where and advice in seen.error["exception_message"], seen.error


def test_the_error_of_one_node_names_the_input_of_another(server: Any) -> None:
    graph = graphs.whole(2)
    graph["loss"] = graphs.loss(**graphs.nested("perp_neg", "on", graphs.PERP_NEG))
    seen = server.run(graph)
    assert seen.end == "execution_error" and seen.error["node_id"] == "nerf"
    said = seen.error["exception_message"]
    assert "sectors of View Prompts" in said and "perp_neg of Distill Loss" in said and "--" not in said


def test_a_lost_object_names_the_inputs_that_bring_it_back(server: Any) -> None:
    graph = graphs.whole(20, extra="guards.opacity_low = 0.96\nguards.patience = 2")
    seen = server.run(graph)
    assert seen.end == "execution_error" and seen.error["node_id"] == "nerf", seen.error
    said = seen.error["exception_message"]
    assert "losses.sparsity (preset custom, more)" in said and "--" not in said


def test_a_mesh_of_another_pack_is_refused_where_a_field_is_wanted(server: Any) -> None:
    """By its type before the run, and by what it is where a wildcard lets it through."""
    graph = {"other": node("TestPackMesh"), "export": graphs.export(("other", 0))}
    status, answer = server.post("/prompt", {"prompt": graph})
    assert status == 400 and "MESH" in str(answer["node_errors"]["export"])
    graph["export"] = graphs.export(("other", 1))
    seen = server.run(graph)
    assert seen.end == "execution_error" and seen.error["node_id"] == "export", (seen.answer, seen.end)
    assert "ComfyUI-3D-Pack's, is no radiance field" in seen.error["exception_message"]


def test_a_damaged_or_missing_checkpoint_is_refused_on_load_sd(server: Any) -> None:
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all}")
    graph = graphs.whole(2)
    choice = {"ckpt_name": "broken.safetensors"}
    graph["load"] = ours("LoadSD", **graphs.nested("source", "checkpoint", choice))
    seen = server.run(graph)
    assert seen.end == "execution_error" and seen.error["node_id"] == "load", (seen.answer, seen.error)
    assert "broken.safetensors" in seen.error["exception_message"]
    for name, values in (("checkpoint", {"ckpt_name": "gone.safetensors"}), ("diffusers", {"folder": "gone"})):
        graph["load"] = ours("LoadSD", **graphs.nested("source", name, values))
        status, answer = server.post("/prompt", {"prompt": graph})
        said = str(answer["node_errors"]["load"])
        assert status == 400 and "got gone" in said and "the bundled tiny prior" in said, answer


def test_an_empty_prompt_is_told_before_anything_is_loaded(server: Any) -> None:
    graph = graphs.whole(2)
    graph["prompts"]["inputs"]["prompt"] = "  "
    status, answer = server.post("/prompt", {"prompt": graph})
    assert status == 400 and "expected a prompt" in str(answer["node_errors"]["prompts"]), answer


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """``folder`` on a file system of its own with room for ``size``; a skip where mounting is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(parents=True, exist_ok=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        pytest.skip(f"no file system can be mounted here ({os.strerror(ctypes.get_errno())}): run as root")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(folder), 2)


def test_a_full_disk_ends_on_the_optimizer_and_leaves_no_half_file(server: Any) -> None:
    with small_disk(server.base / "output" / "full", "256k"):
        graph = graphs.whole(2)
        graph["nerf"] = graphs.optimizer(2, prefix="full/run")
        seen = server.run(graph)
        assert seen.end == "execution_error" and seen.error["node_id"] == "nerf", seen.error
        said = seen.error["exception_message"]
        assert "No space left" in said and "free" in said
        assert not [path for path in (server.base / "output" / "full").rglob("*") if path.is_file()]
    assert server.run(graphs.whole(2, seed=3)).end == "execution_success"
