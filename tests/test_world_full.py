"""The full world: exact distances, distinct solids, one front each, paint, held-out combinations, and its renders."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import pytest
import torch

from distill3d.errors import SettingsError
from distill3d.evaluate.colour import hue_distance, hue_of, hue_saturation
from distill3d.render.cameras import orbit
from distill3d.world import (
    CATALOGUE,
    COLOURS,
    FIGURES,
    FULL_SHAPES,
    PATTERNS,
    SHAPES,
    WORLDS,
    Object,
    WorldSettings,
    all_objects,
    is_held_out,
    render_dataset,
    solid_of,
    trace,
    view_word,
    words,
)
from distill3d.world.dataset import training_round
from distill3d.world.objects import with_article

MORE = [w for w in FULL_SHAPES if w not in SHAPES]
EXACT = [*MORE, "arrow"]
ADDED = [*MORE, *FIGURES]
FULL = WorldSettings(name="full", image_size=16)


def at(shape: str, *point: float) -> float:
    return float(CATALOGUE[shape].sdf(*torch.tensor(point, dtype=torch.float64).unbind()))


def cloud(count: int, reach: float = 1.2) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return (torch.rand(count, 3, dtype=torch.float64, generator=g) * 2 - 1) * reach


def walked(shape: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances at random points, gradient norms, and what is left of the distance after walking it."""
    points = cloud(12_000).requires_grad_()
    thing = Object(shape, "red")
    distance = thing.sdf(points)
    (gradient,) = torch.autograd.grad(distance.sum(), points)
    landed = thing.sdf(points.detach() - distance.detach()[:, None] * gradient)
    return distance.detach(), gradient.norm(dim=-1), landed


@pytest.mark.parametrize("shape", EXACT)
def test_distance_is_exact(shape: str) -> None:
    """Walking the distance along the gradient, of norm 1, ends on the surface from inside and from outside."""
    _, norm, landed = walked(shape)
    smooth = (norm - 1).abs() < 1e-7
    assert smooth.double().mean() > 0.999
    assert landed[smooth].abs().quantile(0.998) < 1e-7


@pytest.mark.parametrize("shape", ["mug", "chair", "house"])
def test_distances_of_joined_parts_are_exact_outside_and_never_too_long(shape: str) -> None:
    distance, norm, landed = walked(shape)
    assert norm.max() < 1 + 1e-6
    outside = distance > 0
    assert (norm[outside] > 1 - 1e-6).double().mean() > 0.998
    assert landed[outside].abs().quantile(0.995) < 1e-7


def test_known_distances() -> None:
    assert at("dome", 0, 0.39 + 1, 0) == pytest.approx(1)
    assert at("dome", 0, -0.39 - 1, 0) == pytest.approx(1)
    assert at("bowl", 0, -0.45 - 1, 0) == pytest.approx(1)
    assert at("bowl", 0, 0.36, 0) == pytest.approx(0.72 - 0.09), "empty within"
    assert at("arch", 0, 0, 0) == pytest.approx(0.42 - 0.2, abs=1e-3), "one can walk through"
    assert at("cross", 0, 0, 1.24) == pytest.approx(1)
    assert at("cross", 1.74, 0, 0) == pytest.approx(1)
    assert at("cross", 0.74, 0.74, 0) == pytest.approx(0.5)
    assert at("star", 0, 0.84 * (1 + math.cos(math.pi / 5)) / 2 + 1, 0) == pytest.approx(1)
    assert at("heart", 0, 0, 0) < 0 < at("heart", 0, 0.67, 0), "the dip at the top"
    assert at("mug", -0.17, 0.3, 0) == pytest.approx(0.46 - 0.07)
    assert at("mug", 0.49 - 0.17 + 0.29, 0, 0) == pytest.approx(-0.09), "the handle's middle"
    assert at("chair", 0, -0.5, 0) > 0.2 and at("chair", 0.34, -0.5, 0.34) == pytest.approx(-0.1)
    assert at("chair", 0, 0.3, -0.36) == pytest.approx(-0.08), "the rest stands behind"
    assert at("house", 0, 1.63, 0) == pytest.approx(1)
    assert at("arrow", 0, 0, 1.8) == pytest.approx(1)
    assert at("smiley", 0, 0, 1.72) == pytest.approx(1)


@pytest.mark.parametrize("shape", CATALOGUE)
def test_every_solid_stays_in_its_ball_and_is_centred(shape: str) -> None:
    axis = torch.linspace(-1.2, 1.2, 61)
    points = torch.cartesian_prod(axis, axis, axis)
    inside = points[Object(shape, "red").sdf(points) < 0]
    assert inside.norm(dim=1).max() < CATALOGUE[shape].bound <= 1.02
    assert (inside.amin(0) + inside.amax(0)).abs().max() < 0.11
    assert inside.amax(0).max() > 0.5


