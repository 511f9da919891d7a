"""nerfacc as sampler and compositor: the adapter beside ours.

nerfacc marches on CUDA alone. Without it the adapter is driven through ``nerfacc_stand_in``; what of nerfacc runs on a
CPU is compared where the package is installed, and all of it where CUDA is there too.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import nerfacc_stand_in as stand_in
import pytest
import torch
from render_fields import WHITE, Cloud, fitted_grid, generator
from small_run import SMALL, make_prior, parameters
from torch import Tensor, nn

from distill3d.errors import BackendError
from distill3d.optimize import Distillation, Execution, checkpoint
from distill3d.optimize.report import build
from distill3d.render import marching
from distill3d.render.cameras import orbit, rays
from distill3d.render.composite import visibility
from distill3d.render.marching import TORCH, Marching
from distill3d.render.occupancy import OccupancyGrid
from distill3d.render.sampling import Points
from distill3d.render.scan import ray_sum
from distill3d.render.shading import headlight
from distill3d.render.volume import RenderSettings, render

INSTALLED = importlib.util.find_spec("nerfacc") is not None
CUDA = torch.cuda.is_available()
needs_nerfacc = pytest.mark.skipif(not INSTALLED, reason="nerfacc is not installed")
pytestmark = pytest.mark.usefixtures("nerfacc_untried")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not (CUDA and INSTALLED), reason="no CUDA or nerfacc"))]


def adapter(device: str, monkeypatch: pytest.MonkeyPatch) -> Marching:
    if device == "cpu":
        stand_in.install(monkeypatch)
    return marching.functions("nerfacc")


# ---- the adapter


def bundle(steps: int, device: str) -> tuple[OccupancyGrid, Tensor, Tensor, Tensor]:
    """A random grid, rays from outside and inside, along the axes and past the box, and their jitter."""
    draw, grid = generator(steps), OccupancyGrid(20)
    grid.set_occupied(torch.rand(20, 20, 20, generator=draw) < 0.2)
    views = orbit([20, 200, 310], [10, 50, -80], 3.0, 42.0)
    origin, direction = (v.reshape(-1, 3).clone() for v in rays(views, 20, 20))
    origin[:40] *= 0.1
    origin[40:42], direction[40:42] = torch.tensor([0.11, 0.21, 3.0]), torch.tensor([0.0, 0.0, -1.0])
    origin[42], direction[42] = torch.tensor([1.5, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    return grid.to(device), origin.to(device), direction.to(device), torch.rand(len(origin), generator=draw).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("steps", [40, 300, 2000])
@pytest.mark.parametrize("jitter", [True, False])
def test_samples_are_ours_to_the_bit_but_for_those_at_walls(
    device: str, steps: int, jitter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, origin, direction, offset = bundle(steps, device)
    step = 12**0.5 / steps
    call: dict[str, Any] = {"occupancy": grid, "step_size": step, "offset": offset if jitter else None}
    found, wanted = (m.sample(origin, direction, **call) for m in (adapter(device, monkeypatch), TORCH))
    if not jitter:
        offset = torch.full_like(offset, 0.5)
    keys = [p.ray * 100_000 + torch.round(p.t / step - offset[p.ray]).long() for p in (found, wanted)]
    both = [torch.isin(a, b) for a, b in (keys, keys[::-1])]
    assert (keys[0].diff() > 0).all() and both[1].sum() > 0.998 * len(keys[1]) > 1000
    for ours, theirs in zip(wanted, found, strict=True):
        assert torch.equal(theirs[both[0]], ours[both[1]])
    for points, shared in zip((found, wanted), both, strict=True):
        cell = (points.x[~shared].double() + 1) * 10
        assert ((cell - cell.round()).abs().amin(-1) < 5e-3).all()


def test_what_nerfacc_does_not_do_stays_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nerfacc was called")

    stand_in.install(monkeypatch, traverse_grids=never, render_transmittance_from_density=never)
    theirs = marching.functions("nerfacc")
    grid, origin, direction, offset = bundle(40, "cpu")
    calls: list[dict[str, Any]] = [
        {"occupancy": None, "step_size": 0.05},
        {"occupancy": grid, "step_size": 12**0.5 / 2049, "candidates": 5000},
    ]
    for call in calls:
        for ours, other in zip(*(m.sample(origin[:99], direction[:99], **call) for m in (TORCH, theirs)), strict=True):
            assert torch.equal(ours, other)
    assert len(theirs.sample(origin[:0], direction[:0], occupancy=grid, step_size=0.05).t) == 0
    double = theirs.sample(origin.double(), direction.double(), occupancy=grid, step_size=0.05, offset=offset)
    assert double.t.dtype == torch.float64
    theirs.weigh(torch.rand(3).double(), torch.tensor([0, 0, 1]), 0.1, 2)
    assert theirs.weigh(torch.rand(0), torch.zeros(0, dtype=torch.long), 0.1, 2)[0].shape == (0,)


def test_an_empty_grid_gives_no_samples(nerfacc_on_cpu: None) -> None:
    grid, origin, direction, offset = bundle(40, "cpu")
    grid.set_occupied(torch.zeros_like(grid.occupied))
    points = marching.functions("nerfacc").sample(origin, direction, occupancy=grid, step_size=0.05, offset=offset)
    assert len(points.ray) == len(points.x) == 0 and points.ray.dtype == torch.long


@pytest.mark.parametrize("device", DEVICES)
def test_weights_and_their_gradient_are_ours(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = torch.randint(0, 50, (4000,), generator=generator(1)).sort().values.to(device)
    density = 30 * torch.rand(4000, generator=generator(2))
    density[:3] = torch.tensor([float("nan"), float("inf"), 0.0])
    answers = []
    for weigh in (adapter(device, monkeypatch).weigh, visibility):
        sigma = density.to(device).requires_grad_()
        weight, transmittance = weigh(sigma, ray, 0.02, 60)
        (slope,) = torch.autograd.grad((weight * torch.linspace(-1, 1, 4000, device=device)).sum(), sigma)
        answers.append((weight, transmittance, slope))
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(theirs, ours, atol=2e-6, rtol=2e-5)


def listed(calls: list[str], name: str, function: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return function(*arguments, **named)

    return call


def gradients(field: nn.Module, picture: Any) -> Tensor:
    field.zero_grad()
    (picture.rgb.square().mean() + picture.opacity.mean() + picture.depth.mean()).backward()
    return torch.cat([p.grad.flatten() for p in field.parameters() if p.grad is not None])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [
        RenderSettings(samples_per_ray=96, cull_below=0),
        RenderSettings(samples_per_ray=96, cull_below=2),
        RenderSettings(samples_per_ray=96, max_points=3000),
        RenderSettings(samples_per_ray=96, memory_gb=0, cull_below=0),
    ],
    ids=["whole", "culled", "chunks", "tiles"],
)
def test_a_picture_and_its_gradient_are_ours(
    device: str, settings: RenderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Cloud()
    grid, cameras = fitted_grid(field).to(device), orbit([0, 120], [15, -20])
    found: list[tuple[Tensor, ...]] = []
    calls: list[str] = []
    theirs = adapter(device, monkeypatch)
    for route in (TORCH, Marching(listed(calls, "sample", theirs.sample), listed(calls, "weigh", theirs.weigh))):
        picture = render(
            field.to(device),
            cameras.to(device),
            24,
            24,
            background=WHITE.to(device),
            occupancy=grid,
            settings=settings,
            shading=headlight(cameras),
            generator=generator(3),
            marching=route,
        )
        found.append((picture.rgb.detach(), picture.depth.detach(), gradients(field, picture)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-3)
    tiles, pre = settings.memory_gb == 0, settings.cull_below == 2 or settings.max_points == 3000
    assert calls.count("sample") > (2 if tiles else 0) and calls.count("weigh") > (tiles or pre)


def test_a_run_learns_what_ours_learns_says_so_and_may_be_resumed_without(nerfacc_on_cpu: None, tmp_path: Any) -> None:
    names: tuple[marching.MarchingName, ...] = ("auto", "nerfacc")
    runs = [Distillation(make_prior(), "a red ball", SMALL, execution=Execution(marching=n)) for n in names]
    losses = [[run.step().loss for _ in range(5)] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert [build(run)["marching"] for run in runs] == ["torch", "nerfacc"]
    runs[1].save(tmp_path)
    again = Distillation.resume(make_prior(), checkpoint.load(tmp_path))
    assert torch.equal(parameters(again), parameters(runs[1])) and again.step().iteration == 6


# ---- nerfacc itself


def padded(points: Points, count: int) -> tuple[Tensor, Tensor]:
    """Each sample's place in a ``(count, S)`` table."""
    counts = torch.bincount(points.ray, minlength=count)
    return points.ray, torch.arange(len(points.ray)) - (counts.cumsum(0) - counts)[points.ray]


