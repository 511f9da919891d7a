"""Orbit cameras and rays against closed forms and an independent projection."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.errors import SettingsError
from distill3d.render.cameras import CameraRanges, Cameras, orbit, rays, ring, sample

angles = st.floats(-720, 720, allow_nan=False)
elevations = st.floats(-90, 90, allow_nan=False)


@given(angles, elevations, st.floats(0.5, 10))
@settings(deadline=None, max_examples=60)
def test_the_frame_is_right_handed_orthonormal_and_looks_at_the_origin(azimuth, elevation, radius):
    cameras = orbit(azimuth, elevation, radius)
    rotation = cameras.c2w[0, :, :3].double()
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3).double(), atol=1e-6, rtol=0)
    assert torch.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(cameras.position[0], radius * cameras.c2w[0, :, 2], atol=1e-5, rtol=1e-5)
    assert rotation[1, 0] == 0 and rotation[1, 1] >= -1e-6, "right is level and up is not down"
    a, e = math.radians(azimuth), math.radians(elevation)
    expected = [radius * math.cos(e) * math.sin(a), radius * math.sin(e), radius * math.cos(e) * math.cos(a)]
    torch.testing.assert_close(cameras.position[0], torch.tensor(expected), atol=2e-4 * radius, rtol=0)
    assert -math.pi <= cameras.azimuth[0] <= math.pi


def test_named_places_of_the_orbit():
    cameras = orbit([0, 90, 180, 270, 0], [0, 0, 0, 0, 90], 2)
    expected = torch.tensor([[0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0], [0, 2, 0]]).float()
    torch.testing.assert_close(cameras.position, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(cameras.c2w[0, :, :3], torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.rad2deg(cameras.azimuth[3]), torch.tensor(-90.0))


@given(angles, elevations, st.floats(10, 120), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_points_along_a_ray_project_back_to_its_pixel(azimuth, elevation, fov, height, width):
    """The OpenGL projection matrix, written out here, is the second opinion."""
    cameras = orbit(azimuth, elevation, 2.5, fov)
    origin, direction = (v[0].double() for v in rays(cameras, height, width))
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(height, width).double(), atol=1e-6, rtol=0)
    world = origin + 1.7 * direction
    c2w = torch.eye(4).double()
    c2w[:3] = cameras.c2w[0]
    view = torch.cat([world, torch.ones(height, width, 1)], -1) @ torch.linalg.inv(c2w).T
    focal = 1 / math.tan(math.radians(fov) / 2)
    clip_x, clip_y, clip_w = focal / (width / height) * view[..., 0], focal * view[..., 1], -view[..., 2]
    assert (clip_w > 0).all()
    column = (clip_x / clip_w + 1) / 2 * width - 0.5
    row = (1 - clip_y / clip_w) / 2 * height - 0.5
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    torch.testing.assert_close(row, rows, atol=1e-3, rtol=0)
    torch.testing.assert_close(column, columns, atol=1e-3, rtol=0)


def test_the_vertical_field_of_view_spans_the_picture():
    origin, direction = rays(orbit(0, 0, 3, 60), 1000, 1)
    top, bottom = direction[0, 0, 0], direction[0, -1, 0]
    spread = math.degrees(math.acos(float(top.double() @ bottom.double())))
    assert top[1] > 0 > bottom[1] and spread == pytest.approx(60, abs=0.1)
    assert (origin == torch.tensor([0.0, 0.0, 3.0])).all()


pairs = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(pairs, pairs, pairs, pairs, st.integers(1, 17), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_drawn_cameras_stay_in_their_ranges(elevation, azimuth, radius, fov, count, seed):
    ranges = CameraRanges(
        elevation=tuple(180 * v - 90 for v in elevation),
        azimuth=tuple(360 * v - 180 for v in azimuth),
        radius=tuple(1 + 4 * v for v in radius),
        fov=tuple(20 + 60 * v for v in fov),
    )
    cameras = sample(ranges, count, torch.Generator().manual_seed(seed), 0.0)
    assert len(cameras) == count
    measured = {
        "elevation": torch.rad2deg(cameras.elevation),
        "radius": cameras.position.norm(dim=-1),
        "fov": torch.rad2deg(cameras.fov),
    }
    for name, value in measured.items():
        low, high = getattr(ranges, name)
        assert value.min() >= low - 1e-2 and value.max() <= high + 1e-2, name
    low, high = ranges.azimuth
    offset = torch.remainder(torch.rad2deg(cameras.azimuth) - low + 0.01, 360)
    assert (offset <= high - low + 0.02).all()


def test_a_batch_looks_from_all_sides_and_is_deterministic():
    for seed in range(20):
        cameras = sample(CameraRanges(), 4, torch.Generator().manual_seed(seed), 0.0)
        again = sample(CameraRanges(), 4, torch.Generator().manual_seed(seed), 0.0)
        assert torch.equal(cameras.c2w, again.c2w) and torch.equal(cameras.fov, again.fov)
        turn = torch.rad2deg(cameras.azimuth).remainder(360).sort().values
        gaps = torch.cat([turn.diff(), turn[:1] + 360 - turn[-1:]])
        assert gaps.max() <= 180 + 1e-3, "four shares of 90 degrees leave no gap of more than two"


def test_every_place_in_the_batch_sees_every_side():
    draw = torch.Generator().manual_seed(1)
    first = torch.stack([sample(CameraRanges(), 4, draw, 0.0).azimuth[0] for _ in range(400)])
    assert (torch.histc(first, 4, -math.pi, math.pi) / 400 - 0.25).abs().max() < 0.08


def test_single_azimuths_are_uniform_and_elevations_are_the_stated_mixture():
    draw = torch.Generator().manual_seed(0)
    azimuth = torch.cat([sample(CameraRanges(), 1, draw, 0.0).azimuth for _ in range(1000)])
    counts = torch.histc(azimuth, 6, -math.pi, math.pi)
    assert (counts / 1000 - 1 / 6).abs().max() < 0.05
    ranges = CameraRanges(elevation=(-10.0, 75.0))
    elevation = torch.rad2deg(sample(ranges, 20_000, draw, 0.0).elevation)
    sines = [math.sin(math.radians(v)) for v in (-10, 30, 75)]
    expected = 0.5 * 40 / 85 + 0.5 * (sines[1] - sines[0]) / (sines[2] - sines[0])
    assert (elevation < 30).float().mean() == pytest.approx(expected, abs=0.015)


def test_a_ring_steps_evenly_and_stops_short_of_a_full_turn():
    cameras = ring(8, elevation=20, radius=2, start=45)
    step = torch.rad2deg(cameras.azimuth).diff().remainder(360)
    torch.testing.assert_close(step, torch.full((7,), 45.0), atol=1e-3, rtol=0)
    assert torch.rad2deg(cameras.azimuth[0]) == pytest.approx(45)
    with pytest.raises(ValueError, match="at least one"):
        ring(0)
    for wrong in ({"elevation": math.nan}, {"radius": 0.0}, {"radius": math.inf}, {"fov": 180.0}):
        with pytest.raises(SettingsError, match="expected a finite elevation"):
            ring(4, **wrong)


def test_batches_slice_and_move():
    cameras = ring(5)
    part = cameras[1:3].to("cpu")
    assert isinstance(part, Cameras) and len(part) == 2
    assert torch.equal(part.c2w, cameras.c2w[1:3]) and torch.equal(part.azimuth, cameras.azimuth[1:3])


@pytest.mark.parametrize(
    "wrong",
    [
        {"elevation": (10.0, 0.0)},
        {"radius": (0.0, 1.0)},
        {"fov": (40.0, 180.0)},
        {"elevation": (-91.0, 0.0)},
    ],
)
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        CameraRanges(**wrong)


def _degrees(cameras: Cameras) -> tuple[list[float], list[float]]:
    return tuple([round(v) for v in torch.rad2deg(angle).tolist()] for angle in (cameras.azimuth, cameras.elevation))


def test_focused_cameras_stand_in_the_middles_of_the_sides():
    everything = CameraRanges(focus=1.0, focus_elevation=20.0)
    found = [_degrees(sample(everything, 8, torch.Generator().manual_seed(seed), 0.0)) for seed in range(10)]
    azimuths = [a for azimuth, _ in found for a in azimuth]
    assert {a % 360 for a in azimuths} == {0, 90, 180, 270} and {e for _, level in found for e in level} == {20}
    for azimuth, _ in found:
        each = [sum(a % 360 == side for a in azimuth) for side in (0, 90, 180, 270)]
        assert min(each) >= 1 and max(each) <= 3, "a batch still looks from all sides"


def test_the_share_of_focused_cameras_follows_the_run_and_the_others_stay_where_they_were():
    focused = CameraRanges(focus="linear(1, 0)", focus_elevation=30.0)
    for progress, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        before = sample(CameraRanges(), 4000, torch.Generator().manual_seed(3), 0.0)
        after = sample(focused, 4000, torch.Generator().manual_seed(3), progress)
        same = (before.c2w == after.c2w).flatten(1).all(1)
        assert 1 - same.float().mean() == pytest.approx(share, abs=0.03)
        assert torch.equal(before.fov, after.fov)
        torch.testing.assert_close(torch.rad2deg(after.elevation[~same]), torch.full(((~same).sum(),), 30.0))


@pytest.mark.parametrize(
    ("azimuth", "middles"),
    [((-20.0, 60.0), {0}), ((-100.0, 60.0), {-90, 0}), ((60.0, 100.0), {90}), ((90.0, 180.0), {90, -180})],
)
def test_focused_cameras_keep_to_the_middles_of_a_narrower_range(azimuth, middles):
    part = CameraRanges(azimuth=azimuth, elevation=(0.0, 10.0), focus=1.0)
    found, elevation = _degrees(sample(part, 40, torch.Generator().manual_seed(0), 0.0))
    assert set(found) == middles and set(elevation) == {10}


def test_where_there_is_no_middle_no_camera_is_focused():
    part = CameraRanges(azimuth=(10.0, 80.0), focus=1.0)
    focused, plain = (
        sample(ranges, 40, torch.Generator().manual_seed(0), 0.0) for ranges in (part, replace(part, focus=0.0))
    )
    assert torch.equal(focused.c2w, plain.c2w)


def test_level_cameras_stand_all_around_at_one_height_and_the_others_where_they_were():
    level = CameraRanges(level="linear(1, 0)", focus_elevation=30.0)
    for progress, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        before = sample(CameraRanges(), 4000, torch.Generator().manual_seed(3), 0.0)
        after = sample(level, 4000, torch.Generator().manual_seed(3), progress)
        moved = before.elevation != after.elevation
        assert moved.float().mean() == pytest.approx(share, abs=0.03)
        assert torch.equal(before.azimuth, after.azimuth) and torch.equal(before.fov, after.fov)
        assert torch.equal(before.c2w[~moved], after.c2w[~moved])
        torch.testing.assert_close(torch.rad2deg(after.elevation[moved]), torch.full((int(moved.sum()),), 30.0))


def test_level_and_focus_go_together_and_keep_to_the_range_of_elevations():
    part = CameraRanges(elevation=(0.0, 10.0), level=1.0, focus=0.5)
    azimuth, elevation = _degrees(sample(part, 4000, torch.Generator().manual_seed(0), 0.0))
    assert set(elevation) == {10}
    assert sum(a % 90 == 0 for a in azimuth) / 4000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"focus": 1.5}, "focus within 0..1"), ({"focus": "linear(-1, 0)"}, "focus within 0..1"),
     ({"level": 1.5}, "level within 0..1"), ({"level": "high"}, "high"),
     ({"focus_elevation": 100.0}, "focus_elevation within -90..90"), ({"focus": "much"}, "much")],
)  # fmt: skip
def test_a_focus_that_is_none_is_refused(wrong, words):
    with pytest.raises(SettingsError, match=words):
        CameraRanges(**wrong)
