"""Variants of the quality benchmark: one change each, with the preset's own strength, and told apart in the report."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import pytest

from distill3d.bench import variants
from distill3d.bench.quality import QualitySettings
from distill3d.cli.distill2d import Distill2D
from distill3d.errors import SettingsError
from distill3d.methods import METHODS
from distill3d.optimize import Settings, preset
from distill3d.optimize.settings import MethodName
from distill3d.schedules import Constant, Linear

ALL = [name.lower() for name in METHODS]


def changed(before: Settings, after: Settings) -> set[str]:
    return {f.name for f in fields(Settings) if getattr(before, f.name) != getattr(after, f.name)}


@pytest.mark.parametrize("method", ALL)
def test_a_variant_changes_one_part_of_the_settings(method: str) -> None:
    before = preset("draft", method)
    expected = {"preset": set(), "static-cfg": {method}, "dynamic-cfg": {method}, "freeu": {"freeu"},
                "dynamic-freeu": {"freeu"}, "perp-neg": {"perp_neg"}, "no-smoothness": {"losses"},
                "no-tint": {"losses"}}  # fmt: skip
    assert list(variants.VARIANTS) == list(expected)
    for name, parts in expected.items():
        assert changed(before, variants.applied(before, name)) <= parts, name
    both = variants.applied(before, "dynamic-cfg+perp-neg")
    assert changed(before, both) == {method, "perp_neg"} and both.make_method()


@pytest.mark.parametrize("method", ALL)
def test_static_and_falling_guidance_have_one_mean_and_the_fall_ends_at_three_fifths(method: str) -> None:
    base = preset("draft", method)
    static, falling = (getattr(variants.applied(base, f"{kind}-cfg"), method) for kind in ("static", "dynamic"))
    for name in variants.SCALES[method]:
        middle = sum(getattr(getattr(base, method), name)(i / 1000) for i in range(1001)) / 1001
        still, line = getattr(static, name), getattr(falling, name)
        assert isinstance(still, Constant) and still.value == pytest.approx(middle, rel=0.01, abs=1e-9)
        assert line(0.5) == pytest.approx(still.value) and line(1.0) == pytest.approx(0.6 * line(0.0))


def test_a_csd_variant_keeps_its_weights_adding_up_to_nothing() -> None:
    settings = replace(Settings(method="csd"), csd=METHODS["CSD"].method.presets["annealed-negative"].settings)
    for kind in ("static-cfg", "dynamic-cfg"):
        csd = variants.applied(settings, kind).csd
        assert all(abs(csd.target(p) + csd.negative(p) + csd.null(p)) < 1e-9 for p in (0.0, 0.3, 1.0))


def test_freeu_is_as_strong_at_every_timestep_or_at_low_noise_only() -> None:
    still, moving = (variants.applied(Settings(), name).freeu for name in ("freeu", "dynamic-freeu"))
    assert still.enabled and moving.enabled
    assert still.b1(0.99) == still.b1(0.0) == moving.b1(0.0) == 1.4 and moving.b1(0.99) == 1.0


def test_unknown_variants_are_named_and_known_ones_accepted() -> None:
    with pytest.raises(SettingsError, match="got 'janus'"):
        QualitySettings(variants=("preset", "perp-neg+janus"))
    with pytest.raises(SettingsError, match="variants without repetition"):
        QualitySettings(variants=("preset", "preset"))
    assert QualitySettings(variants=("preset", "dynamic-cfg+freeu")).variants[1] == "dynamic-cfg+freeu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("freeu+dynamic-freeu", "one of freeu and dynamic-freeu"),
        ("static-cfg+dynamic-cfg", "one of static-cfg and dynamic-cfg"),
        ("dynamic-cfg+perp-neg+static-cfg", "one of static-cfg and dynamic-cfg"),
        ("perp-neg+freeu", r"write freeu\+perp-neg$"),
    ],
)
def test_no_variant_names_what_does_not_run_or_has_another_name(name: str, message: str) -> None:
    for refused in (lambda: QualitySettings(variants=("preset", name)), lambda: variants.applied(Settings(), name)):
        with pytest.raises(SettingsError, match=message):
            refused()


def test_every_family_sets_the_same_settings() -> None:
    """What is not refused adds up: joined in either order, two variants of different families give the same run."""
    single = [name for name in variants.VARIANTS if name != variants.PLAIN]
    for first in single:
        for second in single:
            mine, other = (variants.VARIANTS[n] for n in (first, second))
            same = mine(other(Settings())) == other(mine(Settings()))
            assert same == (first == second or not any({first, second} <= set(f) for f in variants.FAMILIES))


def job(method: str, prompt: str, iou: float | None, passed: bool = True) -> dict[str, object]:
    return {"method": method, "prompt": prompt, "seed": 0, "iou": iou, "passed": passed}


def test_comparison_pairs_prompts_and_seeds() -> None:
    jobs = [
        *(job("sds", p, v) for p, v in (("a", 0.8), ("b", 0.6), ("c", 0.7))),
        *(job("sds+perp-neg", p, v, v is not None) for p, v in (("a", 0.9), ("b", 0.5), ("c", None))),
        job("asd+freeu", "a", 0.4),
    ]
    found = variants.compare(jobs)
    assert found["sds"]["mean_iou"] == pytest.approx(0.7) and found["sds"]["spread_iou"] == pytest.approx(0.1)
    assert "pairs" not in found["sds"] and "pairs" not in found["asd+freeu"]
    assert found["sds+perp-neg"] | {"mean_iou": 0, "spread_iou": 0, "mean_difference": 0, "spread_difference": 0} == {
        "runs": 3, "passed": 2, "with_iou": 2, "pairs": 2,
        "mean_iou": 0, "spread_iou": 0, "mean_difference": 0, "spread_difference": 0,
    }  # fmt: skip
    assert found["sds+perp-neg"]["mean_difference"] == pytest.approx(0.0)
    assert found["sds+perp-neg"]["spread_difference"] == pytest.approx(0.02**0.5)
    assert found["asd+freeu"]["spread_iou"] is None
    lines = variants.table(found).splitlines()
    assert lines[2] == "| sds | 3 of 3 | 0.700 ± 0.100 |  |"
    assert lines[3] == "| sds+perp-neg | 2 of 3 | 0.700 ± 0.283 | +0.000 ± 0.141 over 2 |"


def test_the_mean_of_a_schedule_is_its_area() -> None:
    assert variants.average(Linear(6.0, 2.0, until=0.5)) == pytest.approx(3.0)


def test_every_list_of_methods_names_all_of_them() -> None:
    assert get_args(MethodName) == tuple(ALL) == tuple(variants.SCALES)
    assert set(ALL) <= {f.name for f in fields(Settings)} & {f.name for f in fields(Distill2D)}
