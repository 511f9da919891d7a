"""NFSD, SDS-Bridge, BSD, and the readings of TBSD and ASD that are switched by settings; stub predictions in float64.

Every identity is one of an equation with another; ``mutations.py`` breaks each formula and sees a test here fail.
"""

from __future__ import annotations

import pytest
import torch
from test_methods import D_CLS, E_0, E_N, E_PLUS, E_Y, EPS, GNP, PREDICTIONS, TIME, TNP, W, same

from distill3d.errors import SettingsError
from distill3d.methods import create, preset
from distill3d.methods.asd import SHIFTED, ASDSettings
from distill3d.methods.base import NEGATIVE, NULL, PERP, TARGET, dot, mgda_weight
from distill3d.methods.bridge import BridgeSettings, bridge
from distill3d.methods.bsd import BSDSettings, bsd
from distill3d.methods.csd import csd
from distill3d.methods.nfsd import NFSD_NEGATIVE, NFSDSettings, nfsd
from distill3d.methods.perp_neg import PerpNegSettings
from distill3d.methods.sds import SDSSettings, sds
from distill3d.methods.tbsd import BRIDGE_MODIFIER, TBSDSettings
from distill3d.methods.weights import weight
from distill3d.optimize import presets
from distill3d.schedules import Constant, Linear

LOW = (TIME < 0.2).expand(3, 1, 1, 1)


# ---- NFSD


def test_12_nfsd_at_low_noise_is_the_guided_prediction_without_the_noise() -> None:
    everywhere = torch.ones_like(W, dtype=torch.bool)
    same(nfsd(E_Y, E_0, E_N, W, 7.5, everywhere), W * (E_0 + 7.5 * (E_Y - E_0)))


def test_12_nfsd_above_is_s_times_csd_when_poor_pictures_are_the_empty_prompt() -> None:
    nowhere = torch.zeros_like(W, dtype=torch.bool)
    same(nfsd(E_Y, E_0, E_0, W, 7.5, nowhere), 7.5 * csd(W, 1, 0, -1, E_Y, None, E_0))
    same(nfsd(E_Y, E_0, E_N, W, 7.5, nowhere), W * (E_0 - E_N + 7.5 * D_CLS))


def test_nfsd_takes_its_branch_for_each_sample_and_saves_the_evaluation_at_low_noise() -> None:
    method = create("NFSD")
    got = method.gradient(PREDICTIONS, EPS, W, 0.5, TIME)
    same(got, nfsd(E_Y, E_0, PREDICTIONS[GNP], W, 7.5, LOW))
    assert method.evaluations(0.5) == (TARGET, NULL, GNP)
    assert method.needed(GNP, torch.tensor([0.199, 0.2, 0.201])).tolist() == [False, True, True]
    assert method.needed(TARGET, TIME) is None
    assert method.texts("a cube", "ugly")["modifier"] == NFSD_NEGATIVE
    assert not torch.equal(got, method.gradient({**PREDICTIONS, GNP: E_N}, EPS, W, 0.5, TIME))


# ---- SDS-Bridge


def test_12_bridge_from_the_empty_prompt_is_k_times_csd_and_from_the_target_nothing() -> None:
    same(bridge(E_Y, E_0, W, 40.0), 40 * csd(W, 1, 0, -1, E_Y, None, E_0))
    assert not bridge(E_Y, E_Y, W, 40.0).any()


def test_bridge_is_sds_until_its_switch_and_then_leaves_the_source() -> None:
    method = create("BRIDGE")
    assert method.evaluations(0.49) == (TARGET, NULL) and method.evaluations(0.5) == (TARGET, TNP)
    same(method.gradient(PREDICTIONS, EPS, W, 0.49), sds(E_Y, E_0, EPS, W, 40.0))
    same(method.gradient(PREDICTIONS, EPS, W, 0.5), W * 40 * (E_Y - E_N))
    plain = create("BRIDGE", preset("BRIDGE", "published-3d").settings)
    same(plain.gradient(PREDICTIONS, EPS, W, 0.8), E_Y - E_N)
    same(plain.gradient(PREDICTIONS, EPS, W, 0.79), sds(E_Y, E_0, EPS, W, 100.0))
    alone = create("BRIDGE", BridgeSettings(source="modifier"))
    same(alone.gradient(PREDICTIONS, EPS, W, 0.9), W * 40 * (E_Y - E_PLUS))


