"""Meshes and files that a user brings, on a real ComfyUI server: from core nodes in, to core nodes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from graphs import node, ours
from test_bad_input import small_disk


def convert(source: list[Any], name: str, **more: Any) -> dict[str, Any]:
    baked = {f"texture_{key}": value for key, value in graphs.TEXTURE.items()}
    settings = {"face_budget": 0, "component_share": 0.0, "smooth": 0, "scale": "world", "metres": 1.0}
    inputs = {"mesh": source, "prefix": f"distill3d/{name}", "format": "glb", **settings, **baked}
    return ours("MeshConvert", **{**inputs, **more})


def turn(source: list[Any], **more: Any) -> dict[str, Any]:
    view = {"frames": 2, "size": 48, "elevation": 0.0, "kind": "colour", "radius": 2.0, "fov": 40.0}
    return ours("RenderTurntable", field=source, **{**view, **more})


def kept(server: Any, seen: Any, name: str) -> Path:
    """The file that a node showed."""
    entry = seen.outputs[name]["3d"][0]
    return Path(server.base / "output" / entry["subfolder"] / entry["filename"])


def square(server: Any) -> dict[str, Any]:
    """An OBJ with MTL and picture in the host's input folder, and the inputs of Load 3D that names it."""
    image = pytest.importorskip("PIL.Image")
    folder = server.base / "input" / "3d"
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :, 1], picture[4:, :, 0] = 255, 255
    image.fromarray(picture).save(folder / "own.png")
    (folder / "own.mtl").write_text("newmtl m\nmap_Kd own.png\n")
    corners = "v -.5 -.5 0\nv .5 -.5 0\nv .5 .5 0\nv -.5 .5 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (folder / "own.obj").write_text(f"mtllib own.mtl\n{corners}usemtl m\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n")
    image.fromarray(picture).save(server.base / "input" / "blank.png")
    blank = dict.fromkeys(("image", "mask", "normal"), "blank.png")
    shown = {**blank, "recording": "", "camera_info": {}}
    return {"model_file": "3d/own.obj", "image": shown, "width": 64, "height": 64}


def test_a_mesh_and_every_kind_of_file_go_through_both_nodes(server: Any) -> None:
    graph = {
        "mesh": node("TestMesh", kind="square"),
        "load": node("Load3D", **square(server)),
        "core_file": node("MeshToFile3D", mesh=["mesh", 0]),
        "own": convert(["mesh", 0], "own"),
        "again": convert(["own", 1], "again", format="obj"),
        "from_core": convert(["core_file", 0], "core", scale="metres", metres=4.0),
        "loaded": convert(["load", 6], "loaded", format="usdz"),
        "glb": node("SaveGLB", mesh=["again", 0], filename_prefix="core_own"),
        "preview": node("Preview3D", model_file=["own", 1]),
        "turn": turn(["mesh", 0], keep="mp4", prefix="distill3d/turn"),
        "sheet": turn(["load", 6], keep="png", prefix="distill3d/sheet"),
        "names": node("PreviewAny", source=["turn", 1]),
    }
    seen = server.run(graph)
    assert seen.end == "execution_success", (seen.answer, seen.of("execution_error"))
    trimesh = pytest.importorskip("trimesh")
    for name, height in (("own", 1.0), ("from_core", 4.0), ("again", 1.0), ("glb", 1.0)):
        found = trimesh.load(kept(server, seen, name), force="mesh")
        assert len(found.faces) == 2 and np.ptp(found.vertices, 0)[1] == pytest.approx(height), name
        material = found.visual.material
        picture = getattr(material, "baseColorTexture", None) or material.image
        assert np.asarray(picture.convert("RGB"))[1, 1].tolist() == [0, 255, 0], name
    assert kept(server, seen, "loaded").read_bytes()[:2] == b"PK"
    av = pytest.importorskip("av")
    with av.open(str(server.base / "output" / "distill3d" / "turn_00001_.mp4")) as film:
        frame = next(film.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert seen.outputs["names"]["text"] == ["distill3d/turn_00001_.mp4"]
    assert frame[16, 24, 1] > 200 > 60 > frame[16, 24, 0] and frame[32, 24, 0] > 200 > 60 > frame[32, 24, 1]
    sheet = pytest.importorskip("PIL.Image").open(server.base / "output" / "distill3d" / "sheet_00001_.png")
    assert sheet.size == (4 * 48, 4 * 48)
    assert np.asarray(sheet)[20, 24].tolist() == [0, 255, 0] and np.asarray(sheet)[30, 24].tolist() == [255, 0, 0]


def test_the_second_mesh_of_a_batch(server: Any) -> None:
    graph = {"mesh": node("TestMesh", kind="batch"), "own": convert(["mesh", 0], "second", format="ply", index=1)}
    seen = server.run(graph)
    assert seen.end == "execution_success", seen.of("execution_error")
    found = pytest.importorskip("trimesh").load(kept(server, seen, "own"))
    assert np.ptp(found.vertices, 0) == pytest.approx([2, 2, 0])
    graph["own"] = convert(["mesh", 0], "second", index=2)
    assert "an index of 0 to 1" in server.run(graph).error["exception_message"]


@pytest.mark.parametrize(("kind", "words"), [("nothing", "empty one"), ("point", "with an area")])
def test_a_mesh_that_holds_no_surface_ends_on_the_node(server: Any, kind: str, words: str) -> None:
    seen = server.run({"mesh": node("TestMesh", kind=kind), "own": convert(["mesh", 0], kind)})
    assert seen.end == "execution_error" and seen.error["node_id"] == "own"
    assert words in seen.error["exception_message"]
    assert not list((server.base / "output" / "distill3d").glob(f"{kind}_*"))


def test_a_full_disk_leaves_no_part_of_a_mesh(server: Any) -> None:
    place = server.base / "output" / "small"
    with small_disk(place, "4k"):
        graph = {"mesh": node("TestMesh", kind="square")}
        graph["own"] = convert(["mesh", 0], "x", prefix="small/own", format="obj", face_budget=100, texture_size=1024)
        graph["turn"] = turn(["mesh", 0], keep="gif", prefix="small/turn", size=256, frames=12)
        for name in ("own", "turn"):
            seen = server.run({key: graph[key] for key in ("mesh", name)})
            assert seen.end == "execution_error" and seen.error["node_id"] == name, seen.outputs
            assert "No space left" in seen.error["exception_message"]
            assert not list(place.iterdir())
