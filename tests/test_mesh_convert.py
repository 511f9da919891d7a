"""Meshes from elsewhere: read back what was written, colours and places known; bad files; core MESH; pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from mesh_fields import CORNERS, poster

from distill3d.errors import MeshFileError
from distill3d.mesh import (
    MeshSettings,
    MeshView,
    SurfaceMesh,
    TextureSettings,
    convert,
    from_core,
    read,
    to_core,
    write,
)
from distill3d.mesh.load import read_parts
from distill3d.mesh.paint import SamplePaint
from distill3d.render.cameras import orbit, ring
from distill3d.render.pictures import contact_sheet, picture, turntable


def ball(subdivisions: int = 4) -> SurfaceMesh:
    solid = trimesh.creation.icosphere(subdivisions, 0.7)
    normals = np.asarray(solid.vertex_normals, np.float32)
    return SurfaceMesh(
        np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int64), normals, 0.5 + 0.5 * normals, 1.0
    )


def seen(mesh: SurfaceMesh, size: int = 48) -> torch.Tensor:
    return picture(MeshView(mesh), orbit(0, 0, 2.0, 40), size)


def test_a_picture_shows_the_texture_upright_and_not_mirrored() -> None:
    image = seen(poster())
    for name, row, column in (
        ("left up", 0.4, 0.4),
        ("right up", 0.4, 0.6),
        ("left down", 0.6, 0.4),
        ("right down", 0.6, 0.6),
    ):
        assert image[int(48 * row), int(48 * column)].tolist() == list(CORNERS[name]), name
    assert image[0, 0].tolist() == [255, 255, 255]


def test_a_nearer_face_hides_a_farther_one_and_perspective_is_right() -> None:
    near, far = poster(), poster()
    near.texture, far.texture = np.full((4, 4, 3), 50, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    far.vertices = far.vertices * 1.6 - np.float32([0, 0, 0.5])
    both = SurfaceMesh(
        np.concatenate([near.vertices, far.vertices]), np.concatenate([near.faces, far.faces + 4]),
        np.tile(np.float32([0, 0, 1]), (8, 1)), np.repeat(np.float32([[0.2] * 3, [0.8] * 3]), 4, 0), 1.0,
    )  # fmt: skip
    image = seen(both, 64)[..., 0]
    assert image[32, 32] == 51 and image[32, 6] == 204
    # half width 0.5 at distance 2: 0.5 / (2 tan 20 deg) of half the picture
    assert int((image[32] == 51).sum()) == pytest.approx(64 * 0.5 / (2 * np.tan(np.radians(20))), abs=1.5)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_reading_back_gives_the_same_place_and_colour(tmp_path: Path, suffix: str) -> None:
    mesh = ball(2)
    mesh.vertices = mesh.vertices * np.float32([1, 0.5, 0.8]) + np.float32([0.1, 0.2, 0])
    back = read(write(mesh, tmp_path / f"a.{suffix}"))
    assert len(back.faces) == len(mesh.faces) and len(back.vertices) == len(mesh.vertices)
    assert np.sort(back.vertices, 0) == pytest.approx(np.sort(mesh.vertices, 0), abs=1e-5)
    if suffix != "stl":
        assert back.colors == pytest.approx(mesh.colors, abs=0.02)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_a_texture_comes_back_the_right_way_up(tmp_path: Path, suffix: str) -> None:
    back = read(write(poster(), tmp_path / f"my poster.{suffix}"))
    assert back.texture is not None and np.array_equal(back.texture, poster().texture)
    assert torch.equal(seen(back), seen(poster()))


def test_parts_with_their_own_textures_become_one(tmp_path: Path) -> None:
    one, two = poster(), poster()
    two.vertices = two.vertices + np.float32([1.2, 0, 0])
    two.texture = np.full((8, 8, 3), 77, np.uint8)
    scene = trimesh.Scene()
    for name, part in (("a", one), ("b", two)):
        scene.add_geometry(trimesh.load(write(part, tmp_path / f"{name}.glb"), force="mesh"), geom_name=name)
    scene.export(tmp_path / "both.glb")
    parts = read_parts(tmp_path / "both.glb")
    assert len(parts) == 2 and all(p.texture is not None for p in parts)
    joined = convert(parts, texture=TextureSettings(size=256, unwrap="box", normal_map=False))
    assert joined.texture is not None and len(joined.faces) == 4
    image = seen(joined, 96)
    colors = {tuple(c) for c in image.view(-1, 3).tolist()}
    assert (77, 77, 77) in colors and (255, 0, 0) in colors and (255, 255, 0) in colors


def test_a_decimated_file_keeps_its_look_and_any_unit(tmp_path: Path) -> None:
    big = ball(4)
    big.vertices = big.vertices * 500 + 1000
    path = write(big, tmp_path / "big.ply")
    less = convert(
        read_parts(path), MeshSettings(face_budget=400, component_share=0.0), TextureSettings(size=128, unwrap="box")
    )
    assert len(less.faces) <= 400 and less.report["watertight"] and less.texture is not None
    assert less.vertices.min(0) == pytest.approx(np.full(3, 650), abs=15)
    assert less.report["volume"] == pytest.approx(4 / 3 * np.pi * 350**3, rel=0.03)
    assert np.abs(seen(less).double() - seen(big).double()).mean() < 4


def test_what_fits_is_left_as_it_is_and_the_input_is_not_changed(tmp_path: Path) -> None:
    mesh = poster()
    before = mesh.vertices.copy()
    same = convert(mesh, MeshSettings(face_budget=0, component_share=0.0, scale="metres", metres=3.0))
    assert np.array_equal(mesh.vertices, before) and mesh.report == {}
    assert np.ptp(same.vertices, 0).max() == pytest.approx(3) and same.vertices[:, 1].min() == 0
    assert same.texture is mesh.texture and "hole" in same.report["warnings"][0]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("no.glb", None, "there is no file"),
        ("a.blend", b"x", "ending in"),
        ("a.glb", b"glTF not really", "could not read"),
        ("a.obj", b"v 0 0 0\n", "expected triangles in .* found none, only a point cloud"),
        ("a.obj", b"# A title\n\nand words\n", "no line of it is one of an OBJ"),
        ("a.obj", b"o Cube\ns off\n", "found none, only an empty scene"),
        ("a.usdz", b"PK", "USDZ is written here and not read"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n", "finite|could not read"),
        ("a.ply", b"ply\nformat ascii 1.0\nend_header\n", "could not read|none"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(MeshFileError, match=words):
        read(path)


def test_one_triangle_and_a_fan_of_faces_on_one_edge_go_through(tmp_path: Path) -> None:
    settings = MeshSettings(face_budget=100, component_share=0.0, smooth=1)
    texture = TextureSettings(size=64, unwrap="box")
    for faces, warning in (([[0, 1, 2]], "hole"), ([[0, 1, 2], [0, 1, 3], [0, 1, 4]], "hole")):
        vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]])[: max(map(max, faces)) + 1]
        mesh = SurfaceMesh(
            vertices, np.array(faces), np.tile(np.float32([0, 0, 1]), (len(vertices), 1)), vertices * 0 + 0.3, 1.0
        )
        done = convert(mesh, settings, texture)
        assert len(done.faces) == len(faces) and warning in done.report["warnings"][0]
        assert read(write(done, tmp_path / "a.glb")).texture is not None


def test_core_mesh_there_and_back() -> None:
    mesh = poster()
    fields = to_core(mesh)
    shapes = {k: tuple(v.shape) for k, v in fields.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        "vertices": (1, 4, 3), "faces": (1, 2, 3), "normals": (1, 4, 3), "uvs": (1, 4, 2), "texture": (1, 16, 16, 3),
        "normal_map": (1, 16, 16, 3), "tangents": (1, 4, 4), "metallic_roughness": (1, 16, 16, 3),
    }  # fmt: skip
    assert fields["occlusion_in_mr"] is True and fields["faces"].dtype == torch.int64
    back = from_core(SimpleNamespace(**fields))
    for name in ("vertices", "faces", "normals", "uvs", "texture", "normal_map", "tangents", "occlusion"):
        assert np.array_equal(getattr(back, name), getattr(mesh, name)), name
    fields["vertices"].zero_()
    assert mesh.vertices.any()
    plain = ball(1)
    fields = to_core(plain)
    assert float(fields["vertex_colors"][0, 0, 0]) == pytest.approx(
        ((plain.colors[0, 0] + 0.055) / 1.055) ** 2.4, abs=1e-5
    )
    assert from_core(SimpleNamespace(**fields)).colors == pytest.approx(plain.colors, abs=1e-5)


def test_a_core_mesh_whose_texture_repeats_is_laid_out_and_what_is_no_number_is_replaced() -> None:
    fields = to_core(poster())
    plain, shown = from_core(SimpleNamespace(**fields)), fields["uvs"].clone()
    fields["uvs"] = 2 * shown - 1
    mesh = from_core(SimpleNamespace(**fields))
    assert mesh.uvs is not None and mesh.texture is not None and mesh.normal_map is not None
    assert mesh.texture.shape == mesh.normal_map.shape == (32, 32, 3) and mesh.occlusion.shape == (32, 32)
    assert np.allclose(mesh.uvs, shown[0]) and np.array_equal(mesh.texture[:16, 16:], plain.texture)
    fields["uvs"], fields["normals"] = shown, torch.full_like(fields["normals"], float("nan"))
    fields["texture"] = fields["texture"].clone()
    fields["texture"][0, 0, 0] = float("nan")
    mesh = from_core(SimpleNamespace(**fields))
    assert np.isfinite(mesh.normals).all() and mesh.texture[0, 0].tolist() == [0, 0, 0]
    colored = SimpleNamespace(**to_core(ball(0)))
    colored.vertex_colors[0, 0] = float("nan")
    assert np.isfinite(from_core(colored).colors).all()


def test_core_batches_are_cut_to_length_and_strangers_refused() -> None:
    one, two = to_core(ball(0)), to_core(ball(1))
    pad = torch.nn.functional.pad
    count, faces = two["vertices"].shape[1], two["faces"].shape[1]
    batch = SimpleNamespace(
        vertices=torch.cat([pad(one["vertices"], (0, 0, 0, count - 12)), two["vertices"]]),
        faces=torch.cat([pad(one["faces"], (0, 0, 0, faces - 20)), two["faces"]]),
        vertex_counts=torch.tensor([12, count]), face_counts=torch.tensor([20, faces]),
    )  # fmt: skip
    assert len(from_core(batch).faces) == 20 and len(from_core(batch, 1).vertices) == count
    with pytest.raises(MeshFileError, match="core MESH"):
        from_core(SimpleNamespace(v=1))
    with pytest.raises(MeshFileError, match="empty"):
        from_core(SimpleNamespace(vertices=torch.zeros(1, 0, 3), faces=torch.zeros(1, 0, 3)))


def test_sheets_and_turntables_take_a_mesh() -> None:
    view = MeshView(ball(2))
    assert contact_sheet(view, ring(2), size=32).size == (64, 96)
    frames = turntable(view, frames=3, size=24, kind="shaded")
    assert frames.shape == (3, 24, 24, 3) and frames.dtype == torch.uint8 and frames.float().std() > 10


@pytest.mark.parametrize("thickness", [0.01, 0.002, 0.0005])
def test_a_thin_sheet_keeps_the_colours_of_its_two_sides(thickness: float) -> None:
    """Red above and blue below, asked for at places between the samples."""
    grid = np.linspace(-1, 1, 25)
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    sides = [np.stack([x, y, np.full_like(x, side * thickness / 2)], 1) for side in (1, -1)]
    up = np.tile([0.0, 0.0, 1.0], (len(x), 1))
    colors = np.repeat(np.array([[1.0, 0, 0], [0, 0, 1]]), len(x), 0)
    stack = (np.concatenate(sides), np.concatenate([up, -up]), colors)
    paint = SamplePaint(*(array.astype(np.float32) for array in stack))
    at = np.random.default_rng(0).uniform(-0.9, 0.9, (500, 2))
    for side, colour in ((1, [1, 0, 0]), (-1, [0, 0, 1])):
        points = np.concatenate([at, np.full((len(at), 1), side * thickness / 2)], 1).astype(np.float32)
        found, fine = paint.texels(points, np.tile(np.array([0, 0, side], np.float32), (len(at), 1)))
        assert np.abs(found - colour).max() < 0.02 and (fine[:, 2] * side > 0.99).all()