def test_bridge_texts_name_the_target_and_the_source() -> None:
    texts = create("BRIDGE").texts("a cube, front view", "ugly")
    assert texts["target"] == "a cube, front view, detailed high resolution, high quality, sharp"
    assert texts["target_negative"] == f"a cube, front view, {BRIDGE_MODIFIER}"
    released = preset("BRIDGE", "published-3d").settings
    assert create("BRIDGE", released).texts("a cube", "")["target"] == "a cube, ."
    given = create("BRIDGE", BridgeSettings(given="a toy of {prompt}, blurry", modifier="", target=""))
    assert given.texts("a cube", "")["target_negative"] == "a toy of a cube, blurry"
    assert given.texts("a cube", "")["target"] == "a cube"


# ---- BSD


def test_13_bsd_takes_the_shortest_combination_of_both_terms() -> None:
    g1, g2 = 15 * D_CLS, E_0
    got = create("BSD").gradient(PREDICTIONS, EPS, torch.ones_like(W), 0.5)
    same(got, bsd(g1, g2, torch.ones_like(W)))
    for share in torch.linspace(0, 1, 101, dtype=torch.float64):
        mixed = share * g1 + (1 - share) * g2
        assert (dot(got, got) <= dot(mixed, mixed) + 1e-9).all()
    same(bsd(g1, g1, W), W * g1)


def test_bsd_weighs_by_alpha_and_its_2d_preset_scales_both_terms() -> None:
    source = preset("BSD", "published-2d")
    alpha, sigma = torch.tensor([0.8]), torch.tensor([0.6])
    assert weight(source.gradient.weighting, alpha, sigma) == alpha
    got = create("BSD", source.settings).gradient(PREDICTIONS, EPS, W, 0.5)
    lam = mgda_weight(D_CLS, 0.018 * E_0)
    same(got, W * (lam * D_CLS + (1 - lam) * 0.018 * E_0))


def test_13_bsd_auto_leaves_the_noise_out_and_is_as_long_as_what_was_left() -> None:
    """Against the authors' lines written out for one sample at a time."""
    source = preset("BSD", "published-auto")
    method = create("BSD", source.settings)
    sigma = W.sqrt()
    got = method.gradient(PREDICTIONS, EPS, weight(source.gradient.weighting, (1 - W).sqrt(), sigma), 0.5)
    for i in range(len(EPS)):
        residual = (E_0[i] - EPS[i]).flatten()
        g1, g2 = D_CLS[i].flatten(), 1.25 * residual
        a = min(max(float((g2 - g1) @ g2 / ((g2 - g1) @ (g2 - g1))), 0.0), 1.0)
        expected = residual.norm() * sigma[i].flatten() / 50 * (a * g1 + (1 - a) * g2)
        same(got[i].flatten(), expected)
    figures = method.diagnostics(PREDICTIONS, EPS, 0.5)
    assert figures["denoise_norm"] == pytest.approx(1.25 * float((E_0 - EPS).flatten(1).norm(dim=1).mean()))


# ---- TBSD's other readings


def make(**settings) -> object:
    return create("TBSD", TBSDSettings(**settings))


def test_14_tbsd_over_the_timestep_is_csd_at_high_noise_and_mgda_at_low_noise() -> None:
    method = make(time="timestep", start=0.2, end=0.8)
    times = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64).reshape(-1, 1, 1, 1)
    g_tex, lam = E_Y - E_N, mgda_weight(D_CLS, E_Y - E_N)
    p = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    weight_of_shape = (1 - p) + p * lam
    expected = 7.5 * W * (weight_of_shape * D_CLS + (1 - weight_of_shape) * g_tex)
    for progress in (0.0, 1.0):
        same(method.gradient(PREDICTIONS, EPS, W, progress, times), expected)
    assert method.needed(TNP, times.flatten()).tolist() == [False, True, True]
    left_out = {**PREDICTIONS, TNP: torch.where(torch.arange(3).reshape(-1, 1, 1, 1) == 0, 0.0, E_N)}
    same(method.gradient(left_out, EPS, W, 0.5, times), expected)


