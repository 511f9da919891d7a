"""Light and regularisers against hand numbers and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from render_fields import BLACK, Ball, ball_chord, generator
from torch import Tensor, nn

from distill3d.errors import SettingsError
from distill3d.render import regularisers
from distill3d.render.cameras import orbit, rays
from distill3d.render.shading import Shading, ShadingSettings, irradiance, sample_lights, sample_shading
from distill3d.render.volume import Rendering, RenderSettings, Samples, render


def test_lambert_against_hand_numbers():
    x, n = torch.zeros(3, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    light = torch.tensor([[0.0, 0.0, 2.0], [0.0, 3.0, 3.0], [0.0, 0.0, -1.0]])
    expected = torch.tensor([1.0, 0.1 + 0.9 / math.sqrt(2), 0.1])
    torch.testing.assert_close(irradiance(x, n, light, 0.1, 0.9), expected)


def test_a_lit_ball_shows_lamberts_law():
    cameras, settings = orbit([0, 90], 0), RenderSettings(samples_per_ray=1024)
    light = torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    enter, chord = ball_chord(cameras, 32, 0.6)
    o, d = rays(cameras, 32, 32)
    n = nn.functional.normalize(o + enter[..., None] * d, dim=-1)
    to_light = nn.functional.normalize(light[:, None, None] - 0.6 * n, dim=-1)
    expected = 0.2 + 0.7 * (n * to_light).sum(-1).clamp_min(0)
    seen = chord > 0.4
    for mode in ("textureless", "lambertian"):
        picture = render(
            Ball(), cameras, 32, 32, background=BLACK, settings=settings, shading=Shading(mode, light, 0.2, 0.7)
        )
        for channel in range(3):
            albedo = 1.0 if mode == "textureless" else Ball().colour[channel].item()
            assert (picture.rgb[..., channel] - albedo * expected)[seen].abs().max() < 0.02


def test_lights_stand_near_the_camera_and_scale_with_it():
    cameras = orbit(torch.full((4000,), 30.0), 20, 3.0)
    light = sample_lights(cameras, generator())
    distance = light.norm(dim=-1) / 3
    assert distance.min() >= 0.8 and distance.max() <= 1.5 and distance.mean() == pytest.approx(1.15, abs=0.02)
    toward = (nn.functional.normalize(light, dim=-1) * nn.functional.normalize(cameras.position, dim=-1)).sum(-1)
    assert toward.mean() > 0.5 and (toward > 0).float().mean() == pytest.approx(0.89, abs=0.02)  # Phi(1 / 0.8)
    far = sample_lights(orbit(torch.full((4000,), 30.0), 20, 6.0), generator())
    torch.testing.assert_close(far, 2 * light)


def test_lamps_above_stand_within_their_angles_on_the_camera_s_side():
    settings = ShadingSettings(start=0, albedo_probability=0, lamp="above", lamp_elevation=(25, 75), lamp_azimuth=70)
    cameras = orbit(torch.full((4000,), 150.0), -10, 3.0)
    x, y, z = sample_shading(settings, cameras, 0.0, generator()).light.unbind(-1)
    distance = torch.stack([x, y, z]).norm(dim=0)
    elevation = torch.rad2deg(torch.asin(y / distance))
    aside = (torch.rad2deg(torch.atan2(x, z)) - 150 + 180) % 360 - 180
    for values, low, high in ((distance / 3, 0.8, 1.5), (elevation, 25, 75), (aside, -70, 70)):
        assert values.min() >= low - 1e-3 and values.max() <= high + 1e-3
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
        assert values.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.05)
    for wrong in ({"lamp": "below"}, {"lamp_elevation": (75, 25)}, {"lamp_azimuth": 200}):
        with pytest.raises(SettingsError, match="lamp"):
            ShadingSettings(**wrong)


def test_shading_schedule_has_the_stated_probabilities():
    settings, cameras, draw = ShadingSettings(), orbit(0, 0), generator()
    assert {sample_shading(settings, cameras, 0.1, draw).mode for _ in range(50)} == {"albedo"}
    modes = [sample_shading(settings, cameras, 0.5, draw).mode for _ in range(2000)]
    assert modes.count("albedo") / 2000 == pytest.approx(0.25, abs=0.04)
    assert modes.count("textureless") / 2000 == pytest.approx(0.375, abs=0.04)
    always = ShadingSettings(start=0, albedo_probability=0, textureless_probability=1)
    assert sample_shading(always, cameras, 0.0, draw).mode == "textureless"
    plain, other = generator(4), generator(4)
    sample_shading(settings, cameras, 0.0, plain), sample_shading(always, cameras, 1.0, other)
    assert torch.equal(plain.get_state(), other.get_state())


def rendering(opacity: list[float] | None = None, **samples: Tensor) -> Rendering:
    """A rendering of two rays with hand-made numbers."""
    o = torch.tensor(opacity or [0.0, 0.0]).view(1, 1, 2)
    n = len(samples.get("ray", ()))
    made = {
        "ray": torch.zeros(0, dtype=torch.long),
        "x": torch.zeros(n, 3),
        "t": torch.zeros(n),
        "dt": 0.1,
        "density": torch.zeros(n),
        "weight": torch.zeros(n),
        "normal": None,
        "ray_direction": torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    }
    flat = torch.zeros(1, 1, 2, 3)
    return Rendering(flat, flat, o, torch.zeros(1, 1, 2), None, Samples(**{**made, **samples}))


def test_opacity_regularisers_against_closed_forms():
    picture = rendering([0.0, 0.5])
    assert regularisers.sparsity(picture).item() == pytest.approx((0.1 + math.sqrt(0.26)) / 2)
    low = -(1e-3 * math.log(1e-3) + 0.999 * math.log(0.999))
    assert regularisers.opaque(picture).item() == pytest.approx((low + math.log(2)) / 2, rel=1e-5)


def test_ray_entropy_is_zero_for_one_sample_and_log_k_for_k_equal_ones():
    ray = torch.tensor([0, 1, 1, 1, 1])
    picture = rendering([0.9, 0.8], ray=ray, weight=torch.tensor([0.9, 0.2, 0.2, 0.2, 0.2]))
    assert regularisers.entropy(picture).item() == pytest.approx(math.log(4) / 2, rel=1e-5)
    clear = rendering([0.9, 0.008], ray=ray, weight=torch.tensor([0.9, 0.002, 0.002, 0.002, 0.002]))
    assert regularisers.entropy(clear).item() == 0, "a clear ray has no surface to sharpen"


def test_orientation_counts_only_normals_that_face_away():
    ray = torch.tensor([0, 0, 1])
    normal = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.6, -0.8], [0.0, 1.0, 0.0]])
    weight = torch.tensor([0.3, 0.5, 0.25], requires_grad=True)
    loss = regularisers.orientation(rendering(ray=ray, normal=normal, weight=weight))
    assert loss.item() == pytest.approx((0.5 * 0.64 + 0.25) / 2)
    assert not loss.requires_grad, "the weights are held fixed, as in DreamFusion"
    with pytest.raises(ValueError, match="normals=True"):
        regularisers.orientation(rendering())


def faces(normal: Tensor, opacity: Tensor) -> float:
    """Smoothness of one view of a surface with these ``(H, W, 3)`` normals, under ``(H, W)`` opacities."""
    made = replace(rendering(), normal=(normal * opacity[..., None])[None], opacity=opacity[None])
    return regularisers.smoothness(made).item()


def unit_square(height: int, width: int) -> tuple[Tensor, Tensor]:
    """``(H, W)`` u to the right and v down of the pixels' centres, -0.5..0.5."""
    v, u = ((torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5 for n in (height, width))
    return u.expand(height, -1), v[:, None].expand(-1, width)


def test_smoothness_of_a_roof_is_the_length_of_its_ridge_times_the_turn():
    west, east = torch.tensor([-0.6, 0.0, 0.8]).double(), torch.tensor([0.6, 0.0, 0.8]).double()
    for height, width in ((32, 32), (64, 128)):
        u, v = unit_square(height, width)
        solid = (v.abs() < 0.25).double()
        roof = torch.where((u < 0)[..., None], west, east)
        expected = 0.5 * (math.hypot(1.2 * width, 0.5) - 0.5) / width
        assert faces(roof, solid) == pytest.approx(expected, rel=1e-5)
        assert faces(roof.transpose(0, 1), solid.T) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="normals=True"):
        regularisers.smoothness(rendering())


