"""Matching pictures of the full world against known renders: right on true ones, wrong on wrong ones, views heard."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from distill3d.render.cameras import orbit
from distill3d.train_prior.explain import (
    Painted,
    build_painted,
    ground,
    judge_pictures,
    nearest_colours,
    obeys,
    object_mask,
    view_obeyed,
)
from distill3d.train_prior.gates import FULL_GATES, GATES, gates_of, measure_pictures
from distill3d.world import COLOURS, Object, trace
from distill3d.world.crop import CROP, cut_out

WORDS = ("cube", "sphere", "heart", "smiley", "mug")
PATTERNS = ("plain", "striped", "checkered")


@functools.cache
def bank() -> Painted:
    return build_painted(WORDS, PATTERNS)


def shown(things: list[Object], azimuth: list[float], elevation: float = 24.0) -> torch.Tensor:
    """Renders unlike the bank's: other light, distance, lens, size and background."""
    cameras = orbit(azimuth, elevation, 2.85, 44.0)
    return trace(things, cameras, 64, torch.tensor([0.4, 0.8, 0.45]), torch.tensor([0.3, 0.5, 0.42]), 0.5)[0]


THINGS = [
    Object("cube", "red", 0.9), Object("sphere", "blue"), Object("heart", "yellow"), Object("smiley", "cyan"),
    Object("mug", "green", 0.95), Object("cube", "pink", pattern="striped"),
    Object("sphere", "orange", pattern="checkered"), Object("heart", "purple", pattern="striped"),
]  # fmt: skip
TURNS = [33.0, 10.0, 20.0, 12.0, 40.0, 70.0, 50.0, -28.0]


def test_true_renders_are_recognised_and_wrong_names_are_not() -> None:
    images = shown(THINGS, TURNS)
    truth = judge_pictures(images, THINGS, bank())
    assert truth.colour.all() and truth.shape.all() and truth.pattern.all()
    assert truth.share.min() > 0.85
    others = [Object(o.shape, c) for o, c in zip(THINGS[1:] + THINGS[:1], ["orange"] * 8, strict=True)]
    wrong = judge_pictures(images, others, bank())
    assert wrong.shape.float().mean() < 0.3 and wrong.colour.float().mean() < 0.2
    plain = judge_pictures(images[5:], [Object(o.shape, o.colour) for o in THINGS[5:]], bank())
    assert not plain.pattern.any(), "a plain object does not explain a patterned picture"
    striped = judge_pictures(images[:1], [Object("cube", "red", pattern="striped")], bank())
    assert not striped.pattern.any(), "nor the other way round"


def test_noise_blanks_and_grey_balls_are_nothing() -> None:
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = judge_pictures(noise, [Object("cube", "red")] * 4, bank())
    assert found.share.max() < 0.85
    blank = judge_pictures(torch.full((1, 3, 64, 64), 0.4), [Object("cube", "red")], bank())
    assert blank.share.isfinite().all() and not blank.colour.any()


def test_measures_are_shares_and_name_what_was_held_out() -> None:
    measured = measure_pictures(shown(THINGS, TURNS), THINGS, bank())
    assert measured["sample_hue"] == measured["sample_shape"] == measured["sample_pattern"] == 1
    assert 0 <= measured["residual"] < 0.15
    FULL_GATES.check(measured)
    assert gates_of("full") is FULL_GATES and gates_of("plain") is GATES
    assert FULL_GATES.sample_shape == 0.9 and FULL_GATES.view_word == 0.85 and GATES.sample_shape == 0.85


def test_view_words_are_heard() -> None:
    azimuth = [0.0, 25.0, 90.0, -90.0, 180.0, 160.0]
    for word in ("mug", "smiley"):
        things = [Object(word, "yellow")] * 6
        shares = judge_pictures(shown(things, azimuth), things, bank()).shares
        right = ["front", "front", "side", "side", "back", "back"]
        assert view_obeyed(shares, things, right, bank()).all(), word
        wrong = ["back", "back", "front", "front", "front", "front"]
        assert not view_obeyed(shares, things, wrong, bank()).any(), word
        assert not view_obeyed(shares, things, ["overhead"] * 6, bank()).any() or word == "smiley"


def test_a_picture_of_nothing_is_seen_from_nowhere() -> None:
    things = [Object("mug", "yellow")] * 6
    g = torch.Generator().manual_seed(0)
    blotches = torch.nn.functional.interpolate(torch.rand(6, 3, 6, 6, generator=g), 64, mode="bilinear")
    shares = judge_pictures(blotches, things, bank()).shares
    for word in ("front", "side", "back"):
        assert not view_obeyed(shares, things, [word] * 6, bank()).any(), word


def test_sectors_with_slack() -> None:
    azimuth = torch.tensor([0.0, 54.0, 56.0, 90.0, 124.0, 126.0, 180.0, 350.0])
    low = torch.zeros(8)
    assert obeys("front", azimuth, low).tolist() == [True, True, False, False, False, False, False, True]
    assert obeys("side", azimuth, low).tolist() == [False, True, True, True, True, True, False, False]
    assert obeys("back", azimuth, low).tolist() == [False, False, False, False, False, True, True, False]
    assert obeys("overhead", azimuth, low + 51).all() and not obeys("front", azimuth, low + 71).any()


def test_the_ground_may_change_from_top_to_bottom() -> None:
    ends = torch.tensor([[[0.9, 0.2, 0.1], [0.1, 0.3, 0.9]]])
    images, alpha = trace([Object("cube", "green")], orbit(30, 20), 64, background=ends)
    empty = ground(images)
    torch.testing.assert_close(empty[0, :, 0, 0], ends[0, 0])
    torch.testing.assert_close(empty[0, :, -1, 0], ends[0, 1])
    mask = object_mask(images)
    assert (mask == (alpha[:, 0] > 0.5)).float().mean() > 0.98
    assert nearest_colours(images, mask).tolist() == [list(COLOURS).index("green")]


def test_cutting_out_forgets_size_and_place() -> None:
    picture = torch.zeros(2, 1, 64, 64)
    picture[0, 0, 10:30, 8:28] = 1
    picture[0, 0, 10:30, 8:18] = 0.5
    picture[1, 0, 22:62, 20:60] = 1
    picture[1, 0, 22:62, 20:40] = 0.5
    cut = cut_out(picture, picture[:, 0] > 0)
    assert cut.shape == (2, 1, CROP, CROP)
    assert (cut[0] - cut[1]).abs().mean() < 0.06
    assert cut[0, 0, 16, 8] == 0.5 and cut[0, 0, 16, 24] == 1