def test_solids_are_distinct() -> None:
    axis = torch.linspace(-1.2, 1.2, 49)
    points = torch.cartesian_prod(axis, axis, axis)
    solids = {w: Object(w, "red").sdf(points) < 0 for w in WORLDS["full"].solids}
    assert len(solids) == 18
    for (a, first), (b, second) in itertools.combinations(solids.items(), 2):
        assert (first & second).sum() / (first | second).sum() < 0.82, (a, b)
    assert solid_of("smiley") == solid_of("ball") == "sphere" and solid_of("mug") == "mug"


@pytest.mark.parametrize("shape", ADDED)
def test_tight_bounds_change_no_more_than_the_outline(shape: str) -> None:
    things, cameras = [Object(shape, "blue")] * 3, orbit([0, 130, 250], [10, 40, 75])
    wide, tight = (trace(things, cameras, 32, snug=snug) for snug in (False, True))
    assert torch.equal(wide[1] == 1, tight[1] == 1)
    assert (wide[0] - tight[0]).abs().mean() < 2e-3


@pytest.mark.parametrize("shape", FIGURES)
def test_exactly_one_side_is_the_front(shape: str) -> None:
    """Of 24 views around, none looks like the front but the ones next to it."""
    ring = torch.arange(24) * 15.0
    rgb, _ = trace([Object(shape, "red")] * 24, orbit(ring, 20), 48, light=torch.tensor([0.0, 1, 0]), ambient=0.6)
    away = (rgb - rgb[:1]).square().mean((1, 2, 3)).sqrt()
    assert away[[1, 23]].max() < away[3:22].min() or away[3:22].min() > 0.04
    assert away[12] > 0.05, "the back is not the front"
    assert Object(shape, "red").has_front and Object(shape, "red").turn == 360


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", FULL_SHAPES)
def test_shapes_without_a_front_look_the_same_after_their_turn(shape: str, pattern: str) -> None:
    thing = Object(shape, "green", pattern=pattern)
    turn = thing.turn or 50
    assert not thing.has_front
    rgb, _ = trace([thing] * 2, orbit([20, 20 + turn], 30), 32, light=torch.tensor([0.0, 1, 0]))
    assert (rgb[0] - rgb[1]).abs().mean() < 0.01


@pytest.mark.parametrize("shape", FULL_SHAPES)
def test_patterns_are_seen_and_leave_the_hue(shape: str) -> None:
    azimuth = torch.arange(8) * 45.0
    for pattern in list(PATTERNS)[1:]:
        thing = Object(shape, "purple", pattern=pattern)
        rgb, alpha = trace([thing] * 8, orbit(azimuth, 25), 32, ambient=1.0)
        pixels = rgb.permute(0, 2, 3, 1)[alpha[:, 0] == 1]
        hue, saturation = hue_saturation(pixels)
        white = saturation < 0.15
        assert 0.06 < white.float().mean() < 0.75, (pattern, white.float().mean())
        coloured = saturation > 0.5
        assert hue_distance(hue[coloured], hue_of("purple")).max() < 3


def test_paint_keeps_off_the_grounds_objects_are_judged_on() -> None:
    for word in FIGURES:
        points = cloud(4000, 0.8).float()
        share, level = Object(word, "red").paint(points)
        painted = level[share > 0.99]
        assert painted.numel() == 0 or (painted.max() <= 0.85 and painted.min() >= 0.23)
        assert share.min() >= 0 and share.max() <= 1


def test_the_smiley_s_face_is_where_a_face_is() -> None:
    thing = Object("smiley", "yellow")
    eye, mouth, back, cheek = ((0.25, 0.36, 0.57), (0.0, -0.17, 0.7), (0.25, 0.36, -0.57), (-0.6, 0.0, 0.4))
    share = thing.paint(torch.tensor([eye, mouth, back, cheek]))[0]
    assert share.tolist() == [1, 1, 0, 0]
    torch.testing.assert_close(thing.albedo(torch.tensor([back])), torch.tensor([COLOURS["yellow"]]))


def test_the_worlds() -> None:
    assert len(all_objects()) == 64 and {o.pattern for o in all_objects()} == {"plain"}
    full = all_objects("full")
    assert len(full) == len(set(full)) == len({o.caption() for o in full}) == 14 * 8 * 4 + 6 * 8
    assert full[:64] == all_objects()
    assert Object("ball", "orange").caption() == "an orange and white ball"
    assert Object("cube", "red", pattern="striped").caption() == "a striped red cube"
    with pytest.raises(ValueError, match="without a pattern"):
        Object("mug", "red", pattern="dotted")
    with pytest.raises(ValueError, match="known pattern"):
        Object("cube", "red", pattern="tartan")
    with pytest.raises(SettingsError, match="plain or full"):
        WorldSettings(name="other")  # type: ignore[arg-type]


