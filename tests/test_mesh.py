"""Surfaces of analytic fields, whose volume, area and topology are known in closed form."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill3d.errors import DivergedError, EmptySurfaceError, OutOfMemoryError, SettingsError
from distill3d.mesh import MeshSettings, SurfaceMesh, child, clean, color, extract
from distill3d.mesh.level import choose_level, directions, silhouette_level
from distill3d.mesh.surface import full_lattice, occupied_lattice, sample_density


class AnalyticField:
    """Density ``largest * sigmoid(-distance / softness)``, or a step for softness 0; red above y = 0, blue below."""

    def __init__(self, distance: Callable[[Tensor], Tensor], largest: float = 50.0, softness: float = 0.0) -> None:
        self.distance, self.largest, self.softness, self.asked = distance, largest, softness, 0

    def density(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        d = self.distance(x)
        return self.largest * ((d < 0).to(d) if self.softness == 0 else torch.sigmoid(-d / self.softness))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        red, blue = torch.tensor([0.9, 0.1, 0.2]), torch.tensor([0.1, 0.3, 0.8])
        inside = torch.where(x[:, 1:2] > 0, red, blue)
        # the untrained space outside is green: it must never reach a vertex of a hard surface
        outside = torch.tensor([0.0, 1.0, 0.0])
        return self.density(x), torch.where(self.distance(x)[:, None] < 0, inside, outside)

    def normals(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.distance(x).sum(), x)
        return torch.nn.functional.normalize(gradient, dim=-1)


class Field:
    """Any density with a plain grey albedo."""

    def __init__(self, density: Callable[[Tensor], Tensor]) -> None:
        self.density = density

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), torch.full_like(x, 0.5)

    def normals(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)


class Box:
    """An occupancy grid's face towards the mesh: a box."""

    is_empty = False

    def __init__(self, low: tuple[float, ...], high: tuple[float, ...]) -> None:
        self.box = torch.tensor(low), torch.tensor(high)


def ball(radius: float = 0.5, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - torch.tensor(centre)).norm(dim=-1) - radius


def ring(x: Tensor) -> Tensor:
    return ((x[:, [0, 2]].norm(dim=-1) - 0.55) ** 2 + x[:, 1] ** 2).sqrt() - 0.2


def cube(x: Tensor) -> Tensor:
    return x.abs().amax(-1) - 0.45


