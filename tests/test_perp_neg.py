"""Perp-Neg, and the one list of evaluations a step: which rows, how many, and that a batch is its samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_methods import draw, same
from torch import Tensor

from distill3d.errors import SettingsError
from distill3d.methods import METHODS, lookup
from distill3d.methods.asd import ASDSettings
from distill3d.methods.base import dot
from distill3d.methods.bridge import BridgeSettings
from distill3d.methods.csd import CSDSettings
from distill3d.methods.gradient import GradientSettings
from distill3d.methods.perp_neg import PerpNegSettings, blend, correction, perpendicular
from distill3d.methods.tbsd import TBSDSettings
from distill3d.optimize.guidance import Draw, Guidance
from distill3d.optimize.settings import Settings
from distill3d.priors.noise_schedule import alpha_sigma, alphas_cumprod
from distill3d.prompts import Sector, ViewPrompts
from distill3d.schedules import Constant

ON = PerpNegSettings(enabled=True)


def test_15_perpendicular_has_no_part_along_y_and_nothing_of_a_multiple() -> None:
    x, y = draw(2)
    assert dot(perpendicular(x, y), y).abs().max() < 1e-10
    assert perpendicular(3 * y, y).abs().max() < 1e-12
    same(perpendicular(x, torch.zeros_like(y)), x)


@pytest.mark.parametrize(
    ("azimuth", "first", "second", "share", "avoid"),
    [
        (0, "front", "side", 1.0, (("front", -0.0001), ("side", -1.574))),
        (89.999, "front", "side", 0.0, (("front", -1.574), ("side", -0.0001))),
        (90, "side", "back", 1.0, (("side", -0.0005), ("front", -1.5735))),
        (-90, "side", "back", 1.0, (("side", -0.0005), ("front", -1.5735))),
        (180, "side", "back", 0.0, (("side", -0.394), ("front", -1.967))),
        (540, "side", "back", 0.0, (("side", -0.394), ("front", -1.967))),
        (-45, "front", "side", 0.5, (("front", -0.6892), ("side", -0.6892))),
    ],
)
def test_15_blend_and_weights_over_the_azimuth(azimuth, first, second, share, avoid) -> None:
    got = blend(azimuth, PerpNegSettings())
    assert (got.first, got.second) == (first, second) and got.share == pytest.approx(share, abs=1e-4)
    assert [n for n, _ in got.avoid] == [n for n, _ in avoid]
    assert [w for _, w in got.avoid] == pytest.approx([w for _, w in avoid], abs=1e-3)


def test_correction_pairs_every_samples_own_views() -> None:
    """The stacking bug of sample-major negatives against batch-major latents would show here."""
    e_y, e_ref, a, b = draw(4)
    weights = torch.tensor([[-1.0, -0.5], [0.0, -2.0], [-0.3, 0.0]], dtype=torch.float64)
    got = correction(e_y, e_ref, torch.stack([a, b], 1), weights)
    for i in range(3):
        one = slice(i, i + 1)
        expected = sum(
            weights[i, k] * perpendicular(e[one] - e_ref[one], e_y[one] - e_ref[one]) for k, e in enumerate((a, b))
        )
        same(got[one], expected)


class Distinct:
    """A prior of text-coded answers: every text, timestep and latent gets its own; it counts rows and calls."""

    T, dtype, device, latent_shape = 1000, torch.float32, torch.device("cpu"), (2, 3, 3)

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.texts: list[str] = []

    def embed(self, texts: list[str]) -> Tensor:
        self.texts = list(texts)
        generator = torch.Generator()
        return torch.stack([torch.randn(2, 4, generator=generator.manual_seed(sum(map(ord, text)))) for text in texts])

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return alpha_sigma(alphas_cumprod(), t)

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.calls.append(len(x_t))
        code = cond.flatten(1).double()
        bend = (code @ torch.arange(1, 9).double()).reshape(-1, 1, 1, 1).float()
        lean = code[:, :2, None, None].float()
        return torch.tanh(x_t * (1 + bend / 50) + t.reshape(-1, 1, 1, 1) / 1000) + 0.3 * lean


def guidance_of(method: str, prior: Distinct, negative: str = "blurry", **changes) -> Guidance:
    settings = replace(Settings(method=method), **changes)  # type: ignore[arg-type]
    return Guidance(prior, ViewPrompts("a cat", negative), settings)  # type: ignore[arg-type]


def state(count: int) -> tuple[Tensor, Draw]:
    generator = torch.Generator().manual_seed(1)
    latents, eps = (torch.randn(count, 2, 3, 3, generator=generator) for _ in range(2))
    t = torch.linspace(850, 300, count).long()
    return latents, Draw(t, t + 20, eps)


VIEWS = [0.0, 35.0, 100.0, -170.0, 50.0]
ABOVE = [0.0, 10.0, 20.0, 0.0, 80.0]


@pytest.mark.parametrize("method", [name.lower() for name in METHODS])
@pytest.mark.parametrize("perp_neg", [False, True])
def test_a_batch_is_the_sum_of_its_samples(method: str, perp_neg: bool) -> None:
    guidance = guidance_of(method, Distinct(), perp_neg=PerpNegSettings(perp_neg))
    latents, drawn = state(5)
    azimuth, elevation = (torch.tensor([math.radians(v) for v in a]) for a in (VIEWS, ABOVE))
    whole = guidance.at(latents, azimuth, elevation, 0.6, drawn)
    rows = 0
    for i in range(5):
        one = slice(i, i + 1)
        alone = guidance.at(
            latents[one], azimuth[one], elevation[one], 0.6, Draw(drawn.t[one], drawn.t_plus[one], drawn.eps[one])
        )
        torch.testing.assert_close(whole.gradient[one], alone.gradient, rtol=1e-4, atol=1e-5)
        rows += alone.evaluations
    one_shared = perp_neg  # seen straight from the front the target is a view's own text: alone, that row is shared
    assert whole.evaluations - rows in ((0, 1) if one_shared else (0,))


class Recorded(Distinct):
    """Keeps what it was asked."""

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.x_t, self.t, self.cond = x_t, t, cond
        return super().predict_noise(x_t, t, cond)


def test_6_shifted_latents_carry_the_same_noise() -> None:
    prior = Recorded()
    guidance = guidance_of("asd", prior)
    latents, drawn = state(3)
    guidance.at(latents, torch.zeros(3), torch.zeros(3), 0.5, drawn)
    assert prior.t.tolist() == [*drawn.t.tolist(), *drawn.t.tolist(), *drawn.t_plus.tolist()]
    alpha, sigma = alpha_sigma(alphas_cumprod(), prior.t)
    noise = (prior.x_t - alpha * latents.repeat(3, 1, 1, 1)) / sigma
    torch.testing.assert_close(noise, drawn.eps.repeat(3, 1, 1, 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(prior.cond[:3], prior.cond[6:]) and not torch.equal(prior.cond[:3], prior.cond[3:6])


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_5_asd_at_the_lower_end_of_the_window_is_guidance_minus_one_times_csd(negative: str) -> None:
    """There is no room for a shift there, and a step costs two evaluations a sample."""
    latents, drawn = state(3)
    view = torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3)
    t = torch.full((3,), 500)
    t_plus = lookup("asd").method(ASDSettings()).shift(t, 500, torch.Generator().manual_seed(0))
    at = Draw(t, t_plus, drawn.eps)
    asd = guidance_of("asd", Distinct(), negative).at(latents, *view, 0.0, at)
    weights = {"csd": CSDSettings(negative=-1, null=0)}
    csd = guidance_of("csd", Distinct(), negative, **weights).at(latents, *view, 0.0, at)
    torch.testing.assert_close(asd.gradient, 6.5 * csd.gradient, rtol=1e-4, atol=1e-5)
    assert asd.evaluations == csd.evaluations == 6


def test_7_asd_s_weight_is_of_t_not_of_the_shifted_timestep() -> None:
    latents, drawn = state(3)
    far = Draw(drawn.t, drawn.t + 100, drawn.eps)
    made = [
        guidance_of("asd", Distinct(), gradient=GradientSettings(weighting)).at(
            latents, torch.zeros(3), torch.zeros(3), 0.5, far
        )
        for weighting in ("sds", "uniform")
    ]
    sigma = alpha_sigma(alphas_cumprod(), far.t)[1]
    torch.testing.assert_close(made[0].gradient, sigma**2 * made[1].gradient)


PLAIN = {"sds": 2, "csd": 2, "asd": 3, "tbsd": 3, "nfsd": 3, "bridge": 2, "bsd": 2}
PERP = {"sds": 4, "csd": 5, "asd": 5, "tbsd": 5, "nfsd": 5, "bridge": 4, "bsd": 4}


@pytest.mark.parametrize("method", PLAIN)
def test_evaluations_a_sample_never_exceed_the_published_counts_and_are_one_call(method: str) -> None:
    for settings, table in ((PerpNegSettings(), PLAIN), (ON, PERP)):
        prior = Distinct()
        guidance = guidance_of(method, prior, perp_neg=settings)
        latents, drawn = state(2)
        angle = torch.tensor([0.3, 2.5])
        for progress in (0.0, 0.6, 1.0):
            prior.calls.clear()
            found = guidance.at(latents, angle, angle * 0, progress, drawn).evaluations
            assert prior.calls == [found] and found <= 2 * table[method]
        assert found == 2 * table[method], "at the end of the run nothing is left out"


CEILING = {"sds": (2, 4), "csd": (3, 5), "asd": (3, 5), "tbsd": (3, 5), "nfsd": (3, 5), "bridge": (2, 4), "bsd": (2, 4)}
READINGS = {
    "asd": (ASDSettings(eta=0.0), ASDSettings(random=False, t_min=0.02)),
    "tbsd": (
        TBSDSettings(time="timestep", start=0.1, end=0.7),
        TBSDSettings(source="modifier", opening="sds", start=0.3),
        TBSDSettings(weight=0.4, a="1->0"),  # type: ignore[arg-type]
    ),
    "bridge": (BridgeSettings(source="modifier", target=""),),
}


@pytest.mark.parametrize("method", CEILING)
@pytest.mark.parametrize("perp_neg", [False, True])
def test_no_setting_of_any_method_evaluates_more_than_the_table(method: str, perp_neg: bool) -> None:
    """Rows of the real batch, for every preset and reading, with and without a negative prompt, all around."""
    entry = lookup(method)
    every = [p.settings for p in entry.method.presets.values()] + list(READINGS.get(method, ()))
    azimuth, elevation = (torch.tensor([math.radians(v) for v in a]) for a in (VIEWS, ABOVE))
    latents, drawn = state(5)
    fullest = 0.0
    for settings in every:
        for negative in ("", "blurry"):
            prior = Distinct()
            guidance = guidance_of(method, prior, negative, perp_neg=PerpNegSettings(perp_neg), **{method: settings})
            for progress in (0.0, 0.25, 0.6, 1.0):
                prior.calls.clear()
                found = guidance.at(latents, azimuth, elevation, progress, drawn).evaluations
                assert prior.calls == [found] and found <= 5 * CEILING[method][perp_neg], (settings, progress)
                fullest = max(fullest, found / 5)
    assert fullest > CEILING[method][perp_neg] - 1, "the table is no tighter than what is there"


def test_annealed_csd_and_empty_negative_prompts_share_rows() -> None:
    latents, drawn = state(2)
    angle = torch.tensor([0.3, 2.5])
    csd = lookup("csd").method.presets["annealed-negative"].settings
    for negative, expected in (("blurry", [2, 3, 2]), ("", [2, 2, 2])):
        guidance = guidance_of("csd", Distinct(), negative, csd=csd)
        counts = [guidance.at(latents, angle, angle * 0, p, drawn).evaluations / 2 for p in (0.0, 0.25, 0.9)]
        assert counts == expected
    assert guidance_of("csd", Distinct(), "", perp_neg=ON).at(latents, angle, angle * 0, 0.5, drawn).evaluations == 8
    nfsd = guidance_of("nfsd", Distinct())
    low = Draw(torch.tensor([100, 900]), torch.tensor([100, 900]), drawn.eps)
    assert nfsd.at(latents, angle, angle * 0, 0.5, low).evaluations == 5


def test_strength_zero_keeps_the_blend_and_evaluates_no_more() -> None:
    latents, drawn = state(1)
    angle = torch.tensor([0.5])
    plain = guidance_of("sds", Distinct()).at(latents, angle, angle * 0, 0.5, drawn)
    blended = guidance_of("sds", Distinct(), perp_neg=PerpNegSettings(True, Constant(0.0))).at(
        latents, angle, angle * 0, 0.5, drawn
    )
    assert (plain.evaluations, blended.evaluations) == (2, 2)
    assert not torch.allclose(plain.gradient, blended.gradient)


def test_15_from_overhead_there_is_no_wrong_view_to_push_away_from() -> None:
    latents, drawn = state(2)
    azimuth, elevation = torch.tensor([0.3, 2.5]), torch.tensor([1.4, 1.4])
    plain, pushed = (guidance_of("sds", Distinct(), perp_neg=p) for p in (PerpNegSettings(), ON))
    got, expected = (g.at(latents, azimuth, elevation, 0.5, drawn) for g in (pushed, plain))
    assert torch.equal(got.gradient, expected.gradient) and got.evaluations == expected.evaluations == 4
    assert not torch.equal(pushed.at(latents, azimuth, 0 * elevation, 0.5, drawn).gradient, got.gradient)


def test_rows_of_an_evaluation_stay_together_in_the_samples_order() -> None:
    """A host tells the stretches of a batch apart; a single shift of 0 must not tear one."""
    guidance = guidance_of("asd", Distinct())
    t, t_plus = torch.tensor([900, 501, 700]), torch.tensor([920, 501, 710])
    angle = torch.zeros(3)
    rows = guidance.conditions.rows(angle, angle, 0.5, t, t_plus, t / 1000)
    assert rows.sample == [0, 1, 2] * 3 and rows.shifted == [False] * 6 + [True] * 3
    still = guidance.conditions.rows(angle, angle, 0.5, t, t, t / 1000)
    assert still.sample == [0, 1, 2] * 2, "no shift at all is the target again"


def test_what_only_perp_neg_reads_is_no_part_of_the_gradient_in_the_figures() -> None:
    """The sample from overhead has no prediction of it: its zeros would be measured as one."""
    latents, drawn = state(2)
    view = torch.zeros(2), torch.tensor([0.0, math.radians(80)])
    got = guidance_of("csd", Distinct(), perp_neg=ON).at(latents, *view, 0.5, drawn, diagnose=True)
    assert "norm/view" in got.diagnostics and "norm/negative" not in got.diagnostics
    weights = {"csd": CSDSettings(negative=-0.5, null=-0.5)}
    read = guidance_of("csd", Distinct(), perp_neg=ON, **weights).at(latents, *view, 0.5, drawn, diagnose=True)
    plain = guidance_of("csd", Distinct(), **weights).at(latents, *view, 0.5, drawn, diagnose=True)
    assert read.diagnostics["norm/negative"] == pytest.approx(plain.diagnostics["norm/negative"])


def test_diagnostics_name_norms_angles_and_the_error_of_every_view() -> None:
    latents, drawn = state(2)
    angle = torch.tensor([0.3, 2.5])
    guidance = guidance_of("asd", Distinct(), perp_neg=ON)
    got = guidance.at(latents, angle, angle * 0, 0.5, drawn, diagnose=True)
    assert {"norm/generation", "norm/classifier", "norm/shift", "norm/view", "guidance"} <= set(got.diagnostics)
    assert all(-1.001 <= v <= 1.001 for k, v in got.diagnostics.items() if k.startswith("cosine/"))
    assert [t for t, _ in got.errors] == drawn.t.tolist() and all(e > 0 for _, e in got.errors)
    assert guidance.at(latents, angle, angle * 0, 0.5, drawn).diagnostics == {}


def test_perp_neg_wants_sectors_by_name_and_numbers_for_its_curves() -> None:
    prompts = ViewPrompts("a cat", sectors=(Sector("all", ""), Sector("front", ", front", (-40, 40))))
    with pytest.raises(SettingsError, match="none named side, back"):
        Guidance(Distinct(), prompts, Settings(perp_neg=ON))  # type: ignore[arg-type]
    handles = Distinct()
    handles.embed = lambda texts: torch.arange(len(texts)).float().reshape(-1, 1, 1)  # type: ignore[method-assign]
    with pytest.raises(SettingsError, match="can be blended"):
        Guidance(handles, ViewPrompts("a cat"), Settings(perp_neg=ON))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="f_sb"):
        PerpNegSettings(f_sb=(1.0, 2.0))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="prior with FreeU"):
        Guidance(Distinct(), ViewPrompts("a cat"), Settings(freeu=replace(Settings().freeu, enabled=True)))  # type: ignore[arg-type]
