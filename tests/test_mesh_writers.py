"""Mesh files, read back by trimesh, by hand from the specification, and by the Khronos validator where it is there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from distill3d.errors import OutputError, SettingsError
from distill3d.mesh import SurfaceMesh, write

SUFFIXES = ["glb", "obj", "ply"]
METADATA = {
    "prompt": 'a "red" ✓ cube\nwith a line',
    "seed": 3,
    "loss": float("nan"),
    "nested": [1, {"a": np.float32(2)}],
}


@pytest.fixture
def mesh() -> SurfaceMesh:
    """A closed box of unequal sides, off-centre so that no axis can be swapped or flipped unseen."""
    solid = trimesh.creation.box(extents=(0.2, 0.6, 1.0)).subdivide()
    vertices = (solid.vertices + np.array([0.3, 0.2, -0.1])).astype(np.float32)
    colors = np.random.default_rng(0).random(vertices.shape).astype(np.float32)
    colors[0], colors[1] = 0, 1
    return SurfaceMesh(
        vertices, np.asarray(solid.faces, np.int64), solid.vertex_normals.astype(np.float32), colors, 10.0, {}
    )


def read_glb(data: bytes) -> tuple[dict[str, Any], bytes]:
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    body, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and body % 4 == 0 and 28 + length + body == total
    return document, data[28 + length :]


def accessor(document: dict[str, Any], body: bytes, index: int) -> np.ndarray:
    item = document["accessors"][index]
    view = document["bufferViews"][item["bufferView"]]
    kind = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[item["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[item["type"]]
    data = np.frombuffer(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]], kind)
    assert len(data) == item["count"] * width
    return data.reshape(-1, width)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_trimesh_reads_back_what_was_written(mesh: SurfaceMesh, tmp_path: Path, suffix: str) -> None:
    path = write(mesh, tmp_path / "new" / f"thing.{suffix}", METADATA)
    (found,) = trimesh.load_scene(path, process=False, maintain_order=True).geometry.values()
    assert np.array_equal(found.faces, mesh.faces)
    assert found.vertices == pytest.approx(mesh.vertices, abs=1e-6)
    assert found.vertex_normals == pytest.approx(mesh.normals, abs=1e-4)
    assert found.is_watertight and found.volume == pytest.approx(0.2 * 0.6 * 1.0, rel=1e-5)
    assert found.bounds == pytest.approx(np.array([[0.2, -0.1, -0.6], [0.4, 0.5, 0.4]]), abs=1e-6)
    if suffix != "glb":
        assert found.visual.vertex_colors[:, :3] / 255 == pytest.approx(mesh.colors, abs=1 / 255)


def test_glb_structure(mesh: SurfaceMesh, tmp_path: Path) -> None:
    document, body = read_glb(write(mesh, tmp_path / "a.glb", METADATA).read_bytes())
    assert document["asset"]["version"] == "2.0"
    (primitive,) = document["meshes"][0]["primitives"]
    names = primitive["attributes"]
    position = accessor(document, body, names["POSITION"])
    assert np.array_equal(position, mesh.vertices)
    assert document["accessors"][names["POSITION"]]["min"] == position.min(0).tolist()
    assert document["accessors"][names["POSITION"]]["max"] == position.max(0).tolist()
    assert np.linalg.norm(accessor(document, body, names["NORMAL"]), axis=-1) == pytest.approx(1, abs=1e-4)
    assert np.array_equal(accessor(document, body, primitive["indices"]).reshape(-1, 3), mesh.faces)
    assert document["buffers"] == [{"byteLength": len(body)}]
    ends = 0
    for view in document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] >= ends
        ends = view["byteOffset"] + view["byteLength"]
    assert ends <= len(body)
    (material,) = document["materials"]
    assert material["pbrMetallicRoughness"]["baseColorFactor"] == [1, 1, 1, 1]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0 and material["doubleSided"] is False


def test_glb_colours_are_linear(mesh: SurfaceMesh, tmp_path: Path) -> None:
    mesh.colors[:] = [0.5, 0.0, 1.0]
    document, body = read_glb(write(mesh, tmp_path / "a.glb").read_bytes())
    index = document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    assert document["accessors"][index]["normalized"] is True
    rgba = accessor(document, body, index) / 65535
    assert rgba == pytest.approx(np.tile([0.214041, 0, 1, 1], (len(rgba), 1)), abs=1e-4)


def test_metadata_reaches_every_format(mesh: SurfaceMesh, tmp_path: Path) -> None:
    expected = {"prompt": METADATA["prompt"], "seed": 3, "loss": None, "nested": [1, {"a": 2.0}]}
    document, _ = read_glb(write(mesh, tmp_path / "a.glb", METADATA).read_bytes())
    assert document["asset"]["extras"] == expected
    for suffix, start in (("obj", b"# metadata "), ("ply", b"comment metadata ")):
        lines = write(mesh, tmp_path / f"a.{suffix}", METADATA).read_bytes().split(b"\n")
        (found,) = [line[len(start) :] for line in lines[:6] if line.startswith(start)]
        assert json.loads(found) == expected


def test_holes_make_the_material_double_sided(mesh: SurfaceMesh, tmp_path: Path) -> None:
    mesh.faces = mesh.faces[1:]
    document, _ = read_glb(write(mesh, tmp_path / "a.glb").read_bytes())
    assert document["materials"][0]["doubleSided"] is True


def large() -> SurfaceMesh:
    """A flat grid of 260 x 260 vertices that faces +z."""
    n = 260
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, n), np.linspace(-0.9, 0.9, n))
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces = np.concatenate([corner[:, None] + [0, 1, n], corner[:, None] + [1, n + 1, n]])
    return SurfaceMesh(vertices, faces, np.tile(np.float32([0, 0, 1]), (n * n, 1)), np.abs(vertices), 1.0)


def test_many_vertices_get_wide_indices(tmp_path: Path) -> None:
    big = large()
    assert len(big.vertices) > 65535
    document, body = read_glb(write(big, tmp_path / "a.glb").read_bytes())
    assert np.array_equal(accessor(document, body, 0).reshape(-1, 3), big.faces)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_leaves_the_old_file_and_nothing_else(
    mesh: SurfaceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = write(mesh, tmp_path / f"a.{suffix}")
    before = path.read_bytes()
    mesh.vertices = mesh.vertices * 0.5

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in ((Path, "write_bytes"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OutputError, match="disk is full"):
                write(mesh, path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    write(mesh, path)
    assert path.read_bytes() != before


def test_interrupt_leaves_nothing_half_written(
    mesh: SurfaceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(mesh, tmp_path / "a.glb")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_named(mesh: SurfaceMesh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another"):
        write(mesh, tmp_path / "file" / "a.glb")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(OutputError):
        write(mesh, tmp_path / "folder.glb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.glb"]


def test_unknown_suffix_is_an_error_before_anything_is_written(mesh: SurfaceMesh, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.glb, \.obj, \.ply, \.stl, \.usdz"):
        write(mesh, tmp_path / "deep" / "a.fbx")
    assert list(tmp_path.iterdir()) == []
    assert write(mesh, str(tmp_path / "A.GLB")).exists()


VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
(async () => {
  const found = [];
  for (const path of process.argv.slice(1)) {
    found.push((await validator.validateBytes(new Uint8Array(fs.readFileSync(path)))).issues);
  }
  console.log(JSON.stringify(found));
})();
"""


def test_khronos_validator_finds_nothing(mesh: SurfaceMesh, tmp_path: Path) -> None:
    folder, node = os.environ.get("GLTF_VALIDATOR"), shutil.which("node")
    if not folder or not node:
        pytest.skip("needs node and GLTF_VALIDATOR=<folder with node_modules/gltf-validator> (npm i gltf-validator)")
    paths = [write(mesh, tmp_path / "a.glb", METADATA), write(large(), tmp_path / "b.glb")]
    mesh.faces = mesh.faces[1:]
    paths.append(write(mesh, tmp_path / "c.glb"))
    command = [node, "-e", VALIDATE, *map(str, paths)]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    for issues in json.loads(output):
        assert issues["numErrors"] == issues["numWarnings"] == issues["numInfos"] == 0, issues["messages"]