def test_14_tbsd_with_a_fixed_weight_and_a_decaying_a_is_the_third_reading() -> None:
    method = make(weight=0.25, a="1->0")
    for progress, a in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        got = method.gradient(PREDICTIONS, EPS, W, progress, TIME)
        if progress == 0:
            same(got, 7.5 * W * D_CLS)  # the opening: texture has not begun
            continue
        same(got, 7.5 * W * (0.25 * D_CLS + 0.75 * (E_Y - E_N + a * D_CLS)))
    assert make(weight=1.0).evaluations(0.7) == (TARGET, NULL)


def test_14_tbsd_opening_with_sds_and_scaled_shape_term() -> None:
    method = make(start=0.3, opening="sds", omega=20)
    same(method.gradient(PREDICTIONS, EPS, W, 0.3, TIME), sds(E_Y, E_0, EPS, W, 20.0))
    same(method.gradient(PREDICTIONS, EPS, W, 0.9, TIME), make(start=0.3, omega=20).gradient(PREDICTIONS, EPS, W, 0.9))
    lam = mgda_weight(3 * D_CLS, E_Y - E_N)
    same(make(kappa=3.0).gradient(PREDICTIONS, EPS, W, 1.0), 7.5 * W * (lam * 3 * D_CLS + (1 - lam) * (E_Y - E_N)))


def test_tbsd_reports_the_texture_term_of_samples_that_have_one() -> None:
    """Samples before the start have no source prediction: zeros stand in it, which are no texture."""
    method, time = make(time="timestep", start=0.5), torch.tensor([0.9, 0.2, 0.7], dtype=TIME.dtype).reshape(3, 1, 1, 1)
    e = {**PREDICTIONS, TNP: torch.where(time < 0.5, PREDICTIONS[TNP], 0.0)}
    shape, texture = D_CLS, E_Y - PREDICTIONS[TNP]
    norms = [dot(g, g).sqrt().flatten() for g in (shape, texture)]
    got = method.diagnostics(e, EPS, 0.5, time)
    assert got["texture_norm"] == pytest.approx(float((norms[0][0] + norms[1][1] + norms[0][2]) / 3))
    cosine = float(dot(shape, texture)[1] / (norms[0][1] * norms[1][1]))
    assert got["cosine"] == pytest.approx((2 + cosine) / 3)
    for gradient in (make(time="timestep", start=0.5, weight=0.0), method):
        same(gradient.gradient(e, EPS, W, 0.5, time)[[0, 2]], 7.5 * (W * D_CLS)[[0, 2]])


def test_14_tbsd_with_the_negative_prompt_given_whole() -> None:
    texts = make(given="a plastic {prompt}", modifier="").texts("cube, side view", "")
    assert texts["target_negative"] == "a plastic cube, side view"


# ---- ASD's constant, guidance over timesteps, Perp-Neg inside the methods


def test_6_asd_with_the_papers_constant_shifts_further_than_with_the_window() -> None:
    t = torch.tensor([900])
    by_window, by_constant = (
        create("ASD", ASDSettings(random=False, t_min=t_min)).shift(t, 500, torch.Generator()).item() - 900
        for t_min in (None, 0.02)
    )
    assert (by_window, by_constant) == (40, 88)


