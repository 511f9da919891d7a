"""What a user is told of choices that do nothing: against the gradients themselves, on a real model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill3d.errors import SettingsError
from distill3d.methods import METHODS
from distill3d.methods import preset as published
from distill3d.methods.asd import ASDSettings
from distill3d.methods.bridge import BridgeSettings
from distill3d.methods.bsd import BSDSettings
from distill3d.methods.csd import CSDSettings
from distill3d.methods.perp_neg import PerpNegSettings
from distill3d.methods.tbsd import TBSDSettings
from distill3d.optimize import Settings, preset, remarks
from distill3d.optimize.guidance import Draw, Guidance
from distill3d.priors.load import load_prior
from distill3d.prompts import DEFAULT_SECTORS, ViewPrompts
from distill3d.schedules import Constant, Cosine, Linear

NEGATIVE = "blurry, gloomy"
PUSHED = Settings(perp_neg=PerpNegSettings(enabled=True))
CASES: Mapping[str, Settings] = {
    **{name: preset("draft", name.lower(), bundled=False) for name in METHODS},
    "CSD with a negative weight": Settings(method="csd", csd=published("csd", "annealed-negative").settings),
    "CSD with Perp-Neg": replace(PUSHED, method="csd"),
    "TBSD with Perp-Neg": replace(PUSHED, method="tbsd"),
    "TBSD from the negative prompt": Settings(method="tbsd", tbsd=TBSDSettings(modifier="")),
    "TBSD from the negative prompt, shape alone": Settings(
        method="tbsd", tbsd=TBSDSettings(modifier="", weight=Constant(1.0))
    ),
    "SDS-Bridge from the negative prompt": Settings(method="bridge", bridge=BridgeSettings(modifier="")),
    "SDS-Bridge in its first stage": Settings(method="bridge", bridge=BridgeSettings(modifier="", switch=1.0)),
    "CSD with a Perp-Neg that does not push": Settings(
        method="csd", perp_neg=PerpNegSettings(enabled=True, strength=Constant(0.0))
    ),
    "ASD without a shift": Settings(method="asd", asd=ASDSettings(eta=0.0)),
}


@pytest.fixture(scope="module")
def prior(tiny_pipeline: Path) -> Any:
    return load_prior(tiny_pipeline, device="cpu", dtype="fp32")


def gradient(prior: Any, settings: Settings, negative: str, progress: float) -> torch.Tensor:
    views = ViewPrompts("a red cube", negative, DEFAULT_SECTORS)
    z, eps = torch.randn(2, 1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    azimuth, elevation, t = torch.tensor([0.6]), torch.zeros(1), torch.tensor([400])
    return Guidance(prior, views, settings).at(z, azimuth, elevation, progress, Draw(t, t, eps)).gradient


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_that_a_negative_prompt_is_not_read_just_when_it_changes_no_gradient(prior: Any, case: str) -> None:
    settings = CASES[case]
    same = all(
        torch.equal(gradient(prior, settings, NEGATIVE, p), gradient(prior, settings, f"dark, {NEGATIVE}", p))
        for p in (0.0, 0.3, 0.6, 0.99)
    )
    said = [text for text in remarks([settings], NEGATIVE) if "is not read" in text]
    assert bool(said) == same
    assert all(text.startswith(f"{settings.method.upper()}: ") for text in said)


def test_methods_are_named_together_and_silence_means_nothing_to_tell() -> None:
    everything = [preset("draft", name.lower(), bundled=bundled) for name in METHODS for bundled in (True, False)]
    assert remarks(everything, "") == []
    (told,) = remarks([preset("draft", name.lower()) for name in METHODS], NEGATIVE)
    assert told.startswith("CSD, TBSD, NFSD, BRIDGE, BSD: the negative prompt is not read")


def test_csd_s_weights_are_looked_at() -> None:
    def said(text: str, csd: CSDSettings, negative: str = "") -> bool:
        return any(text in found for found in remarks([Settings(method="csd", csd=csd)], negative))

    noise, empty = "do not add up to 0", "one more for the empty text"
    assert said(noise, CSDSettings(null=Constant(0))) and said(noise, CSDSettings(target=Linear(1, 2)))
    assert not said(noise, CSDSettings(target=Linear(1, 2), null=Linear(-1, -2)))
    refine = published("csd", "refine").settings
    assert said(empty, refine) and not said(empty, refine, NEGATIVE) and not said(empty, CSDSettings())
    crossing = CSDSettings(Cosine(1, -1), Cosine(-0.3, 0.3), Cosine(-0.7, 0.7))
    assert not said(noise, crossing, NEGATIVE)


def test_steps_that_a_run_makes_are_looked_at() -> None:
    def said(iterations: int, switch: float) -> bool:
        bridge = BridgeSettings(modifier="", switch=switch)
        return remarks([Settings(method="bridge", bridge=bridge, iterations=iterations)], NEGATIVE) != []

    assert said(10, 0.95) and not said(2000, 0.95) and not said(2000, 0.9995) and said(2000, 0.9996)


def test_strengths_that_move_the_wrong_way_and_weights_of_nothing_are_told() -> None:
    wrong = {
        "TBSD: omega below 0": Settings(method="tbsd", tbsd=TBSDSettings(omega=Linear(7.5, -1))),
        "TBSD: a below 0": Settings(method="tbsd", tbsd=TBSDSettings(a=Constant(-0.5))),
        "BSD: kappa below 0": Settings(method="bsd", bsd=BSDSettings(kappa=Constant(-3))),
        "BRIDGE: k below 0": Settings(method="bridge", bridge=BridgeSettings(k=Constant(-1))),
        "SDS: a Perp-Neg strength below 0": Settings(perp_neg=PerpNegSettings(True, Constant(-1))),
        "CSD: every weight is 0": Settings(method="csd", csd=CSDSettings(Constant(0), Constant(0), Constant(0))),
    }
    for text, settings in wrong.items():
        (told,) = remarks([settings], "")
        assert told.startswith(text)


def test_texts_that_a_method_lacks_are_refused_before_another_has_run() -> None:
    with pytest.raises(SettingsError, match=r"into bridge\.modifier"):
        remarks([Settings(), Settings(method="bridge", bridge=BridgeSettings(modifier=" "))], "")