def union(*distances: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([d(x) for d in distances]).amin(0)


WHOLE = MeshSettings(resolution=64, face_budget=0)
SHAPES = {
    "ball": (ball(), 2, 4 / 3 * math.pi * 0.5**3, 4 * math.pi * 0.5**2),
    "ring": (ring, 0, 2 * math.pi**2 * 0.55 * 0.2**2, 4 * math.pi**2 * 0.55 * 0.2),
    "cube": (cube, 2, 0.9**3, 6 * 0.9**2),
}


@pytest.mark.parametrize("largest", [5.0, 5000.0])
@pytest.mark.parametrize("name", SHAPES)
def test_hard_shape_matches_closed_form_at_any_density(name: str, largest: float) -> None:
    distance, euler, volume, area = SHAPES[name]
    mesh = extract(AnalyticField(distance, largest), settings=WHOLE)
    spacing = 2 / 64
    assert float(distance(torch.from_numpy(mesh.vertices)).abs().max()) < 0.1 * spacing
    report = mesh.report
    assert report["watertight"] and report["euler"] == euler and report["components"] == 1 and not report["warnings"]
    assert report["volume"] == pytest.approx(volume, rel=0.01)
    assert report["area"] == pytest.approx(area, rel=0.02)


def test_scale_of_density_does_not_move_the_surface() -> None:
    thin, dense = (extract(AnalyticField(ring, d), settings=WHOLE) for d in (5.0, 5000.0))
    assert np.array_equal(thin.faces, dense.faces)
    assert np.abs(thin.vertices - dense.vertices).max() < 0.1 * 2 / 64
    assert dense.level < 5000 and thin.level < 5


def test_soft_field_of_low_density_has_its_surface_where_it_looks_opaque() -> None:
    """A ball of density 5 with a soft rim: a fixed level of 10 finds nothing, and its silhouette has a closed form."""
    field = AnalyticField(ball(), 5.0, 0.03)
    with pytest.raises(EmptySurfaceError):
        extract(field, settings=MeshSettings(resolution=64, level=10.0))
    mesh = extract(field, settings=WHOLE)
    t = torch.linspace(-1.7, 1.7, 4001, dtype=torch.float64)
    offsets = torch.linspace(0, 1, 1001, dtype=torch.float64)
    x = torch.stack(torch.broadcast_tensors(offsets[:, None], torch.zeros(()).double(), t), -1)
    optical = field.density(x.reshape(-1, 3)).view(1001, -1).sum(-1) * float(t[1] - t[0])
    seen = float(offsets[int((optical > math.log(2)).sum())])
    radius = np.linalg.norm(mesh.vertices, axis=-1)
    assert radius.mean() == pytest.approx(seen, abs=0.02)
    assert np.ptp(radius) < 0.005


@pytest.mark.parametrize("haze", [0.1, 1.0])
def test_haze_is_left_out(haze: float) -> None:
    solid = AnalyticField(ball(), 60.0, 0.01)
    mesh = extract(Field(lambda x: solid.density(x) + haze), settings=WHOLE)
    assert mesh.level > haze
    assert np.linalg.norm(mesh.vertices, axis=-1) == pytest.approx(0.53, abs=0.03)
    assert any("haze" in text for text in mesh.report["warnings"])


def test_uneven_matter_leaves_no_pits() -> None:
    def density(x: Tensor) -> Tensor:
        ripple = torch.sin(37 * x[:, 0]) * torch.sin(41 * x[:, 1]) * torch.sin(43 * x[:, 2])
        return 100 * torch.exp(2 * ripple) * torch.sigmoid(-ball()(x) / 0.01)

    mesh = extract(Field(density), settings=WHOLE)
    assert mesh.report["euler"] == 2 and mesh.report["components_found"] == 1


def test_hollow_shell_is_filled_only_if_asked() -> None:
    field = AnalyticField(lambda x: (x.norm(dim=-1) - 0.45).abs() - 0.06, 300.0)
    filled = extract(field, settings=WHOLE)
    hollow = extract(field, settings=MeshSettings(resolution=64, face_budget=0, fill_cavities=False))
    assert filled.report["components"] == 1 and hollow.report["components"] == 2
    assert filled.report["volume"] == pytest.approx(4 / 3 * math.pi * 0.51**3, rel=0.01)
    assert hollow.report["volume"] == pytest.approx(4 / 3 * math.pi * (0.51**3 - 0.39**3), rel=0.02)


def test_cavities_go_with_all_that_lies_in_them() -> None:
    def sphere(radius: float, x: float = 0.0, inward: bool = False) -> trimesh.Trimesh:
        made = trimesh.creation.icosphere(2, radius)
        made.apply_translation([x, 0, 0])
        made.faces = made.faces[:, ::-1] if inward else made.faces
        return made

    shell, hollow, kernel, beside = sphere(0.4), sphere(0.3, inward=True), sphere(0.1), sphere(0.1, 0.7)
    corner = sphere(0.02, 0.28)
    corner.apply_translation([-0.02, 0.27, 0.0])  # within the hollow's box, outside of it
    asked: list[float] = []
    for order in ([shell, hollow, kernel, beside, corner], [corner, kernel, beside, hollow, shell]):
        whole = trimesh.util.concatenate(order)
        vertices, faces = clean.drop_cavities(np.asarray(whole.vertices), np.asarray(whole.faces), asked.append)
        left = trimesh.Trimesh(vertices, faces, process=False)
        assert left.volume == pytest.approx(shell.volume + beside.volume + corner.volume)
        assert left.body_count == 3
    assert asked == [0.0, 0.0]


def test_decimation_that_was_ended_from_outside_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ball = trimesh.creation.icosphere(3)
    vertices, faces = np.asarray(ball.vertices, np.float64), np.asarray(ball.faces, np.int64)
    hopeless: list[bool] = []

    def ended(*_: object) -> dict[str, np.ndarray]:
        raise child.ChildError("its process ended with status -9", bool(hopeless))

    monkeypatch.setattr(clean, "CHILD_FACES", 100)
    monkeypatch.setattr(child, "run", ended)
    assert 4 < len(clean.decimate(vertices, faces, 200)[1]) <= 200, "one that could not be started is done here"
    hopeless.append(True)
    with pytest.raises(OutOfMemoryError, match="1280 faces fewer was given up, because its process ended with"):
        clean.decimate(vertices, faces, 200)


def test_an_open_bowl_stays_open() -> None:
    bowl = AnalyticField(lambda x: torch.maximum((x.norm(dim=-1) - 0.5).abs() - 0.08, x[:, 1] - 0.1), 300.0)
    inner, outer, cut = 0.42, 0.58, 0.1

    def below(r: float) -> float:
        return math.pi * (2 * r**3 / 3 + r * r * cut - cut**3 / 3)

    report = extract(bowl, settings=WHOLE).report
    assert report["volume"] == pytest.approx(below(outer) - below(inner), rel=0.02) and report["euler"] == 2


def test_floater_is_dropped_and_counted() -> None:
    field = AnalyticField(union(ball(0.4), ball(0.06, (0.8, 0.8, 0.8))))
    mesh = extract(field, settings=WHOLE)
    assert (mesh.report["components_found"], mesh.report["components_kept"]) == (2, 1)
    assert np.abs(mesh.vertices).max() < 0.45
    both = extract(field, settings=MeshSettings(resolution=64, face_budget=0, component_share=0.0))
    assert both.report["components"] == 2 and np.abs(both.vertices).max() > 0.8


@pytest.mark.parametrize("name", SHAPES)
def test_decimation_keeps_volume_topology_and_closedness(name: str) -> None:
    distance, euler, volume, _ = SHAPES[name]
    mesh = extract(AnalyticField(distance), settings=MeshSettings(resolution=64, face_budget=1000))
    assert len(mesh.faces) <= 1000 < mesh.report["faces_found"]
    assert mesh.report["watertight"] and mesh.report["euler"] == euler
    assert mesh.report["volume"] == pytest.approx(volume, rel=0.02)


def test_object_cut_by_the_box_is_closed_there_and_warned_about() -> None:
    mesh = extract(AnalyticField(ball(0.5, (0.8, 0.0, 0.0))), settings=WHOLE)
    cap = math.pi * 0.3**2 * (3 * 0.5 - 0.3) / 3
    assert mesh.report["watertight"] and mesh.vertices.max() == 1.0
    assert mesh.report["volume"] == pytest.approx(4 / 3 * math.pi * 0.5**3 - cap, rel=0.01)
    assert any("cut off" in text for text in mesh.report["warnings"])


def test_frame_is_y_up_and_not_mirrored() -> None:
    """Bumps of different sizes on +x, +y, +z come back on their own axes."""
    sizes = {0: 0.1, 1: 0.2, 2: 0.3}
    bumps = [ball(r, tuple(0.4 if k == axis else 0.0 for k in range(3))) for axis, r in sizes.items()]
    mesh = extract(AnalyticField(union(ball(0.4), *bumps)), settings=WHOLE)
    for axis, r in sizes.items():
        assert mesh.vertices[:, axis].max() == pytest.approx(0.4 + r, abs=0.01)
        assert mesh.vertices[:, axis].min() == pytest.approx(-0.4, abs=0.01)


@pytest.mark.parametrize("source", ["faces", "field"])
def test_normals_point_outward(source: str) -> None:
    mesh = extract(AnalyticField(ball()), settings=MeshSettings(resolution=64, normals=source))
    assert np.linalg.norm(mesh.normals, axis=-1) == pytest.approx(1, abs=1e-5)
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=-1, keepdims=True)
    assert (mesh.normals * outward).sum(-1).min() > 0.97


