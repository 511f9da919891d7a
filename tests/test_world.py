"""The procedural world: exact distances, honest silhouettes, right colours and captions, and determinism."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch

from distill3d.prompts import make_sectors
from distill3d.render.cameras import orbit
from distill3d.world import (
    COLOURS,
    SHAPES,
    Object,
    WorldSettings,
    all_objects,
    normals,
    render_dataset,
    trace,
    view_word,
)
from distill3d.world.objects import with_article

SMALL = WorldSettings(image_size=24)


def grid(count: int = 49, reach: float = 1.2) -> torch.Tensor:
    axis = torch.linspace(-reach, reach, count, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_distance_is_exact(shape: str) -> None:
    """Walking the distance along the gradient, of norm 1, ends on the surface from inside and from outside."""
    points = (
        torch.rand(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    ).requires_grad_()
    distance = Object(shape, "red").sdf(points)
    (gradient,) = torch.autograd.grad(distance.sum(), points)
    smooth = (gradient.norm(dim=-1) - 1).abs() < 1e-9
    assert smooth.double().mean() > 0.999
    landed = Object(shape, "red").sdf(points.detach() - distance.detach()[:, None] * gradient)
    assert landed[smooth].abs().quantile(0.999) < 1e-9


def test_known_distances() -> None:
    def at(shape: str, *point: float) -> float:
        return float(SHAPES[shape].sdf(*torch.tensor(point, dtype=torch.float64).unbind()))

    assert at("sphere", 0, 0, 0) == pytest.approx(-0.72)
    assert at("cube", 1.54, 1.54, 1.54) == pytest.approx(math.sqrt(3))
    assert at("cylinder", 0, 1.66, 0) == pytest.approx(1.0)
    assert at("cone", 0, 1.72, 0) == pytest.approx(1.0)
    assert at("cone", 0, -1.72, 0) == pytest.approx(1.0)
    assert at("torus", 0, 0, 0) == pytest.approx(0.56 - 0.22)
    assert at("pyramid", 0, 1.5, 0) == pytest.approx(1.0)
    assert at("pyramid", 1.62, -0.5, 0) == pytest.approx(1.0)
    assert at("capsule", 0, 0, 1.34) == pytest.approx(1.0)
    assert at("octahedron", 0, 0, 1.88) == pytest.approx(1.0)


def test_shapes_are_distinct_and_centred() -> None:
    points = grid()
    inside = {name: Object(name, "red").sdf(points) < 0 for name in SHAPES}
    for name, solid in inside.items():
        low, high = points[solid].min(0).values, points[solid].max(0).values
        assert (low + high).abs().max() < 0.11, name
        assert points[solid].norm(dim=1).max() < 1.02, name
    for (a, first), (b, second) in itertools.combinations(inside.items(), 2):
        assert (first & second).sum() / (first | second).sum() < 0.82, (a, b)


def test_sphere_silhouette_is_the_analytic_disc() -> None:
    """A ball of radius r at distance d covers a disc of tan(asin(r / d)) / tan(fov / 2) half images."""
    side = 96
    _, alpha = trace([Object("sphere", "blue")], orbit(20, 30, 3.0, 40.0), side)
    disc = math.tan(math.asin(0.72 / 3.0)) / math.tan(math.radians(20)) * side / 2
    assert float(alpha.sum()) == pytest.approx(math.pi * disc**2, rel=0.01)
    centre = torch.arange(side) + 0.5 - side / 2
    distance = torch.hypot(centre[:, None], centre[None, :])
    assert torch.all(alpha[0, 0][distance < disc - 1] == 1)
    assert torch.all(alpha[0, 0][distance > disc + 1] == 0)


def test_no_halo() -> None:
    """Covered pixels keep nothing of the background, and partly covered ones are one pixel wide."""
    items, cameras = [Object("sphere", "red"), Object("cube", "red")], orbit([10, 30], [20, 20])
    white, alpha = trace(items, cameras, 64, background=1.0)
    black, _ = trace(items, cameras, 64, background=0.0)
    torch.testing.assert_close(white - black, (1 - alpha).expand_as(white))
    partial = (alpha > 0) & (alpha < 1)
    assert partial.sum() < 2.2 * 4 * 2 * alpha.sum(dim=(2, 3)).sqrt().sum()


def test_torus_is_open_from_above_and_closed_from_the_side() -> None:
    _, alpha = trace([Object("torus", "red")] * 2, orbit([0, 0], [80, 0]), 65)
    assert alpha[0, 0, 32, 32] == 0
    assert alpha[1, 0, 32, 32] == 1


def test_normals() -> None:
    cameras = orbit([0, 90], [0, 0])
    normal, alpha = normals([Object("cube", "red"), Object("cube", "red")], cameras, 33)
    torch.testing.assert_close(normal[:, :, 16, 16], torch.tensor([[0.0, 0, 1], [1, 0, 0]]), atol=1e-5, rtol=0)
    lengths = normal.norm(dim=1, keepdim=True)[alpha > 0]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("colour", COLOURS)
def test_rendered_colour_is_a_shade_of_the_albedo(colour: str) -> None:
    rgb, alpha = trace([Object("sphere", colour)], orbit(0, 20), 32, background=0.0)
    mean = rgb[0][:, alpha[0, 0] == 1].mean(1)
    albedo = torch.tensor(COLOURS[colour])
    torch.testing.assert_close(mean / mean.norm(), albedo / albedo.norm(), atol=1e-4, rtol=0)
    assert 0.45 < mean.norm() / albedo.norm() < 1


def test_light_and_background_per_image() -> None:
    light = torch.tensor([[0.0, 1, 0], [0, -1, 0]])
    ground = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    rgb, _ = trace([Object("sphere", "pink")] * 2, orbit([0, 0], [0, 0]), 32, light, ground, 0.4)
    assert rgb[0, :, 8:14].mean() > rgb[0, :, 18:24].mean()
    assert rgb[1, :, 8:14].mean() < rgb[1, :, 18:24].mean()
    torch.testing.assert_close(rgb[:, :, 0, 0], ground)


def test_dataset_is_deterministic_and_even() -> None:
    first, again, other = render_dataset(64, 3, SMALL), render_dataset(64, 3, SMALL), render_dataset(64, 4, SMALL)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)
    assert {(o.shape, o.colour) for o in first.objects} == {(o.shape, o.colour) for o in all_objects()}
    assert first.images.dtype == torch.uint8 and first.images.shape == (64, 3, 24, 24)


def test_captions_name_what_is_shown() -> None:
    data = render_dataset(256, 0, WorldSettings(image_size=8))
    for caption, item, azimuth, elevation in zip(
        data.captions, data.objects, data.cameras.azimuth.rad2deg(), data.cameras.elevation.rad2deg(), strict=True
    ):
        assert item.name() in caption
        word = view_word(float(azimuth), float(elevation))
        others = {"front", "side", "back", "overhead"} - {word}
        assert not any(f"{w} view" in caption for w in others), caption
    named = sum(" view" in c for c in data.captions) / len(data)
    assert 0.4 < named < 0.6


def test_view_words_agree_with_the_view_prompts() -> None:
    azimuth = torch.arange(-179.0, 180.0, 7.0)
    for elevation in (-5.0, 30.0, 59.0, 61.0, 79.0):
        names = [""] * len(azimuth)
        for sector in make_sectors():
            for i in sector.contains(azimuth, torch.full_like(azimuth, elevation)).nonzero().flatten().tolist():
                names[i] = sector.name
        assert [view_word(float(a), elevation) for a in azimuth] == names


def test_articles() -> None:
    assert Object("octahedron", "orange").caption() == "an orange octahedron"
    assert with_article("red cube") == "a red cube"


def test_bad_input_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"known shape, got 'blob': choose one of sphere"):
        Object("blob", "red")
    with pytest.raises(ValueError, match="known colour"):
        Object("cube", "teal")
    with pytest.raises(ValueError, match="size above 0"):
        Object("cube", "red", size=0.0)
    with pytest.raises(ValueError, match="1 objects and 2 cameras"):
        trace([Object("cube", "red")], orbit([0, 1], [0, 0]), 8)
    with pytest.raises(ValueError, match="at least one render"):
        render_dataset(0, 0)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_elsewhere() -> int:
    """How many of torch's threads a new thread has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.fixture
