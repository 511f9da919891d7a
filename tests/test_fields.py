"""Density field, its networks and normals, and backgrounds, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill3d.errors import SettingsError
from distill3d.fields import (
    Background,
    BackgroundSettings,
    DensityField,
    FieldSettings,
    HashGridSettings,
    RadianceField,
    mlp,
)
from distill3d.fields.background import spherical_harmonics
from distill3d.fields.density import laplace_cdf, truncated_exp
from distill3d.fields.hashgrid import encode_plain

TINY = FieldSettings(grid=HashGridSettings(levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cube(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, generator=seeded(seed)) * 2 - 1


def field(**changes: object) -> DensityField:
    return DensityField(replace(TINY, **changes), generator=seeded())  # type: ignore[arg-type]


def rough_field(**changes: object) -> DensityField:
    """A field whose hash table is as large as after some training."""
    made = field(**changes)
    with torch.no_grad():
        for table in made.parameter_groups()["encoder"]:
            table.mul_(3e3)
    return made


def test_magic3d_blob_at_the_start() -> None:
    x = cube(500)
    expected = torch.nn.functional.softplus(10.0 * (1.0 - x.double().norm(dim=1) / 0.5))
    torch.testing.assert_close(field().density(x).double(), expected, rtol=2e-3, atol=1e-6)
    assert field().density(torch.zeros(1, 3)).item() == pytest.approx(10.0, abs=2e-3)


def test_dreamfusion_blob_at_the_start() -> None:
    made = field(blob="dreamfusion", blob_density=5.0, blob_radius=0.2, activation="exp", density_bias=-1.0)
    x = cube(500) * 0.5
    expected = torch.exp(5.0 * torch.exp(-x.double().square().sum(1) / (2 * 0.2**2)) - 1.0)
    torch.testing.assert_close(made.density(x).double(), expected, rtol=2e-3, atol=0)


def test_20_laplace_is_volsdf_of_a_ball() -> None:
    """VolSDF (arXiv 2106.12052) eq. 3: density 1/beta times the Laplace distribution's CDF at minus the distance."""
    made = field(activation="laplace", peak=10.0, blob_density=5.0, blob_radius=0.5)
    made.hardness.fill_(4.0)
    torch.nn.init.zeros_(made.encoder.params)
    x = cube(500)
    distance = x.double().norm(dim=1) - 0.5
    beta = 1 / 40
    share = torch.distributions.Laplace(0.0, torch.tensor(beta, dtype=torch.float64)).cdf(-distance)
    torch.testing.assert_close(made.density(x).double(), share / beta, rtol=1e-4, atol=1e-6)


def test_20_laplace_cdf_is_smooth_where_its_halves_meet() -> None:
    x = torch.tensor([-60.0, -1e-3, 0.0, 1e-3, 60.0], dtype=torch.float64, requires_grad=True)
    value = laplace_cdf(x)
    torch.testing.assert_close(value.detach(), torch.distributions.Laplace(0.0, 1.0).cdf(x.detach()))
    value.sum().backward()
    torch.testing.assert_close(x.grad, 0.5 * torch.exp(-x.detach().abs()))


@pytest.mark.parametrize("activation", ["softplus", "exp", "laplace"])
def test_hardness_sharpens_the_edge_and_leaves_the_normals(activation: str) -> None:
    """``h f(h raw)``: the field with a blob h times as high, h times as dense."""
    x = cube(200) * 0.6
    made = rough_field(activation=activation, blob_density=2.0)
    normals = made.normals(x)
    made.hardness.fill_(3.0)
    torch.testing.assert_close(made.normals(x), normals)
    torch.testing.assert_close(made(x)[0], made.density(x))
    torch.nn.init.zeros_(made.encoder.params)
    higher = field(activation=activation, blob_density=6.0)
    torch.nn.init.zeros_(higher.encoder.params)
    torch.testing.assert_close(made.density(x), 3 * higher.density(x))


def test_normals_are_as_good_on_every_side_of_a_ball_whose_inside_is_rough() -> None:
    """Forward differences reach into the ball on the sides facing -x, -y and -z, and out of it on the others."""
    made = field(blob_density=50.0, blob_radius=0.5)
    outward = torch.nn.functional.normalize(cube(4000), dim=1)
    smooth = made._raw_density
    made._raw_density = lambda x, f: smooth(x, f) + 40 * (0.49 - x.norm(dim=1)).relu() * torch.sin(60 * x).sum(1)  # type: ignore[method-assign]
    towards = (made.normals(outward * 0.5) * outward).sum(1).detach()
    ahead, behind = (towards[(outward * side > 0.2).all(1)].mean() for side in (1, -1))
    assert abs(float(ahead - behind)) < 0.02


