"""Whole faces, and faces with something too much, too little or elsewhere: drawn by hand on the true solids."""

from __future__ import annotations

import math

import pytest
import torch

from distill3d.evaluate import Thresholds, faces, observe
from distill3d.evaluate.controls import SolidField, mouthless, perfect, three_eyed
from distill3d.evaluate.faces import LIGHT, SHADE, find_face, has_face, read_paint
from distill3d.evaluate.fronts import ELEVATION, SIZE, VIEWS, Around, describe, find_fronts
from distill3d.evaluate.truth import judge
from distill3d.render.cameras import orbit
from distill3d.world import COLOURS, FIGURES, Object
from distill3d.world.trace import looks

LIMIT = Thresholds().maximum_stray


class Drawn(Object):
    """A world object whose share of paint is what ``draw`` makes of the true one and of the places."""

    def albedo(self, points):
        share, level = self.paint(points)
        share, level = DRAWINGS[self.drawing](points, share, level)
        own = torch.tensor(COLOURS[self.colour]).expand_as(points)
        return torch.lerp(own, level[..., None].expand_as(points), share[..., None])


def turned(points, degrees):
    a = math.radians(degrees)
    x, y, z = points.unbind(-1)
    return torch.stack([math.cos(a) * x - math.sin(a) * z, y, math.sin(a) * x + math.cos(a) * z], -1)


def _twice(degrees):
    def draw(points, share, level):
        both = [Object("smiley", "red").paint(turned(points, d))[0] for d in (-degrees, degrees)]
        return torch.maximum(*both), torch.full_like(share, 0.24)

    return draw


def _bar(points, share, level):
    x, y, z = points.unbind(-1)
    bar = ((x.abs() < 0.39) & ((y - 0.36).abs() < 0.18) & (z > 0)).float()
    return torch.maximum(share, bar), torch.full_like(share, 0.24)


def _band(points, share, level):
    x, y, z = points.unbind(-1)
    band = ((x.abs() < 0.42) & ((y + 0.21).abs() < 0.11) & (z > 0.4)).float()
    return torch.maximum(share, band), level.masked_fill(band > 0, 0.84)


def _eye(degrees):
    def draw(points, share, level):
        x, y, z = turned(points, degrees).unbind(-1)
        eye = ((torch.hypot(x / 0.14, (y - 0.36) / 0.18) < 1) & (z > 0)).float()
        return torch.maximum(share, eye), torch.full_like(share, 0.24)

    return draw


def _behind(shape, size):
    """The front's paint on the back too, ``size`` times as large."""

    def draw(points, share, level):
        x, y, z = points.unbind(-1)
        other = torch.stack([-x / size, (y - 0.2) / size + 0.2, -z], -1)
        more, its_level = Object(shape, "red").paint(other)
        return torch.maximum(share, more), its_level.where(more > share, level)

    return draw


DRAWINGS = {
    "true": lambda points, share, level: (share, level),
    "at 60 %": lambda points, share, level: (0.6 * share, level),
    "at 40 %": lambda points, share, level: (0.4 * share, level),
    "one eye": lambda points, share, level: (share * ~((points[..., 0] > 0.05) & (points[..., 1] > 0.1)), level),
    "eyes alone": lambda points, share, level: (share * (points[..., 1] > 0.1), level),
    "bar": _bar,
    "faces 20 degrees to either side": _twice(20),
    "faces 30 degrees to either side": _twice(30),
    **{f"eye at {degrees}": _eye(degrees) for degrees in (0, 45, 60, 90, 180)},
    "face of half the size behind": _behind("smiley", 0.5),
    "badge behind": _behind("mug", 1.0),
    "no windows": lambda points, share, level: (
        share * ~((points[..., 0].abs() > 0.18) & (points[..., 2] > 0.3) & (points[..., 1] < 0)), level
    ),
    "upside down": lambda points, share, level: Object("smiley", "red").paint(points * torch.tensor([1.0, -1, 1])),
    "a band of windows": _band,
    "no badge": lambda points, share, level: (share * (points[..., 1] > 0.3), level),
    "white before": lambda points, share, level: (
        torch.maximum(share, (points[..., 2] > 0.1).float()), torch.full_like(share, 0.84)
    ),
}  # fmt: skip


def around(shape, colour, drawing, turn=0.0):
    """What the drawing shows all around when it is turned by ``turn`` degrees."""
    thing = Drawn(shape, colour)
    object.__setattr__(thing, "drawing", drawing)
    cameras = orbit(torch.arange(VIEWS) * (360.0 / VIEWS) - turn, ELEVATION, 3.0, 42.0)
    seen = looks([thing] * VIEWS, cameras, SIZE)
    return Around(describe(seen.alpha[:, 0], seen.albedo, seen.normal, cameras))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("shape", "marks"), [("smiley", 3), ("mug", 1), ("house", 3)])
def test_a_true_face_has_all_its_marks_and_no_stray_paint(shape, marks, colour):
    face = find_face(around(shape, colour, "true"), Object(shape, colour))
    assert (face.marks, face.found, face.turn) == (marks, marks, 0.0) and face.stray < 0.1 * LIMIT


