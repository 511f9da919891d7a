"""Mesh nodes on the stand-in host: a field, a MESH or a file in; MESH, FILE_3D, films and sheets out; bad input."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import fake_host
import numpy as np
import pytest
import torch
import trimesh
from nodes_kit import get
from PIL import Image

FLAT = {"texture_size": 64, "texture_unwrap": "box"}


@pytest.fixture
def ball(pack: ModuleType) -> Any:
    """A red core MESH of 1280 faces, made in inference mode as the executor makes them."""
    solid = trimesh.creation.icosphere(3, 0.7)
    with torch.inference_mode():
        return fake_host.MESH(
            torch.tensor(solid.vertices, dtype=torch.float32)[None],
            torch.tensor(solid.faces)[None],
            vertex_colors=torch.tensor([1.0, 0.0, 0.0]).expand(1, len(solid.vertices), 3),
        )


def convert(mesh: Any, suffix: str = "glb", **more: Any) -> Any:
    with torch.inference_mode():
        return get("mesh_convert").MeshConvert.execute(mesh, "distill3d/own", suffix, **{**FLAT, **more})


def turn(mesh: Any, **more: Any) -> Any:
    with torch.inference_mode():
        return get("turntable").RenderTurntable.execute(mesh, 3, 48, 15.0, "colour", **more)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl", "usdz"])
def test_a_mesh_of_the_hosts_is_cut_down_and_saved_in_every_format(ball: Any, tmp_path: Path, suffix: str) -> None:
    before = ball.vertices.clone()
    mesh, file, path = convert(ball, suffix, face_budget=300).args
    assert path == f"distill3d/own_00001_.{suffix}" and file.format == suffix
    assert torch.equal(ball.vertices, before) and ball.texture is None
    assert mesh.faces.shape[1] <= 300 and mesh.texture.shape == mesh.normal_map.shape == (1, 64, 64, 3)
    assert float((mesh.texture - torch.tensor([1.0, 0, 0])).abs().max()) < 0.02
    if suffix != "usdz":
        found = trimesh.load(tmp_path / "output" / path, force="mesh")
        assert len(found.faces) == mesh.faces.shape[1] and np.ptp(found.vertices, 0) == pytest.approx(1.4, abs=0.05)


def test_what_need_not_change_stays_and_the_report_is_in_the_file(ball: Any, tmp_path: Path) -> None:
    mesh, _, path = convert(ball, scale="metres", metres=2.0, texture_size=1024, texture_unwrap="auto").args
    assert torch.equal(mesh.faces, ball.faces) and mesh.texture is None
    assert float(mesh.vertices[..., 1].min()) == 0 and float(mesh.vertices[..., 1].max()) == pytest.approx(2, abs=1e-5)
    assert mesh.vertex_colors[0, 0].tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    data = (tmp_path / "output" / path).read_bytes()
    extras = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])["asset"]["extras"]
    assert extras["mesh"]["watertight"] is True and extras["mesh"]["faces"] == 1280


def test_a_file_comes_in_by_path_or_as_a_stream(ball: Any, tmp_path: Path) -> None:
    _, file, path = convert(ball, face_budget=300).args
    data = (tmp_path / "output" / path).read_bytes()
    for given in (file, fake_host.File3D(io.BytesIO(data), "glb")):
        mesh, _, again = convert(given, "obj").args
        assert mesh.faces.shape[1] <= 300 and mesh.texture.shape == (1, 64, 64, 3)
        assert (tmp_path / "output" / again).read_text().count("\nf ") == mesh.faces.shape[1]


def test_a_mesh_of_a_batch_is_chosen_by_its_number(ball: Any) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    both = fake_host.MESH(torch.cat([ball.vertices, 3 * ball.vertices]), torch.cat([ball.faces] * 2))
    assert float(convert(both, index=1).args[0].vertices.max()) == pytest.approx(2.1, abs=0.01)
    for index in (2, -1):
        with pytest.raises(errors.SettingsError, match="index of 0 to 1"):
            convert(both, index=index)
    assert convert(ball, face_budget=None, resolution=None).args[0].faces.shape == ball.faces.shape, "None by wire"


@pytest.mark.parametrize("keep", ["mp4", "gif", "webp", "png"])
def test_a_mesh_or_a_file_turns_and_is_kept(ball: Any, tmp_path: Path, keep: str) -> None:
    _, file, _ = convert(ball).args
    for given in (ball, file):
        frames, path = turn(given, keep=keep, fps=12.0).args
        assert frames.shape == (3, 48, 48, 3)
        assert frames[:, 24, 24].numpy() == pytest.approx(np.tile([1, 0, 0], (3, 1)), abs=0.02)
        assert frames[0, 0, 0].tolist() == [1, 1, 1]
        kept = tmp_path / "output" / path
        if keep == "mp4":
            with av.open(str(kept)) as film:
                assert film.streams.video[0].frames == 3 and film.streams.video[0].average_rate == 12
        elif keep == "png":
            assert Image.open(kept).size == (4 * 48, 4 * 48)
        else:
            assert Image.open(kept).n_frames == 3
    assert turn(ball).args[1] == ""


def test_every_part_of_a_file_keeps_its_own_texture_in_pictures(pack: ModuleType, tmp_path: Path) -> None:
    """Two squares side by side, each with a picture of its own: neither is averaged over its corners."""
    from mesh_fields import poster

    from distill3d.mesh import write

    scene = trimesh.Scene()
    for name, shift in (("a", -0.6), ("b", 0.6)):
        square = poster()
        square.vertices = square.vertices + np.float32([shift, 0, 0])
        square.normal_map = square.tangents = square.occlusion = None
        scene.add_geometry(trimesh.load(write(square, tmp_path / f"{name}.glb"), force="mesh"), geom_name=name)
    scene.export(tmp_path / "both.glb")
    frames = turn(fake_host.File3D(str(tmp_path / "both.glb"), "glb")).args[0]
    front = frames[0].reshape(-1, 3)
    for corner in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]):
        share = float(((front - torch.tensor(corner, dtype=torch.float32)).abs().amax(-1) < 0.02).float().mean())
        assert share > 0.015, (corner, share)


BAD = {
    "nothing in it": (lambda: fake_host.MESH(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3)), "empty one"),
    "no area": (lambda: fake_host.MESH(torch.zeros(1, 3, 3), torch.tensor([[[0, 1, 2]]])), "with an area"),
    "not a number": (
        lambda: fake_host.MESH(torch.full((1, 3, 3), float("nan")), torch.tensor([[[0, 1, 2]]])), "finite"),
    "another pack's": (lambda: SimpleNamespace(v=1), "core MESH"),
    "no such file": (lambda: fake_host.File3D("/nowhere/thing.glb", "glb"), "there is no file"),
    "a film": (lambda: fake_host.File3D(io.BytesIO(b"GIF89a"), "gif"), "ending in .glb"),
    "damaged": (lambda: fake_host.File3D(io.BytesIO(b"glTF"), "glb"), "could not read"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "words"), BAD.values(), ids=list(BAD))
def test_bad_meshes_are_refused_in_words_and_leave_no_file(
    pack: ModuleType, tmp_path: Path, made: Any, words: str
) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    nodes = [convert] if "area" in words else [convert, turn]
    for node in nodes:
        with pytest.raises(errors.Distill3DError, match=words):
            node(made())
    assert not [path for path in (tmp_path / "output").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "holds none"), (50.0, "fills the whole box"), (float("nan"), "NaN or infinite")]
)
def test_a_field_without_a_surface_ends_in_words(pack: ModuleType, tmp_path: Path, value: float, words: str) -> None:
    from mesh_fields import Even

    errors = importlib.import_module("pack.distill3d.errors")
    held = get("types").RadianceField(SimpleNamespace(field=Even(value), occupancy=None, facts={}), None, None)
    with torch.inference_mode(), pytest.raises(errors.Distill3DError, match=words):
        get("mesh_export").MeshExport.execute(held, "distill3d/x", "glb", resolution=16)
    assert not [path for path in (tmp_path / "output").rglob("*") if path.is_file()]


def test_a_picture_is_no_mesh(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    with pytest.raises(errors.SettingsError, match="a MESH or a 3D file, got Tensor"):
        turn(torch.zeros(1, 4, 4, 3))


def test_one_triangle_and_three_faces_on_an_edge_come_through(pack: ModuleType) -> None:
    points = torch.tensor([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]]], dtype=torch.float32)
    for faces in ([[0, 1, 2]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]]):
        out = convert(fake_host.MESH(points, torch.tensor([faces])), face_budget=100)
        assert out.args[0].faces.shape[1] == len(faces) and "hole" in out.ui["text"][0]


def test_cancel_a_full_disk_and_a_folder_in_the_way_leave_nothing(
    ball: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    host = importlib.import_module("comfy.model_management")

    def press(self: object, value: int, *_: object) -> None:
        host.interrupt = value >= 30  # unwrapping

    with monkeypatch.context() as patch:
        patch.setattr(fake_host.ProgressBar, "update_absolute", press)
        with pytest.raises(fake_host.InterruptProcessingException):
            convert(ball, face_budget=300, texture_unwrap="auto", texture_size=512)
    host.interrupt = False
    assert not [path for path in (tmp_path / "output").rglob("*") if path.is_file()]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for work in (
            lambda: convert(ball),
            lambda: convert(ball, "obj", face_budget=300),
            lambda: turn(ball, keep="gif"),
        ):
            with pytest.raises(errors.OutputError, match="disk is full"):
                work()
    (tmp_path / "output" / "distill3d").rmdir()
    assert not any((tmp_path / "output").iterdir())
    (tmp_path / "output" / "distill3d").write_text("in the way")
    for work in (lambda: convert(ball), lambda: turn(ball, keep="gif")):
        with pytest.raises(errors.OutputError, match="choose another"):
            work()


def test_a_number_the_mesh_refuses_is_outside_its_widget(pack: ModuleType) -> None:
    """Wrong numbers are to be refused before an object is distilled, not after it."""
    types = importlib.import_module("pack.distill3d.mesh.types")
    errors = importlib.import_module("pack.distill3d.errors")
    for owner, bounds in get("mesh_widgets").BOUNDS.items():
        cls = getattr(types, owner)
        for name, (low, high) in bounds.items():
            for value in (low, high):
                cls(**{name: value})
            tight = [low - 1] if name == "unwrap_seconds" else [low - 1, high * 2]
            if (owner, name) == ("TextureSettings", "size"):
                tight = [high * 2]  # 0 is no texture, so the widget begins there
            for value in tight:
                with pytest.raises(errors.SettingsError, match="expected"):
                    cls(**{name: value})
    items = {item.id: item for item in get("mesh_export").MeshExport.define_schema().inputs}
    assert (items["resolution"].min, items["resolution"].max, items["texture_padding"].max) == (8, 1024, 64)


def test_the_turntable_s_preview_is_small_and_looks_like_its_frames(pack: ModuleType) -> None:
    turntable = get("turntable")
    frames = torch.zeros(2, 1024, 1024, 3, dtype=torch.uint8)
    frames[0, :512], frames[1, :, :512, 1] = 200, 100
    small = turntable._small(frames)
    assert small.shape == (2, 512, 512, 3) and torch.equal(small, frames[:, ::2, ::2])
    assert turntable._small(small) is small
