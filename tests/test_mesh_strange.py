"""Mesh files as they come from elsewhere: each gives a clear result or a clear error, and never half a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from mesh_fields import poster
from PIL import Image

from distill3d.cli import main
from distill3d.errors import MeshFileError
from distill3d.mesh import MeshSettings, MeshView, SurfaceMesh, TextureSettings, clean, convert, read, write
from distill3d.mesh.load import read_parts
from distill3d.render.cameras import orbit, ring
from distill3d.render.pictures import picture

QUADS = """# exported by hand, materials lost
mtllib lost.mtl
o house
v 0 0 0\r
v 2 0 0
v 2 0 2
v 0 0 2
v 1 3 1
v 900 900 900
vt 0.5 0.5
vn 0 1 0
usemtl bricks
f 1 2 3 4
g roof
f -6 -2 -5
f 2/1 5/1 3/1
f 3 5 4
f 4//1 5//1 1//1
"""


def square(uvs: np.ndarray, texture: np.ndarray) -> SurfaceMesh:
    mesh = poster()
    mesh.uvs, mesh.texture = uvs.astype(np.float32), texture
    return mesh


def seen(mesh: SurfaceMesh, size: int = 64) -> torch.Tensor:
    return picture(MeshView(mesh), orbit(0, 0, 2.0, 40), size)


def test_quads_groups_negative_indices_and_lost_materials(tmp_path: Path) -> None:
    path = tmp_path / "a house é.obj"
    path.write_text(QUADS)
    mesh = read(path)
    assert len(mesh.faces) == 6 and np.isfinite(mesh.normals).all()
    assert mesh.vertices.max() == 3, "the stray vertex is no part of the object"
    out = tmp_path / "a.glb"
    assert main(["convert", str(path), str(out), "--scale", "unit"]) == 0
    assert np.ptp(trimesh.load(out, force="mesh").vertices, axis=0).max() == pytest.approx(1)


def test_a_mirrored_node_faces_outward(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    solid = trimesh.creation.box((1, 2, 3))
    scene.add_geometry(solid, transform=np.diag([-2.0, 1.0, 1.0, 1.0]))
    scene.export(tmp_path / "mirrored.glb")
    mesh = read(tmp_path / "mirrored.glb")
    assert clean.signed_volume(mesh.vertices.astype(np.float64), mesh.faces) == pytest.approx(12)
    outward = (mesh.normals * mesh.vertices).sum(1)
    assert (outward > 0).all()


def test_a_flattened_node_is_still_an_object(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(), transform=np.diag([1.0, 1.0, 0.0, 1.0]))
    scene.export(tmp_path / "flat.glb")
    mesh = read(tmp_path / "flat.glb")
    assert np.isfinite(mesh.normals).all() and seen(mesh).float().std() > 10


def test_an_object_far_from_the_origin_is_moved_there_and_says_so(tmp_path: Path) -> None:
    """Surveyed coordinates: at 4,000,000 the steps of a 32-bit float are a quarter of the object."""
    ball = trimesh.creation.icosphere(3)
    ball.apply_translation([500_000, 4_000_000, 100])
    (tmp_path / "far.obj").write_text(ball.export(file_type="obj", digits=12))
    mesh = read(tmp_path / "far.obj")
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(np.ones(len(mesh.vertices)), abs=1e-4)
    assert mesh.report["moved_by"] == pytest.approx([-500_000, -4_000_000, -100], abs=1e-3)
    less = convert(mesh, MeshSettings(face_budget=300, component_share=0.0), TextureSettings(size=64, unwrap="box"))
    assert "moved to the origin" in less.report["warnings"][0] and less.report["watertight"]
    out = tmp_path / "near.glb"
    assert main(["convert", str(tmp_path / "far.obj"), str(out)]) == 0
    data = out.read_bytes()
    document = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert document["asset"]["extras"]["mesh"]["moved_by"][1] == pytest.approx(-4_000_000, abs=1e-3)


@pytest.mark.parametrize("size", [1e-6, 1e12])
def test_any_unit_of_length_is_shown_and_converted(tmp_path: Path, size: float) -> None:
    solid = trimesh.creation.icosphere(3, size)
    solid.export(tmp_path / "a.ply")
    mesh = read(tmp_path / "a.ply")
    upright = np.asarray(mesh.vertices, np.float64) / size
    assert (mesh.normals * upright).sum(1).min() > 0.99
    less = convert(mesh, MeshSettings(face_budget=200, component_share=0.0), TextureSettings(size=64, unwrap="box"))
    assert less.report["watertight"] and np.ptp(less.vertices, axis=0).max() == pytest.approx(2 * size, rel=0.05)
    assert seen(less).float().std() > 10


def test_a_texture_that_repeats_is_laid_out(tmp_path: Path) -> None:
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, 4:] = 255
    tiled = square(np.array([[-1, 0], [2, 0], [-1, 2], [2, 2]]), halves)
    write(tiled, tmp_path / "tiled.glb")
    mesh = read(tmp_path / "tiled.glb")
    assert mesh.texture is not None and mesh.texture.shape == (16, 24, 3)
    assert mesh.uvs is not None and mesh.uvs.min() == 0 and mesh.uvs.max() == 1
    row = seen(mesh, 96)[48, 17:79, 0].numpy()
    assert int((np.abs(np.diff(row > 127)) > 0).sum()) == 5, "black and white take turns three times"


def test_a_texture_that_repeats_too_often_leaves_vertex_colours(tmp_path: Path) -> None:
    write(
        square(np.array([[0, 0], [500, 0], [0, 500], [500, 500]]), np.full((4, 4, 3), 90, np.uint8)), tmp_path / "a.glb"
    )
    mesh = read(tmp_path / "a.glb")
    assert mesh.texture is None and mesh.colors == pytest.approx(90 / 255, abs=0.01)


def test_textures_of_other_depths_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "grey.png")
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd grey.png\n")
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
    )
    mesh = read(tmp_path / "a.obj")
    assert mesh.texture is not None and abs(int(mesh.texture.mean()) - 128) <= 1


def test_materials_with_and_without_textures_become_one_picture(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    plain = trimesh.creation.box((0.4, 0.4, 0.4))
    plain.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[0, 0, 255, 255])
    )
    plain.apply_translation([1.5, 0, 0])
    scene.add_geometry(trimesh.load(write(poster(), tmp_path / "p.glb"), force="mesh"), geom_name="poster")
    scene.add_geometry(plain, geom_name="plain")
    scene.export(tmp_path / "both.glb")
    out = tmp_path / "one.glb"
    flags = ["--texture.size", "256", "--texture.unwrap", "box"]
    assert main(["convert", str(tmp_path / "both.glb"), str(out), *flags]) == 0
    parts = read_parts(out)
    assert len(parts) == 1 and parts[0].texture is not None
    colours = {tuple(c) for c in seen(parts[0], 128).view(-1, 3).tolist()}
    assert {(255, 0, 0), (0, 255, 0), (255, 255, 0)} <= colours
    assert any(r < 10 and g < 10 and b > 200 for r, g, b in colours)


CLOUD = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("cloud.ply", CLOUD + "0 0 0\n1 0 0\n0 1 0\n", "only a point cloud"),
        ("lines.obj", "v 0 0 0\nv 1 0 0\nl 1 2\n", "found none|could not read"),
        ("nothing.obj", "# no faces\nv 0 0 0\nv 1 0 0\nv 0 1 0\n", "found none|could not read"),
        ("empty.stl", "", r"is empty \(0 bytes\)"),
        ("empty.off", "OFF\n0 0 0\n", "could not read|found none"),
        ("nan.obj", "v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "finite|could not read"),
        ("inf.off", "OFF\n3 1 0\n0 0 0\ninf 0 0\n0 1 0\n3 0 1 2\n", "finite|could not read"),
        ("vast.off", "OFF\n3 1 0\n0 0 0\n1e300 0 0\n0 1 0\n3 0 1 2\n", "fit 32 bits|could not read"),
        ("line.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "with an area"),
        ("point.off", "OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "with an area"),
        ("wrong.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "does not exist|could not read"),
    ],
)
def test_what_holds_no_surface_is_refused_in_words(
    tmp_path: Path, name: str, data: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / name
    source.write_text(data)
    with pytest.raises(MeshFileError, match=words):
        read(source)
    for command in (["convert", str(source), str(tmp_path / "o.glb")], ["turntable", str(source), "--out", "o.gif"]):
        assert main(command) == 1
        assert "Traceback" not in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_companion_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A glTF without its buffer cannot be read; a lost picture or MTL costs the colours and is told."""
    made = trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box()))
    (text,) = [data for name, data in made.items() if name.endswith(".gltf")]
    (tmp_path / "box.gltf").write_bytes(text)
    with pytest.raises(MeshFileError, match=r"refers to gltf_buffer_0.bin, .*not found in its folder: put it there"):
        read(tmp_path / "box.gltf")
    write(poster(), tmp_path / "a.obj")
    assert "warnings" not in read(tmp_path / "a.obj").report
    (tmp_path / "a_color.png").unlink()
    (text,) = read(tmp_path / "a.obj").report["warnings"]
    assert "a_color.png" in text and "colours may be missing" in text
    (tmp_path / "a.mtl").unlink()
    assert main(["convert", str(tmp_path / "a.obj"), str(tmp_path / "b.glb")]) == 0
    assert "a.obj refers to a.mtl" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl", "usdz"])
