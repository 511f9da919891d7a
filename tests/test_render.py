"""The renderer against closed forms, float64 finite differences, and itself with every shortcut switched off."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distill3d.render import regularisers
from distill3d.render.cameras import Cameras, orbit, rays, ring
from distill3d.render.occupancy import OccupancyGrid, dilate
from distill3d.render.sampling import intersect_box, sample_points
from distill3d.render.scan import _double_scan, _padded_scan, exclusive_sum, ray_sum
from distill3d.render.shading import Shading, ShadingSettings, headlight, irradiance, sample_lights, sample_shading
from distill3d.render.volume import Rendering, RenderSettings, Samples, render

WHITE = torch.ones(3)
BLACK = torch.zeros(3)


class Ball(nn.Module):
    """A ball of constant density and colour; everything about it is known in closed form."""

    def __init__(self, radius: float = 0.6, density: float = 1e4, colour: tuple[float, float, float] = (0.8, 0.3, 0.1)):
        super().__init__()
        self.radius = radius
        self.sigma = nn.Parameter(torch.tensor(float(density)))
        self.colour = nn.Parameter(torch.tensor(colour))
        self.queries = {"density": 0, "forward": 0, "normals": 0}

    def density(self, x: Tensor) -> Tensor:
        self.queries["density"] += len(x)
        return torch.where(x.norm(dim=-1) < self.radius, self.sigma, 0.0 * self.sigma)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.queries["forward"] += len(x)
        return torch.where(x.norm(dim=-1) < self.radius, self.sigma, 0.0 * self.sigma), self.colour.expand(len(x), 3)

    def normals(self, x: Tensor) -> Tensor:
        self.queries["normals"] += len(x)
        return nn.functional.normalize(x, dim=-1)


class Cloud(nn.Module):
    """A smooth blob: peak, sharpness, radius, centre and a linear colour, all parameters."""

    def __init__(self, peak: float = 8.0, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.shape = nn.Parameter(torch.tensor([math.log(peak), 6.0, 0.55, 0.1, -0.05, 0.15], dtype=dtype))
        self.tint = nn.Parameter(torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4))

    def _offset(self, x: Tensor) -> Tensor:
        return x - self.shape[3:]

    def density(self, x: Tensor) -> Tensor:
        peak, sharp, radius = self.shape[:3].unbind()
        return peak.exp() * torch.sigmoid(sharp * (radius - self._offset(x).norm(dim=-1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(x), torch.sigmoid(x @ self.tint[:, :3].T + self.tint[:, 3])

    def normals(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self._offset(x), dim=-1)


class Nothing(Cloud):
    def density(self, x: Tensor) -> Tensor:
        return 0.0 * super().density(x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted_grid(field: nn.Module, resolution: int = 24, step_size: float = 0.03, updates: int = 4) -> OccupancyGrid:
    grid = OccupancyGrid(resolution)
    for i in range(updates):
        grid.update(field, step_size=step_size, generator=generator(i), warmup=True)
    return grid


def double(cameras: Cameras) -> Cameras:
    return Cameras(*(v.double() for v in (cameras.c2w, cameras.fov, cameras.azimuth, cameras.elevation)))


def ball_chord(cameras: Cameras, size: int, radius: float) -> tuple[Tensor, Tensor]:
    """Analytic entry distance and chord length of each ray through a ball at the origin; NaN and 0 for a miss."""
    o, d = rays(cameras, size, size)
    b, c = (o * d).sum(-1), (o * o).sum(-1) - radius**2
    root = (b * b - c).clamp_min(0).sqrt()
    return torch.where(root > 0, -b - root, torch.nan), 2 * root


# ---- closed forms


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


# ---- gradients


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


# ---- shortcuts against the plain route


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


# ---- nothing, infinity, and not a number


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


# ---- occupancy


def test_grid_starts_full_and_closes_around_the_ball():
    grid = OccupancyGrid(24)
    assert grid.is_full and grid.fraction == 1 and grid.contains(torch.rand(99, 3) * 2 - 1).all()
    grid.update(Ball(), step_size=0.03, generator=generator(), warmup=True)
    centre = (torch.stack(torch.meshgrid(*[torch.arange(24)] * 3, indexing="ij"), -1) + 0.5) / 12 - 1
    distance, cell = centre.norm(dim=-1), 2 / 24
    assert grid.occupied[distance < 0.6].all()
    assert not grid.occupied[distance > 0.6 + 3 * math.sqrt(3) * cell].any()
    low, high = grid.box
    for reach in (-low, high):
        assert (reach >= 0.6).all() and (reach <= 0.6 + 2 * cell).all()


def test_the_box_fits_the_occupied_cells_exactly():
    grid, mask = OccupancyGrid(8), torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[2:5, 0, 7] = True
    grid.set_occupied(mask)
    assert [corner.tolist() for corner in grid.box] == [[-0.5, -1, 0.75], [0.25, -0.75, 1]]
    assert grid.fraction == pytest.approx(3 / 512)
    at = torch.tensor([[0.0, -0.9, 0.9], [0.3, -0.9, 0.9], [0.0, -1.1, 0.9]])
    assert grid.contains(at).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="shape"):
        grid.set_occupied(mask[:4])


def test_grid_follows_matter_off_the_centre():
    class Pebble(Ball):
        def density(self, x: Tensor) -> Tensor:
            return super().density(x - torch.tensor([0.6, -0.3, 0.1]))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.density(x), self.colour.expand(len(x), 3)

    grid = fitted_grid(Pebble(radius=0.2), 20)
    middle = torch.stack(grid.box).mean(0)
    assert (middle - torch.tensor([0.6, -0.3, 0.1])).abs().max() <= 0.1
    assert grid.contains(torch.tensor([[0.6, -0.3, 0.1]])).all()
    assert not grid.contains(torch.tensor([[0.1, -0.3, 0.6], [-0.3, 0.6, 0.1]])).any()
    picture = render(Pebble(radius=0.2), orbit(0, 0), 9, 9, background=WHITE, occupancy=grid)
    row, column = (picture.opacity[0] > 0.9).nonzero().float().mean(0)
    assert row > 4.5 and column > 5.5, "below the middle and to its right"


def test_grid_forgets_matter_that_is_gone():
    grid, thick, gone = OccupancyGrid(12), Ball(density=2.0), Nothing()
    grid.update(thick, step_size=0.1, generator=generator(), warmup=True)
    inside = grid.density > 0
    grid.update(gone, step_size=0.1, generator=generator(), warmup=True)
    torch.testing.assert_close(grid.density[inside], torch.full_like(grid.density[inside], 2.0 * 0.95))
    for i in range(400):
        if grid.is_empty:
            break
        grid.update(gone, step_size=0.1, generator=generator(i))
    assert float(grid.density.max()) * 0.1 < 0.01


def test_grid_keeps_a_faint_field_and_drops_an_absent_one():
    grid = OccupancyGrid(8)
    grid.update(Ball(radius=9.0, density=1e-4), step_size=0.03, generator=generator(), warmup=True)
    assert grid.is_full
    grid = OccupancyGrid(8)
    grid.update(Nothing(), step_size=0.03, generator=generator(), warmup=True)
    assert grid.is_empty and torch.equal(*grid.box)


def test_grid_finds_new_matter_between_warm_ups():
    grid = fitted_grid(Ball(radius=0.3), 16)
    before = grid.fraction
    for i in range(20):
        grid.update(Ball(radius=0.8), step_size=0.03, generator=generator(i))
    assert grid.fraction > 2 * before
    assert grid.fraction == pytest.approx(fitted_grid(Ball(radius=0.8), 16).fraction, rel=0.1)


def test_grid_is_deterministic_and_survives_a_state_dict():
    def once() -> OccupancyGrid:
        grid, draw = OccupancyGrid(16), generator(7)
        for i in range(5):
            grid.update(Cloud(), step_size=0.03, generator=draw, warmup=i < 2)
        return grid

    first, second, loaded = once(), once(), OccupancyGrid(16)
    loaded.load_state_dict(first.state_dict())
    for other in (second, loaded):
        assert torch.equal(first.density, other.density) and torch.equal(first.occupied, other.occupied)
        assert torch.equal(torch.stack(first.box), torch.stack(other.box))


def test_dilation_grows_one_cell_in_all_26_directions():
    mask = torch.zeros(7, 7, 7, dtype=torch.bool)
    mask[3, 3, 0] = True
    grown = dilate(mask)
    assert grown.sum() == 18 and grown[2:5, 2:5, 0:2].all()


def test_box_distances_against_hand_numbers():
    o = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [0.0, 2.0, 3.0], [1.0, 0.0, 3.0]])
    d = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    enter, leave = intersect_box(o, d, torch.tensor([-1.0] * 3), torch.tensor([1.0] * 3))
    assert enter[:2].tolist() == [2, 0] and leave[:2].tolist() == [4, 1]
    assert (leave[2:] <= enter[2:]).all()


# ---- scans


def test_scans_agree_with_each_other_and_with_a_loop():
    ray = torch.randint(0, 40, (500,), generator=generator()).sort().values
    value = torch.rand(500, generator=generator(1), dtype=torch.float64).requires_grad_()
    expected = [0.0] * 500
    for i in range(1, 500):
        expected[i] = expected[i - 1] + value[i - 1].item() if ray[i] == ray[i - 1] else 0.0
    weights = torch.rand(500, generator=generator(2), dtype=torch.float64)
    slopes = []
    for scan in (_double_scan, _padded_scan, exclusive_sum):
        out = scan(value, ray, 50)
        torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))
        slopes.append(torch.autograd.grad((out * weights).sum(), value)[0])
    torch.testing.assert_close(slopes[0], slopes[1])
    total = ray_sum(value, ray, 50)
    torch.testing.assert_close(total, torch.zeros(50, dtype=torch.float64).scatter_add(0, ray, value))


def test_a_late_ray_does_not_inherit_the_rounding_of_early_ones():
    value = torch.full((200_000,), 60.0)
    value[-3:] = 1e-3
    ray = torch.arange(200_000) // 100
    ray[-3:] = 5000
    torch.testing.assert_close(exclusive_sum(value, ray, 5001)[-3:], torch.tensor([0.0, 1e-3, 2e-3]), atol=1e-8, rtol=0)


# ---- light


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


# ---- regularisers


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
