"""The distillation methods against identities that follow from their equations; stub predictions in float64."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill3d.errors import SettingsError
from distill3d.methods import (
    METHODS,
    Evaluation,
    GradientSettings,
    create,
    lookup,
    preset,
    process,
    surrogate_loss,
    weight,
)
from distill3d.methods.asd import SHIFTED, ASDSettings, asd, shift
from distill3d.methods.base import NEGATIVE, NULL, TARGET, dot, mgda_weight
from distill3d.methods.csd import CSDSettings, csd
from distill3d.methods.gradient import clean, clip, unit_norm, unit_std
from distill3d.methods.sds import SDSSettings, sds
from distill3d.methods.tbsd import BRIDGE_MODIFIER, TBSDSettings, balance, tbsd, terms
from distill3d.priors.noise_schedule import alpha_sigma, alphas_cumprod
from distill3d.schedules import WINDOWS, Linear

SHAPE = (3, 4, 5, 6)
TNP, GNP = Evaluation("target_negative"), Evaluation("modifier")


def draw(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def same(a: Tensor, b: Tensor, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


W = torch.tensor([0.3, 1.0, 0.7], dtype=torch.float64).reshape(-1, 1, 1, 1)
E_Y, E_0, E_N, E_PLUS, EPS = draw(5)
D_CLS, D_GEN = E_Y - E_0, E_Y - EPS
TIME = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).reshape(-1, 1, 1, 1)
PREDICTIONS = {TARGET: E_Y, NULL: E_0, NEGATIVE: E_N, SHIFTED: E_PLUS, TNP: E_N, GNP: E_PLUS}


class Reads(dict):  # type: ignore[type-arg]
    """Predictions that remember which were read."""

    def __init__(self) -> None:
        super().__init__(PREDICTIONS)
        self.keys_read: set[Evaluation] = set()

    def __getitem__(self, key: Evaluation) -> Tensor:
        self.keys_read.add(key)
        return super().__getitem__(key)


# ---- SDS


@pytest.mark.parametrize("s", [0.0, 1.0, 7.5, 101.0])
def test_1_sds_split_into_generative_and_classifier_term_in_both_conventions(s: float) -> None:
    g = s - 1
    ho_salimans = W * ((1 + g) * E_Y - g * E_0 - EPS)
    same(sds(E_Y, E_0, EPS, W, s), W * (D_GEN + (s - 1) * D_CLS))
    same(sds(E_Y, E_0, EPS, W, s), ho_salimans)


def test_1_sds_without_guidance_is_the_generative_term_and_a_perfect_model_gives_nothing() -> None:
    same(sds(E_Y, E_0, EPS, W, 1.0), W * D_GEN)
    assert not sds(EPS, EPS, EPS, W, 101.0).any()


def test_2_sds_becomes_csd_as_guidance_grows() -> None:
    errors = [(sds(E_Y, E_0, EPS, W, s) / s - W * D_CLS).abs().max().item() for s in (1e2, 1e4, 1e6)]
    assert errors[2] < 1e-5 and errors[1] == pytest.approx(errors[0] / 100, rel=0.05)


def test_2_difference_of_two_guidance_scales_does_not_see_the_noise() -> None:
    same(sds(E_Y, E_0, EPS, W, 20.0) - sds(E_Y, E_0, EPS, W, 7.0), 13 * W * D_CLS)


def test_sds_default_is_dreamfusions_100_in_convention_a() -> None:
    got = create("SDS").gradient(PREDICTIONS, EPS, W, 0.5)
    same(got, W * (E_Y + 100 * (E_Y - E_N) - EPS))


# ---- CSD


def test_3_pure_csd_is_the_condition_direction_and_zero_where_the_prompt_changes_nothing() -> None:
    same(create("CSD").gradient(PREDICTIONS, EPS, W, 0.5), W * D_CLS)
    assert not csd(W, 1, 0, -1, E_Y, None, E_Y).any()


@pytest.mark.parametrize("which", ["plain", "annealed-negative", "refine", "mvdream"])
def test_3_csd_coefficients_sum_to_zero_so_a_common_offset_changes_nothing_but_sds_sees_it(which: str) -> None:
    method = create("CSD", preset("CSD", which).settings)
    moved = {key: e + 5.0 for key, e in PREDICTIONS.items()}
    for i in range(21):
        s = method.settings
        assert s.target(i / 20) + s.negative(i / 20) + s.null(i / 20) == pytest.approx(0, abs=1e-12)
        same(method.gradient(moved, EPS, W, i / 20), method.gradient(PREDICTIONS, EPS, W, i / 20))
    sds_moved = create("SDS").gradient(moved, EPS, W, 0.5)
    same(sds_moved - create("SDS").gradient(PREDICTIONS, EPS, W, 0.5), 5 * W.expand(SHAPE))


@pytest.mark.parametrize(("w1", "w2"), [(1.0, 0.0), (1.0, 1.0), (1.0, 0.4), (2.0, 0.5)])
def test_3_csd_triple_is_the_two_weight_form(w1: float, w2: float) -> None:
    got = csd(W, w1, -w2, w2 - w1, E_Y, E_N, E_0)
    same(got, W * (w1 * (E_Y - E_0) - w2 * (E_N - E_0)))
    if w1 == w2:
        same(got, W * w1 * (E_Y - E_N))


@pytest.mark.parametrize("s", [1.0, 7.5, 101.0])
def test_3_csd_triple_with_noise_reproduces_sds(s: float) -> None:
    same(csd(W, s, 0, 1 - s, E_Y, None, E_0, -1, EPS), sds(E_Y, E_0, EPS, W, s))


def test_4_released_csd_schedules_and_their_skipped_evaluations() -> None:
    nerf, refine = (create("CSD", preset("CSD", which).settings) for which in ("annealed-negative", "refine"))
    for method, progress, c_n, c_0 in [
        (nerf, 0.0, 0, -1), (nerf, 0.25, -0.5, -0.5), (nerf, 0.5, -1, 0), (nerf, 1.0, -1, 0),
        (refine, 0.0, -1, 0), (refine, 0.5, -0.75, -0.25), (refine, 1.0, -0.5, -0.5),
    ]:  # fmt: skip
        same(method.gradient(PREDICTIONS, EPS, W, progress), W * (E_Y + c_n * E_N + c_0 * E_0))
        expected = {TARGET} | ({NEGATIVE} if c_n else set()) | ({NULL} if c_0 else set())
        assert set(method.evaluations(progress)) == expected
        assert method.diagnostics(PREDICTIONS, EPS, progress) == {"c_target": 1, "c_negative": c_n, "c_null": c_0}


def test_4_normalised_csd_has_length_one_and_ignores_the_scale_of_the_model() -> None:
    settings = preset("CSD", "annealed-negative").gradient
    method = create("CSD")
    G = process(method.gradient(PREDICTIONS, EPS, W, 0.0), settings, 0.0)
    scaled = process(method.gradient({k: 37 * e for k, e in PREDICTIONS.items()}, EPS, W, 0.0), settings, 0.0)
    assert G.norm().item() == pytest.approx(1, abs=1e-8)
    same(G, scaled, rtol=1e-7)  # the guard of 1e-8 against an empty gradient


def test_csd_names_a_missing_prediction_and_refuses_all_zero_weights() -> None:
    with pytest.raises(ValueError, match="e_n"):
        csd(W, 1, -1, 0, E_Y, None, None)
    with pytest.raises(ValueError, match="other than 0"):
        csd(W, 0, 0, 0, E_Y, E_N, E_0)
    off = create("CSD", CSDSettings(target=0, null=0))
    assert off.evaluations(0.5) == () and not off.gradient({}, EPS, W, 0.5).any()


# ---- ASD


@pytest.mark.parametrize("s", [1.0, 7.5])
def test_5_asd_without_shift_is_guidance_minus_one_times_csd(s: float) -> None:
    same(asd(E_Y, E_0, E_Y, W, s), (s - 1) * csd(W, 1, 0, -1, E_Y, None, E_0))
    method = create("ASD", ASDSettings(guidance=s, eta=0.0))
    t = torch.tensor([900, 500, 30])
    assert torch.equal(method.shift(t, 20, torch.Generator().manual_seed(0)), t)
    same(method.gradient({TARGET: E_Y, NEGATIVE: E_0, SHIFTED: E_Y}, EPS, W, 0.3), (s - 1) * W * D_CLS)


@pytest.mark.parametrize(
    ("t", "t_min", "dt"),
    [(900, 500, 40), (980, 500, 19), (500, 500, 0), (700, 500, 20), (930, 500, 43), (980, 20, 19), (930, 20, 69),
     (30, 20, 1), (500, 20, 48), (29, 20, 0)],
)  # fmt: skip
def test_6_deterministic_shift_at_eta_a_tenth(t: int, t_min: int, dt: int) -> None:
    assert shift(torch.tensor([t]), t_min, 0.1).item() - t == dt


@given(st.integers(1, 999), st.integers(0, 999), st.floats(0, 1), st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2))
def test_6_shift_is_bounded_never_negative_and_monotone_in_u(t: int, t_min: int, eta: float, us) -> None:
    t_min = min(t, t_min)
    now = torch.tensor([t])
    low, high = (shift(now, t_min, eta, torch.tensor([u], dtype=torch.float64)).item() for u in sorted(us))
    bound = math.floor(min(eta * (t - t_min), 999 - t) + 1e-9)
    assert t <= low <= high <= shift(now, t_min, eta).item() == t + bound <= 999


@pytest.mark.parametrize(("t", "largest"), [(900, 39), (980, 18)])
def test_6_random_shifts_stay_strictly_below_the_deterministic_one_and_reach_it_but_for_one(
    t: int, largest: int
) -> None:
    method = create("ASD")
    t_plus = method.shift(torch.full((20_000,), t), 500, torch.Generator().manual_seed(0))
    counts = torch.bincount(t_plus - t)
    assert len(counts) == largest + 1
    assert (counts - 20_000 / len(counts)).abs().max() < 5 * math.sqrt(20_000 / len(counts))
    again = method.shift(torch.full((20_000,), t), 500, torch.Generator().manual_seed(0))
    assert torch.equal(t_plus, again) and t_plus.dtype == torch.long
    nearest = shift(torch.tensor([t]), 500, 0.1, torch.tensor([1 - 2**-24]))
    assert nearest.item() - t == largest


@pytest.mark.parametrize("s", [1.0, 7.5, 101.0])
def test_7_asd_with_the_noise_as_second_prediction_is_sds(s: float) -> None:
    same(asd(E_Y, E_0, EPS, W, s), sds(E_Y, E_0, EPS, W, s))


def test_7_asd_reads_the_shifted_target_without_guidance() -> None:
    method = create("ASD")
    assert method.evaluations(0.5) == (TARGET, NEGATIVE, SHIFTED) and SHIFTED.shifted
    same(method.gradient(PREDICTIONS, EPS, W, 0.5), W * (E_N + 7.5 * (E_Y - E_N) - E_PLUS))


def test_8_asd_preset_slides_its_window() -> None:
    assert [preset("ASD").window.bounds(p) for p in (0, 0.5, 1)] == [(500, 980), (260, 740), (20, 500)]


# ---- MGDA and TBSD


def test_13_mgda_equal_opposite_parallel_and_orthogonal_gradients() -> None:
    g1, g2 = draw(2, seed=1)
    assert (mgda_weight(g1, g1) == 1).all() and (mgda_weight(g1 * 0, g1 * 0) == 1).all()
    same(mgda_weight(g1, -g1), torch.full((3, 1, 1, 1), 0.5, dtype=torch.float64))
    assert (mgda_weight(g1, 3 * g1) == 1).all()
    assert (mgda_weight(3 * g1, g1) == 0).all()
    across = g2 - dot(g2, g1) / dot(g1, g1) * g1
    same(mgda_weight(g1, across), dot(across, across) / (dot(g1, g1) + dot(across, across)))


@pytest.mark.parametrize("seed", range(5))
def test_13_mgda_gives_the_shortest_combination_a_common_descent_direction_for_each_sample(seed: int) -> None:
    g1, g2 = draw(2, seed)
    g2 = g2 * torch.tensor([0.2, 1.0, 6.0], dtype=torch.float64).reshape(-1, 1, 1, 1) + 0.3 * g1
    lam = mgda_weight(g1, g2)
    G = lam * g1 + (1 - lam) * g2
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for b in range(3):
        alone = mgda_weight(g1[b : b + 1], g2[b : b + 1])
        same(alone, lam[b : b + 1])
        norms = (grid[:, None] * g1[b].flatten() + (1 - grid)[:, None] * g2[b].flatten()).norm(dim=1)
        assert lam[b].item() == pytest.approx(grid[norms.argmin()].item(), abs=6e-4)
    interior = ((lam > 0) & (lam < 1)).flatten()
    assert interior.any()
    square = dot(G, G)
    for g in (g1, g2):
        same(dot(G, g)[interior], square[interior])
        assert (square <= dot(g, g) + 1e-12).all()
        assert (dot(G, g) >= square - 1e-9).all()


def test_13_mgda_on_unit_length_copies_is_one_half_whatever_the_gradients() -> None:
    g1, g2 = draw(2, seed=3)
    unit = [g / dot(g, g).sqrt() for g in (g1, 50 * g2)]
    same(mgda_weight(*unit), torch.full((3, 1, 1, 1), 0.5, dtype=torch.float64))
    same(balance(g1, 50 * g2, 1.0, unit_norm=True), mgda_weight(*unit))


def make_tbsd(**settings) -> object:
    return create("TBSD", TBSDSettings(**settings))


def test_14_tbsd_until_its_start_is_omega_times_csd_with_two_evaluations() -> None:
    method = make_tbsd(start=0.4, omega=7.5)
    for progress in (0.0, 0.2, 0.4):
        assert method.evaluations(progress) == (TARGET, NULL)
        same(method.gradient({TARGET: E_Y, NULL: E_0}, EPS, W, progress), 7.5 * csd(W, 1, 0, -1, E_Y, None, E_0))
    assert method.evaluations(0.41) == (TARGET, NULL, TNP)
    same(tbsd(*terms(E_Y, E_0, E_N, 0.7), W, 1.0, 7.5), 7.5 * W * D_CLS)


def test_14_tbsd_all_texture_is_the_bridge_and_adds_csd_with_a() -> None:
    bridge = W * 7.5 * (E_Y - E_N)
    same(tbsd(*terms(E_Y, E_0, E_N, 0.0), W, 0.0, 7.5), bridge)
    same(tbsd(*terms(E_Y, E_0, E_N, 1.0), W, 0.0, 7.5), bridge + 7.5 * W * D_CLS)


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
def test_14_tbsd_with_an_empty_bridge_source_is_a_multiple_of_csd(a: float, unit_norm: bool) -> None:
    _, g_tex = terms(E_Y, E_0, E_0, a)
    same(g_tex, (1 + a) * D_CLS)
    got = make_tbsd(a=a, unit_norm=unit_norm).gradient({TARGET: E_Y, NULL: E_0, TNP: E_0}, EPS, W, 0.9)
    ratio = got / (W * D_CLS)
    same(ratio, ratio[:, :1, :1, :1].expand(SHAPE))
    assert (ratio >= 7.5 - 1e-9).all() and (ratio <= 7.5 * (1 + a) + 1e-9).all()


def test_14_tbsd_bridges_of_both_sources_differ_by_the_two_sources() -> None:
    bridge_tnp, bridge_gnp = terms(E_Y, E_0, E_N, 0.0)[1], terms(E_Y, E_0, E_PLUS, 0.0)[1]
    same(bridge_tnp - bridge_gnp, E_PLUS - E_N)
    assert make_tbsd(source="modifier").evaluations(0.5)[-1] == GNP


def test_14_tbsd_is_linear_in_omega_and_moves_from_csd_to_mgda() -> None:
    one, three = (make_tbsd(omega=o).gradient(PREDICTIONS, EPS, W, 0.6) for o in (1, 3))
    same(three, 3 * one)
    g_shape, g_tex = terms(E_Y, E_0, E_N, 0.0)
    mgda = mgda_weight(g_shape, g_tex)
    for progress in (0.25, 0.5, 1.0):
        lam = 1 - progress + progress * mgda
        method = make_tbsd(omega=2)
        same(method.gradient(PREDICTIONS, EPS, W, progress), 2 * W * (lam * g_shape + (1 - lam) * g_tex))
        seen = method.diagnostics(PREDICTIONS, EPS, progress)
        assert seen["lambda"] == pytest.approx(lam.mean().item())
        assert seen["shape_norm"] == pytest.approx(D_CLS.flatten(1).norm(dim=1).mean().item())
        assert -1 <= seen["cosine"] <= 1
    assert method.diagnostics(PREDICTIONS, EPS, 0.0)["lambda"] == 1


def test_tbsd_texts_embed_the_target_or_not() -> None:
    texts = make_tbsd().texts("a cube, front view", "ugly")
    assert texts["target_negative"] == f"a cube, front view, {BRIDGE_MODIFIER}" and texts["modifier"] == BRIDGE_MODIFIER
    assert make_tbsd(modifier="").texts("a cube", "ugly")["target_negative"] == "a cube, ugly"
    with pytest.raises(SettingsError, match=r"no modifier and no negative prompt: write some into tbsd\.modifier"):
        make_tbsd(modifier=" ").texts("a cube", "")


# ---- what all methods share


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_every_method_announces_exactly_what_it_reads_and_has_a_text_for_it(name: str, progress: float) -> None:
    for which in lookup(name).method.presets:
        method = create(name, preset(name, which).settings)
        assert method.name == name
        needed = method.evaluations(progress)
        assert len(set(needed)) == len(needed)
        got = method.gradient({key: PREDICTIONS[key] for key in needed}, EPS, W, progress, TIME)
        assert got.shape == SHAPE and got.isfinite().all()
        texts = method.texts("a cube, side view", "blurry")
        assert {key.prompt for key in needed} <= set(texts)
        assert texts["target"].startswith("a cube, side view") and (texts["null"], texts["negative"]) == ("", "blurry")
        for key in needed:
            changed = {k: e + draw(1, 9)[0] if k == key else e for k, e in PREDICTIONS.items()}
            assert not torch.allclose(method.gradient(changed, EPS, W, progress, TIME), got), key


@pytest.mark.parametrize("name", METHODS)
def test_every_gradient_is_linear_in_its_weight_per_sample(name: str) -> None:
    method = create(name)
    one = method.gradient(PREDICTIONS, EPS, torch.ones_like(W), 0.5, TIME)
    same(method.gradient(PREDICTIONS, EPS, W, 0.5, TIME), W * one)


@pytest.mark.parametrize("name", METHODS)
def test_settings_come_back_from_json(name: str) -> None:
    for which in lookup(name).method.presets:
        given_preset = preset(name, which)
        for settings in (given_preset.settings, given_preset.gradient, given_preset.window):
            assert type(settings).from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_registry_errors_list_what_exists() -> None:
    with pytest.raises(SettingsError, match="unknown method 'DDS': expected one of SDS, CSD, ASD, TBSD"):
        create("DDS")
    with pytest.raises(SettingsError, match="plain, annealed-negative, refine"):
        preset("csd", "mine")
    with pytest.raises(SettingsError, match="expected SDSSettings for SDS, got CSDSettings"):
        create("SDS", CSDSettings())
    with pytest.raises(SettingsError, match="guidance, eta, random, t_min, guidance_over, got s"):
        ASDSettings.from_json({"s": 3})
    assert create("tbsd").name == "TBSD"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ASDSettings(eta=2), "eta from 0 to 1"),
        (lambda: TBSDSettings(start=0.5, end=0.5), "start < end"),
        (lambda: TBSDSettings(source="gnp"), "target_negative or modifier"),
        (lambda: SDSSettings(guidance="fast"), "expected a schedule"),  # type: ignore[arg-type]
        (lambda: GradientSettings("snr"), "sds, uniform, fantasia3d"),
        (lambda: GradientSettings(normalise="l2"), "none, norm, std"),
        (lambda: GradientSettings(clip="1->0"), "clip above 0"),  # type: ignore[arg-type]
        (lambda: weight("snr", W, W), "sds, uniform, fantasia3d"),
        (lambda: Evaluation("text"), "prompt kind"),
    ],
)
def test_mistakes_say_what_to_write_instead(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_17_guidance_schedule_ends_exactly_and_a_constant_one_is_the_static_run() -> None:
    moving, start, end = (create("SDS", SDSSettings(guidance=g)) for g in ("100->60", 100, 60))
    for progress, still in ((0.0, start), (1.0, end)):
        assert torch.equal(moving.gradient(PREDICTIONS, EPS, W, progress), still.gradient(PREDICTIONS, EPS, W, 0.5))
    flat = create("SDS", SDSSettings(guidance=Linear(100, 100)))
    assert all(
        torch.equal(flat.gradient(PREDICTIONS, EPS, W, i / 9), start.gradient(PREDICTIONS, EPS, W, 0.5))
        for i in range(10)
    )


def test_17_strength_schedule_does_not_turn_a_csd_direction() -> None:
    settings = GradientSettings(normalise="norm")
    a, b = (
        process(create("CSD", CSDSettings(t, 0, f"{-t}")).gradient(PREDICTIONS, EPS, W, 0.5), settings, 0.5)
        for t in (1, 9)
    )
    same(a, b, rtol=1e-7)


GOLDEN = {
    0: (0.999150, 0.999575, 0.029155, 0.000850, 0.000850),
    20: (0.981314, 0.990613, 0.136695, 0.018686, 0.018510),
    200: (0.753692, 0.868154, 0.496294, 0.246308, 0.213833),
    500: (0.276333, 0.525674, 0.850686, 0.723667, 0.380413),
    800: (0.036870, 0.192015, 0.981392, 0.963130, 0.184935),
    980: (0.005844, 0.076445, 0.997074, 0.994156, 0.075998),
    999: (0.004660, 0.068265, 0.997667, 0.995340, 0.067947),
}


def test_18_weights_and_noise_levels_of_stable_diffusion() -> None:
    abar = alphas_cumprod()
    alpha, sigma = alpha_sigma(abar, torch.tensor(list(GOLDEN)))
    columns = [abar[list(GOLDEN)], alpha, sigma, weight("sds", alpha, sigma), weight("fantasia3d", alpha, sigma)]
    got = torch.stack([c.double().flatten() for c in columns], 1)
    torch.testing.assert_close(got, torch.tensor(list(GOLDEN.values()), dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(weight("fantasia3d", alpha, sigma) / weight("sds", alpha, sigma), alpha)
    assert (weight("uniform", alpha, sigma) == 1).all()


def test_10_loss_gradient_is_g_over_the_batch_exactly_and_its_value_half_the_square() -> None:
    for dtype in (torch.float32, torch.float64):
        latents = (1e4 * draw(1, 4)[0]).to(dtype).requires_grad_()
        G = (1e-3 * EPS).to(dtype).requires_grad_()
        loss = surrogate_loss(latents, G)
        loss.backward()
        assert torch.equal(latents.grad, G.detach() / 3)
        assert G.grad is None
        assert loss.item() == pytest.approx(0.5 * G.square().sum().item() / 3, rel=1e-6)
    with pytest.raises(ValueError, match="shaped as the latents"):
        surrogate_loss(latents, G[:1])


def test_10_loss_agrees_with_threestudios_form_and_reaches_through_an_encoder() -> None:
    image, kernel = draw(1, 5)[0].requires_grad_(), torch.tensor(2.5, dtype=torch.float64)
    (ours,) = torch.autograd.grad(surrogate_loss(kernel * image.sin(), EPS), image)
    latents = kernel * image.sin()
    theirs = 0.5 * torch.nn.functional.mse_loss(latents, (latents - EPS).detach(), reduction="sum") / 3
    same(ours, torch.autograd.grad(theirs, image)[0])
    same(ours, EPS / 3 * kernel * image.detach().cos())


def test_gradient_is_cleaned_then_clipped_then_normalised() -> None:
    G = torch.tensor([math.nan, math.inf, -math.inf, 30.0, -4.0, 0.5]).reshape(1, 1, 2, 3)
    assert clean(G).flatten().tolist() == [0, 0, 0, 30, -4, 0.5]
    assert clip(clean(G), 2.0).flatten().tolist() == [0, 0, 0, 2, -2, 0.5]
    at = [process(G, GradientSettings(clip="2->8"), p).flatten().tolist() for p in (0.0, 0.5, 1.0)]  # type: ignore[arg-type]
    assert [v[3:5] for v in at] == [[2, -2], [5, -4], [8, -4]]
    both = process(G, GradientSettings(clip=2.0, normalise="norm"), 0.0)  # type: ignore[arg-type]
    torch.testing.assert_close(both.flatten(), torch.tensor([0, 0, 0, 2, -2, 0.5]) / math.sqrt(8.25))


def test_normalisers_have_one_norm_for_the_batch_or_one_spread_for_each_channel() -> None:
    G = torch.cat([EPS[:1], 100 * EPS[1:]])
    assert unit_norm(G).norm().item() == pytest.approx(1)
    same(unit_norm(G) * G.norm(), G, rtol=1e-7)
    assert not unit_norm(G * 0).any() and unit_std(G * 0).isfinite().all()
    got = unit_std(G)
    spread = G.flatten(2).std(dim=2)
    same(got, G * (0.9 / spread + 0.1)[..., None, None], rtol=1e-7)
    same(process(G, preset("SDS").gradient, 0.0), G)
    single, flat = torch.full((2, 2, 1, 1), 3.0), torch.full((1, 1, 8, 8), 0.1)
    same(unit_std(single), single)
    same(unit_std(flat), flat)


def test_unknown_window_presets_do_not_hide_in_methods() -> None:
    for name in METHODS:
        for which in lookup(name).method.presets:
            assert preset(name, which).window in WINDOWS.values()