def test_colours_come_from_the_matter_not_from_the_space_around() -> None:
    mesh = extract(AnalyticField(ball()), settings=MeshSettings(resolution=64))
    up, down = mesh.vertices[:, 1] > 0.1, mesh.vertices[:, 1] < -0.1
    assert mesh.colors[up] == pytest.approx(np.tile([0.9, 0.1, 0.2], (up.sum(), 1)), abs=0.01)
    assert mesh.colors[down] == pytest.approx(np.tile([0.1, 0.3, 0.8], (down.sum(), 1)), abs=0.01)


def test_occupancy_box_saves_queries_and_changes_nothing() -> None:
    free, boxed = AnalyticField(ball(0.3)), AnalyticField(ball(0.3))
    one = extract(free, settings=WHOLE)
    two = extract(boxed, occupancy=Box((-0.35,) * 3, (0.35,) * 3), settings=WHOLE)
    assert boxed.asked < 0.2 * free.asked
    assert np.array_equal(one.faces, two.faces) and np.abs(one.vertices - two.vertices).max() < 1e-3


def test_stale_occupancy_box_does_not_cut_the_object() -> None:
    mesh = extract(AnalyticField(ball(0.5)), occupancy=Box((-0.2,) * 3, (0.9,) * 3), settings=WHOLE)
    assert mesh.report["watertight"] and mesh.report["volume"] == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.01)


