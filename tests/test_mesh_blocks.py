"""Block-wise surfaces against the whole lattice, distance fields, and the clean-up steps with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from mesh_fields import WavyField
from torch import Tensor

from distill3d.errors import DivergedError, SettingsError
from distill3d.mesh import MeshSettings, TextureSettings, blocks, clean, extract, surface
from distill3d.mesh.build import closedness_warnings
from distill3d.world.objects import Object

CPU = torch.device("cpu")


class Solid:
    """A soft solid from a distance function."""

    def __init__(self, distance: Callable[[Tensor], Tensor]) -> None:
        self.distance, self.asked = distance, 0

    def density(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return 50 * torch.sigmoid(-self.distance(x) / 0.02)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), torch.full_like(x, 0.5)

    def normals(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)


def shifted(x: Tensor) -> Tensor:
    return (x - torch.tensor([0.8, 0.0, 0.0])).norm(dim=-1) - 0.5


def shell(x: Tensor) -> Tensor:
    return (x.norm(dim=-1) - 0.5).abs() - 0.1


@pytest.mark.parametrize("distance", [Object("torus", "red").sdf, shifted])
def test_blocks_give_the_mesh_of_the_whole_lattice(
    distance: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MeshSettings(resolution=70, level=3.0)
    whole = surface.find_surface(Solid(distance), None, settings, CPU)
    monkeypatch.setattr(surface, "DENSE", 8)
    monkeypatch.setattr(blocks, "COARSE", 32)
    solid = Solid(distance)
    parts = surface.find_surface(solid, None, settings, CPU)
    assert parts.faces.shape == whole.faces.shape and parts.vertices.shape == whole.vertices.shape
    assert solid.asked < 71**3
    found, _ = torch.cdist(torch.from_numpy(parts.vertices), torch.from_numpy(whole.vertices)).min(1)
    assert float(found.max()) < 1e-6
    facts = clean.inspect(parts.vertices, parts.faces)
    assert facts["watertight"] and facts["shared_edges"] == 0 == facts["holes"]
    assert facts["volume"] == pytest.approx(clean.signed_volume(whole.vertices, whole.faces), rel=1e-6)


def test_blocks_follow_the_surface_out_of_what_the_coarse_lattice_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thin rod on a ball: the coarse lattice misses the rod, which hangs on the ball."""

    def rod(x: Tensor) -> Tensor:
        along = (x[:, 1:2] - x[:, 1:2].clamp(0, 0.9))[:, 0]
        line = torch.stack([x[:, 0] - 0.029, along, x[:, 2] - 0.031], -1).norm(dim=-1) - 0.028
        return torch.minimum(x.norm(dim=-1) - 0.3, line)

    class Hard(Solid):
        def density(self, x: Tensor) -> Tensor:
            return 50 * (self.distance(x) < 0).float()

    monkeypatch.setattr(surface, "DENSE", 8)
    monkeypatch.setattr(blocks, "COARSE", 17)
    found = surface.find_surface(Hard(rod), None, MeshSettings(resolution=128, level=3.0), CPU)
    assert found.vertices[:, 1].max() == pytest.approx(0.928, abs=0.02)
    assert clean.is_closed(found.faces)


def test_cavities_are_dropped_in_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface, "DENSE", 8)
    monkeypatch.setattr(blocks, "COARSE", 32)
    filled, hollow = (
        surface.find_surface(Solid(shell), None, MeshSettings(resolution=64, level=25.0, fill_cavities=f), CPU)
        for f in (True, False)
    )
    assert clean.signed_volume(filled.vertices, filled.faces) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.02)
    expected = 4 / 3 * math.pi * (0.6**3 - 0.4**3)
    assert clean.signed_volume(hollow.vertices, hollow.faces) == pytest.approx(expected, rel=0.02)


def test_densities_that_are_not_finite_are_an_error_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Solid):
        def density(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0] > 0.69, math.nan, super().density(x))

    monkeypatch.setattr(surface, "DENSE", 8)
    monkeypatch.setattr(blocks, "COARSE", 16)
    with pytest.raises(DivergedError, match="finite densities"):
        surface.find_surface(Broken(Object("torus", "red").sdf), None, MeshSettings(resolution=40, level=3.0), CPU)


def test_a_field_with_a_distance_is_cut_at_zero() -> None:
    class Distance(WavyField):
        def sdf(self, x: Tensor) -> Tensor:
            return self.object.sdf(x)

        def density(self, x: Tensor) -> Tensor:
            return torch.full_like(x[:, 0], 5.0)  # says nothing

    mesh = extract(Distance("sphere"), settings=MeshSettings(resolution=48, face_budget=0))
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.72, abs=1e-3)
    assert mesh.report["level"] == 0 and mesh.report["watertight"]


def test_smoothing_takes_ripples_and_keeps_volume() -> None:
    solid = trimesh.creation.icosphere(4)
    ripple = np.random.default_rng(0).normal(0, 0.01, len(solid.vertices))
    rough = solid.vertices * (1 + ripple[:, None])
    smooth, coarse = clean.smooth(rough, np.asarray(solid.faces), 10)
    before, after = (np.linalg.norm(v, axis=1).std() for v in (rough, smooth))
    assert after < 0.4 * before
    volumes = [clean.signed_volume(v, np.asarray(solid.faces)) for v in (rough, smooth)]
    assert volumes[1] == pytest.approx(volumes[0], rel=1e-9)
    assert coarse == 0