def test_one_flat_triangle_goes_to_every_format_without_noise(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "one.obj", tmp_path / f"out.{suffix}"
    source.write_text("v 0 0 0\nv 2 0 0\nv 0 1 0\nf 1 2 3\n")
    assert main(["convert", str(source), str(out), "--scale", "metres", "--metres", "3", "--smooth", "2"]) == 0
    said = capfd.readouterr().err
    assert "1 hole" in said and "RuntimeWarning" not in said and "Traceback" not in said
    if suffix != "usdz":
        found = trimesh.load(out, force="mesh")
        assert np.ptp(found.vertices, axis=0) == pytest.approx([3, 1.5, 0], abs=1e-5) and len(found.faces) == 1


@pytest.mark.parametrize("places", [np.zeros((3, 3)), np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])])
def test_a_mesh_without_area_is_refused_whatever_its_scale(places: np.ndarray) -> None:
    thin = SurfaceMesh(
        places.astype(np.float32), np.array([[0, 1, 2]]), np.float32([[0, 1, 0]] * 3), np.zeros((3, 3), np.float32), 0.0
    )
    for scale in ("world", "unit", "metres"):
        with pytest.raises(MeshFileError, match="with an area"):
            convert(thin, MeshSettings(face_budget=0, component_share=0.0, scale=scale))


