"""What the judge asks beyond the plain world: distance to the exact surface, fronts all around, and paint."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from distill3d.errors import SettingsError  # noqa: E402
from distill3d.evaluate import (  # noqa: E402
    SolidField,
    accepts,
    judge,
    observe,
    parse_object,
    perfect,
    two_faced,
    world_of,
)
from distill3d.evaluate.controls import SPOILED, blotched, darkened, walled  # noqa: E402
from distill3d.evaluate.distance import (  # noqa: E402
    nearest_faces,
    posed_distance,
    surface_distance,
    to_triangles,
    true_points,
)
from distill3d.evaluate.fit import Pose  # noqa: E402
from distill3d.evaluate.fronts import SIZE, VIEWS, Around, describe, find_fronts, look_around, ring_of_views, runs  # noqa: E402
from distill3d.evaluate.paint import correlation, pattern_correlation  # noqa: E402
from distill3d.evaluate.roughness import roughness, scatter  # noqa: E402
from distill3d.evaluate.spots import spot_shares  # noqa: E402
from distill3d.evaluate.views import look  # noqa: E402
from distill3d.mesh import MeshSettings, extract  # noqa: E402
from distill3d.render.occupancy import OccupancyGrid  # noqa: E402
from distill3d.render.volume import RenderSettings  # noqa: E402
from distill3d.world import FIGURES, Object, looks  # noqa: E402

COARSE = {"render_settings": RenderSettings(samples_per_ray=80), "mesh_settings": MeshSettings(resolution=64)}
HOME = Pose(0.0, 0.0, 0.0, 1.0, 0.0)


def look_at(field, world="full"):
    occupancy = OccupancyGrid(48)
    for seed in range(2):
        occupancy.update(field, step_size=0.04, generator=torch.Generator().manual_seed(seed), warmup=True)
    return observe(field, occupancy=occupancy, world=world, **COARSE)


@functools.cache
def seen(prompt):
    return look_at(perfect(parse_object(prompt)))


def failed(judgement):
    return {c.name for c in judgement.checks if not c.passed}


# ---- distance to the exact surface


def tensors(mesh):
    return torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)


def test_the_distance_of_a_swollen_sphere_is_its_swelling():
    import trimesh

    pose = Pose(0.1, -0.05, 0.02, 0.9, 0.4)
    for growth in (0.0, 0.05, -0.08):
        ball = trimesh.creation.icosphere(5, 0.72 * 0.9 + growth)
        ball.apply_translation(pose.centre)
        found = surface_distance(*tensors(ball), "sphere", pose)
        assert found.chamfer == pytest.approx(abs(growth) / 2, abs=5e-4)
        assert found.normals > 0.999


def test_a_box_is_a_cube_in_its_pose_only():
    import trimesh

    box = trimesh.creation.box((1.08,) * 3)
    assert surface_distance(*tensors(box), "cube", HOME).chamfer < 1e-5
    box.apply_transform(trimesh.transformations.rotation_matrix(0.5, (0, 1, 0)))
    assert surface_distance(*tensors(box), "cube", Pose(0.0, 0.0, 0.0, 1.0, 0.5)).normals > 0.98
    assert surface_distance(*tensors(box), "cube", Pose(0.0, 0.0, 0.0, 1.0, -0.5)).chamfer > 0.01


def test_chamfer_and_normals_match_a_second_implementation():
    """Points drawn by trimesh on a fine mesh of the truth, nearest neighbours between the two clouds."""
    import numpy as np
    import trimesh
    from scipy.spatial import cKDTree

    true = extract(perfect(Object("house", "red")), settings=MeshSettings(resolution=128, face_budget=0))
    other = extract(perfect(Object("cube", "red")), settings=MeshSettings(resolution=64))
    clouds = []
    for mesh in (other, true):
        solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        points, face = trimesh.sample.sample_surface(solid, 60_000, seed=0)
        clouds.append((points, solid.face_normals[face]))
    (p, pn), (q, qn) = clouds
    there, i = cKDTree(q).query(p)
    back, j = cKDTree(p).query(q)
    chamfer = (there.mean() + back.mean()) / 4
    normals = ((pn * qn[i]).sum(1).mean() + (qn * pn[j]).sum(1).mean()) / 2
    found = surface_distance(torch.from_numpy(other.vertices), torch.from_numpy(other.faces), "house", HOME)
    assert found.chamfer == pytest.approx(float(chamfer), rel=0.05)
    assert found.normals == pytest.approx(float(np.asarray(normals)), abs=0.03)


def test_inside_out_meshes_and_bumps_are_seen_by_their_normals():
    import trimesh

    vertices, faces = tensors(trimesh.creation.icosphere(4, 0.72))
    assert surface_distance(vertices, faces.flip(1), "sphere", HOME).normals < -0.99
    noise = torch.randn(len(vertices), 1, generator=torch.Generator().manual_seed(0))
    rough = surface_distance(vertices * (1 + 0.03 * noise), faces, "sphere", HOME)
    assert rough.normals < 0.9 and rough.chamfer < 0.02


def test_true_points_lie_evenly_on_the_surface():
    g = torch.Generator().manual_seed(1)
    pose = Pose(0.05, 0.1, -0.1, 0.9, 0.3)
    points = true_points("cube", pose, 6000, g)
    assert posed_distance("cube", pose, points).abs().max() < 1e-4
    x = (points - torch.tensor(pose.centre)) / pose.scale
    cos, sin = math.cos(pose.yaw), math.sin(pose.yaw)
    local = torch.stack([cos * x[:, 0] - sin * x[:, 2], x[:, 1], sin * x[:, 0] + cos * x[:, 2]], -1)
    side = local.abs().argmax(1) * 2 + (local.gather(1, local.abs().argmax(1, keepdim=True)) > 0).squeeze(1)
    assert torch.bincount(side, minlength=6).sub(1000).abs().max() < 130


def test_distances_to_triangles_match_a_dense_grid_on_them():
    g = torch.Generator().manual_seed(2)
    a, b, c, p = torch.randn(4, 40, 3, generator=g).double()
    u, v = torch.meshgrid(torch.linspace(0, 1, 201), torch.linspace(0, 1, 201), indexing="ij")
    keep = u + v <= 1 + 1e-9
    u, v = u[keep].double()[None, :, None], v[keep].double()[None, :, None]
    dense = a[:, None] + u * (b - a)[:, None] + v * (c - a)[:, None]
    expected = (dense - p[:, None]).norm(dim=-1).amin(1)
    assert (to_triangles(p, a, b, c) - expected).abs().max() < 0.02
    assert (to_triangles(p, a, b, c) <= expected + 1e-9).all()


def test_the_nearest_face_is_the_one_below():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 1], [5, 0, 0], [6, 0, 0], [5, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    drawn, owner = torch.tensor([[0.2, 0, 0.2], [5.2, 0, 0.2]]), torch.tensor([0, 1])
    distance, face = nearest_faces(torch.tensor([[0.3, 0.5, 0.3], [5.1, -0.25, 0.1]]), vertices, faces, drawn, owner)
    assert face.tolist() == [0, 1] and distance.tolist() == pytest.approx([0.5, 0.25])


# ---- fronts


def around(thing):
    cameras = ring_of_views()
    parts = looks([thing] * VIEWS, cameras, SIZE)
    return Around(describe(parts.alpha[:, 0], parts.albedo, parts.normal, cameras))


class TwoFaced(Object):
    def albedo(self, points):
        return super().albedo(torch.cat([points[..., :2], points[..., 2:].abs()], -1))


class Quarter(Object):
    """A second face to the left of the first."""

    def albedo(self, points):
        turned = torch.stack([-points[..., 2], points[..., 1], points[..., 0]], -1)
        return torch.minimum(super().albedo(points), super().albedo(turned))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_true_figure_has_one_front_wherever_it_looks_and_however_rough_it_is(figure):
    parts = around(Object(figure, "yellow")).parts
    found = find_fronts(Around(parts), figure, "yellow")
    assert found.azimuths == (0.0,) and found.matched[6] == 90 and found.matched[18] == -90
    noise = 0.25 * torch.randn(parts.shape, generator=torch.Generator().manual_seed(0)) * parts[:, :1]
    turned = find_fronts(Around((parts + noise).roll(5, 0)), figure, "yellow")
    assert turned.count == 1 and abs(turned.azimuths[0] - 75) < 16


def test_two_faces_are_two_fronts_and_no_face_is_none():
    assert find_fronts(around(TwoFaced("smiley", "red")), "smiley", "red").azimuths == (0.0, 180.0)
    assert find_fronts(around(Quarter("smiley", "red")), "smiley", "red").azimuths == (0.0, 90.0)
    assert find_fronts(around(TwoFaced("house", "red")), "house", "red").count == 2
    assert find_fronts(around(Object("sphere", "red")), "smiley", "red").count == 0
    assert find_fronts(around(Object("cube", "red")), "chair", "red").count == 0
    assert find_fronts(around(TwoFaced("ball", "red")), "ball", "red").count == 0, "a ball of one colour has no front"


def test_a_cast_is_no_face_and_hides_none():
    """A grey ball, or a head of another tint, is told by its features and not by its mean colour."""
    grey = Around(around(Object("sphere", "red")).parts.clone())
    grey.parts[:, 1:4] = 0.4 * grey.parts[:, :1]
    assert find_fronts(grey, "smiley", "red").count == 0
    assert find_fronts(around(Object("smiley", "orange")), "smiley", "red").azimuths == (0.0,)
    assert find_fronts(around(TwoFaced("smiley", "pink")), "smiley", "purple").azimuths == (0.0, 180.0)


@pytest.mark.parametrize("figure", ["a red smiley", "a yellow mug", "a green chair", "an orange and white ball"])
def test_where_nothing_is_opaque_there_is_no_front(figure):
    thing = parse_object(figure)
    nothing = torch.zeros(VIEWS, 7, 32, 32)
    assert find_fronts(Around(nothing), thing.shape, thing.colour).count == 0


def test_views_without_an_opaque_pixel_widen_no_front():
    half = around(Object("smiley", "red")).parts.clone()
    half[VIEWS // 4 : 3 * VIEWS // 4 + 1] = 0
    assert find_fronts(Around(half), "smiley", "red").azimuths == (0.0,)


@pytest.mark.parametrize(("strength", "fronts"), [(0.3, 0), (0.75, 1)])
def test_a_face_counts_from_half_of_its_strength(strength, fronts):
    whole, bare = around(Object("smiley", "red")).parts, around(Object("sphere", "red")).parts
    assert find_fronts(Around(torch.lerp(bare, whole, strength)), "smiley", "red").count == fronts


def test_stretches_on_a_ring():
    def ring(*places):
        return [i in places for i in range(VIEWS)]

    assert runs(ring()) == []
    assert runs(ring(23, 0, 1)) == [[23, 0, 1]]
    assert runs(ring(0, 1, 12, 13, 14)) == [[0, 1], [12, 13, 14]]
    assert runs(ring(3, 6)) == [[3, 6]], "a gap of two views is forgiven"
    assert runs(ring(3, 7)) == [], "single views are none"
    assert runs([True] * VIEWS) == [list(range(VIEWS))]


# ---- whole judgements


def test_a_smiley_passes_and_a_head_with_two_faces_is_refused_for_that_alone():
    own = judge(seen("a yellow smiley"), "a yellow smiley")
    assert own.passed, own.failures
    assert own.measures["fronts"] == 1 and own.measures["chamfer"] < 0.005
    head = look_at(two_faced(Object("smiley", "yellow")))
    refused = judge(head, "a yellow smiley")
    assert failed(refused) == {"fronts", "face"} and refused.measures["fronts"] == 2
    assert not accepts(seen("a yellow smiley"), "a yellow sphere"), "a sphere has no face"


def test_a_face_that_looks_backwards_or_is_missing_is_refused():
    thing = Object("smiley", "yellow")
    turned = SolidField(thing.sdf, lambda x: thing.albedo(x * torch.tensor([-1.0, 1, -1])))
    judgement = judge(look_at(turned), "a yellow smiley")
    assert failed(judgement) == {"fronts"} and judgement.measures["front_azimuths"] == [180.0]
    blank = judge(look_at(perfect(Object("sphere", "yellow"))), "a yellow smiley")
    assert failed(blank) == {"fronts", "paint", "face"} and blank.measures["fronts"] == 0


@pytest.mark.parametrize("prompt", ["a green chair", "a blue arrow", "a cyan house", "an orange and white ball"])
def test_the_other_figures_pass(prompt):
    judgement = judge(seen(prompt), prompt)
    assert judgement.passed, judgement.failures


@pytest.mark.parametrize("prompt", ["a striped blue cube", "a dotted pink cross", "a checkered purple sphere"])
def test_patterned_objects_pass_as_themselves_and_as_no_other_pattern(prompt):
    judgement = judge(seen(prompt), prompt)
    assert judgement.passed, judgement.failures
    thing = parse_object(prompt)
    for pattern in {"striped", "dotted", "checkered"} - {thing.pattern}:
        assert failed(judge(seen(prompt), f"a {pattern} {thing.colour} {thing.shape}")) >= {"paint"}


def test_paint_correlates_with_itself_and_blotches_do_not():
    """Against numpy's own correlation coefficient, one channel and one view; a cast and paler paint change nothing."""
    thing = parse_object("a checkered red cube")
    views = seen("a checkered red cube").views
    found = pattern_correlation(views, thing, HOME)
    assert found > 0.85
    cast = replace(views, dark=views.dark * 0.5 + 0.1 * views.opacity[..., None])
    assert pattern_correlation(cast, thing, HOME) == pytest.approx(found, abs=0.02)
    for seed in range(3):
        blotches = look(blotched(thing, seed=seed), None, COARSE["render_settings"])
        assert abs(pattern_correlation(blotches, thing, HOME)) < 0.25
    side = SolidField(
        lambda x: thing.sdf(x[:, [2, 1, 0]] * x.new_tensor([1, 1, -1])),
        lambda x: thing.albedo(x[:, [2, 1, 0]] * x.new_tensor([1, 1, -1])),
    )
    assert pattern_correlation(look(side, None, COARSE["render_settings"]), thing, HOME) > 0.85, "a quarter turn"
    true = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    true[:, 1:] = 0.5
    other = (true + torch.rand(true.shape, generator=torch.Generator().manual_seed(1)))[:, :1]
    expected = np.corrcoef(true[:, 0].flatten(), other.flatten())[0, 1]
    weight = torch.full((12, 1, 64, 64), 1 / (12 * 64 * 64))
    assert correlation(torch.cat([other, true[:, 1:]], 1), true, weight) == pytest.approx(expected, abs=1e-4)


