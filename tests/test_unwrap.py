"""Atlases: nothing overlaps, nothing is lost, and a child that fails, hangs or is cancelled leaves nothing behind."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from distill3d.mesh import TextureSettings, child, clean
from distill3d.mesh import unwrap as unwrap_module
from distill3d.mesh.raster import rasterise
from distill3d.mesh.unwrap import Atlas, unwrap


def solids() -> dict[str, trimesh.Trimesh]:
    mug = trimesh.creation.annulus(0.3, 0.5, 1.0)
    handle = trimesh.creation.torus(0.3, 0.08)
    handle.apply_translation([0.7, 0, 0])
    return {
        "box": trimesh.creation.box(),
        "ball": trimesh.creation.icosphere(3),
        "ring": trimesh.creation.torus(0.5, 0.2),
        "mug": trimesh.util.concatenate([mug, handle]),
        "triangle": trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]),
    }


SOLIDS = solids()


def checked(atlas: Atlas, vertices: np.ndarray, faces: np.ndarray, size: int) -> None:
    assert np.array_equal(atlas.source[atlas.faces], faces)
    assert atlas.uvs.min() >= 0 and atlas.uvs.max() <= 1
    found = rasterise(torch.from_numpy(atlas.uvs[atlas.faces].astype(np.float64)) * size, size, size)
    doubled = (torch.bincount(found.pixel, minlength=size * size) > 1).sum()
    assert int(doubled) <= 0.0005 * len(found.pixel)
    assert len(found.pixel) > 0.2 * size * size


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("method", ["box", "xatlas"])
def test_nothing_overlaps_and_nothing_is_lost(name: str, method: str) -> None:
    if method == "xatlas":
        pytest.importorskip("xatlas")
    vertices, faces = np.asarray(SOLIDS[name].vertices), np.asarray(SOLIDS[name].faces, np.int64)
    settings = TextureSettings(size=256, unwrap=method, unwrap_seconds=600)  # a busy machine is no reason to fall back
    atlas = unwrap(vertices, faces, settings)
    assert atlas.method == method and not atlas.reason
    checked(atlas, vertices, faces, 256)


def test_box_patches_keep_their_winding_and_their_distance() -> None:
    solid = SOLIDS["ring"]
    atlas = unwrap(
        np.asarray(solid.vertices), np.asarray(solid.faces, np.int64), TextureSettings(size=256, unwrap="box")
    )
    a, b, c = (atlas.uvs[atlas.faces[:, k]] for k in range(3))
    turn = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    assert (turn < 0).all()  # v runs downwards: counter-clockwise seen from outside
    assert atlas.charts < 60


def test_a_time_limit_falls_back_to_boxes_and_says_so() -> None:
    pytest.importorskip("xatlas")
    solid = trimesh.creation.icosphere(5)
    atlas = unwrap(
        np.asarray(solid.vertices), np.asarray(solid.faces, np.int64), TextureSettings(size=256, unwrap_seconds=0.2)
    )
    assert atlas.method == "box" and "longer than 0.2 seconds" in atlas.reason
    checked(atlas, np.asarray(solid.vertices), np.asarray(solid.faces), 256)


def test_too_many_faces_are_not_given_to_xatlas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwrap_module, "MOST_FACES", 100)
    monkeypatch.setattr(child, "run", lambda *a, **k: pytest.fail("the child was started"))
    solid = SOLIDS["ball"]
    atlas = unwrap(np.asarray(solid.vertices), np.asarray(solid.faces, np.int64), TextureSettings(size=128))
    assert atlas.method == "box" and "at most 100" in atlas.reason


@pytest.mark.parametrize("python", ["", "/nonexistent/python"])
def test_no_python_to_start_falls_back(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", python)
    solid = SOLIDS["box"]
    atlas = unwrap(np.asarray(solid.vertices), np.asarray(solid.faces, np.int64), TextureSettings(size=128))
    assert atlas.method == "box" and "xatlas did not finish" in atlas.reason


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(child.ChildError, match="KeyError"):
        child.run("paint", {}, 60)


def test_cancelling_kills_the_child_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    solid = trimesh.creation.icosphere(6)
    started: list[int] = []
    popen = child.subprocess.Popen

    def watched(*args: object, **kwargs: object) -> object:
        process = popen(*args, **kwargs)  # type: ignore[call-overload]
        started.append(process.pid)
        return process

    monkeypatch.setattr(child.subprocess, "Popen", watched)

    class Cancelled(Exception):
        pass

    def cancel(share: float) -> None:
        if started:
            raise Cancelled

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        unwrap(np.asarray(solid.vertices), np.asarray(solid.faces[:40000], np.int64), TextureSettings(), cancel)
    assert time.monotonic() - begun < 10 and started
    with pytest.raises(OSError):
        os.kill(started[0], 0)
    assert list(tmp_path.iterdir()) == []


def test_large_meshes_are_decimated_in_a_child_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    solid = trimesh.creation.icosphere(4)
    vertices, faces = np.asarray(solid.vertices), np.asarray(solid.faces, np.int64)
    here = clean.decimate(vertices, faces, 500)
    monkeypatch.setattr(clean, "CHILD_FACES", 100)
    polled: list[float] = []
    there = clean.decimate(vertices, faces, 500, polled.append)
    assert np.array_equal(here[0], there[0]) and np.array_equal(here[1], there[1]) and polled


STUCK = """
import time
import numpy as np

class PackOptions: pass
class ChartOptions: pass

class Atlas:
    atlas_count = chart_count = 1
    def add_mesh(self, vertices, faces): self.made = np.arange(len(vertices)), faces, vertices[:, :2]
    def generate(self, charts, packing): pass
    def get_mesh(self, index): return self.made
    def __del__(self): time.sleep(600)
"""


def test_an_atlas_that_cannot_be_taken_apart_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """xatlas's destructor was seen waiting for a thread that had missed its call to end; the result is there then."""
    stuck = tmp_path / "xatlas.py"
    stuck.write_text(STUCK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    solid = SOLIDS["ring"]
    faces = np.asarray(solid.faces, np.int64)
    arrays = {"vertices": np.asarray(solid.vertices), "faces": faces, "size": 64, "padding": 2}
    assert np.array_equal(child.run("unwrap", arrays, 60)["faces"], faces)
    stuck.write_text(STUCK.replace("charts, packing): pass", "charts, packing): raise ValueError('too thin')"), "utf-8")
    with pytest.raises(child.ChildError, match="status 1: ValueError: too thin"):
        child.run("unwrap", arrays, 60)
