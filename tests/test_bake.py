"""Baked textures against the field itself: pictures, known colours, known normals, seams, occlusion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from mesh_fields import WavyField, poster, psnr, renderings

from distill3d.errors import DivergedError
from distill3d.mesh import MeshSettings, MeshView, SurfaceMesh, TextureSettings, build, convert
from distill3d.mesh.bake import tangents
from distill3d.mesh.occlusion import Visibility
from distill3d.mesh.view import sample_texture
from distill3d.render.cameras import ring
from distill3d.render.pictures import picture

BOX = TextureSettings(size=512, unwrap="box")


@pytest.fixture(scope="module")
def field() -> WavyField:
    return WavyField("torus")


@pytest.fixture(scope="module")
def baked(field: WavyField) -> SurfaceMesh:
    return build(field, settings=MeshSettings(resolution=96, face_budget=2000), texture=BOX)


def texel_points(mesh: SurfaceMesh, count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random points of the surface, their uvs and interpolated normals."""
    random = np.random.default_rng(0)
    faces = mesh.faces[random.integers(len(mesh.faces), size=count)]
    weight = random.dirichlet([1, 1, 1], count)
    point, uv, normal = (np.einsum("nk,nkc->nc", weight, v[faces]) for v in (mesh.vertices, mesh.uvs, mesh.normals))
    return point.astype(np.float32), uv.astype(np.float32), normal.astype(np.float32)


def test_the_texture_holds_the_fields_colour_at_every_point(field: WavyField, baked: SurfaceMesh) -> None:
    point, uv, _ = texel_points(baked)
    assert baked.texture is not None
    seen = sample_texture(torch.from_numpy(baked.texture).float() / 255, torch.from_numpy(uv))
    error = (seen - field.albedo(torch.from_numpy(point))).abs()
    assert float(error.mean()) < 0.01 and float(error.quantile(0.99)) < 0.05


@pytest.mark.parametrize("shape", ["torus", "sphere", "cone", "capsule", "cylinder"])
def test_pictures_of_the_mesh_are_pictures_of_the_field(shape: str) -> None:
    """At least 30 dB over 24 views, and within 1 dB of vertex colours at ten times the faces."""
    known = WavyField(shape)
    truth = renderings(known, 48)
    textured = build(known, settings=MeshSettings(resolution=96, face_budget=2000), texture=BOX)
    many = build(known, settings=MeshSettings(resolution=96, face_budget=20000))
    assert len(many.faces) > 8 * len(textured.faces)
    got, other = psnr(textured, truth), psnr(many, truth)
    assert got >= 30 and got >= other - 1, (got, other)


def test_the_normal_map_restores_what_decimation_took(field: WavyField) -> None:
    """Tangent, bitangent and normal weighted by the map come nearer to the truth than the normal alone."""
    coarse = build(
        field, settings=MeshSettings(resolution=48, face_budget=300), texture=TextureSettings(size=256, unwrap="box")
    )
    point, uv, normal = texel_points(coarse)
    assert coarse.normal_map is not None and coarse.tangents is not None and coarse.uvs is not None
    map_ = sample_texture(torch.from_numpy(coarse.normal_map).float() / 127.5 - 1, torch.from_numpy(uv)).numpy()
    random = np.random.default_rng(0)
    faces = coarse.faces[random.integers(len(coarse.faces), size=len(point))]
    tangent = np.einsum("nk,nkc->nc", random.dirichlet([1, 1, 1], len(point)), coarse.tangents[faces])
    n = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    t = tangent[:, :3] - n * (n * tangent[:, :3]).sum(1, keepdims=True)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    b = coarse.tangents[faces[:, 0], 3:] * np.cross(n, t)
    fine = map_[:, :1] * t + map_[:, 1:2] * b + map_[:, 2:] * n
    fine /= np.linalg.norm(fine, axis=1, keepdims=True)
    true = field.normals(torch.from_numpy(point)).numpy()
    errors = [np.degrees(np.arccos(np.clip((v * true).sum(1), -1, 1))).mean() for v in (fine, n)]
    assert errors[0] < 0.75 * errors[1], errors
    assert coarse.normal_map.reshape(-1, 3)[:, 2].min() > 127


def test_a_flat_face_has_a_flat_normal_map() -> None:
    cube = build(WavyField("cube"), settings=MeshSettings(resolution=48, face_budget=600), texture=BOX)
    assert cube.normal_map is not None
    middle = np.median(cube.normal_map.reshape(-1, 3), axis=0)
    assert middle.tolist() == pytest.approx([128, 128, 255], abs=2)


def test_seams_are_filled_with_their_borders_colour(baked: SurfaceMesh, field: WavyField) -> None:
    """Nothing black is left: every texel outside the charts repeats one inside."""
    assert baked.texture is not None and baked.texture.reshape(-1, 3).sum(1).min() > 0
    assert 0.2 < baked.report["texture"]["coverage"] < 1