@needs_nerfacc
def test_our_compositor_is_nerfaccs_in_torch() -> None:
    """Its batched functions need no CUDA; samples a ray does not have are there with no density."""
    import nerfacc

    field, grid = Cloud(), fitted_grid(Cloud())
    origin, direction = (v.reshape(-1, 3) for v in rays(orbit([30, 200], [10, -40]), 16, 16))
    points = TORCH.sample(origin, direction, occupancy=grid, step_size=0.04)
    place = padded(points, len(origin))
    shape = (len(origin), int(place[1].max()) + 1)
    answers = []
    for batched in (False, True):
        field.zero_grad()
        density, colour = field(points.x)
        if batched:
            sigma, rgb = density.new_zeros(shape).index_put(place, density), colour.new_zeros(*shape, 3)
            rgb, ends = rgb.index_put(place, colour), torch.full(shape, 0.04)
            weight, transmittance, _ = nerfacc.render_weight_from_density(torch.zeros(shape), ends, sigma)
            pixels = nerfacc.accumulate_along_rays(weight, rgb)
            weight, transmittance = weight[place], transmittance[place]
        else:
            weight, transmittance = visibility(density, points.ray, 0.04, len(origin))
            pixels = ray_sum(weight[:, None] * colour, points.ray, len(origin))
        pixels.square().sum().backward()
        grads = [p.grad.clone() for p in field.parameters() if p.grad is not None]
        answers.append([weight.detach(), transmittance.detach(), pixels.detach(), *grads])
    assert answers[0][2].amax() > 0.3
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@needs_nerfacc
def test_packed_sums_are_nerfaccs() -> None:
    import nerfacc

    ray = torch.tensor([0, 0, 2, 2, 2])
    weight, value = torch.rand(5, generator=generator()), torch.rand(5, 3, generator=generator(1))
    theirs = nerfacc.accumulate_along_rays(weight, value, ray_indices=ray, n_rays=4)
    assert torch.equal(theirs, ray_sum(weight[:, None] * value, ray, 4))