@pytest.mark.parametrize(
    ("shape", "drawing", "found", "strays"),
    [
        ("smiley", "at 60 %", 3, False),
        ("smiley", "at 40 %", 0, False),
        ("smiley", "one eye", 2, False),
        ("smiley", "eyes alone", 2, False),
        ("smiley", "bar", 3, True),
        ("smiley", "faces 20 degrees to either side", 3, True),
        ("smiley", "faces 30 degrees to either side", 3, True),
        ("smiley", "upside down", 0, True),
        ("house", "at 60 %", 3, False),
        ("house", "a band of windows", 3, True),
        ("mug", "at 60 %", 1, False),
        *(("smiley", f"eye at {degrees}", 3, True) for degrees in (0, 45, 60, 90, 180)),
        ("smiley", "face of half the size behind", 3, True),
        ("mug", "badge behind", 1, True),
        ("house", "no windows", 1, False),
        ("mug", "no badge", 0, False),
        ("mug", "white before", 1, True),
    ],
)
def test_what_is_missing_and_what_is_too_much(shape, drawing, found, strays):
    face = find_face(around(shape, "red", drawing), Object(shape, "red"))
    assert face.found == found, face
    assert (face.stray > LIMIT) == strays, face


@pytest.mark.parametrize("brightness", [0.6, 0.8, 1.1])
@pytest.mark.parametrize("colour", ["yellow", "purple"])
@pytest.mark.parametrize(("shape", "marks"), [("smiley", 3), ("mug", 1), ("house", 3)])
def test_a_cast_is_no_paint(shape, marks, colour, brightness):
    parts = around(shape, colour, "true").parts.clone()
    parts[:, 1:4] *= brightness
    face = find_face(Around(parts), Object(shape, colour))
    assert face.found == marks and face.stray < LIMIT, face


@pytest.mark.parametrize("degrees", [25.0, 130.0, -67.5])
@pytest.mark.parametrize(("shape", "marks"), [("smiley", 3), ("mug", 1), ("house", 3)])
def test_a_face_is_found_wherever_it_looks(shape, marks, degrees):
    face = find_face(around(shape, "red", "true", degrees), Object(shape, "red"))
    assert face.found == marks and face.stray < LIMIT and abs(face.turn - degrees) <= 7.5, face


@pytest.mark.parametrize("colour", ["red", "purple", "yellow"])
def test_shade_that_lies_in_the_colour_is_no_paint(colour):
    parts = around("smiley", colour, "true").parts.clone()
    parts[:, 1:4, 22:] *= 0.62
    face = find_face(Around(parts), Object("smiley", colour))
    assert face.found == 3 and face.stray < LIMIT, face


@pytest.mark.parametrize("spoil", [three_eyed, mouthless])
def test_a_face_with_an_eye_too_many_or_without_a_mouth_has_one_front_and_is_refused(spoil):
    """What made this measure: a front is counted by half of what tells it from the back."""
    seen = observe(spoil(Object("smiley", "red")), world="full")
    assert seen.around is not None and find_fronts(seen.around, "smiley", "red").count == 1
    judgement = judge(seen, "a red smiley")
    failed = {c.name for c in judgement.checks if not c.passed}
    assert "face" in failed and failed <= {"face", "paint"}, judgement.failures


@pytest.mark.parametrize("colour", COLOURS)
def test_paint_is_what_has_less_than_half_of_the_colour_left(colour):
    own = torch.tensor(COLOURS[colour])
    view = torch.ones(1, 7, 4, 4)
    for share in (0.0, 0.4, 0.6, 1.0):
        for level, kind in ((0.9, LIGHT), (0.15, SHADE)):
            view[:, 1:4] = torch.lerp(own, torch.full((3,), level), share)[:, None, None]
            white_and_dark = [bool(kind == other and share > 0.5) for other in (LIGHT, SHADE)]
            for least, factor, expected in ((0.5, 1.0, white_and_dark), (0.5, 0.4, [False, False])):
                read = read_paint(factor * view, colour, least)
                assert [bool(paint.all()) for paint in read] == [bool(paint.any()) for paint in read] == expected
    view[:, 1:4] = 0.55 * own[:, None, None]
    assert not read_paint(view, colour).any(), "a shade is no paint"
    view[:, 1:4] = (own.max() + own.min() - own)[:, None, None] * 0.5
    assert read_paint(view, colour)[SHADE].all(), "a complement is none of the colour"


def test_which_objects_have_a_face():
    assert {f for f in FIGURES if has_face(Object(f, "red"))} == set(faces.WITH_FACE)
    with pytest.raises(ValueError, match="expected an object with a face"):
        find_face(around("chair", "red", "true"), Object("chair", "red"))


def test_a_field_of_nothing_has_no_face():
    face = find_face(Around(torch.zeros(VIEWS, 7, 32, 32)), Object("smiley", "red"))
    assert face.found == 0 and face.stray == 0.0
    far = SolidField(lambda x: x.norm(dim=-1) + 1, COLOURS["red"])
    assert "face" in {c.name for c in judge(observe(far, world="full"), "a red smiley").checks if not c.passed}
    whole = judge(observe(perfect(Object("smiley", "red")), world="full"), "a red smiley")
    assert whole.passed, whole.failures