def test_bands_and_supersampling(field: WavyField, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MeshSettings(resolution=32, face_budget=500)
    small = TextureSettings(size=128, unwrap="box")
    whole = build(field, settings=settings, texture=small)
    monkeypatch.setattr("distill3d.mesh.bake.BAND_SAMPLES", 3000)
    banded = build(field, settings=settings, texture=small)
    assert whole.texture is not None and banded.texture is not None
    assert np.abs(whole.texture.astype(int) - banded.texture.astype(int)).max() <= 1
    assert np.array_equal(whole.normal_map, banded.normal_map)


def test_a_sharp_edge_of_colour_is_supersampled() -> None:
    class Halves(WavyField):
        def albedo(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 1:2] > 0.111).float().expand(-1, 3)

    settings = MeshSettings(resolution=48, face_budget=800)
    one, four = (
        build(Halves(), settings=settings, texture=TextureSettings(size=256, unwrap="box", supersample=n))
        for n in (1, 4)
    )
    assert one.texture is not None and four.texture is not None

    def between(texture: np.ndarray) -> float:
        return float(((texture > 20) & (texture < 235)).mean())

    assert between(four.texture) > 2 * between(one.texture)


def test_tangents_of_a_known_square() -> None:
    square = poster()
    assert square.uvs is not None
    found = tangents(square.vertices, square.normals, square.uvs, square.faces)
    assert found == pytest.approx(np.tile([1, 0, 0, 1], (4, 1)))
    mirrored = square.uvs * [-1, 1] + [1, 0]
    assert tangents(square.vertices, square.normals, mirrored.astype(np.float32), square.faces) == pytest.approx(
        np.tile([-1, 0, 0, -1], (4, 1))
    )
    # the bitangent w n x t must point up in the picture
    assert np.cross(square.normals, found[:, :3])[0] * found[0, 3] == pytest.approx([0, 1, 0])


def test_occlusion_of_an_open_plane_and_of_a_corner() -> None:
    """A floor sees everything; beside a tall wall it sees half; a cube's outside sees everything."""
    cube = trimesh.creation.box()
    seen = Visibility(np.asarray(cube.vertices, np.float32), np.asarray(cube.faces, np.int64))
    assert seen.share(np.float32([[0, 0.5, 0], [0.3, 0, 0.5]]), np.float32([[0, 1, 0], [0, 0, 1]])) == pytest.approx(
        1, abs=0.02
    )
    floor = trimesh.creation.box((8, 0.1, 8))
    wall = trimesh.creation.box((8, 8, 0.1))
    wall.apply_translation([0, 4, 0])
    both = trimesh.util.concatenate([floor, wall])
    seen = Visibility(np.asarray(both.vertices, np.float32), np.asarray(both.faces, np.int64))
    share = seen.share(np.float32([[0, 0.05, 0.4], [0, 0.05, 3.9]]), np.float32([[0, 1, 0], [0, 1, 0]]))
    assert share[0] == pytest.approx(0.5, abs=0.12)


def test_occlusion_is_baked_where_asked(field: WavyField) -> None:
    mesh = build(
        field, settings=MeshSettings(resolution=32, face_budget=500), texture=TextureSettings(size=128, occlusion=True)
    )
    assert mesh.occlusion is not None and mesh.occlusion.shape == (128, 128)
    assert 60 < mesh.occlusion.min() < 240 and mesh.occlusion.max() == 255


def test_stages_are_told_and_can_cancel_in_each(field: WavyField) -> None:
    settings, texture = MeshSettings(resolution=24, face_budget=300), TextureSettings(size=64, unwrap="box")
    seen: list[str] = []
    build(field, settings=settings, texture=texture, on_stage=lambda name, share: seen.append(name))
    assert list(dict.fromkeys(seen)) == ["sample", "surface", "clean", "color", "unwrap", "bake"]

    def cancel_at(stage: str):
        def cancel(name: str, share: float) -> None:
            if name == stage:
                raise InterruptedError(stage)

        return cancel

    for stage in dict.fromkeys(seen):
        with pytest.raises(InterruptedError, match=stage):
            build(field, settings=settings, texture=texture, on_stage=cancel_at(stage))


def test_colours_that_are_not_finite_are_an_error(field: WavyField) -> None:
    class Broken(WavyField):
        def albedo(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, math.nan)

    with pytest.raises(DivergedError, match="albedo"):
        build(Broken(), settings=MeshSettings(resolution=16), texture=TextureSettings(size=64, unwrap="box"))


def test_same_field_same_texture(field: WavyField) -> None:
    settings = MeshSettings(resolution=24, face_budget=300)
    one, two = (build(field, settings=settings, texture=TextureSettings(size=64)) for _ in range(2))
    for name in ("texture", "normal_map", "uvs", "tangents", "faces"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_a_decimated_mesh_takes_its_colours_along(baked: SurfaceMesh) -> None:
    less = convert(baked, MeshSettings(face_budget=800, component_share=0.0), TextureSettings(size=256, unwrap="box"))
    assert len(less.faces) <= 800 and less.texture is not None and less.report["watertight"]
    camera = ring(1)
    before, after = (picture(MeshView(m), camera, 96).double() for m in (baked, less))
    assert -10 * math.log10(float(((before - after) / 255).square().mean())) > 28