@pytest.mark.parametrize("name", ["SDS", "ASD", "NFSD"])
def test_17_guidance_over_timesteps_reads_each_samples_own_and_a_constant_one_changes_nothing(name: str) -> None:
    settings = type(create(name).settings)
    moving = create(name, settings(guidance=Linear(10, 20), guidance_over="timesteps"))
    got = moving.gradient(PREDICTIONS, EPS, W, 0.9, TIME)
    for i, s in enumerate((11.0, 15.0, 19.0)):
        still = create(name, settings(guidance=Constant(s))).gradient(PREDICTIONS, EPS, W, 0.0, TIME)
        same(got[i], still[i])
    flat = create(name, settings(guidance=Constant(7.0), guidance_over="timesteps"))
    plain = create(name, settings(guidance=Constant(7.0)))
    assert torch.equal(flat.gradient(PREDICTIONS, EPS, W, 0.3, TIME), plain.gradient(PREDICTIONS, EPS, W, 0.3, TIME))
    assert flat.diagnostics(PREDICTIONS, EPS, 0.3, TIME)["guidance"] == pytest.approx(7)


def test_15_perp_neg_adds_w_s_accum_to_guided_terms_and_w_accum_to_csd() -> None:
    accum = EPS * 0.1
    e = {**PREDICTIONS, PERP: accum}
    for name, scale in (("SDS", 101.0), ("ASD", 7.5), ("CSD", 1.0), ("NFSD", 7.5)):
        method = create(name)
        same(method.gradient(e, EPS, W, 0.5, TIME) - method.gradient(PREDICTIONS, EPS, W, 0.5, TIME), W * scale * accum)
    still = create("ASD", ASDSettings(eta=0.0))
    same(still.gradient(e | {SHIFTED: E_Y}, EPS, W, 0.5), W * (E_N + 7.5 * (E_Y + accum - E_N) - E_Y))
    assert create("CSD").reference(0.0) == NEGATIVE and create("TBSD").reference(0.0) == NULL


@pytest.mark.parametrize(
    ("make_one", "says"),
    [
        (lambda: ASDSettings(t_min=1.0), "t_min"),
        (lambda: SDSSettings(guidance_over="steps"), "iterations or timesteps"),
        (lambda: NFSDSettings(low=2), "low as a share"),
        (lambda: NFSDSettings(negative=" "), "poor pictures"),
        (lambda: BridgeSettings(switch=-1), "switch"),
        (lambda: BridgeSettings(source="x"), "target_negative or modifier"),
        (lambda: BSDSettings(denoise=0), "denoise above 0"),
        (lambda: TBSDSettings(time="t"), "iteration or timestep"),
        (lambda: TBSDSettings(opening="vsd"), "csd or sds"),
        (lambda: TBSDSettings(opening="sds"), "start above 0"),
        (lambda: TBSDSettings(given="a plastic {prompt}", source="modifier"), "given with source target_negative only"),
        (lambda: TBSDSettings.from_json({"given": 3}), "TBSDSettings such as"),
        (lambda: ASDSettings.from_json({"eta": 2}), "^expected eta from 0 to 1, got 2"),
        (lambda: PerpNegSettings(f_sb="abc"), "f_sb as three numbers"),  # type: ignore[arg-type]
        (lambda: PerpNegSettings(f_fs=None), "f_fs as three numbers"),  # type: ignore[arg-type]
        (lambda: ASDSettings.from_json({"eta": "0.1"}), "ASDSettings such as .* got {'eta': '0.1'}"),
        (lambda: BridgeSettings(given="blurry", source="modifier"), "given with source target_negative only"),
        (lambda: TBSDSettings(kappa=0), "kappa"),
        (lambda: TBSDSettings(weight="0->2"), "from 0 to 1"),
    ],
)
def test_mistakes_say_what_to_write_instead(make_one, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_one()


@pytest.mark.parametrize("name", ["draft", "standard", "fine"])
def test_a_run_on_stable_diffusion_takes_the_bridge_that_was_published_for_3d(name: str) -> None:
    made = presets.preset(name, "bridge", bundled=False)
    assert (made.bridge.guidance, made.bridge.k, made.bridge.switch) == (Constant(100.0), Constant(1.0), 0.8)
    assert not made.bridge.weighted
    assert made.window.maximum(0.1) == 0.98 and made.window.maximum(0.3) == 0.5