def chunks_of_16(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    dataset = sys.modules["distill3d.world.dataset"]
    monkeypatch.setattr(dataset, "PIXELS", 16 * SMALL.image_size**2)
    return dataset


@pytest.mark.usefixtures("chunks_of_16")
def test_renders_are_the_same_on_any_number_of_threads_and_in_inference_mode() -> None:
    settings = WorldSettings(name="full", image_size=24)
    told: list[list[int]] = []
    images = []
    for count, mode in ((1, torch.no_grad), (3, torch.no_grad), (3, torch.inference_mode)):
        told.append([])
        with threads(count), mode():
            images.append(render_dataset(70, 5, settings, told[-1].append).images)
            assert torch.get_num_threads() == threads_elsewhere() == count
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    assert told == [[16, 32, 48, 64, 70]] * 3


def test_an_error_in_one_chunk_ends_the_rendering(chunks_of_16: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def trace_but_the_first(*arguments: object, **named: object) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("no room")
        return trace(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(chunks_of_16, "trace", trace_but_the_first)
    with threads(2):
        with pytest.raises(MemoryError, match="no room"):
            render_dataset(400, 5, SMALL)
        assert torch.get_num_threads() == threads_elsewhere() == 2
    assert len(calls) < 25


def test_edges_are_coloured_like_the_mean_of_their_solid_neighbours() -> None:
    """Against pooling of the whole picture."""
    g = torch.Generator().manual_seed(0)
    alpha = (torch.rand(3, 12, 12, generator=g) * 3 - 1).clamp(0, 1)
    alpha[2] = alpha[2].clamp(max=0.9)
    colour = torch.rand(3, 12, 12, 3, generator=g)
    solid = (alpha >= 1).float()[:, None]
    pool = torch.nn.functional.avg_pool2d
    near = pool(colour.permute(0, 3, 1, 2) * solid, 3, 1, 1) / pool(solid, 3, 1, 1)
    edge = (alpha > 0) & (alpha < 1) & (pool(solid, 3, 1, 1)[:, 0] > 0)
    bled = sys.modules["distill3d.world.trace"]._bleed(colour.clone(), alpha)
    assert edge.any() and not edge[2].any()
    torch.testing.assert_close(bled[edge], near.permute(0, 2, 3, 1)[edge])
    assert torch.equal(bled[~edge], colour[~edge])
