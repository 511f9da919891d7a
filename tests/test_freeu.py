"""FreeU against diffusers' own, against the filter's closed form, and as a schedule over the timestep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill3d.errors import PriorError, SettingsError
from distill3d.priors.freeu import FreeU, FreeUSettings, backbone, dynamic, skip
from distill3d.priors.load import load_prior
from distill3d.schedules import Constant, Linear


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def static(b1: float, b2: float, s1: float, s2: float, **changes) -> FreeUSettings:
    factors = {n: Constant(v) for n, v in zip(("b1", "b2", "s1", "s2"), (b1, b2, s1, s2), strict=True)}
    return FreeUSettings(**{"enabled": True, "version": "v1", **factors, **changes})


@pytest.fixture
def prior(tiny_pipeline: Path):
    return load_prior(tiny_pipeline, device="cpu")


def asked(prior, count: int = 3):
    return features(count, 4, 16, 16), torch.tensor([20, 500, 980][:count]), prior.embed(["a red cube"] * count)


def test_16_backbone_touches_half_the_channels_and_ones_change_nothing() -> None:
    h = features(2, 6, 5, 7)
    for version in ("v1", "v2"):
        assert torch.equal(backbone(h, column(1, 1), version), h)
        raised = backbone(h, column(1.5, 1.2), version)
        assert torch.equal(raised[:, 3:], h[:, 3:]) and not torch.equal(raised[:, :3], h[:, :3])
    assert torch.equal(backbone(h, column(2, 3), "v1")[:, :3], h[:, :3] * column(2, 3))


def test_16_v2_scale_lies_between_one_and_b_and_reaches_both_for_each_sample() -> None:
    h = features(2, 4, 6, 6)
    ratio = (backbone(h, column(1.6, 1.2), "v2") / h)[:, 0].flatten(1)
    mean = h.mean(1).flatten(1)
    for i, b in enumerate((1.6, 1.2)):
        assert ratio[i].min() == pytest.approx(1, abs=1e-4) and ratio[i].max() == pytest.approx(b, abs=1e-4)
        assert ratio[i][mean[i].argmax()] == pytest.approx(b, abs=1e-4)
        assert ratio[i][mean[i].argmin()] == pytest.approx(1, abs=1e-4)
    flat = torch.full((1, 4, 3, 3), 2.0)
    assert torch.equal(backbone(flat, column(1.6), "v2"), flat), "no 0 / 0 where features are level"


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_half_precision_loses_no_more_than_its_last_bit(version: str, dtype: torch.dtype) -> None:
    h, b = features(2, 40, 9, 9).to(dtype), column(1.31, 1.07)
    exact = backbone(h.double(), b.double(), version)
    torch.testing.assert_close(backbone(h, b, version).double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_16_skip_filter_has_its_gains_by_frequency() -> None:
    """s at 0, (1 + s) / 2 at the neighbours but one diagonal, 1 beyond: waves through the filter, in closed form."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    for (u, v), gain in {
        (0, 0): 0.2,
        (1, 0): 0.6,
        (0, 1): 0.6,
        (1, 1): 0.6,
        (1, -1): 1.0,
        (2, 0): 1.0,
        (3, 5): 1.0,
    }.items():
        wave = torch.cos(2 * torch.pi * (u * y + v * x) / 16)[None, None]
        torch.testing.assert_close(skip(wave, column(0.2)), gain * wave, rtol=0, atol=1e-5)
    both = features(2, 3, 9, 7)
    got = skip(both, column(1.0, 0.5))
    assert torch.equal(got[0], both[0]) and not torch.allclose(got[1], both[1])
    assert skip(both.half(), column(0.5, 0.5)).isfinite().all()


@pytest.mark.parametrize("factors", [(1.2, 1.4, 0.9, 0.2), (1.5, 1.6, 1.0, 1.0)])
def test_static_v1_on_blocks_is_diffusers_own_freeu(prior, factors) -> None:
    x, t, cond = asked(prior)
    plain = prior.predict_noise(x, t, cond)
    ours = prior.with_freeu(static(*factors, layers="block")).predict_noise(x, t, cond)
    b1, b2, s1, s2 = factors
    prior.unet.enable_freeu(s1=s1, s2=s2, b1=b1, b2=b2)
    theirs = prior.predict_noise(x, t, cond)
    prior.unet.disable_freeu()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-3)
    assert torch.equal(prior.predict_noise(x, t, cond), plain), "the shared model stays without it"


def test_17_factors_follow_each_samples_timestep_and_a_constant_schedule_is_the_static_run(prior) -> None:
    x, t, cond = asked(prior)
    plain = prior.predict_noise(x, t, cond)
    moving = prior.with_freeu(dynamic(1.4, 1.6)).predict_noise(x, t, cond)
    still = prior.with_freeu(static(1.4, 1.6, 1.0, 1.0, version="v2")).predict_noise(x, t, cond)
    torch.testing.assert_close(moving[0], still[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moving[2], plain[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(moving[1], plain[1], atol=1e-4) and not torch.allclose(moving[1], still[1], atol=1e-4)
    reverse = prior.with_freeu(dynamic(1.4, 1.6, reverse=True)).predict_noise(x, t, cond)
    torch.testing.assert_close(reverse[2], still[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reverse[0], plain[0], rtol=1e-4, atol=1e-5)
    constant = replace(dynamic(1.4, 1.6), b1=Linear(1.4, 1.4), b2=Linear(1.6, 1.6))
    assert torch.equal(prior.with_freeu(constant).predict_noise(x, t, cond), still)


def test_samples_split_over_calls_keep_their_own_factors(prior) -> None:
    x, t, cond = asked(prior)
    patched = prior.with_freeu(dynamic(1.4, 1.6))
    whole = patched.predict_noise(x, t, cond)
    patched.max_batch = 1
    torch.testing.assert_close(patched.predict_noise(x, t, cond), whole, rtol=1e-4, atol=1e-5)


def test_schedule_ends_exactly_and_off_is_the_prior_itself(prior) -> None:
    settings = dynamic(1.4, 1.6)
    assert [settings.b1(p) for p in (0.0, 0.02, 0.5, 0.98, 1.0)] == pytest.approx([1.4, 1.4, 1.2, 1.0, 1.0])
    assert settings.b1 == FreeUSettings().b1 and settings.b2 == FreeUSettings().b2
    x, t, cond = asked(prior)
    plain = prior.predict_noise(x, t, cond)
    assert torch.equal(prior.with_freeu(FreeUSettings()).predict_noise(x, t, cond), plain)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FreeUSettings(version="v3"), "v1 or v2"),
        (lambda: FreeUSettings(layers="all"), "width or block"),
        (lambda: FreeUSettings(b1="1->0"), "above 0"),  # type: ignore[arg-type]
        (lambda: FreeU(torch.nn.Linear(1, 1)), "diffusers UNet"),
    ],
)
def test_mistakes_say_what_to_write_instead(make, says: str) -> None:
    with pytest.raises((SettingsError, PriorError), match=says):
        make()