def test_a_plain_object_wears_no_stripes():
    assert "paint" in failed(judge(seen("a blue cube"), "a striped blue cube"))
    assert judge(seen("a blue cube"), "a blue cube").passed


def test_a_rough_surface_is_refused_for_its_surface():
    g = torch.Generator().manual_seed(0)
    lattice = torch.randn(1, 1, 48, 48, 48, generator=g)

    def sdf(x):
        bump = torch.nn.functional.grid_sample(lattice, x.view(1, -1, 1, 1, 3), align_corners=True).view(-1)
        return x.norm(dim=-1) - 0.72 + 0.07 * bump

    judgement = judge(look_at(SolidField(sdf, (0.88, 0.08, 0.10)), "plain"), "a red sphere")
    assert "surface" in failed(judgement) and judgement.measures["normal_consistency"] < 0.82
    smooth = judge(look_at(perfect(Object("sphere", "red")), "plain"), "a red sphere")
    assert smooth.passed and smooth.measures["normal_consistency"] > 0.99


# ---- grain and spots


def test_scatter_is_the_angle_of_tilted_normals_and_the_spread_over_a_cap():
    g = torch.Generator().manual_seed(0)
    flat = torch.cat([torch.rand(20_000, 2, generator=g), torch.zeros(20_000, 1)], 1)
    for degrees in (0.0, 5.0, 20.0):
        tilt, turn = math.radians(degrees), 2 * math.pi * torch.rand(len(flat), generator=g)
        normals = torch.stack([math.sin(tilt) * turn.cos(), math.sin(tilt) * turn.sin(), torch.full_like(turn, 0)], 1)
        normals[:, 2] = math.cos(tilt)
        found = float(scatter(flat, normals, 0.1).median())
        assert found == pytest.approx(2 * (1 - math.cos(tilt)), rel=0.06, abs=1e-6)
    ball = torch.nn.functional.normalize(torch.randn(24_576, 3, generator=g), dim=1)
    half = 2 * math.asin(0.08 / 2)
    assert float(scatter(ball, ball, 0.08).median()) == pytest.approx(1 - math.cos(half), rel=0.06)