def test_occupied_lattice_is_part_of_the_full_one() -> None:
    part = occupied_lattice(64, Box((-0.31, -1.0, 0.2), (0.4, 1.0, 0.9)))
    steps = (part.low.numpy() + 1) / part.spacing
    assert steps == pytest.approx(np.round(steps)) and part.low[1] == -1 and part.count[1] == 65
    high = part.low + part.spacing * (torch.tensor(part.count) - 1)
    assert bool((part.low <= torch.tensor([-0.31, -1.0, 0.2])).all() and (high >= torch.tensor([0.4, 1, 0.9])).all())


def test_chunks_do_not_change_the_samples() -> None:
    field, lattice = AnalyticField(ring, 5.0, 0.1), occupied_lattice(16, Box((-0.9, -0.4, -0.7), (0.9, 0.5, 0.9)))
    whole = sample_density(field, lattice, 1 << 20, torch.device("cpu"))
    torch.testing.assert_close(sample_density(field, lattice, 97, torch.device("cpu")), whole)
    i, j, k = 3, 2, 5
    x = lattice.low + lattice.spacing * torch.tensor([i, j, k])
    assert whole[i, j, k] == pytest.approx(float(field.density(x[None].float())))


def test_same_field_same_mesh() -> None:
    one, two = (extract(AnalyticField(ring, 50.0, 0.02), settings=MeshSettings(resolution=48)) for _ in range(2))
    for name in ("vertices", "faces", "normals", "colors"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize(
    ("density", "words"),
    [
        (lambda x: torch.zeros(len(x)), "holds none"),
        (lambda x: torch.full((len(x),), 1e-3), "holds none"),
        (lambda x: torch.full((len(x),), 50.0), "fills the whole box"),
    ],
)
def test_no_object_is_an_error_with_the_numbers(density: Callable[[Tensor], Tensor], words: str) -> None:
    with pytest.raises(EmptySurfaceError, match=words) as caught:
        extract(Field(density), settings=MeshSettings(resolution=16))
    assert "densities run from" in str(caught.value) and ";" in str(caught.value)


def test_level_outside_the_densities_is_an_error_with_the_numbers() -> None:
    field = AnalyticField(ball(), 50.0)
    with pytest.raises(EmptySurfaceError, match=r"level 80.*0 to 50.*lower level"):
        extract(field, settings=MeshSettings(resolution=16, level=80.0))
    with pytest.raises(EmptySurfaceError, match=r"level 2 fills the whole box.*3 to 53.*higher level"):
        extract(Field(lambda x: field.density(x) + 3), settings=MeshSettings(resolution=16, level=2.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_densities_that_are_not_finite_are_an_error(bad: float) -> None:
    def density(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0.9, bad, AnalyticField(ball()).density(x))

    with pytest.raises(DivergedError, match="NaN or infinite"):
        extract(Field(density), settings=MeshSettings(resolution=16))


def test_colours_that_are_not_finite_are_an_error() -> None:
    class NoColor(AnalyticField):
        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.density(x), torch.full_like(x, math.nan)

    with pytest.raises(DivergedError, match="albedo"):
        extract(NoColor(ball()), settings=MeshSettings(resolution=16))


def test_faint_and_tiny_objects_are_meshed_with_a_warning() -> None:
    faint = extract(AnalyticField(ball(), 0.3), settings=WHOLE)
    assert faint.report["level_rule"] == "faint" and any("faint" in text for text in faint.report["warnings"])
    tiny = extract(AnalyticField(ball(0.05), 5000.0), settings=WHOLE)
    assert tiny.report["watertight"] and any("cells across" in text for text in tiny.report["warnings"])


def test_stages_are_told_and_can_cancel() -> None:
    seen: list[tuple[str, float]] = []
    extract(AnalyticField(ball()), settings=MeshSettings(resolution=32, chunk=4096), on_stage=lambda *a: seen.append(a))
    assert list(dict.fromkeys(name for name, _ in seen)) == ["sample", "surface", "clean", "color"]
    assert all((name, 1.0) in seen for name in ("sample", "surface", "clean", "color"))

    def cancel(name: str, fraction: float) -> None:
        raise InterruptedError(name)

    with pytest.raises(InterruptedError, match="sample"):
        extract(AnalyticField(ball()), settings=MeshSettings(resolution=32), on_stage=cancel)


@pytest.mark.parametrize(
    "bad",
    [{"resolution": 4}, {"level": 0.0}, {"level": math.inf}, {"component_share": 2.0}, {"face_budget": 3}, {"chunk": 0},
     {"normals": "both"}, {"refine": -1}],
)  # fmt: skip
def test_bad_settings_are_named(bad: dict) -> None:
    with pytest.raises(SettingsError, match="expected"):
        MeshSettings(**bad)


SEEN = st.tuples(st.floats(0, 1), st.floats(1e-3, 100))
MISSED = st.just((0.0, 0.0))  # no density, no opacity


@given(st.lists(SEEN | MISSED, min_size=2, max_size=30))
@settings(deadline=None, max_examples=200)
def test_silhouette_level_agrees_with_trying_every_level(rays: list[tuple[float, float]]) -> None:
    alpha, m = (np.array(v) for v in zip(*rays, strict=True))
    if alpha.sum() < 1e-3 or m.max() <= 0:
        return
    level, (low, high), mismatch = silhouette_level(alpha, m)

    def cost(level: float) -> float:
        return float(np.where(m > level, 1 - alpha, alpha).sum())

    steps = np.unique([0.0, *m])
    tried = {float(at): cost(float(at)) for at in steps[:-1]}  # a level on a step covers the same rays as just above it
    assert mismatch * alpha.sum() == pytest.approx(min(tried.values()), abs=1e-9)
    inside = [value for at, value in tried.items() if low <= at < high]
    assert inside and max(inside) <= min(tried.values()) + 0.01 * alpha.sum() + 1e-9
    assert 0 < level <= high


def test_level_never_grazes_the_plateau() -> None:
    """A thin plate of density 5: half-covered rim rays push the best band up to the plateau itself."""
    alpha = np.array([0.0, 0.1, 0.2, 0.3, 0.8, 0.8, 0.8, 0.8])
    m = np.array([0.0, 4.0, 4.5, 4.8, 5.0, 5.0, 5.0, 5.0])
    level, band, _ = silhouette_level(alpha, m)
    assert band == (4.8, 5.0) and level == 2.5


def test_level_looks_from_all_round_and_never_along_an_axis() -> None:
    d = directions()
    assert d.norm(dim=-1).numpy() == pytest.approx(1) and float(d.abs().max()) < 0.95
    # evenly spread over lines: the second moment is isotropic
    assert (d.T @ d / len(d)).numpy() == pytest.approx(np.eye(3) / 3, abs=0.06)


def test_level_covers_what_the_rendering_covers() -> None:
    """Area of the solid's shadow along a direction that was not looked along, against the field's own opacity."""
    field = AnalyticField(ring, 40.0, 0.03)
    lattice = full_lattice(96)
    density = sample_density(field, lattice, 1 << 17, torch.device("cpu"))
    level = choose_level(density, lattice.low, lattice.spacing).level
    assert level is not None
    alpha = 1 - torch.exp(-density.sum(1) * lattice.spacing)
    shadow = (density.amax(1) > level).float()
    assert float((shadow - alpha).abs().sum() / alpha.sum()) < 0.12
    assert float(shadow.sum() / alpha.sum()) == pytest.approx(1, abs=0.05)


def test_weld_merges_drops_and_keeps_slivers() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1e-9], [2, 0, 0], [9, 9, 9]], float)
    faces = np.array([[0, 1, 2], [3, 2, 1], [0, 3, 1], [0, 1, 4], [1, 2, 0]])
    points, triangles = clean.weld(vertices, faces)
    assert len(points) == 4 and len(triangles) == 2  # one of three copies, and the flat 0-1-4
    assert {tuple(sorted(f)) for f in points[triangles][:, :, 0].tolist()} == {(0.0, 0.0, 1.0), (0.0, 1.0, 2.0)}