@needs_nerfacc
@pytest.mark.skipif(CUDA, reason="it may work here")
def test_the_installed_package_without_cuda_is_refused_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marching, "DEVICES", ("cuda", "cpu"))
    with pytest.raises(BackendError, match=r"cannot be used on cpu: \w+") as caught:
        marching.choose("cpu", "nerfacc")
    assert caught.value.__cause__ is not None and marching.choose("cpu") == "torch"


@pytest.mark.skipif(not (CUDA and INSTALLED), reason="no CUDA or nerfacc")
def test_on_cuda_it_is_tried_and_a_run_learns_the_same() -> None:
    assert marching.choose("cuda", "nerfacc") == "nerfacc"
    assert marching.report("cuda") == {"torch": "chosen", "nerfacc": "usable"}
    field, grid = Cloud().to("cuda"), fitted_grid(Cloud()).to("cuda")
    cameras = orbit([0, 120], 10).to("cuda")
    settings = replace(RenderSettings(), samples_per_ray=256)
    pictures = [
        render(field, cameras, 48, 48, background=WHITE.cuda(), occupancy=grid, settings=settings, marching=m).rgb
        for m in (TORCH, marching.functions("nerfacc"))
    ]
    torch.testing.assert_close(*pictures, atol=2e-3, rtol=0)
