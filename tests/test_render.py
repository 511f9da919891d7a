"""The renderer against closed forms, float64 finite differences, and itself with every shortcut switched off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from render_fields import BLACK, WHITE, Ball, Cloud, Nothing, ball_chord, double, fitted_grid, generator
from torch import Tensor, nn

from distill3d.render import regularisers
from distill3d.render.cameras import orbit, rays, ring
from distill3d.render.occupancy import OccupancyGrid
from distill3d.render.sampling import sample_points
from distill3d.render.shading import Shading, ShadingSettings, headlight
from distill3d.render.volume import Rendering, RenderSettings, render


def test_solid_ball_has_the_analytic_silhouette_depth_and_colour():
    cameras, settings = orbit([0, 70, 200], [0, 30, -20], 3.0, 42.0), RenderSettings(samples_per_ray=256)
    with torch.no_grad():
        picture = render(Ball(), cameras, 48, 48, background=WHITE, settings=settings, normals=True)
    enter, chord = ball_chord(cameras, 48, 0.6)
    certain_hit, certain_miss = chord > 0.1, chord == 0
    assert certain_hit.sum() > 1000 and certain_miss.sum() > 1000
    torch.testing.assert_close(picture.opacity[certain_hit], torch.ones_like(picture.opacity[certain_hit]))
    assert picture.opacity[certain_miss].abs().max() == 0
    error = (picture.depth - enter)[certain_hit]
    assert error.min() >= -1e-5 and error.max() <= settings.step_size + 1e-5
    torch.testing.assert_close(picture.rgb[certain_hit], Ball().colour.detach().expand(int(certain_hit.sum()), 3))
    assert (picture.rgb[certain_miss] == 1).all()
    o, d = rays(cameras, 48, 48)
    expected = nn.functional.normalize(o + enter[..., None] * d, dim=-1)
    assert (picture.normal - expected)[certain_hit].norm(dim=-1).max() < 0.1


def test_homogeneous_ball_opacity_is_one_minus_exp_of_the_chord():
    cameras, settings = orbit([10, 130], 20, 3.0), RenderSettings(samples_per_ray=1024)
    picture = render(Ball(density=1.3), cameras, 32, 32, background=BLACK, settings=settings)
    _, chord = ball_chord(cameras, 32, 0.6)
    assert (picture.opacity - (1 - torch.exp(-1.3 * chord))).abs().max() < 1.3 * settings.step_size


def test_jitter_is_unbiased():
    camera, settings = orbit(0, 0), RenderSettings(samples_per_ray=8)
    _, chord = ball_chord(camera, 16, 0.6)
    draw = generator(3)
    with torch.no_grad():
        runs = [
            render(Ball(density=0.05), camera, 16, 16, background=BLACK, settings=settings, generator=draw).opacity
            for _ in range(400)
        ]
    # with so thin a ball opacity is sigma times the number of steps inside it, whose expectation is chord / dt
    assert (torch.stack(runs).mean(0) - 0.05 * chord).abs().max() < 0.05 * settings.step_size * 0.1 + 0.05 * 0.05 * 0.72


def test_weights_match_the_nerf_equations_ray_by_ray():
    cameras = orbit([30], [10])
    samples = render(Cloud(), cameras, 6, 6, background=WHITE).samples
    for ray in samples.ray.unique():
        of_ray = samples.ray == ray
        alpha = 1 - torch.exp(-samples.density[of_ray].double() * samples.dt)
        before = torch.cumprod(torch.cat([torch.ones(1).double(), 1 - alpha]), 0)[:-1]
        torch.testing.assert_close(samples.weight[of_ray].double(), alpha * before, atol=1e-6, rtol=1e-5)
        assert (samples.t[of_ray].diff() > 0).all()


@pytest.mark.parametrize("colour", [1.0, 0.0, 0.35])
def test_background_is_composited_behind_the_opacity(colour):
    cameras = orbit([0, 90], 0)
    flat = render(Cloud(), cameras, 12, 12, background=torch.full((3,), colour))
    by_rays = render(Cloud(), cameras, 12, 12, background=lambda d: torch.full_like(d, colour))
    per_view = render(Cloud(), cameras, 12, 12, background=torch.full((2, 1, 1, 3), colour))
    expected = flat.foreground + (1 - flat.opacity[..., None]) * colour
    for picture in (flat, by_rays, per_view):
        torch.testing.assert_close(picture.rgb, expected)


@pytest.mark.parametrize("mode", ["albedo", "lambertian", "textureless"])
def test_gradients_match_float64_finite_differences(mode):
    cameras = double(orbit([20, 140], [10, 30]))
    settings = RenderSettings(samples_per_ray=24, normal_weight=0.0)
    target = torch.rand(2, 5, 5, 3, generator=generator(), dtype=torch.float64)

    def loss(shape: Tensor, tint: Tensor, behind: Tensor) -> Tensor:
        field = Cloud(dtype=torch.float64)
        del field.shape, field.tint
        field.shape, field.tint = shape, tint
        picture = render(
            field, cameras, 5, 5, background=behind, settings=settings, normals=True, shading=headlight(cameras, mode)
        )
        return (
            (picture.rgb - target).square().mean()
            + 0.1 * picture.depth.mean()
            + picture.opacity.square().mean()
            + picture.normal[..., 1].mean()
            + 0.01 * picture.samples.density.mean()
            + sum(
                f(picture)
                for f in (
                    regularisers.distortion,
                    regularisers.sparsity,
                    regularisers.opaque,
                    regularisers.entropy,
                    regularisers.smoothness,
                    regularisers.distance,
                )
            )
        )

    field = Cloud(dtype=torch.float64)
    inputs = (field.shape, field.tint, torch.full((3,), 0.4, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


def test_gradient_reaches_the_background():
    behind = torch.full((1, 8, 8, 3), 0.5, requires_grad=True)
    picture = render(Cloud(), orbit(0, 0), 8, 8, background=behind)
    picture.rgb.sum().backward()
    torch.testing.assert_close(behind.grad[..., 0], 1 - picture.opacity.detach())


def gradients(field: nn.Module, picture: Rendering) -> list[Tensor]:
    field.zero_grad()
    losses = (
        picture.rgb[..., 0].square().mean(),
        picture.depth.mean(),
        regularisers.opaque(picture),
        regularisers.distortion(picture),
    )
    sum(losses).backward()
    return [p.grad.clone() for p in field.parameters()]


@pytest.mark.parametrize("mode", ["albedo", "lambertian"])
def test_chunked_render_equals_the_whole_one_with_gradients(mode):
    field, cameras = Cloud(), orbit([0, 100], 15)
    options = {"background": WHITE, "shading": headlight(cameras, mode), "normals": True}
    # both cull nothing and light everything, so they differ in the chunks alone
    settings = RenderSettings(samples_per_ray=64, cull_below=0, cull_transmittance=0, normal_weight=0)
    whole = render(field, cameras, 16, 16, settings=settings, generator=generator(), **options)
    assert len(whole.samples.ray) > 5000
    expected = gradients(field, whole)
    for limit in (999, 5000):
        small = replace(settings, max_points=limit)
        chunked = render(field, cameras, 16, 16, settings=small, generator=generator(), **options)
        for name in ("rgb", "depth", "opacity", "normal"):
            torch.testing.assert_close(getattr(chunked, name), getattr(whole, name), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(chunked.samples.weight, whole.samples.weight, atol=1e-6, rtol=1e-5)
        for got, want in zip(gradients(field, chunked), expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


def test_a_chunk_holds_one_ray_at_least():
    settings = RenderSettings(samples_per_ray=32, cull_below=0, cull_transmittance=0)
    pictures = [
        render(Cloud(), orbit(0, 0), 3, 3, background=WHITE, settings=replace(settings, max_points=limit))
        for limit in (1, 1000)
    ]
    assert len(pictures[0].samples.ray) == len(pictures[1].samples.ray) > 9
    torch.testing.assert_close(pictures[0].rgb, pictures[1].rgb)


def test_chunks_bound_what_the_graph_holds():
    field, cameras = Cloud(), orbit(0, 0)
    held = {}
    for limit in (1 << 20, 1000):
        largest = 0

        def pack(x: Tensor) -> Tensor:
            nonlocal largest
            largest += x.numel() if x.dtype == torch.float32 else 0
            return x

        settings = RenderSettings(samples_per_ray=64, max_points=limit, cull_below=0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            render(field, cameras, 16, 16, background=WHITE, settings=settings)
        held[limit] = largest
    assert held[1000] < held[1 << 20] / 5


def test_occupancy_only_drops_samples_and_never_moves_one():
    field = Ball(density=30.0)
    grid, cameras = fitted_grid(field), orbit([0, 45, 180], [0, 50, -10])
    assert 0 < grid.fraction < 0.4
    settings = RenderSettings(cull_below=0)
    for draw in (None, 5):
        pictures = [
            render(
                field,
                cameras,
                24,
                24,
                background=WHITE,
                occupancy=grid if masked else None,
                settings=settings,
                generator=None if draw is None else generator(draw),
            )
            for masked in (False, True)
        ]
        assert len(pictures[1].samples.ray) < 0.5 * len(pictures[0].samples.ray)
        for name in ("rgb", "opacity", "depth"):
            torch.testing.assert_close(getattr(pictures[1], name), getattr(pictures[0], name), atol=2e-6, rtol=1e-5)


def test_culling_hidden_samples_changes_little_and_starts_by_itself():
    field, cameras = Cloud(peak=200.0), orbit([0, 120], 10)
    grid = fitted_grid(field)
    plain = render(
        field,
        cameras,
        24,
        24,
        background=WHITE,
        occupancy=grid,
        settings=RenderSettings(cull_below=0),
        shading=headlight(cameras),
    )
    wanted = gradients(field, plain)
    share = float(grid.visible_share)
    assert share < 0.5
    culled = render(field, cameras, 24, 24, background=WHITE, occupancy=grid, shading=headlight(cameras))
    assert len(culled.samples.ray) == round(share * len(plain.samples.ray))
    assert float(grid.visible_share) == pytest.approx(share, abs=1e-6), "the share must not be of the culled samples"
    assert (culled.rgb - plain.rgb).abs().max() < 1.1e-3
    for got, want in zip(gradients(field, culled), wanted, strict=True):
        assert (got - want).norm() < 0.02 * want.norm()


def test_a_transparent_field_is_not_culled_and_evaluation_leaves_the_share_alone():
    field, cameras = Ball(density=0.5), orbit(0, 0)
    grid = fitted_grid(field)
    render(field, cameras, 16, 16, background=WHITE, occupancy=grid)
    assert float(grid.visible_share) == 1 and field.queries["density"] == 4 * 24**3
    grid.visible_share.fill_(0.123)
    with torch.no_grad():
        render(field, cameras, 16, 16, background=WHITE, occupancy=grid)
    assert float(grid.visible_share) == pytest.approx(0.123)


@pytest.mark.parametrize("candidates", [1, 500, 1 << 21])
def test_sampling_in_ray_chunks_gives_the_same_points(candidates):
    grid = fitted_grid(Ball())
    o, d = (v.reshape(-1, 3) for v in rays(orbit([0, 33], 20), 12, 12))
    offset = torch.rand(len(o), generator=generator())
    whole = sample_points(o, d, occupancy=grid, step_size=0.05, offset=offset)
    parts = sample_points(o, d, occupancy=grid, step_size=0.05, offset=offset, candidates=candidates)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert grid.contains(whole.x).float().mean() > 0.999  # rounding may put a point on the wrong side of a cell wall


def test_normals_are_asked_for_at_visible_samples_only():
    field, cameras = Ball(density=1e4), orbit(0, 0)
    render(field, cameras, 16, 16, background=WHITE)
    assert field.queries["normals"] == 0
    render(field, cameras, 16, 16, background=WHITE, shading=headlight(cameras))
    _, chord = ball_chord(cameras, 16, 0.6)
    assert 0 < field.queries["normals"] <= int((chord > 0).sum())


def test_same_seed_same_picture_and_another_seed_another():
    def once(seed: int) -> Tensor:
        return render(Cloud(), ring(2), 16, 16, background=WHITE, generator=generator(seed)).rgb

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


@pytest.mark.parametrize("mode", ["albedo", "lambertian"])
def test_without_samples_the_picture_is_the_background_and_backward_works(mode):
    field, cameras, grid = Cloud(), orbit([0, 90], 0), OccupancyGrid(8)
    grid.set_occupied(torch.zeros(8, 8, 8, dtype=torch.bool))
    assert grid.is_empty and grid.fraction == 0
    picture = render(
        field,
        cameras,
        8,
        8,
        background=WHITE * 0.4,
        occupancy=grid,
        shading=headlight(cameras, mode),
        normals=True,
        generator=generator(),
    )
    assert (picture.rgb == 0.4).all() and (picture.opacity == 0).all() and (picture.depth == 0).all()
    loss = picture.rgb.mean() + sum(
        f(picture)
        for f in (
            regularisers.sparsity,
            regularisers.opaque,
            regularisers.entropy,
            regularisers.orientation,
            regularisers.smoothness,
            regularisers.distortion,
            regularisers.distance,
        )
    )
    loss.backward()
    assert all((p.grad == 0).all() for p in field.parameters())


def test_rays_that_miss_the_box_give_the_background():
    away = orbit(0, 0, radius=3.0)
    away.c2w[:, :, 2] *= -1  # looks away from the object
    picture = render(Cloud(), away, 6, 6, background=WHITE)
    assert len(picture.samples.ray) == 0 and (picture.rgb == 1).all()


def test_a_field_of_zero_density_gives_the_background():
    picture = render(Nothing(), orbit(0, 0), 8, 8, background=WHITE)
    assert (picture.rgb == 1).all() and (picture.depth == 0).all()


def test_infinite_and_invalid_densities_do_not_spoil_other_rays():
    class Broken(Cloud):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            density, albedo = super().forward(x)
            density = torch.where(x[:, 0] > 0.5, torch.inf, density)
            return torch.where(x[:, 0] < -0.5, torch.nan, density), albedo

    camera = orbit(0, 0)
    broken, sound = Broken(), Cloud()
    picture, plain = (render(f, camera, 16, 16, background=WHITE) for f in (broken, sound))
    assert picture.rgb.isfinite().all() and picture.depth.isfinite().all()
    torch.testing.assert_close(picture.rgb[:, :, 7:9], plain.rgb[:, :, 7:9])
    assert picture.opacity[0, 8, 11:13].min() > 0.999


def test_impossible_settings_say_what_was_expected():
    with pytest.raises(ValueError, match="samples_per_ray"):
        RenderSettings(samples_per_ray=0)
    with pytest.raises(ValueError, match="1 x 1"):
        render(Cloud(), orbit(0, 0), 0, 8, background=WHITE)
    with pytest.raises(ValueError, match="headlight"):
        Shading("lambertian")
    with pytest.raises(ValueError, match="mode"):
        Shading("shiny")
    with pytest.raises(ValueError, match="albedo_probability"):
        ShadingSettings(albedo_probability=1.5)