def test_no_blob_is_uniform() -> None:
    density = field(blob="none", density_bias=1.5).density(cube(50))
    torch.testing.assert_close(density, torch.full((50,), math.log1p(math.exp(1.5))), rtol=1e-3, atol=0)


@pytest.mark.parametrize("activation", ["softplus", "exp", "laplace"])
def test_density_is_zero_outside_and_positive_inside(activation: str) -> None:
    made = rough_field(activation=activation, blob="none")
    outside = torch.tensor([[1.001, 0, 0], [0, -1.5, 0], [0.2, 0.3, 7.0]])
    assert not made.density(outside).any()
    assert not made(outside)[0].any()
    edge = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0]])
    assert (made.density(edge) > 0).all()


def test_forward_agrees_with_density_and_albedo_is_grey_at_the_start() -> None:
    made, x = field(), cube(100)
    density, albedo = made(x)
    assert torch.equal(density, made.density(x))
    torch.testing.assert_close(albedo, torch.full((100, 3), 0.5), rtol=0, atol=1e-3)
    _, colored = rough_field()(x)
    assert colored.shape == (100, 3) and colored.min() >= 0 and colored.max() <= 1 and colored.std() > 1e-3


def test_field_satisfies_the_protocol() -> None:
    assert isinstance(field(), RadianceField)


def test_normals_of_the_blob_point_outward() -> None:
    made, x = field(), cube(400)
    x = x[(x.norm(dim=1) > 0.2)]
    normals = made.normals(x)
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(len(x)))
    cosine = (normals * torch.nn.functional.normalize(x, dim=1)).sum(1)
    assert cosine.min() > 0.95
    sharp = (field(normal_eps=1e-3).normals(x) * torch.nn.functional.normalize(x, dim=1)).sum(1)
    assert sharp.min() > 0.999


