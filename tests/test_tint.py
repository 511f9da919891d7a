"""Paint without the complement of the colour around it: by hand, pixel by pixel, and in runs of known answer."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import SIDE, SMALL, parameters, red_disc
from torch import Tensor

from distill3d.methods import METHODS, GradientSettings
from distill3d.methods.gradient import surrogate_loss
from distill3d.methods.sds import SDSSettings
from distill3d.optimize import Distillation
from distill3d.optimize.guidance import Draw, Guidance, Guided
from distill3d.optimize.settings import LossSettings, Settings
from distill3d.priors.analytic import GaussianPrior
from distill3d.prompts import ViewPrompts
from distill3d.render import regularisers
from distill3d.render.regularisers import COLOURED, NEUTRAL, chroma, tint
from distill3d.render.shading import ShadingSettings
from distill3d.render.volume import Rendering
from distill3d.schedules import Constant, Linear, TimestepWindow

Color = tuple[float, float, float]
YELLOW, WHITE, GREY = (0.9, 0.8, 0.1), (0.9, 0.9, 0.9), (0.5, 0.5, 0.5)
BLUISH, BLUE = (0.6, 0.6, 0.9), (0.2, 0.2, 0.9)


def view(pixels: Tensor, opacity: float = 1.0) -> Rendering:
    """A rendering of one ``(H, W, 3)`` picture of matter, over black and without its points."""
    flat = torch.full((1, *pixels.shape[:2]), opacity)
    return Rendering(opacity * pixels[None], opacity * pixels[None], flat, flat, None, None)


def dotted(dot: Color, side: int = 16) -> Tensor:
    """``(side, side, 3)`` yellow with one pixel of ``dot`` in the middle."""
    picture = torch.tensor(YELLOW).expand(side, side, 3).clone()
    picture[side // 2, side // 2] = torch.tensor(dot)
    return picture


def as_expected(picture: Tensor) -> Tensor:
    return picture.permute(2, 0, 1)[None]


FIRST = torch.tensor([0])


def of(rendered: Tensor, expected: Tensor, opacity: float = 1.0) -> float:
    return tint(view(rendered, opacity), as_expected(expected), FIRST).item()


def axes(pixel: Tensor) -> tuple[float, float]:
    """On an orthonormal basis of the plane across the grey axis."""
    r, g, b = pixel.tolist()
    return (r - g) / 2**0.5, (r + g - 2 * b) / 6**0.5


def against(color: Color, around: Color) -> float:
    """How far one colour's chroma goes against another's."""
    a, b = (axes(torch.tensor(c)) for c in (color, around))
    return -(a[0] * b[0] + a[1] * b[1]) / math.hypot(*b)


def mean_around(expected: Color, reach: int = 1) -> Color:
    """Of a square of yellow with one pixel of another colour."""
    share = 1 / (2 * reach + 1) ** 2
    red, green, blue = ((1 - share) * y + share * e for y, e in zip(YELLOW, expected, strict=True))
    return red, green, blue


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_chroma_is_the_distance_from_grey(color: Color) -> None:
    pixel = torch.tensor(color, dtype=torch.double)
    found = chroma(pixel.reshape(1, 3, 1, 1)).flatten()
    assert found.norm().item() == pytest.approx((pixel - pixel.mean()).norm().item(), abs=1e-9)


def test_a_bluish_dot_on_yellow_costs_how_far_it_goes() -> None:
    """One of 256 pixels; of 64^2 that is 16."""
    beyond = against(BLUISH, mean_around(WHITE)) - NEUTRAL
    assert beyond > 0.2
    assert of(dotted(BLUISH), dotted(WHITE)) == pytest.approx(16 * beyond**2, rel=1e-4)
    assert of(dotted(BLUISH), dotted(WHITE), opacity=0.6) == pytest.approx(0.6 * 16 * beyond**2, rel=1e-4)
    assert of(dotted(BLUISH), dotted(WHITE), opacity=0.5) == 0


@pytest.mark.parametrize("dot", [WHITE, (0.1, 0.1, 0.1), YELLOW, (1.0, 0.9, 0.0), (0.5, 0.45, 0.3), (0.3, 0.9, 0.2)])
def test_grey_and_the_colour_around_and_its_neighbours_cost_nothing(dot: Color) -> None:
    """However pale, dark or vivid, and a green leaf too; whatever the prior expects there."""
    for expected in (WHITE, YELLOW, BLUISH):
        assert of(dotted(dot), dotted(expected)) == 0


def test_a_complement_that_the_prompt_brings_costs_nothing() -> None:
    assert of(dotted(BLUISH), dotted(BLUE)) == of(dotted(BLUE), dotted(BLUE)) == 0
    more = against(BLUE, mean_around(BLUISH)) - against(BLUISH, mean_around(BLUISH))
    assert of(dotted(BLUE), dotted(BLUISH)) == pytest.approx(16 * more**2, rel=1e-4), "and as much as it brings"


@pytest.mark.parametrize("dot", [BLUE, YELLOW, (0.9, 0.1, 0.1)])
def test_grey_has_no_complement(dot: Color) -> None:
    """Nor has what is nearly grey, whichever way it leans."""
    for lean in (-0.02, 0.0, 0.02):
        ground = torch.tensor((0.5, 0.5, 0.5 - lean)).expand(16, 16, 3)
        rendered = ground.clone()
        rendered[8, 8] = torch.tensor(dot)
        assert of(rendered, ground) == 0


def test_a_patch_wider_than_its_surroundings_is_looked_at_along_its_rim() -> None:
    """Bluish left of the middle and yellow right of it, white being expected: nothing is asked far from the yellow."""
    pixels = torch.tensor(YELLOW).expand(16, 16, 3).clone()
    expected = pixels.clone()
    pixels[:, :8], expected[:, :8] = torch.tensor(BLUISH), torch.tensor(WHITE)
    pixels.requires_grad_()
    tint(view(pixels), as_expected(expected), FIRST).backward()
    assert pixels.grad is not None
    moved = (pixels.grad.abs().sum((0, 2)) > 0).nonzero().flatten().tolist()
    assert moved == [7]


@pytest.mark.parametrize("seed", range(6))
def test_every_pixel_is_judged_by_its_surroundings(seed: int) -> None:
    """Against the definition in plain numbers, with one of two views in sight and matter of all opacities."""
    generator, side = torch.Generator().manual_seed(seed), (20, 33)
    rendered, expected = torch.rand(2, 2, *side, 3, generator=generator)
    opacity = torch.rand(2, *side, generator=generator)
    expected = 0.5 * expected + 0.5 * torch.rand(3, generator=generator)
    made = Rendering(rendered, opacity[..., None] * rendered, opacity, opacity, None, None)
    total = 0.0
    for y in range(side[0]):
        for x in range(side[1]):
            square = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)  # 20 // 16 to every side
            weight = (opacity[1] * (opacity[1] > 0.5))[square]
            if opacity[1, y, x] <= 0.5:
                continue
            mean = (expected[1][square] * weight[..., None]).sum((0, 1)) / weight.sum()
            size = math.hypot(*axes(mean))
            here, there = (
                -sum(p * q for p, q in zip(axes(picture[1, y, x]), axes(mean), strict=True)) / size
                for picture in (rendered, expected)
            )
            if size > COLOURED:
                total += float(opacity[1, y, x]) * max(0.0, here - max(there, NEUTRAL)) ** 2
    found = tint(made, expected[1:].permute(0, 3, 1, 2), torch.tensor([1])).item()
    assert found == pytest.approx(4096 * total / (2 * math.prod(side)), rel=1e-3)
    assert found > 0


def test_a_picture_of_the_prior_s_size_is_brought_to_the_render_s() -> None:
    rendered, expected = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    doubled = expected.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert of(rendered, doubled) == pytest.approx(of(rendered, expected), rel=1e-5)


def test_the_weight_means_the_same_at_any_resolution() -> None:
    """Four times as fine, in a picture whose surroundings grow with it; they hold a little more of the dot's own."""
    coarse, fine = (
        [p.repeat_interleave(n, 0).repeat_interleave(n, 1) for p in map(dotted, (BLUISH, WHITE))] for n in (1, 4)
    )
    assert of(*fine) == pytest.approx(of(*coarse), rel=0.15)


