"""Sharp edges of meshes without normals: closed forms of cubes, balls and pipes; what others read of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from distill3d.mesh import MeshSettings, MeshView, TextureSettings, convert, from_core, read, write
from distill3d.mesh.shade import CREASE, creased
from distill3d.render.cameras import orbit
from distill3d.render.pictures import picture


def bare(solid: trimesh.Trimesh, path: Path) -> Path:
    """A file with places and faces alone."""
    rows = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in solid.vertices]
    off = ["OFF", f"{len(solid.vertices)} {len(solid.faces)} 0", *(row[2:] for row in rows)]
    off += [f"3 {a} {b} {c}" for a, b, c in solid.faces]
    if path.suffix in (".obj", ".off"):
        faces = [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in solid.faces]
        path.write_text("\n".join([*rows, *faces] if path.suffix == ".obj" else off))
    else:
        trimesh.Trimesh(solid.vertices, solid.faces, process=False).export(path)
    return path


@pytest.mark.parametrize("suffix", ["obj", "off", "ply", "stl", "glb"])
def test_a_cube_without_normals_is_no_ball(tmp_path: Path, suffix: str) -> None:
    mesh = read(bare(trimesh.creation.box((1, 1, 1)), tmp_path / f"a.{suffix}"))
    assert len(mesh.vertices) == 24 and len(mesh.faces) == 12
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    flat = np.cross(b - a, c - a)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert mesh.normals[mesh.faces] == pytest.approx(np.repeat(flat[:, None], 3, 1), abs=1e-6)
    assert (mesh.normals * mesh.vertices).sum(1) == pytest.approx(0.5)
    # lit from the camera, each side has one tone: 0.3 + 0.7 cos of the angle between its normal and the light
    image = picture(MeshView(mesh), orbit(0, 0, 3.0, 42), 64, kind="shaded")[24:40, 24:40, 0]
    assert int(image.max()) - int(image.min()) <= 25, "the light's own fall-off over the side, no rounded edge"


@pytest.mark.parametrize("suffix", ["obj", "off", "ply", "stl", "glb"])
def test_a_ball_without_normals_stays_smooth(tmp_path: Path, suffix: str) -> None:
    solid = trimesh.creation.icosphere(3)
    mesh = read(bare(solid, tmp_path / f"a.{suffix}"))
    assert len(mesh.vertices) == len(solid.vertices)
    assert (mesh.normals * mesh.vertices).sum(1).min() > 0.999


def test_the_angle_decides() -> None:
    for sections in (6, 8, 10, 12, 16):
        pipe = trimesh.creation.cylinder(1, 2, sections=sections)
        source, faces, normals = creased(np.asarray(pipe.vertices), np.asarray(pipe.faces))
        sides = np.abs(normals[:, 2]) < 0.5
        # two caps; a side's edge is shared where the turn, 360 / sections, is no crease
        assert int(sides.sum()) == (2 if 360 / sections <= CREASE else 4) * sections, sections
        assert np.array_equal(source[faces], pipe.faces)
        assert np.abs(normals[~sides, 2]) == pytest.approx(1)


def test_seams_and_disagreeing_faces() -> None:
    """Vertices that are there twice, for texture coordinates, are no edge; faces that look at each other are."""
    ball = trimesh.creation.icosphere(2)
    soup = np.asarray(ball.triangles).reshape(-1, 3)
    _, _, normals = creased(soup, np.arange(len(soup)).reshape(-1, 3))
    assert (normals * soup).sum(1).min() > 0.99
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float64)
    _, _, normals = creased(square, np.array([[0, 1, 2], [0, 3, 2]]))
    assert len(normals) == 6 and sorted(normals[:, 2].round().astype(int).tolist()) == [-1] * 3 + [1] * 3


def test_normals_that_are_there_are_kept(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    rounded = box.vertices / np.linalg.norm(box.vertices, axis=1, keepdims=True)
    rows = [f"v {x} {y} {z}" for x, y, z in box.vertices] + [f"vn {x} {y} {z}" for x, y, z in rounded]
    rows += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in box.faces + 1]
    (tmp_path / "a.obj").write_text("\n".join(rows))
    mesh = read(tmp_path / "a.obj")
    assert len(mesh.vertices) == 8 and (mesh.normals * mesh.vertices).sum(1) == pytest.approx(0.75**0.5)


@pytest.mark.parametrize("suffix", ["obj", "glb", "stl", "ply"])
def test_a_cube_that_is_written_is_closed_and_sharp_for_others(tmp_path: Path, suffix: str) -> None:
    out = write(read(bare(trimesh.creation.box(), tmp_path / "a.off")), tmp_path / f"b.{suffix}")
    found = trimesh.load(out, force="mesh", process=False)
    if suffix == "obj":
        assert out.read_text().count("\nv ") == 8 and out.read_text().count("\nvn ") == 6
    if suffix in ("glb", "ply"):
        assert np.abs(found.vertex_normals).max(1) == pytest.approx(1)
    if suffix == "glb":
        assert b'"doubleSided":false' in out.read_bytes()
    found.merge_vertices(merge_norm=True, merge_tex=True)
    assert len(found.vertices) == 8 and found.is_watertight and found.volume == pytest.approx(1)


def test_edges_stay_sharp_through_decimation_and_a_ball_round(tmp_path: Path) -> None:
    cube = trimesh.creation.box((1, 1, 1))
    for _ in range(4):
        cube = cube.subdivide()
    mesh = read(bare(cube, tmp_path / "a.off"))
    settings = MeshSettings(component_share=0.0, face_budget=300)
    for texture in (None, TextureSettings(size=128, unwrap="box")):
        less = convert(mesh, settings, texture)
        assert len(less.faces) <= 300 and less.report["watertight"]
        assert np.abs(less.normals).max(1).min() > 0.99, "each normal is that of a side"
    ball = convert(read(bare(trimesh.creation.icosphere(4), tmp_path / "b.off")), settings)
    assert len(ball.vertices) == 2 + len(ball.faces) // 2, "no edge of it is split (Euler)"
    assert (ball.normals * ball.vertices).sum(1).min() > 0.95


def test_a_core_mesh_without_normals_is_creased_and_not_changed() -> None:
    from types import SimpleNamespace

    box = trimesh.creation.box()
    given = SimpleNamespace(
        vertices=torch.tensor(box.vertices, dtype=torch.float32)[None], faces=torch.tensor(box.faces)[None],
        vertex_colors=torch.rand(1, 8, 3),
    )  # fmt: skip
    mesh = from_core(given)
    assert len(mesh.vertices) == len(mesh.colors) == 24 and given.vertices.shape == (1, 8, 3)
    assert np.abs(mesh.normals).max(1) == pytest.approx(1)