@pytest.mark.parametrize("activation", ["softplus", "exp"])
def test_normals_of_a_plane_are_exact_up_to_the_faces_of_the_box(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw density linear in x and, like the clamped grid, constant beyond the box: steps must stay inside."""
    made = field(activation=activation)
    slope = torch.tensor([3.0, -40.0, 12.0])
    monkeypatch.setattr(made, "_raw_density", lambda x, features: x.clamp(-1, 1) @ slope)
    x = torch.cat([cube(50), torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, 0.0]])])
    expected = -torch.nn.functional.normalize(slope, dim=0).expand(len(x), 3)
    torch.testing.assert_close(made.normals(x), expected, rtol=1e-3, atol=1e-4)


def test_normals_match_autograd_in_a_rough_field() -> None:
    made, x = rough_field(normal_eps=1e-4).double(), cube(300).double().requires_grad_()
    (slope,) = torch.autograd.grad(made.density(x).sum(), x)
    analytic = -torch.nn.functional.normalize(slope, dim=1)
    cosine = (made.normals(x) * analytic).sum(1)
    assert cosine.quantile(0.1) > 0.999


def test_normals_reach_the_parameters() -> None:
    made = rough_field()
    made.normals(cube(64))[:, 0].sum().backward()
    for parameter in (made.encoder.params, *made.density_network.parameters()):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_normal_step_defaults_to_the_finest_cell() -> None:
    assert field().normal_eps == pytest.approx(2 / 31, rel=1e-3)
    assert field(normal_eps=0.01).normal_eps == 0.01


@pytest.mark.parametrize("color_grid", ["shared", "added", "own"])
def test_parameter_groups_hold_every_parameter_once(color_grid: str) -> None:
    made = field(color_grid=color_grid)
    groups = made.parameter_groups()
    assert set(groups) == {"encoder", "mlp"}
    own = [] if made.color_encoder is None else [made.color_encoder.params]
    assert groups["encoder"] == [made.encoder.params, *own] and len(own) == (color_grid != "shared")
    listed = [id(p) for group in groups.values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in made.parameters()) and len(set(listed)) == len(listed)


@pytest.mark.parametrize("color_grid", ["shared", "added", "own"])
def test_state_dict_round_trip_gives_the_same_field(color_grid: str) -> None:
    settings = replace(TINY, color_grid=color_grid)
    made, other = rough_field(color_grid=color_grid), DensityField(settings, generator=seeded(9))
    other.load_state_dict(made.state_dict())
    for ours, theirs in zip(made(cube(64)), other(cube(64)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("color_grid", "density", "color"), [("shared", 1, 0), ("added", 1, 1), ("own", 0, 1)])
def test_colour_is_looked_up_where_the_setting_says(color_grid: str, density: int, color: int) -> None:
    made, x = rough_field(color_grid=color_grid), cube(60)
    grids = [made.encoder, made.color_encoder]
    features = sum(
        encode_plain(x / 2 + 0.5, grid.params, grid.layout)
        for grid, used in zip(grids, (density, color), strict=True)
        if grid is not None and used
    )
    albedo = made(x)[1]
    torch.testing.assert_close(albedo, made.color_network(features).sigmoid())

    albedo.sum().backward()
    moved = [0 if grid is None or grid.params.grad is None else int(grid.params.grad.norm() > 0) for grid in grids]
    assert moved == [density, color]


@pytest.mark.parametrize("color_grid", ["added", "own"])
def test_a_colour_grid_changes_no_density_and_no_normal(color_grid: str) -> None:
    x, plain, made = cube(60), rough_field(), rough_field(color_grid=color_grid)
    assert torch.equal(made.density(x), plain.density(x)) and torch.equal(made(x)[0], plain(x)[0])
    assert torch.equal(made.normals(x), plain.normals(x))
    assert not torch.equal(made(x)[1], plain(x)[1])


def test_every_grid_is_looked_up_with_the_chosen_backend() -> None:
    made = field(color_grid="own")
    made.use("batched")
    assert made.color_encoder is not None and made.encoder.backend == made.color_encoder.backend == "batched"


def test_same_seed_gives_the_same_field_without_touching_the_global_state() -> None:
    before = torch.random.get_rng_state()
    first, second = field(), field()
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fits_a_sphere() -> None:
    """The whole chain learns: density above 5 inside radius 0.6, near 0 outside, starting from the smaller blob."""
    made, generator = field(), seeded(3)
    optimizer = torch.optim.Adam(
        [{"params": p, "lr": lr} for p, lr in zip(made.parameter_groups().values(), (0.02, 0.005), strict=True)],
        eps=1e-15,
    )
    for _ in range(60):
        x = torch.rand(512, 3, generator=generator) * 2 - 1
        inside = (x.norm(dim=1) < 0.6).float()
        loss = torch.nn.functional.binary_cross_entropy(1 - torch.exp(-made.density(x)), inside)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = cube(4000, seed=5)
    correct = (made.density(x) > 0.7) == (x.norm(dim=1) < 0.6)
    assert correct.float().mean() > 0.95


def test_truncated_exp_is_exp_with_a_bounded_slope() -> None:
    x = torch.tensor([-3.0, 0.0, 2.0, 14.9, 20.0], dtype=torch.float64, requires_grad=True)
    y = truncated_exp(x)
    torch.testing.assert_close(y, torch.tensor([math.exp(min(v, 15.0)) for v in x.tolist()], dtype=torch.float64))
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, y.detach())
    inner = x.detach()[:4].requires_grad_()
    assert torch.autograd.gradgradcheck(truncated_exp, inner)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": 0},
        {"hidden_layers": -1},
        {"blob_radius": 0.0},
        {"normal_eps": 0.0},
        {"activation": "relu"},
        {"blob": "cube"},
        {"color_grid": "none"},
    ],
)
def test_unusable_field_settings_name_the_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        FieldSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_chunked_network_matches_nn_linear(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "THRESHOLD", 0)
    monkeypatch.setattr(mlp, "CHUNK", 17)
    ours = mlp.MLP(5, 3, hidden=8, layers=layers, generator=seeded()).double()
    theirs = torch.nn.Sequential()
    for depth, weight in enumerate(ours.weights):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        linear.weight.data.copy_(weight.data)
        theirs.extend([torch.nn.ReLU(), linear] if depth else [linear])
    x = torch.randn(50, 5, generator=seeded(1), dtype=torch.float64)
    upstream = torch.randn(50, 3, generator=seeded(2), dtype=torch.float64)
    results = []
    for network in (ours, theirs):
        a = x.clone().requires_grad_()
        out = network(a)
        results.append((out, *torch.autograd.grad(out, (a, *network.parameters()), upstream)))
    for o, t in zip(*results, strict=True):
        torch.testing.assert_close(o, t, rtol=1e-12, atol=1e-12)


def test_chunked_network_is_differentiable_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "THRESHOLD", 0)
    network = mlp.MLP(3, 2, hidden=6, generator=seeded()).double()
    x = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        result: Tensor = mlp._Chunked.apply(x, 3, *weights)
        return result

    assert torch.autograd.gradcheck(run, (x, *network.weights))
    assert torch.autograd.gradgradcheck(run, (x, *network.weights))


def test_chunked_network_keeps_no_hidden_layer() -> None:
    network = mlp.MLP(4, 1, hidden=64, generator=seeded())
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    x = torch.zeros(mlp.THRESHOLD, 4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network(x)
    assert sum(saved) == x.numel() + sum(w.numel() for w in network.weights)


def directions(count: int = 6, size: int = 5, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, size, size, 3, generator=seeded(seed)), dim=-1)


def background(**changes: object) -> Background:
    return Background(BackgroundSettings(**changes), generator=seeded())  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "level"), [("white", 1.0), ("dark", 0.1), ("black", 0.0)])
def test_fixed_backgrounds(mode: str, level: float) -> None:
    rays = directions()
    torch.testing.assert_close(background(mode=mode)(rays, seeded()), torch.full_like(rays, level))


@pytest.mark.parametrize("mode", ["mixed", "random", "white", "dark", "black"])
def test_evaluation_is_white_for_flat_modes(mode: str) -> None:
    made = background(mode=mode)
    assert not list(made.parameters())
    assert torch.equal(made(directions(), None), torch.ones(6, 5, 5, 3))


@pytest.mark.parametrize("mode", ["mixed", "random"])
def test_one_color_for_each_image_and_reproducible(mode: str) -> None:
    made, rays = background(mode=mode), directions(40)
    image = made(rays, seeded(4))
    assert torch.equal(image, made(rays, seeded(4)))
    assert torch.equal(image, image[:, :1, :1].expand_as(image))
    assert len(image[:, 0, 0].unique(dim=0)) > 10
    assert image.min() >= 0 and image.max() <= 1


@settings(max_examples=20, deadline=None)
@given(weights=st.tuples(*[st.integers(0, 4)] * 4).filter(any))
def test_mixed_follows_its_weights(weights: tuple[int, int, int, int]) -> None:
    names = ("white_weight", "dark_weight", "grey_weight", "color_weight")
    colors = background(**dict(zip(names, map(float, weights), strict=True))).colors(4000, seeded(1))
    white = (colors == 1.0).all(1)
    dark = (colors == 0.1).all(1)
    flat = (colors == colors[:, :1]).all(1)
    counts = torch.stack([white.sum(), dark.sum(), (flat & ~white & ~dark).sum(), (~flat).sum()]) / 4000
    torch.testing.assert_close(counts, torch.tensor(weights) / sum(weights), rtol=0, atol=0.04)


def test_learned_background_is_smooth_trainable_and_sometimes_replaced() -> None:
    made, rays = background(mode="learned", learned_random=0.5), directions(64)
    sky = made(rays, None)
    assert sky.shape == rays.shape and sky.min() >= 0 and sky.max() <= 1 and sky.std() > 1e-3
    mixed = made(rays, seeded(2))
    kept = (mixed == sky).flatten(1).all(1)
    assert 0.3 < kept.float().mean() < 0.7
    replaced = mixed[~kept]
    assert torch.equal(replaced, replaced[:, :1, :1].expand_as(replaced))
    sky.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_spherical_harmonics_are_orthonormal() -> None:
    """Exact quadrature: Gauss-Legendre in z, equal steps in azimuth."""
    nodes, weights = (torch.tensor(v) for v in numpy.polynomial.legendre.leggauss(8))
    azimuth = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    z, phi = torch.meshgrid(nodes, azimuth, indexing="ij")
    r = (1 - z * z).sqrt()
    y = spherical_harmonics(torch.stack([r * phi.cos(), r * phi.sin(), z], -1))
    gram = torch.einsum("zp,zpi,zpj->ij", weights[:, None].expand_as(z) * (2 * math.pi / 16), y, y)
    torch.testing.assert_close(gram, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mode": "blue"}, "mode"),
        ({"white_weight": -1.0}, "weights"),
        ({"dark_level": 2.0}, "dark_level"),
        ({"learned_random": -0.1}, "learned_random"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_unusable_background_settings_name_the_setting(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        BackgroundSettings(**wrong)  # type: ignore[arg-type]