def test_the_gradient_takes_the_tint_away_and_no_matter() -> None:
    """More or less of the same matter costs the same."""
    pixels, opacity = dotted(BLUISH).requires_grad_(), torch.full((1, 16, 16), 0.8, requires_grad=True)
    made = replace(view(pixels), foreground=pixels * opacity[..., None], opacity=opacity)
    tint(made, as_expected(dotted(WHITE)), FIRST).backward()
    assert pixels.grad is not None and opacity.grad is not None
    r, g, b = (-pixels.grad[8, 8]).tolist()
    assert r > 0 and g > 0 > b and r + g + b == pytest.approx(0, abs=1e-5)
    assert pixels.grad.abs().sum() == pytest.approx(r + g - b)
    assert opacity.grad.abs().max() < 1e-5 * r


def test_neither_ground_nor_its_colour_counts() -> None:
    """A thin yellow object on blue: nothing is asked of the blue, and yellow is what lies around the dot."""
    object_ = torch.zeros(1, 16, 16)
    object_[:, :, 7] = 1
    matter = torch.tensor(YELLOW).expand(16, 16, 3).clone()
    matter[8, 7] = torch.tensor(BLUISH)
    over = object_[..., None] * matter + (1 - object_[..., None]) * torch.tensor(BLUE)
    made = Rendering(over, object_[..., None] * matter, object_, object_, None, None)
    expected = over[0].clone()
    expected[8, 7] = torch.tensor(WHITE)
    around = tuple((2 * y + w) / 3 for y, w in zip(YELLOW, WHITE, strict=True))
    beyond = against(BLUISH, around) - NEUTRAL  # type: ignore[arg-type]
    assert tint(made, as_expected(expected), FIRST).item() == pytest.approx(16 * beyond**2, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_asks_for_nothing(bad: float) -> None:
    pixels = dotted(BLUISH).requires_grad_()
    expected = as_expected(dotted(WHITE)).clone()
    expected[0, :, 2, 2] = bad
    cost = tint(view(pixels), expected, FIRST)
    cost.backward()
    assert cost.item() == pytest.approx(of(dotted(BLUISH), dotted(WHITE)))
    assert pixels.grad is not None and torch.isfinite(pixels.grad).all()
    assert tint(view(pixels), torch.full_like(expected, bad), FIRST).item() == 0


# ---- in a run


class Cyan(GaussianPrior):
    """It dreams of a red ball, and shows cyan whatever it decodes, so that all that turns red is tinted. It takes any
    text for the empty one that it does not know, and keeps what it is asked to decode."""

    def __init__(self) -> None:
        super().__init__({"a red ball": red_disc(), "": torch.full((3, SIDE, SIDE), 0.5)})
        self.decoded: list[Tensor] = []

    def _known(self, text: str) -> str:
        return super()._known(text) if text.startswith("a red ball") else ""

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents)
        return torch.tensor((0.1, 0.9, 0.9)).reshape(3, 1, 1).expand_as(latents)