def test_the_other_wall_of_a_thin_part_is_no_grain():
    g = torch.Generator().manual_seed(0)
    flat = torch.rand(20_000, 3, generator=g) * torch.tensor([1.0, 1.0, 0.0])
    up = torch.tensor([0.0, 0.0, 1.0]).expand(10_000, 3)
    both = torch.cat([up, -up])[torch.randperm(20_000, generator=g)]
    assert float(scatter(flat + 0.01 * both, both, 0.08).max()) < 1e-5


def test_roughness_grows_with_the_grain_and_is_not_bent_by_size_or_a_wrong_shape():
    import trimesh

    vertices, faces = tensors(trimesh.creation.icosphere(5, 0.72))
    noise = torch.randn(len(vertices), 1, generator=torch.Generator().manual_seed(0))
    found = [roughness(vertices * (1 + a * noise), faces, "sphere", HOME) for a in (0.0, 0.002, 0.004, 0.008)]
    assert found[0] < 1 and found[1] == pytest.approx(found[2] / 2, rel=0.15) and found[3] > 1.5 * found[2]
    half = Pose(0.1, 0.2, 0.0, 0.5, 0.3)
    small = roughness(vertices * 0.5 * (1 + 0.004 * noise) + torch.tensor(half.centre), faces, "sphere", half)
    assert small == pytest.approx(found[2], rel=0.05)
    assert roughness(vertices, faces, "cube", HOME) < 8, "a ball is no cube, and smooth"


