"""The host's CFG patches, schedules over timesteps and Perp-Neg through the host prior, against sums by hand."""

from __future__ import annotations

import importlib
import math
import random
from types import ModuleType
from typing import Any

import fake_host
import pytest
import torch
from nodes_kit import get, loss, model
from torch import Tensor
from waits_kit import Waits, watch

SHAPE = (4, 6, 6)
WORDS = {"front": 0.9, "side": -0.4, "back": 0.5, "overhead": 0.1, "": 0.0}
SCALE, MULTIPLIER = 7.5, 0.7


def vector(text: str) -> Tensor:
    """Each text's embedding, ``(4,)``."""
    name = next((name for name in WORDS if name and name in text), "")
    return torch.tensor([1.0, -0.5, 0.3, 2.0]) * WORDS[name] + torch.arange(4) * (0.2 if name else -0.1)


def dream(x: Tensor, s: float, text: Tensor) -> Tensor:
    """x0 of one sample ``(4, 6, 6)``: not linear in anything, so that a wrong text or timestep shows."""
    place = torch.linspace(0, 3, 36).reshape(6, 6)
    return torch.tanh(text.reshape(4, 1, 1) * torch.cos(place * (1 + text[0])) + 0.2 * x / (1 + s))


class Dreamer(fake_host.Base):
    def answer(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        return torch.stack([dream(x[i], float(sigma[i]), text[i, 0]) for i in range(len(x))])


def rescale(arguments: dict[str, Any]) -> Tensor:
    """RescaleCFG in x0, as a patch after guidance."""
    guided, positive = arguments["denoised"], arguments["cond_denoised"]
    ratio = positive.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return MULTIPLIER * guided * ratio + (1 - MULTIPLIER) * guided


def noised(z: Tensor, eps: Tensor, s: float) -> Tensor:
    return z + s * eps


def guidance(settings: Any, *, patched: bool, max_batch: int | None = None, adapter: bool = False) -> Any:
    """The library's guidance over the host prior, wired as a run wires them."""
    run, guide = get("host.run"), get("host.guidance")
    prompts = importlib.import_module("pack.distill3d.prompts")
    views = prompts.ViewPrompts("an owl", "", prompts.DEFAULT_SECTORS)
    options: dict[str, Any] = {"sampler_post_cfg_function": [rescale]} if patched else {}
    if adapter:
        options["transformer_options"] = {"patches_replace": {"attn2": {("input", 1): len}}}
    conds = {
        text: [{"model_conds": {"c_crossattn": fake_host.Cond(vector(text).reshape(1, 1, 4))}, "uuid": text}]
        for text in run.texts_of(views, settings)
    }
    base = Dreamer({"x": torch.zeros(SHAPE)}, fake_host.EPS())
    prior = get("host.prior").HostPrior(
        base, conds, options, None, None, device=torch.device("cpu"), image_size=12, latent_shape=SHAPE,
        fingerprint="x", describe={}, positive=run.positive_of(views, settings),
    )  # fmt: skip
    prior.max_batch = max_batch
    made = importlib.import_module("pack.distill3d.optimize.guidance").Guidance(prior, views, settings)
    own = made.method.settings
    prior.guide = guide.make_guide(base, options, guide.scale_of(own, lambda: 0.5, prior.T))
    return made


def settings_of(method: str, plan: Any = None, **perp_neg: Any) -> Any:
    made = get("settings").assemble(loss(method, cfg=plan, perp_neg=perp_neg), "draft", bundled=False)
    return made


def drawn(eps: Tensor, t: list[int], plus: list[int]) -> Any:
    draw = importlib.import_module("pack.distill3d.optimize.guidance").Draw
    return draw(torch.tensor(t), torch.tensor(plus), eps)


def numbers(count: int) -> tuple[Tensor, Tensor]:
    z, eps = torch.randn(2, count, *SHAPE, generator=torch.Generator().manual_seed(3)).unbind()
    return z, eps


def flat(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def by_hand(z: Tensor, eps: Tensor, t: int, text: Tensor, avoid: list[tuple[Tensor, float]], patched: bool) -> Tensor:
    """SDS of one sample with RescaleCFG and Perp-Neg, from the definitions."""
    s = float(fake_host.EPS.sigmas[t])
    x = noised(z, eps, s)
    clean_y, clean_0 = dream(x, s, text), dream(x, s, vector(""))
    if patched:
        guided = clean_0 + SCALE * (clean_y - clean_0)
        guided = MULTIPLIER * guided * clean_y.std() / guided.std() + (1 - MULTIPLIER) * guided
        clean_y = clean_0 + (guided - clean_0) / SCALE
    noise_y, noise_0 = (x - clean_y) / s, (x - clean_0) / s
    direction = noise_y - noise_0
    push = torch.zeros(SHAPE)
    for wrong, weight in avoid:
        v = (x - dream(x, s, wrong)) / s - noise_0
        push += weight * (v - flat(v, direction) / flat(direction, direction) * direction)
    return s**2 / (1 + s**2) * (noise_0 + SCALE * (direction + push) - eps)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("max_batch", [None, 1, 3])
def test_perp_neg_and_a_cfg_patch_together_are_the_sum_by_hand(
    pack: ModuleType, patched: bool, max_batch: int | None
) -> None:
    """One view between front and side, which has wrong views, and one from overhead, which has none."""
    schedules = importlib.import_module("pack.distill3d.schedules")
    settings = settings_of("SDS", get("types").Plan(schedules.Constant(SCALE)), perp_neg="on", strength="1.5")
    assert settings.perp_neg.enabled and settings.perp_neg.strength(0) == 1.5
    z, eps = numbers(2)
    got = guidance(settings, patched=patched, max_batch=max_batch).at(
        z, torch.tensor([math.radians(30), 0.0]), torch.tensor([0.0, math.radians(80)]), 0.5,
        drawn(eps, [40, 70], [40, 70]),
    )  # fmt: skip
    assert got.evaluations == 2 + 2 + 1 + 1
    share = 1 - 30 / 90
    blend = share * vector("front") + (1 - share) * vector("side")
    weights = [-1.5 * (4 * math.exp(-0.5 * r) - 2.426) for r in (share, 1 - share)]
    avoid = [(vector("front"), weights[0]), (vector("side"), weights[1])]
    torch.testing.assert_close(got.gradient[0], by_hand(z[0], eps[0], 40, blend, avoid, patched), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        got.gradient[1], by_hand(z[1], eps[1], 70, vector("overhead"), [], patched), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("shift", [0, 5])
def test_a_cfg_patch_leaves_alone_what_is_not_guided(pack: ModuleType, shift: int) -> None:
    """ASD's second prediction, which shares the target's row where the shift is 0, and the figures about the model."""
    schedules = importlib.import_module("pack.distill3d.schedules")
    settings = settings_of("ASD", get("types").Plan(schedules.Constant(SCALE)))
    z, eps = numbers(1)
    at = torch.zeros(1), torch.zeros(1), 0.5, drawn(eps, [40], [40 + shift])
    got = guidance(settings, patched=True).at(z, *at, diagnose=True)
    assert got.evaluations == (3 if shift else 2)
    s, later = (float(fake_host.EPS.sigmas[t]) for t in (40, 40 + shift))
    x, x_later = noised(z[0], eps[0], s), noised(z[0], eps[0], later)
    second = (x_later - dream(x_later, later, vector("front"))) / later
    guided = by_hand(z[0], eps[0], 40, vector("front"), [], patched=True) + s**2 / (1 + s**2) * eps[0]
    torch.testing.assert_close(got.gradient[0], guided - s**2 / (1 + s**2) * second, rtol=1e-4, atol=1e-4)
    error = ((x - dream(x, s, vector("front"))) / s - eps[0]).square().mean()
    assert got.errors[0][1] == pytest.approx(float(error), rel=1e-4)
    plain = guidance(settings, patched=False).at(z, *at, diagnose=True)
    assert got.diagnostics == pytest.approx(plain.diagnostics, rel=1e-5)


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("method", ["SDS", "ASD", "NFSD"])
def test_a_schedule_over_timesteps_gives_each_sample_its_own_scale(
    pack: ModuleType, method: str, patched: bool
) -> None:
    """The same as two runs, each with the constant scale of one sample, in that sample."""
    types, schedules = get("types"), importlib.import_module("pack.distill3d.schedules")
    z, eps = numbers(2)
    at = drawn(eps, [10, 90], [15, 95])
    view = torch.zeros(2), torch.zeros(2)
    over = settings_of(method, types.Plan(schedules.Linear(2, 12), "timesteps"))
    got = guidance(over, patched=patched).at(z, *view, 0.5, at).gradient
    for i, t in enumerate((10, 90)):
        constant = settings_of(method, types.Plan(schedules.Constant(2 + 10 * t / 100)))
        one = guidance(constant, patched=patched).at(z, *view, 0.5, at).gradient
        torch.testing.assert_close(got[i], one[i], rtol=1e-4, atol=1e-4)
    assert (got[0] - one[0]).abs().max() > 1e-3


def test_samples_of_a_step_are_told_apart_whatever_follows_them(pack: ModuleType) -> None:
    prior = get("host.prior")
    x, other = torch.randn(2, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    s = torch.tensor([1.0, 2.0])

    def blocks(x: Tensor, s: Tensor) -> int:
        return prior._blocks(prior._equal(x, s, None), len(x))

    def views(x: Tensor, s: Tensor) -> int:
        return prior._views(prior._equal(x, s, None), len(x))

    assert blocks(torch.cat([x, x, x]), s.repeat(3)) == 3
    assert blocks(torch.cat([x, x, other]), s.repeat(3)) == 1
    for rows in ([x, x], [x, x, x, x], [x, x, other], [x, x, x[1:]], [x, x, other, x[:1], x[:1]], [x, x, x[:1], x[:1]]):
        batch = torch.cat(rows)
        levels = torch.where((batch == x[1]).flatten(1).all(1), 2.0, 1.0)
        assert views(batch, levels) == 2, [len(r) for r in rows]
    assert views(x, s) == 0 and views(torch.cat([x, other]), s.repeat(2)) == 0
    assert views(torch.cat([x, x]), torch.tensor([1.0, 2.0, 1.0, 3.0])) == 0


def test_known_samples_say_what_comparing_latents_says(pack: ModuleType) -> None:
    prior, draw = get("host.prior"), random.Random(2)
    found = set()
    for _ in range(300):
        count = draw.randint(1, 3)
        rows = [(i, 10 * draw.randint(0, 1)) for i in range(count)] * draw.randint(1, 3)
        rows += draw.sample([*rows, *((i, t + 5) for i, t in rows[:count])] * 2, draw.randint(0, count))
        if draw.random() < 0.3:
            rows = [*rows[:count], *((i, t + 5) for i, t in rows[:count])]
        eps = torch.randn(count, 4, 2, 2, generator=torch.Generator().manual_seed(len(rows)))
        x = torch.stack([(1 + t) * eps[i] for i, t in rows])
        s = torch.tensor([float(t) for _, t in rows])
        answers = [
            (prior._blocks(equal, len(x)), prior._views(equal, len(x)))
            for equal in (prior._equal(x, s, None), prior._equal(x, s, rows))
        ]
        assert answers[0] == answers[1], rows
        found.add(answers[0])
    assert len(found) > 6


class Quick(fake_host.Base):
    """Answers without looking at a number of the device."""

    def answer(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        return torch.tanh(x / (1 + sigma.reshape(-1, 1, 1, 1)) + text.mean((1, 2)).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("max_batch", [None, 2])
@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("over", ["iterations", "timesteps"])
def test_the_host_s_model_is_asked_without_waiting(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, max_batch: int | None, patched: bool, over: str
) -> None:
    types, schedules = get("types"), importlib.import_module("pack.distill3d.schedules")
    settings = settings_of("ASD", types.Plan(schedules.Linear(9, 5), over), perp_neg="on", strength="1.5")
    made = guidance(settings, patched=patched, max_batch=max_batch)
    made.prior._model = Quick({"x": torch.zeros(SHAPE)}, fake_host.EPS())
    z, eps = numbers(2)
    call = (z, torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.4]), 0.5, drawn(eps, [40, 70], [42, 77]))
    before = made.at(*call).gradient
    monkeypatch.setattr(type(made.prior), "_looks", lambda self: False)
    # evaluations uploads nothing to the device here: the handles of texts are on the host
    names = ("optimize.guidance", "methods.base", "methods.nfsd", "methods.tbsd")
    modules = [importlib.import_module(f"pack.distill3d.{name}") for name in names] + [get("host.prior")]
    waits = Waits(z, eps)
    with monkeypatch.context() as patch:
        watch(waits, patch, modules)
        with waits:
            after = made.at(*call).gradient
    assert waits.places == [] and after in waits.marked and torch.equal(after, before)
    monkeypatch.setattr(type(made.prior), "takes_samples", False)
    assert torch.equal(made.at(*call).gradient, before), "rows that are compared give the same"


@pytest.mark.parametrize("max_batch", [None, 1, 3])
@pytest.mark.parametrize("perp_neg", [{"perp_neg": "on", "strength": "1.5"}, {}], ids=["perp-neg", "plain"])
@pytest.mark.parametrize("method", ["SDS", "CSD", "ASD", "NFSD"])
def test_patches_that_tell_positive_from_negative_see_each_row_in_its_place(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, method: str, perp_neg: dict[str, str], max_batch: int | None
) -> None:
    """As an image adapter does, which adds its picture in one place and not in the other."""
    settings = settings_of(method, **perp_neg)
    seen: list[tuple[bool, bool]] = []
    real = fake_host.calc_cond_batch

    def places(model: Any, conds: list[Any], x: Tensor, s: Tensor, options: Any) -> list[Tensor]:
        assert len(conds) <= 2, "such a patch knows two places"
        for place, cond in enumerate(conds):
            for text in cond[0]["model_conds"]["c_crossattn"].cond.reshape(-1, 4) if cond is not None else ():
                made = [torch.equal(text, vector(side)) for side in ("front", "side", "back", "overhead")]
                blend = not any(made) and any(float(text @ vector(side)) > 0.1 for side in ("front", "side"))
                seen.append((any(made) or blend, place == 0))
        kept = [cond for cond in conds if cond is not None]
        answers = iter(real(model, kept, x, s, options))
        return [torch.zeros_like(x) if cond is None else next(answers) for cond in conds]

    z, eps = numbers(2)
    call = (z, torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.4]), 0.5, drawn(eps, [40, 70], [42, 77]))
    plain = guidance(settings, patched=False, max_batch=max_batch)
    expected = plain.at(*call).gradient
    monkeypatch.setattr(get("host.prior").comfy.samplers, "calc_cond_batch", places)
    made = guidance(settings, patched=False, max_batch=max_batch, adapter=True)
    torch.testing.assert_close(made.at(*call).gradient, expected, rtol=1e-5, atol=1e-6)
    assert {positive for positive, _ in seen} == {True, False}
    assert all(positive == first for positive, first in seen)


def test_a_patch_that_cannot_act_is_never_skipped_in_silence(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    types, schedules = get("types"), importlib.import_module("pack.distill3d.schedules")
    patcher = model()

    def unused(made: Any) -> str:
        return str(get("settings").unused(made, get("settings").assemble(made, "draft", bundled=False), bundled=False))

    for method in ("SDS", "CSD"):
        assert unused(loss(method, patcher=patcher)) == ""
    patcher.model_options["sampler_post_cfg_function"] = [rescale]
    for method in ("SDS", "ASD", "NFSD"):
        assert unused(loss(method, patcher=patcher)) == ""
    for method in ("CSD", "TBSD", "BRIDGE", "BSD"):
        assert "RescaleCFG" in unused(loss(method, patcher=patcher))
    plan = types.Plan(schedules.Constant(5), "timesteps")
    assert "over timesteps: the CFG schedule is not used" in unused(loss("BRIDGE", cfg=plan))
    assert unused(loss("BRIDGE", cfg=types.Plan(schedules.Constant(5)))) == ""
    made = guidance(settings_of("SDS"), patched=True)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    text = made.prior.embed([""]).expand(2, -1, -1)
    with pytest.raises(errors.PriorError, match="take the patch off"):
        made.prior.predict_guided(x, torch.tensor([4, 5]), text)


def test_strengths_that_are_known_to_do_harm_are_told(pack: ModuleType) -> None:
    types, parse = get("types"), importlib.import_module("pack.distill3d.schedules").parse
    strengths = get("settings").strengths

    def plan(text: str) -> Any:
        return types.Plan(parse(text), "iterations")

    assert strengths(loss(cfg=plan("7.5->2.5")), bundled=True) == []
    (high,) = strengths(loss(cfg=plan("100->60")), bundled=True)
    assert "CFG rises to 100" in high
    made = loss(cfg=plan("100->60"))
    settings = get("settings").assemble(made, "draft", bundled=True)
    assert high in get("settings").unused(made, settings, bundled=True)
    assert strengths(loss(cfg=plan("100->60")), bundled=False) == []
    assert strengths(loss("CSD", cfg=plan("100->60")), bundled=True) == [], "a schedule that CSD does not take"
    (low,) = strengths(loss(cfg=plan("piecewise(0:5, 0.004:-5, 0.008:5)")), bundled=False)
    assert "CFG falls to -5" in low
    (harm,) = strengths(loss(perp_neg={"perp_neg": "on"}), bundled=True)
    assert "perp_neg" in harm and strengths(loss(perp_neg={"perp_neg": "on"}), bundled=False) == []