LOW = TimestepWindow(Constant(0.02), Constant(0.3))


def small(weight: Any, method: Any = "sds", **changes: Any) -> tuple[Distillation, Cyan]:
    prior = Cyan()
    settings = replace(SMALL, **{"method": method, "losses": LossSettings(tint=weight), "window": LOW, **changes})
    run = Distillation(prior, "a red ball", settings, seed=0)
    prior.decoded.clear()
    return run, prior


@pytest.mark.parametrize("method", [name.lower() for name in METHODS])
def test_every_method_has_it(method: str) -> None:
    run, _ = small(Constant(1.0), method, iterations=40)
    costs = [run.step().terms["tint"] for _ in range(40)]
    assert max(costs) > 0 and torch.isfinite(parameters(run)).all()


def test_textureless_steps_have_no_paint_to_look_at() -> None:
    white = ShadingSettings(start=0, albedo_probability=0, textureless_probability=1)
    run, prior = small(Constant(1.0), iterations=2, shading=white)
    assert "tint" not in run.step().terms and not prior.decoded


def test_nothing_is_decoded_before_it_begins() -> None:
    run, prior = small(Linear(0.0, 1.0, begin=0.5), iterations=8)
    seen = [("tint" in run.step().terms, len(prior.decoded)) for _ in range(8)]
    assert seen == [(False, 0)] * 5 + [(True, 1), (True, 2), (True, 3)]