def test_spots_are_far_hues_and_what_has_none():
    colours = torch.tensor(
        [[0.88, 0.08, 0.10], [1.0, 0.48, 0.05], [1.0, 0.88, 0.10], [0.1, 0.25, 0.92], [0.5, 0.5, 0.5]]
    )
    picture = colours[None, None].expand(2, 1, 5, 3)
    opacity = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.0, 0.5, 0.04]])[:, None]
    assert spot_shares(picture, opacity, "red", 0.15, painted=False).tolist() == pytest.approx([0.6, 0.25])
    assert spot_shares(picture, opacity, "red", 0.15, painted=True).tolist() == pytest.approx([0.4, 0.25])
    assert spot_shares(picture, opacity, "orange", 0.15, painted=True).tolist() == pytest.approx([0.2, 0.25])
    assert spot_shares(picture, 0 * opacity, "red", 0.15, painted=False).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("control", "names"),
    [
        ("two-faced mug, house, arrow", {"fronts", "face"}),
        ("three-eyed head", {"face"}),
        ("head without a mouth", {"face"}),
        ("rough cylinder", {"roughness"}),
        ("plugged torus", {"spots", "gaps", "silhouette"}),
        ("walled arch", {"gaps"}),
        ("darkened cube", {"colour", "spots"}),
        ("half-darkened cube", {"spots"}),
        ("drilled cube", {"convexity"}),
        ("cube with a ghost", {"silhouette"}),
        ("blotched cube", {"paint"}),
    ],
)
def test_a_spoiled_object_is_refused_for_that_alone_and_the_whole_one_passes(control, names):
    spoil, (prompt, *_) = SPOILED[control]
    thing, world = parse_object(prompt), world_of([prompt])
    judgement = judge(look_at(spoil(thing), world), prompt)
    assert failed(judgement) == names, judgement.failures
    whole = judge(look_at(perfect(thing), world), prompt)
    assert whole.passed and whole.measures["roughness"] < 3 and whole.measures["spots"] < 0.005, whole.failures
    assert whole.measures["gap_opacity"] is None or whole.measures["gap_opacity"] < 0.05