def test_smoothness_does_not_see_an_outline_however_soft():
    u, v = unit_square(64, 64)
    outline = ((0.35 - (u**2 + v**2).sqrt()) * 8 + 0.5).clamp(0, 1)
    assert faces(torch.tensor([0.0, 0.6, 0.8]).double().expand(64, 64, 3), outline) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("pixels", [64, 256])
def test_smoothness_of_a_far_cone_and_a_far_ball_are_integrals_over_their_disks(pixels: int):
    """A cone's normal turns around it, ``|grad n| = s / r`` with its horizontal part s; a ball's is ``(u, v, z) / R``
    with ``|grad n|^2 = (1 + R^2 / z^2) / R^2``. Both without a square in the middle, or the rim."""
    u, v = unit_square(pixels, pixels)
    fine_u, fine_v = unit_square(2048, 2048)
    s, radius = 0.6, 0.4

    def total(slope: Tensor, seen: Tensor) -> float:
        return torch.where(seen, (slope**2 + 0.25).sqrt() - 0.5, 0.0).mean().item()

    def ring(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        r = (u**2 + v**2).sqrt()
        return r, (r > 0.15) & (r < 0.35)

    r, seen = ring(u, v)
    normal = torch.stack([s * u / r, s * v / r, torch.full_like(u, 0.8)], dim=-1)
    fine_r, fine_seen = ring(fine_u, fine_v)
    assert faces(normal, seen.double()) == pytest.approx(total(s / fine_r, fine_seen), rel=0.06)
    z = (radius**2 - r**2).clamp_min(1e-6).sqrt()
    fine_z = (radius**2 - fine_r**2).clamp_min(1e-6).sqrt()
    slope = (1 + radius**2 / fine_z**2).sqrt() / radius
    ball = torch.stack([u, v, z], dim=-1) / radius
    assert faces(ball, seen.double()) == pytest.approx(total(slope, fine_seen), rel=0.06)


def test_distortion_equals_the_double_sum_of_equation_15():
    draw = generator(5)
    ray = torch.tensor([0] * 30 + [1] * 11)
    t = torch.cat([torch.rand(30, generator=draw).sort().values, torch.rand(11, generator=draw).sort().values]) + 2
    weight = torch.rand(41, generator=draw) / 40
    expected = 0.0
    scale = 2 * math.sqrt(3)
    for r in (0, 1):
        s, w = t[ray == r].double() / scale, weight[ray == r].double()
        expected += (w[:, None] * w * (s[:, None] - s).abs()).sum() + (w**2).sum() * (0.1 / scale) / 3
    got = regularisers.distortion(rendering(ray=ray, t=t, weight=weight))
    assert got.item() == pytest.approx(expected.item() / 2, rel=1e-4)


def test_distance_counts_only_matter_beyond_the_radius():
    x = torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.2]])
    picture = rendering(ray=torch.tensor([0, 0, 1]), x=x, weight=torch.tensor([0.9, 0.5, 0.25]))
    assert regularisers.distance(picture, radius=0.8).item() == pytest.approx((0.5 * 0.04 + 0.25 * 0.16) / 2, rel=1e-5)