def test_facts_of_a_mesh_are_those_that_trimesh_finds() -> None:
    for solid in (trimesh.creation.torus(0.5, 0.2), trimesh.creation.box(), trimesh.creation.capsule()):
        faces = np.asarray(solid.faces)
        for kept in (faces, faces[2:]):
            other = trimesh.Trimesh(solid.vertices, kept, process=False)
            facts = clean.inspect(np.asarray(solid.vertices, np.float32), kept)
            assert facts["watertight"] == (other.is_watertight and other.is_winding_consistent)
            assert facts["euler"] == other.euler_number and facts["area"] == pytest.approx(other.area, rel=1e-5)
            if facts["watertight"]:
                assert facts["volume"] == pytest.approx(other.volume, rel=1e-4)
            assert np.array(facts["bounds"]) == pytest.approx(other.bounds, rel=1e-5)


def test_different_rows_are_those_that_numpy_finds() -> None:
    """With one number for a row, and without where the numbers would not fit."""
    random = np.random.default_rng(0)
    for scale in (1, 2**40):
        rows = random.integers(-3, 4, (500, 3)) * scale
        _, first, number, count = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
        found = clean.unique_rows(rows)
        assert all(np.array_equal(a, b) for a, b in zip(found, (first, number.reshape(-1), count), strict=True))
    assert [len(part) for part in clean.unique_rows(rows[:0])] == [0, 0, 0]


def test_two_objs_whose_names_come_to_the_same_letters_keep_their_pictures(tmp_path: Path) -> None:
    """MTL names are plain ASCII: 日.obj and 本.obj both come to _."""
    for name, level in (("日", 250), ("本", 10)):
        write(square(poster().uvs, np.full((8, 8, 3), level, np.uint8)), tmp_path / f"{name}.obj")
    for name, level in (("日", 250), ("本", 10)):
        (part,) = read_parts(tmp_path / f"{name}.obj")
        assert part.texture is not None and abs(int(part.texture.mean()) - level) < 2, name


@pytest.mark.parametrize("shift", [0.0, 0.4], ids=["centred", "beside"])
@pytest.mark.parametrize("side", [2.0, 0.3, 1.4])
def test_a_box_of_any_size_is_seen_whole_and_large_from_all_sides(side: float, shift: float) -> None:
    box = trimesh.creation.box((side, side, side))
    corners = (box.vertices + shift).astype(np.float32)
    flat = np.full_like(corners, 0.5)
    mesh = SurfaceMesh(corners, box.faces.astype(np.int64), box.vertex_normals.astype(np.float32), flat, 0.0)
    view = MeshView(mesh, fit=True)
    for camera in (ring(8, 15.0)[i : i + 1] for i in range(8)):
        hit = picture(view, camera, 64, kind="opacity")[..., 0] > 0
        rows, columns = hit.any(1).nonzero(), hit.any(0).nonzero()
        assert min(int(rows.min()), int(columns.min())) > 0 and max(int(rows.max()), int(columns.max())) < 63
        assert hit.float().mean() > 0.2


def test_a_turntable_never_replaces_what_the_mesh_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = write(square(poster().uvs, np.full((8, 8, 3), 90, np.uint8)), tmp_path / "a.obj")
    before = (tmp_path / "a_color.png").read_bytes()
    assert main(["turntable", str(source), "--out", str(tmp_path / "a_color.png")]) == 2
    assert "belongs to a.obj" in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "a_color.png").read_bytes() == before