def test_a_second_mug_out_of_the_back_of_a_first_is_a_second_front():
    """Its handle stands on the other side of the badge, as in a mirror; a mug's true views show that nowhere."""
    spoil, _ = SPOILED["two-faced mug, house, arrow"]
    found = find_fronts(look_around(spoil(Object("mug", "yellow")), None, COARSE["render_settings"]), "mug", "yellow")
    assert found.count == 2 and abs(abs(found.azimuths[0] - found.azimuths[1]) - 180) < 16


def test_a_mug_with_its_handle_on_the_other_side_is_another_object():
    thing, mirror = Object("mug", "yellow"), torch.tensor([-1.0, 1, 1])
    left = SolidField(lambda x: thing.sdf(x * mirror), lambda x: thing.albedo(x * mirror))
    judgement = judge(look_at(left), "a yellow mug")
    assert failed(judgement) == {"fronts"} and "0 as in a mirror" in judgement.failures[0]


def test_a_gate_is_walled_up_at_any_size_and_a_speck_is_judged_too():
    """The smallest size allowed is 0.6; there an arch's gate is three pixels wide."""
    thing = Object("arch", "red")
    small = walled(thing)
    field = SolidField(lambda x: 0.62 * small.sdf(x / 0.62), thing.albedo)
    assert "gaps" in failed(judge(look_at(field), "a red arch"))
    whole = SolidField(lambda x: 0.62 * thing.sdf(x / 0.62), thing.albedo)
    assert "gaps" not in failed(judge(look_at(whole), "a red arch"))
    speck = judge(look_at(SolidField(lambda x: x.norm(dim=1) - 0.05, (0.1, 0.25, 0.92)), "plain"), "a blue torus")
    assert not speck.passed and json.dumps(speck.to_json(), allow_nan=False)


