"""Paint without the complement of the colour around it: by hand, pixel by pixel, and in runs of known answer."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_run import SIDE, SMALL, parameters, red_disc
from torch import Tensor

from distill3d.methods import METHODS, GradientSettings
from distill3d.methods.gradient import surrogate_loss
from distill3d.methods.sds import SDSSettings
from distill3d.optimize import Distillation
from distill3d.optimize.guidance import Draw, Guidance
from distill3d.optimize.settings import LossSettings, Settings
from distill3d.priors.analytic import GaussianPrior
from distill3d.prompts import ViewPrompts
from distill3d.render.regularisers import NEUTRAL, chroma, tint
from distill3d.render.volume import Rendering
from distill3d.schedules import Constant, Linear

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


def of(rendered: Tensor, expected: Tensor, opacity: float = 1.0) -> float:
    return tint(view(rendered, opacity), as_expected(expected)).item()


def test_chroma_by_hand() -> None:
    both = chroma(torch.tensor([YELLOW, (0.5, 0.5, 0.5)]).reshape(2, 3, 1, 1)).flatten(1)
    torch.testing.assert_close(both, torch.tensor([[0.1, 1.5], [0.0, 0.0]]))


def test_a_bluish_dot_on_yellow_by_hand() -> None:
    """Its blueness of 0.6 is 0.57 beyond what counts as grey, on one of 256 pixels; of 64^2 that is 16."""
    assert of(dotted(BLUISH), dotted(WHITE)) == pytest.approx(16 * 0.57**2, rel=1e-4)
    assert of(dotted(BLUISH), dotted(WHITE), opacity=0.5) == pytest.approx(8 * 0.57**2, rel=1e-4)


@pytest.mark.parametrize("dot", [WHITE, (0.1, 0.1, 0.1), YELLOW, (1.0, 0.9, 0.0), (0.5, 0.45, 0.3)])
def test_grey_and_the_colour_around_cost_nothing(dot: Color) -> None:
    """However pale, dark or vivid, and whatever the prior expects there."""
    for expected in (WHITE, YELLOW, BLUISH):
        assert of(dotted(dot), dotted(expected)) == 0


def test_a_complement_that_the_prompt_brings_costs_nothing() -> None:
    assert of(dotted(BLUISH), dotted(BLUE)) == of(dotted(BLUE), dotted(BLUE)) == 0
    assert of(dotted(BLUE), dotted(BLUISH)) == pytest.approx(16 * 0.8**2, rel=1e-4), "and as much as it brings"


@pytest.mark.parametrize("seed", range(6))
def test_every_pixel_is_judged_by_its_surroundings(seed: int) -> None:
    """Against the definition in plain numbers."""
    generator, side = torch.Generator().manual_seed(seed), (20, 33)
    rendered, expected = torch.rand(2, *side, 3, generator=generator)
    expected = 0.5 * expected + 0.5 * torch.rand(3, generator=generator)

    def axes(pixel: Tensor) -> tuple[float, float]:
        r, g, b = pixel.tolist()
        return r - g, r + g - 2 * b

    total = 0.0
    for y in range(side[0]):
        for x in range(side[1]):
            near = expected[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(-1, 3)  # 20 // 16 to every side
            for here, there, mean in zip(
                axes(rendered[y, x]), axes(expected[y, x]), axes(near.double().mean(0)), strict=True
            ):
                sign = 1 if mean < 0 else -1
                total += max(0.0, sign * here - max(NEUTRAL, sign * there)) ** 2
    assert of(rendered, expected) == pytest.approx(4096 * total / math.prod(side), rel=1e-4)


def test_a_picture_of_the_prior_s_size_is_brought_to_the_render_s() -> None:
    """Means of blocks: a doubled picture says the same, and so do four halves of it."""
    rendered, expected = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    doubled = expected.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert of(rendered, doubled) == pytest.approx(of(rendered, expected), rel=1e-5)


def test_the_weight_means_the_same_at_any_resolution() -> None:
    fine = [dotted(c).repeat_interleave(4, 0).repeat_interleave(4, 1) for c in (BLUISH, WHITE)]
    assert of(*fine) == pytest.approx(of(dotted(BLUISH), dotted(WHITE)), rel=1e-4)


def test_the_gradient_takes_the_tint_away_and_no_matter() -> None:
    """More or less of the same matter costs the same."""
    pixels, opacity = dotted(BLUISH).requires_grad_(), torch.full((1, 16, 16), 0.8, requires_grad=True)
    made = replace(view(pixels), foreground=pixels * opacity[..., None], opacity=opacity)
    tint(made, as_expected(dotted(WHITE))).backward()
    assert pixels.grad is not None and opacity.grad is not None
    r, g, b = (-pixels.grad[8, 8]).tolist()
    assert r == pytest.approx(g) and r > 0 > b
    assert pixels.grad.abs().sum() == pytest.approx(2 * r - b)
    assert opacity.grad.abs().max() < 1e-5 * r


def test_neither_ground_nor_its_colour_counts() -> None:
    """A thin yellow object on blue: nothing is asked of the blue, and yellow is what lies around the dot."""
    object_ = torch.zeros(1, 16, 16)
    object_[:, :, 7] = 1
    matter = torch.tensor(YELLOW).expand(16, 16, 3).clone()
    matter[8, 7] = torch.tensor(BLUISH)
    ground = torch.tensor(BLUE).expand(1, 16, 16, 3)
    over = object_[..., None] * matter + (1 - object_[..., None]) * ground
    made = Rendering(over, object_[..., None] * matter, object_, object_, None, None)
    white = over.clone()
    white[0, 8, 7] = torch.tensor(WHITE)
    assert tint(made, as_expected(white[0])).item() == pytest.approx(16 * 0.57**2, rel=1e-4)


# ---- in a run


class Counting(GaussianPrior):
    """Counts its decodings, and takes any text for the empty one that it does not know."""

    decoded = 0

    def _known(self, text: str) -> str:
        return super()._known(text) if text.startswith("a red ball") else ""

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += 1
        return super().decode(latents)


def small(weight: Any, method: Any = "sds", **changes: Any) -> tuple[Distillation, Counting]:
    prior = Counting({"a red ball": red_disc(), "": torch.full((3, SIDE, SIDE), 0.5)})
    settings = replace(SMALL, method=method, losses=LossSettings(tint=weight), **changes)
    return Distillation(prior, "a red ball", settings, seed=0), prior


@pytest.mark.parametrize("method", [name.lower() for name in METHODS])
def test_every_method_has_it(method: str) -> None:
    run, _ = small(Constant(1.0), method, iterations=2)
    assert "tint" in run.step().terms and torch.isfinite(parameters(run)).all()


def test_nothing_is_decoded_before_it_begins() -> None:
    run, prior = small(Linear(0.0, 1.0, begin=0.5), iterations=8)
    began = prior.decoded
    seen = [("tint" in run.step().terms, prior.decoded - began) for _ in range(8)]
    assert seen == [(False, 0)] * 5 + [(True, 1), (True, 2), (True, 3)]


def test_what_is_expected_is_the_clean_picture_of_the_prompt_alone() -> None:
    """Of a Gaussian prior: ``(var_t z' + ...)``, its posterior mean, in closed form; guidance has no part in it."""
    mean, std = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)), 0.3
    prior = GaussianPrior({"a ball": mean, "": torch.zeros(3, 4, 4)}, std)
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
        loss = surrogate_loss(z, guided.gradient) + weight * tint(view(picture), guided.expected.clamp(0, 1))
        (slope,) = torch.autograd.grad(loss, picture)
        picture = (picture - 0.1 * slope).detach().clamp(0, 1).requires_grad_()
    return picture[8, 8].tolist()


def test_grey_on_yellow_stays_grey() -> None:
    """The same guidance turns it blue where the weight is 0."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*distilled(0.0))
    assert 0.55 < hue < 0.75 and saturation > 0.1
    kept = distilled(0.1)
    assert max(kept) - min(kept) < NEUTRAL