def test_what_is_held_out_is_never_drawn_and_every_word_is() -> None:
    held = [o for o in all_objects("full") if is_held_out(o)]
    assert len(held) == 62 and {(o.shape, o.pattern) for o in held} == {
        (o.shape, o.pattern) for o in all_objects("full")
    }
    drawn = training_round(FULL)
    assert not set(drawn) & set(held)
    kinds = [sum(o.has_front for o in drawn), sum(not o.has_front and o.pattern == "plain" for o in drawn)]
    assert kinds == [294, 294] and len(drawn) == 3 * 294
    assert {(o.shape, o.colour) for o in drawn if o.pattern != "plain"} == {
        (s, c) for s in FULL_SHAPES for c in COLOURS
    }
    assert set(training_round(WorldSettings(name="full", hold_out=False))) == set(all_objects("full"))


def test_front_sides_and_back_of_what_has_a_front_come_equally_often() -> None:
    made = render_dataset(1500, 3, dataclasses.replace(FULL, image_size=8))
    turned = [a for a, o in zip(made.cameras.azimuth.rad2deg().tolist(), made.objects, strict=True) if o.has_front]
    seen = [view_word(azimuth, 0.0) for azimuth in turned]
    for word in ("front", "side", "back"):
        assert seen.count(word) / len(seen) == pytest.approx(1 / 3, abs=0.07), word


def test_full_renders_are_deterministic_varied_and_truly_captioned() -> None:
    first, again = render_dataset(192, 5, FULL), render_dataset(192, 5, FULL)
    assert torch.equal(first.images, again.images) and first.captions == again.captions
    azimuth, elevation = first.cameras.azimuth.rad2deg().tolist(), first.cameras.elevation.rad2deg().tolist()
    named = {True: 0, False: 0}
    for caption, item, azi, ele in zip(first.captions, first.objects, azimuth, elevation, strict=True):
        assert item.name() in caption
        others = {"front", "side", "back", "overhead"} - {view_word(azi, ele)}
        assert not any(f"{w} view" in caption for w in others), caption
        named[item.has_front] += " view" in caption
    fronts = sum(o.has_front for o in first.objects)
    assert 50 < fronts < 80
    assert named[True] / fronts > 0.7 > 0.62 > named[False] / (192 - fronts)
    images = first.images.float()
    slope = (images[:, :, 0, 0] - images[:, :, -1, 0]).abs().amax(1) > 8
    assert 4 < int(slope.sum()) < 45, "about a tenth of the grounds change from top to bottom"
    assert with_article("overhead view") == "an overhead view"


def test_lamp_and_gradient_reach_the_picture() -> None:
    ground = torch.tensor([[[1.0, 0, 0], [0, 0, 1]]])
    light = torch.tensor([0.0, 0, 1])
    rgb, _ = trace([Object("sphere", "pink")], orbit(0, 0), 33, light, ground, 0.4, torch.tensor([[0.5, 1.0, 1.0]]))
    plain, _ = trace([Object("sphere", "pink")], orbit(0, 0), 33, light, 1.0, 0.4)
    torch.testing.assert_close(rgb[0, :, 0, 0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(rgb[0, :, -1, 0], torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(rgb[0, :, 16, 16], plain[0, :, 16, 16] * torch.tensor([0.7, 1, 1]), atol=2e-3, rtol=0)


def test_words_of_the_captions_are_known_and_others_are_told() -> None:
    captions = render_dataset(1200, 3, WorldSettings(name="full", image_size=8)).captions
    assert words.unknown(*captions) == []
    used = set(re.findall(r"\w+", " ".join(captions).lower()))
    assert words.unknown("a Corgi, and the corgi's Mug; RED view") == ["corgi", "the", "s"]
    assert {"a", "and", "mug", "red", "view"} <= used and not {"corgi", "the", "s"} & used
    assert words.unknown("a black cube", "white, grey") == ["black", "white", "grey"], "as grounds alone"
    assert words.unknown("a red and white ball, black background", "two plain cubes") == ["two", "plain", "cubes"]
    assert words.unknown("a red and\n white  ball, white\nbackground") == []
    assert words.unknown("a red cube, gray background", "black", "background") == ["gray", "black"]


def test_what_is_told_of_unknown_words_names_only_known_ones() -> None:
    assert words.remark("a striped red cube", "") == ""
    told = words.remark("a red cube", "blurry")
    assert "'blurry'" in told and "'red'" not in told
    offered = told.split("It knows ")[1].split(" or without pattern")[0]
    assert len(re.findall(r"\w+", offered)) == 20 + 1 + 8 + 3 and words.unknown(offered.replace("; in", "")) == []
    many = words.remark(" ".join(f"word{i}" for i in range(9)))
    assert "'word5'" in many and "word6" not in many and "and 3 more" in many