def test_colours_half_as_strong_have_another_name():
    """Chroma is linear in brightness, so the bound lies at half of it; hue and its shares stay."""
    for share, right in ((0.6, True), (0.4, False)):
        judgement = judge(look_at(darkened(Object("cube", "orange"), share), "plain"), "an orange cube")
        assert ("colour" not in failed(judgement)) is right, judgement.failures
        assert judgement.measures["hue_distance"] < 1 and judgement.measures["hue_share"] > 0.99


def test_prompts_of_the_full_world():
    assert parse_object("a DSLR photo of a striped red cube, front view") == Object("cube", "red", pattern="striped")
    assert parse_object("an orange and white ball").shape == "ball"
    assert world_of(["a red cube", "a plain blue torus"]) == "plain"
    assert world_of(["a red cube", "a dotted blue torus"]) == world_of(["a red mug"]) == "full"
    with pytest.raises(SettingsError, match="a red and white ball, or a red sphere"):
        parse_object("a red ball")
    for bad in ("a striped dotted red cube", "a striped red mug"):
        with pytest.raises(SettingsError, match="at most one pattern"):
            parse_object(bad)
    plain = look_at(perfect(Object("cube", "red")), "plain")
    assert set(plain.fits) == {"sphere", "cube", "cylinder", "cone", "torus", "pyramid", "capsule", "octahedron"}
    with pytest.raises(SettingsError, match="world='full'"):
        judge(plain, "a red chair")
    with pytest.raises(SettingsError, match="world='full'"):
        judge(look_at(perfect(Object("sphere", "red")), "plain"), "a red smiley")


@pytest.mark.parametrize("prompt", ["a striped green dome", "an orange and white ball"])
def test_paint_may_hide_on_its_like_and_nothing_else_may(prompt):
    thing = parse_object(prompt)

    def purer(x):
        albedo = thing.albedo(x)
        paint = albedo.amax(-1, keepdim=True) - albedo.amin(-1, keepdim=True) < 0.05
        return torch.where(paint & (albedo > 0.5), 1.0, albedo)

    def half_hidden(x):
        return torch.where(x[:, :1] > 0, torch.ones(3), purer(x))

    judgement = judge(look_at(SolidField(thing.sdf, purer)), prompt)
    assert judgement.measures["visible_on_white"] < 0.6 and judgement.passed, judgement.failures
    hidden = look_at(SolidField(thing.sdf, half_hidden))
    assert "two_grounds" in failed(judge(hidden, prompt))