def test_closedness_sees_a_hole_and_a_flipped_face() -> None:
    solid = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    assert clean.is_closed(solid) and not clean.is_closed(solid[:3]) and not clean.is_closed(solid[:0])
    assert not clean.is_closed(np.concatenate([solid[:3], solid[3:, ::-1]]))
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    assert clean.signed_volume(corners, solid) == pytest.approx(1 / 6)


def test_decimation_of_a_mesh_within_budget_changes_nothing() -> None:
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    vertices = np.eye(4)[:, :3]
    points, triangles = clean.decimate(vertices, faces, 100)
    assert points is vertices and triangles is faces


def test_colour_spaces_round_trip_and_match_the_standard() -> None:
    values = np.linspace(0, 1, 1001)
    assert color.linear_to_srgb(color.srgb_to_linear(values)) == pytest.approx(values, abs=1e-6)
    table = {0.0: 0.0, 0.04045: 0.0031308, 0.5: 0.2140411, 1.0: 1.0}
    assert color.srgb_to_linear(np.array(list(table))) == pytest.approx(list(table.values()), abs=1e-6)


def test_report_is_json_and_meshes_are_plain_arrays() -> None:
    import json

    mesh = extract(AnalyticField(ball()), settings=MeshSettings(resolution=24))
    assert isinstance(mesh, SurfaceMesh) and json.loads(json.dumps(mesh.report)) == mesh.report
    assert mesh.vertices.dtype == mesh.normals.dtype == mesh.colors.dtype == np.float32
    assert mesh.faces.dtype == np.int64 and mesh.colors.shape == mesh.normals.shape == mesh.vertices.shape


def test_specks_on_the_box_that_are_dropped_are_no_reason_to_warn() -> None:
    """A ball with a speck at the wall: the speck goes, so nothing of the mesh is cut; a ball through the wall is."""

    class Field:
        def __init__(self, position: float) -> None:
            self.centre = [position, 0.0, 0.0]

        def density(self, x: torch.Tensor) -> torch.Tensor:
            centre = x.new_tensor(self.centre)
            ball = (x - centre).norm(dim=-1) < 0.5
            speck = (x - x.new_tensor([0.0, 1.0, 0.0])).norm(dim=-1) < 0.05
            return 200.0 * (ball | speck)

        def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.density(x), torch.full_like(x, 0.5)

        def normals(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(x, dim=-1)

    clean, touching, cut = (
        extract(Field(position), settings=MeshSettings(resolution=48)).report for position in (0.0, 0.502, 0.7)
    )
    assert clean["cut_share"] > 0
    assert not any("cut off flat" in text for text in clean["warnings"])
    assert any("through less than 0.1% of" in text for text in touching["warnings"])
    assert any(re.search(r"through [1-9]\.\d% of .* cut off flat", text) for text in cut["warnings"])