@pytest.mark.parametrize(
    "solid", [trimesh.creation.box((1, 2, 3)), trimesh.creation.icosphere(0), trimesh.creation.cone(1, 2, sections=16)]
)
@pytest.mark.parametrize("passes", [1, 5, 200])
def test_smoothing_does_not_melt_what_has_few_faces(solid: trimesh.Trimesh, passes: int) -> None:
    points, coarse = clean.smooth(solid.vertices, np.asarray(solid.faces), passes)
    assert clean.signed_volume(points, solid.faces) == pytest.approx(solid.volume, rel=1e-9)
    assert (np.ptp(points, axis=0) / solid.extents) == pytest.approx(1, abs=0.35)
    assert coarse == 1 or passes == 1


def test_every_part_keeps_its_own_volume_in_smoothing_and_sheets_keep_their_border() -> None:
    ball, dice = trimesh.creation.icosphere(3), trimesh.creation.icosphere(2, radius=0.1)
    dice.apply_translation([2, 0, 0])
    both = trimesh.util.concatenate([ball, dice])
    points, coarse = clean.smooth(both.vertices, np.asarray(both.faces), 20)
    parts = trimesh.Trimesh(points, both.faces).split()
    assert sorted(part.volume for part in parts) == pytest.approx(sorted([ball.volume, dice.volume]), rel=1e-9)
    assert coarse == 0

    x, y = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9), indexing="ij")
    bumps = np.random.default_rng(0).normal(0, 0.02, x.shape)
    rim = (np.minimum(x, y) == 0) | (np.maximum(x, y) == 1)
    sheet = np.stack([x, y, np.where(rim, 0, bumps)], -1).reshape(-1, 3)
    corner = np.arange(81).reshape(9, 9)
    quads = np.stack([corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]], -1).reshape(-1, 4)
    flat, _ = clean.smooth(sheet, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]), 50)
    assert np.array_equal(flat[rim.reshape(-1)], sheet[rim.reshape(-1)])
    assert flat[:, 2].std() < 0.3 * sheet[:, 2].std()


def test_winding_number_of_a_point() -> None:
    corners = np.asarray(trimesh.creation.box().triangles)
    assert clean.winding(np.array([0.1, 0.2, 0.3]), corners) == pytest.approx(1)
    assert clean.winding(np.array([0.7, 0.2, 0.3]), corners) == pytest.approx(0, abs=1e-9)
    assert clean.winding(np.array([0.1, 0.2, 0.3]), corners[:, ::-1]) == pytest.approx(-1)


def test_holes_are_counted_and_named() -> None:
    solid = trimesh.creation.icosphere(2)
    faces = np.asarray(solid.faces)
    far = [int(np.linalg.norm(solid.triangles_center - p, axis=1).argmin()) for p in ([0, 0, 1], [0, 0, -1], [1, 0, 0])]
    facts = clean.inspect(solid.vertices, np.delete(faces, far, 0))
    assert (facts["holes"], facts["boundary_edges"], facts["watertight"]) == (3, 9, False)
    (text,) = closedness_warnings(facts)
    assert "3 holes (9 open edges)" in text


def test_touching_is_not_called_a_hole() -> None:
    """Two cubes that share one edge: four faces on it, no hole."""
    one, two = trimesh.creation.box(), trimesh.creation.box()
    two.apply_translation([1, 1, 0])
    both = trimesh.util.concatenate([one, two])
    vertices, faces = clean.weld(np.asarray(both.vertices), np.asarray(both.faces))
    facts = clean.inspect(vertices, faces)
    assert facts["boundary_edges"] == 0 and facts["shared_edges"] == 1 and not facts["watertight"]
    (text,) = closedness_warnings(facts)
    assert "no hole" in text and "along 1 edges" in text


@pytest.mark.parametrize(("scale", "size", "low"), [("unit", 1.0, -0.5), ("metres", 2.5, 0.0)])
def test_scales(scale: str, size: float, low: float) -> None:
    mesh = extract(WavyField("cylinder"), settings=MeshSettings(resolution=32, scale=scale, metres=2.5))
    assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(size, rel=1e-5)
    assert mesh.vertices[:, 1].min() == pytest.approx(low, abs=1e-5)
    assert mesh.report["volume"] == pytest.approx(clean.signed_volume(mesh.vertices, mesh.faces), rel=1e-3)


@pytest.mark.parametrize(
    "bad",
    [{"size": 10}, {"supersample": 0}, {"unwrap": "fan"}, {"unwrap_seconds": -1.0}, {"padding": 99}, {"image": "bmp"}],
)
def test_bad_texture_settings_are_named(bad: dict) -> None:
    with pytest.raises(SettingsError, match="expected"):
        TextureSettings(**bad)
    for mesh in ({"smooth": -1}, {"scale": "huge"}, {"metres": 0.0}, {"metres": 1e39}, {"metres": 1e-50}):
        with pytest.raises(SettingsError, match="expected"):
            MeshSettings(**mesh)