@pytest.mark.parametrize("memory_gb", [8.0, 1e-4], ids=["whole", "in tiles"])
def test_the_loss_has_it_of_the_views_that_the_prior_can_see(memory_gb: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timesteps on both sides of ``alpha^2 = 1/2``: those above are not decoded, and cost nothing."""
    seen: list[tuple[Rendering, Tensor, Tensor, float]] = []

    def spied(rendering: Rendering, expected: Tensor, views: Tensor) -> Tensor:
        cost = tint(rendering, expected, views)
        seen.append((rendering, expected, views, cost.item()))
        return cost

    monkeypatch.setattr(regularisers, "tint", spied)
    run, prior = small(
        Constant(0.5),
        window=TimestepWindow(Constant(0.02), Constant(0.7)),
        batch=3,
        iterations=40,
        render=replace(SMALL.render, memory_gb=memory_gb),
    )
    counts, costs = set(), []
    guidance, answers = run.guidance, []

    def asked(*args: Any, **more: Any) -> Guided:
        answers.append(guidance(*args, **more))
        return answers[-1]

    run.guidance = asked  # type: ignore[assignment]
    for _ in range(40):
        seen.clear()
        prior.decoded.clear()
        step = run.step()
        if not seen:
            counts.add(0)
            assert "tint" not in step.terms and not prior.decoded
            continue
        ((_, expected, views, cost),) = seen
        (latents,) = prior.decoded
        t = torch.tensor([at for at, _ in step.errors])
        assert views.tolist() == [i for i, at in enumerate(t) if prior.abar[at] >= 0.5]
        assert len(views) == len(expected) and torch.equal(latents, answers[-1].expected[views])
        assert step.terms["tint"] == pytest.approx(0.5 * cost)
        counts.add(len(views))
        costs.append(cost)
    assert counts == {0, 1, 2, 3} and costs[-1] > 1
    assert run.watch.total["decode"] > 0


def test_it_is_no_part_of_the_loss_where_no_view_can_be_seen() -> None:
    run, prior = small(Constant(1.0), window=TimestepWindow(Constant(0.6), Constant(0.98)), iterations=2)
    assert "tint" not in run.step().terms and not prior.decoded


def test_a_broken_picture_does_not_break_the_run() -> None:
    run, prior = small(Constant(1.0), iterations=4)
    prior.decode = lambda latents: torch.full_like(latents, math.nan)  # type: ignore[method-assign]
    steps = [run.step() for _ in range(4)]
    assert all(step.terms["tint"] == 0 and not step.skipped for step in steps)
    assert torch.isfinite(parameters(run)).all()


class Patched(GaussianPrior):
    """With a patch on guidance, as a host's model may have one."""

    guide = True

    def predict_guided(self, *args: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict_noise(*args), self.predict_noise(*args) + 1


@pytest.mark.parametrize("kind", [GaussianPrior, Patched])
def test_what_is_expected_is_the_clean_picture_of_the_prompt_alone(kind: type[GaussianPrior]) -> None:
    """Of a Gaussian prior its posterior mean, in closed form; neither guidance nor a patch on it has a part in it."""
    mean, std = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)), 0.3
    prior = kind({"a ball": mean, "": torch.zeros(3, 4, 4)}, std)
    guidance = Guidance(prior, ViewPrompts("a ball"), Settings())
    draw = torch.Generator().manual_seed(2)
    z, eps = (torch.randn(2, 3, 4, 4, generator=draw) for _ in range(2))
    t = torch.tensor([200, 600])
    made = guidance.at(z, torch.zeros(2), torch.zeros(2), 0.5, Draw(t, t, eps)).expected
    alpha, sigma = prior.alpha_sigma(t)
    x_t, noise = alpha * z + sigma * eps, sigma / alpha
    posterior = (noise**2 * mean + std**2 * x_t / alpha) / (std**2 + noise**2)
    assert made is not None
    torch.testing.assert_close(made, posterior, rtol=1e-4, atol=1e-4)


def distilled(weight: float) -> list[float]:
    """Where guidance brings a grey dot on yellow, of which a prior without words expects it a little yellow."""
    means = {"a dotted ball": as_expected(dotted(GREY))[0], "": as_expected(dotted((0.51, 0.51, 0.48)))[0]}
    settings = replace(Settings(), sds=SDSSettings(Constant(7.5)), gradient=GradientSettings("uniform"))
    guidance = Guidance(GaussianPrior(means, 0.1), ViewPrompts("a dotted ball"), settings)
    picture, straight = dotted(GREY).requires_grad_(), torch.zeros(1)
    for i in range(300):
        draw = torch.Generator().manual_seed(i)
        t = torch.randint(100, 400, (1,), generator=draw)
        eps = torch.randn(1, 3, 16, 16, generator=draw)
        z = as_expected(picture)
        guided = guidance.at(z.detach(), straight, straight, 0.5, Draw(t, t, eps))
        assert guided.expected is not None
        loss = surrogate_loss(z, guided.gradient) + weight * tint(view(picture), guided.expected.clamp(0, 1), FIRST)
        (slope,) = torch.autograd.grad(loss, picture)
        picture = (picture - 0.1 * slope).detach().clamp(0, 1).requires_grad_()
    return picture[8, 8].tolist()


def test_grey_on_yellow_stays_grey() -> None:
    """The same guidance turns it blue where the weight is 0."""
    free, kept = distilled(0.0), distilled(1.0)
    hue, saturation, _ = colorsys.rgb_to_hsv(*free)
    assert 0.55 < hue < 0.75 and saturation > 0.1
    assert math.hypot(*axes(torch.tensor(kept))) < 0.25 * math.hypot(*axes(torch.tensor(free)))
