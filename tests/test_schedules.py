"""Schedules, threestudio's C() and timestep windows."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill3d.errors import SettingsError
from distill3d.methods import GradientSettings
from distill3d.optimize import Settings
from distill3d.priors.freeu import FreeUSettings
from distill3d.schedules import (
    FORMS,
    WINDOWS,
    Constant,
    Cosine,
    Linear,
    Piecewise,
    Power,
    Schedule,
    Staircase,
    Step,
    TimestepWindow,
    from_iterations,
    from_json,
    parse,
    to_json,
)

finite = st.floats(-1e4, 1e4, allow_nan=False)
share = st.floats(0, 1)
ramps = st.builds(
    lambda kind, a, b, span: kind(a, b, min(span), max(span)),
    st.sampled_from([Linear, Cosine, Power]),
    finite,
    finite,
    st.tuples(share, share).filter(lambda s: abs(s[0] - s[1]) > 1e-3),
)
simple = st.one_of(
    st.builds(Constant, finite),
    ramps,
    st.builds(Step, finite, finite, share),
    st.lists(st.tuples(share, finite), min_size=1, max_size=5).map(
        lambda points: Piecewise(tuple(sorted(points, key=lambda p: p[0])))
    ),
)
schedules = st.one_of(simple, st.builds(Staircase, simple, st.floats(0.01, 1)))


def reference_c(value: float | list[float], epoch: int, step: int) -> float:
    """C() a second time, from its description: the last s_i <= step opens the segment, ends are clamped."""
    if not isinstance(value, list):
        return value
    v = [0, *value] if len(value) == 3 else value
    knots = [(v[0], v[1])] + [(v[i + 1], v[i]) for i in range(2, len(v), 2)]
    k = max([i for i in range(1, len(knots) - 1) if step >= knots[i][0]], default=0)
    (s0, v0), (s1, v1) = knots[k], knots[k + 1]
    now = epoch if isinstance(s1, float) else step
    return v0 + (v1 - v0) * min(max((now - s0) / (s1 - s0), 0.0), 1.0)


@given(schedules)
def test_text_and_json_bring_back_the_same_schedule(schedule: Schedule) -> None:
    assert parse(str(schedule)) == schedule
    assert from_json(json.loads(json.dumps(to_json(schedule)))) == schedule


@given(ramps, share, share)
def test_17_ramps_stay_between_their_ends_are_monotone_and_hit_the_ends_exactly(ramp, p, q) -> None:
    assert ramp(ramp.begin) == ramp(0) == ramp.start
    assert ramp(ramp.until) == ramp(1) == ramp(7) == ramp.end
    slack = 1e-9 * (1 + abs(ramp.start) + abs(ramp.end))
    low, high = sorted((ramp.start, ramp.end))
    assert low - slack <= ramp(p) <= high + slack
    rising = (ramp(max(p, q)) - ramp(min(p, q))) * (ramp.end - ramp.start)
    assert rising >= -slack * abs(ramp.end - ramp.start)


@pytest.mark.parametrize(
    ("text", "progress", "value"),
    [
        ("7.5", 0.3, 7.5),
        ("-1e-2", 0.3, -0.01),
        ("100->60", 0.25, 90.0),
        (" 100 -> -60 ", 1.0, -60.0),
        ("linear(100, 60, from=0.2, to=0.6)", 0.4, 80.0),
        ("linear(100, 60, from=0.2, to=0.6)", 0.1, 100.0),
        ("cosine(0, 1)", 0.25, 0.5 - math.sqrt(0.125)),
        ("power(1, 0, exponent=0.5)", 0.25, 0.5),
        ("step(0.98, 0.5, at=0.2)", 0.1999, 0.98),
        ("step(0.98, 0.5, at=0.2)", 0.2, 0.5),
        ("piecewise(0:0, 0.5:-1, 1:-0.5)", 0.25, -0.5),
        ("piecewise(0:0, 0.5:-1, 1:-0.5)", 0.75, -0.75),
        ("piecewise(0:0, 0.5:0, 0.5:4)", 0.5, 4.0),
        ("staircase(linear(0, 10), every=0.25)", 0.49, 2.5),
    ],
)
def test_text_forms_have_the_values_computed_by_hand(text: str, progress: float, value: float) -> None:
    assert parse(text)(progress) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "bad", ["", "abc", "1->", "linear(1)", "linear(1,2,3)", "linear(1,2,at=.3)", "step(1,2)", "constant(1)", "nan",
            "inf", "linear(1,nan)", "piecewise()", "linear(1,2,from=0,from=.1)", None, True, [1, 2], object()]
)  # fmt: skip
def test_unreadable_schedules_are_refused_with_the_accepted_forms(bad: object) -> None:
    with pytest.raises(SettingsError) as error:
        parse(bad)  # type: ignore[arg-type]
    assert FORMS in str(error.value) and repr(bad) in str(error.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: parse("linear(1,2,from=500)"), "divide the iteration"),
        (lambda: parse("linear(1,2,from=.5,to=.5)"), "write step"),
        (lambda: parse("piecewise(0.5:1, 0:2)"), "ascending"),
        (lambda: parse({"kind": "spline"}), "constant, linear, cosine"),
        (lambda: parse({"kind": "linear", "start": 1}), "start, end, begin, until"),
        (lambda: Constant(math.inf), "finite"),
        (lambda: Constant("7"), "finite"),  # type: ignore[arg-type]
        (lambda: Power(1, 2, exponent=0), "exponent above 0"),
        (lambda: Staircase(Constant(1), 0), "or wider, got"),
        (lambda: from_iterations([1, 2], 10), "v0, v1, s1"),
        (lambda: from_iterations([0, 1, 2, 5, 6], 10), "v0, v1, s1"),
        (lambda: from_iterations([5, 1, 2, 5], 10), "ascending"),
        (lambda: from_iterations([0, 1, 2, 5.0], 10), "steps_per_epoch"),
        (lambda: from_iterations([0, 1, 2, 5, 6, 9.0], 10, 1), "as integers"),
        (lambda: from_iterations([0, "1", 2, 5], 10), "numbers"),  # type: ignore[list-item]
        (lambda: from_iterations(1.0, 0), "at least one iteration"),
        (lambda: TimestepWindow(Constant(0.5), Constant(0.2)), "minimum <= maximum"),
        (lambda: TimestepWindow(Constant(20), Constant(980)), "shares of T"),
        (lambda: TimestepWindow(Linear(0, 0.6), Constant(0.5)), "84%"),
        (lambda: TimestepWindow.from_json({"min": 0.2}), "minimum, maximum, shared"),
    ],
)
def test_mistakes_say_what_to_write_instead(make, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make()


def test_19_hard_switch_is_old_at_5000_and_new_at_5001_in_runs_of_any_length() -> None:
    for total in (5001, 7777, 10_000, 25_000, 300_000):
        schedule = from_iterations([5000, 0.98, 0.5, 5001], total)
        assert schedule(4999 / total) == schedule(5000 / total) == 0.98
        assert schedule(5001 / total) == schedule(1) == 0.5


def test_19_three_entries_are_four_with_a_leading_zero() -> None:
    assert from_iterations([100, 60, 5000], 10_000) == from_iterations([0, 100, 60, 5000], 10_000)


@pytest.mark.parametrize(
    "entries", [[0, 0.98, 0.5, 5000], [500, 1, 2, 900, 5, 3500], [3000, 1, 2, 4000], [0, 1, 2, 500, 3, 1000]]
)
def test_a_list_that_reaches_past_the_run_is_a_text_that_can_be_read(entries: list[float]) -> None:
    short, long = from_iterations(entries, 1000), from_iterations(entries, 10_000)
    assert parse(str(short)) == short
    for i in (0, 1, 400, 501, 899, 901, 1000):
        assert short(i / 1000) == pytest.approx(long(i / 10_000)), i


def test_19_float_end_counts_whole_epochs() -> None:
    schedule = from_iterations([0, 0.0, 1.0, 4.0], total=1000, steps_per_epoch=100)
    assert [schedule(i / 1000) for i in (0, 99, 100, 199, 250, 399, 400, 999)] == pytest.approx(
        [0, 0, 0.25, 0.25, 0.5, 0.75, 1, 1]
    )


steps = st.lists(st.integers(0, 3000), min_size=2, max_size=5, unique=True).map(sorted)


@settings(max_examples=200)
@given(st.data(), steps, st.integers(1, 3000), st.sampled_from([None, 1, 7, 100]))
def test_19_every_list_has_the_value_of_threestudios_c_at_every_step(data, knots, total, epoch) -> None:
    values = data.draw(st.lists(finite, min_size=len(knots), max_size=len(knots)))
    entries: list[float] = [knots[0], values[0]]
    for s, v in zip(knots[1:], values[1:], strict=True):
        entries += [v, s]
    if len(entries) == 4 and epoch is not None:
        entries[3] = float(entries[3])
    schedule = from_iterations(entries, total, epoch)
    for step in {0, total, *(s + d for s in knots for d in (-1, 0, 1)), total // 2, total // 3}:
        if 0 <= step <= total:
            expected = reference_c(entries, step // (epoch or total + 1), step)
            assert schedule(step / total) == pytest.approx(expected, abs=1e-6, rel=1e-6), (entries, step)


def test_4_negative_prompt_weights_of_the_released_csd_configs() -> None:
    c_n, c_0 = from_iterations([0, 0, -1, 5000], 10_000), from_iterations([0, -1, 0, 5000], 10_000)
    for step, expected in ((0, (0, -1)), (2500, (-0.5, -0.5)), (5000, (-1, 0)), (10_000, (-1, 0))):
        assert (c_n(step / 10_000), c_0(step / 10_000)) == pytest.approx(expected)
    c_n, c_0 = from_iterations([0, -1, -0.5, 10_000], 10_000), from_iterations([0, 0, -0.5, 10_000], 10_000)
    for step, expected in ((0, (-1, 0)), (5000, (-0.75, -0.25)), (10_000, (-0.5, -0.5))):
        assert (c_n(step / 10_000), c_0(step / 10_000)) == pytest.approx(expected)


def test_8_sliding_window_at_start_middle_and_end() -> None:
    window = WINDOWS["sliding"]
    assert [window.bounds(p) for p in (0, 0.5, 1)] == [(500, 980), (260, 740), (20, 500)]
    released = TimestepWindow(
        from_iterations([0, 0.5, 0.02, 25_000], 25_000), from_iterations([0, 0.98, 0.5, 25_000], 25_000)
    )
    assert all(window.bounds(i / 1000) == released.bounds(i / 1000) for i in range(1001))


def test_window_presets_have_their_published_bounds() -> None:
    at = {name: [w.bounds(p) for p in (0, 0.1, 0.4, 0.9, 1)] for name, w in WINDOWS.items()}
    assert at["fixed"] == [(20, 980)] * 5
    assert at["annealed"] == [(20, 980)] * 2 + [(20, 500)] * 3
    assert at["halved"] == [(20, 980)] * 3 + [(20, 500)] * 2
    assert at["refine"] == [(20, 500)] * 5
    assert at["multi-view"] == [(980, 980), (860, 920), (500, 740), (20, 500), (20, 500)]
    sqrt = [int(1000 * (0.98 - 0.96 * math.sqrt(p))) for p in (0, 0.1, 0.4, 0.9)] + [20]
    assert [low for low, _ in at["sqrt"]] == sqrt and all(low == high for low, high in at["sqrt"])


@given(st.integers(1, 2000), st.tuples(st.integers(0, 2000), st.integers(0, 2000)))
def test_window_of_n_thousandths_never_loses_a_step_to_rounding(T: int, ends: tuple[int, int]) -> None:
    low, high = sorted(e % (T + 1) for e in ends)
    assert TimestepWindow(Constant(low / T), Constant(high / T)).bounds(0.3, T) == (min(low, T - 1), min(high, T - 1))


def test_window_rounds_down() -> None:
    assert TimestepWindow(Constant(0.0207), Constant(0.9809)).bounds(0) == (20, 980)


def test_window_samples_reach_both_ends_evenly() -> None:
    window = TimestepWindow(Constant(0.3), Constant(0.309))
    t = window.sample(20_000, 0.5, torch.Generator().manual_seed(0))
    counts = torch.bincount(t - 300, minlength=10)
    assert t.dtype == torch.long and t.shape == (20_000,) and len(counts) == 10
    assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)


def test_window_draws_one_step_an_item_or_one_for_all_and_repeats_with_the_seed() -> None:
    def draw(window: TimestepWindow) -> torch.Tensor:
        return window.sample(64, 0.0, torch.Generator().manual_seed(3))

    free, shared = TimestepWindow(), TimestepWindow(shared=True)
    assert len(draw(free).unique()) > 32 and len(draw(shared).unique()) == 1
    assert torch.equal(draw(free), draw(free))
    assert TimestepWindow.from_json(json.loads(json.dumps(shared.to_json()))) == shared


def test_17_constant_schedule_is_the_plain_number_bit_for_bit() -> None:
    assert all(Constant(7.3)(i / 7) == Linear(7.3, 7.3)(i / 7) == parse("7.3")(i / 7) == 7.3 for i in range(8))


BETWEEN = "piecewise(0:1, 0.004:-5, 0.008:1, 1:1)"


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (BETWEEN, -5, 1),
        ("step(1, 9, at=0.9991)", 1, 9),
        ("step(1, 9, at=1)", 1, 9),
        ("linear(2, 1, from=0.001, to=0.002)", 1, 2),
        ("piecewise(0.003:5, 0.003:7, 0.0031:7, 0.0031:4)", 4, 7),
        (f"staircase({BETWEEN}, every=0.002)", -5, 1),
        (f"staircase({BETWEEN}, every=0.0035)", -4.25, 1),
        ("7", 7, 7),
    ],
)
def test_extremes_are_those_of_a_fine_sampling(text: str, low: float, high: float) -> None:
    schedule = parse(text)
    fine = [schedule(i / 40_000) for i in range(40_001)]
    assert schedule.extremes() == pytest.approx((low, high), abs=0.01)
    assert (min(fine), max(fine)) == pytest.approx((low, high), abs=0.05)


def test_what_a_schedule_does_between_two_hundredths_is_refused_too() -> None:
    refused = [
        lambda: TimestepWindow(parse("piecewise(0:0.02, 0.004:0.99, 0.008:0.02)")),
        lambda: TimestepWindow(maximum=parse("step(0.98, 2, at=0.9991)")),
        lambda: GradientSettings(clip=parse("piecewise(0:2, 0.004:-1, 0.008:2)")),
        lambda: FreeUSettings(b1=parse(BETWEEN)),
        lambda: Settings(hardness=parse(BETWEEN)),
        lambda: parse("staircase(linear(1, 2), every=1e-320)"),
    ]
    for make in refused:
        with pytest.raises(SettingsError):
            make()
