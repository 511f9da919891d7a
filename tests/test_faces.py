"""Whole faces, and faces with something too much, too little or elsewhere: drawn by hand on the true solids."""

from __future__ import annotations

import math

import pytest
import torch

from distill3d.evaluate import Thresholds, faces, observe
from distill3d.evaluate.controls import SolidField, mouthless, perfect, three_eyed
from distill3d.evaluate.faces import LIGHT, OWN, SHADE, find_face, has_face, read_paint
from distill3d.evaluate.fronts import SIZE, VIEWS, Around, describe, find_fronts, ring_of_views
from distill3d.evaluate.truth import judge
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


def _turn(degrees):
    return lambda points, share, level: Object("smiley", "red").paint(turned(points, degrees))


DRAWINGS = {
    "true": lambda points, share, level: (share, level),
    "at 60 %": lambda points, share, level: (0.6 * share, level),
    "at 40 %": lambda points, share, level: (0.4 * share, level),
    "one eye": lambda points, share, level: (share * ~((points[..., 0] > 0.05) & (points[..., 1] > 0.1)), level),
    "eyes alone": lambda points, share, level: (share * (points[..., 1] > 0.1), level),
    "bar": _bar,
    "faces 20 degrees to either side": _twice(20),
    "faces 30 degrees to either side": _twice(30),
    "turned by 25": _turn(25),
    "turned by 130": _turn(130),
    "no windows": lambda points, share, level: (
        share * ~((points[..., 0].abs() > 0.18) & (points[..., 2] > 0.3) & (points[..., 1] < 0)), level
    ),
    "no badge": lambda points, share, level: (share * (points[..., 1] > 0.3), level),
    "white before": lambda points, share, level: (
        torch.maximum(share, (points[..., 2] > 0.1).float()), torch.full_like(share, 0.84)
    ),
}  # fmt: skip


def around(shape, colour, drawing):
    thing = Drawn(shape, colour)
    object.__setattr__(thing, "drawing", drawing)
    seen = looks([thing] * VIEWS, ring_of_views(), SIZE)
    return Around(describe(seen.alpha[:, 0], seen.albedo, seen.normal, ring_of_views()))


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
        ("smiley", "turned by 25", 3, False),
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
def test_a_cast_is_no_paint(colour, brightness):
    parts = around("smiley", colour, "true").parts.clone()
    parts[:, 1:4] *= brightness
    face = find_face(Around(parts), Object("smiley", colour))
    assert face.found == 3 and face.stray < LIMIT, face


def test_the_turn_is_where_the_face_is_and_no_further_than_fronts_may_stand():
    thing = Object("smiley", "red")
    assert find_face(around("smiley", "red", "turned by 25"), thing).turn == pytest.approx(30)
    behind = find_face(around("smiley", "red", "turned by 130"), thing)
    assert behind.found < 3 and abs(behind.turn) <= 60


def test_a_face_with_a_third_eye_has_one_front_and_is_refused():
    """What made this measure: a front is counted by half of what tells it from the back."""
    for spoil, failing in ((three_eyed, "face"), (mouthless, "face")):
        seen = observe(spoil(Object("smiley", "red")), world="full")
        assert seen.around is not None and find_fronts(seen.around, "smiley", "red").count == 1
        judgement = judge(seen, "a red smiley")
        assert failing in {c.name for c in judgement.checks if not c.passed}, judgement.failures
        assert not {c.name for c in judgement.checks if not c.passed} - {"face", "paint"}, judgement.failures


def test_a_roof_is_no_dark_paint_and_air_is_none():
    house = Object("house", "red")
    opacity = torch.ones(1, 1, 32, 32)
    roof = torch.lerp(torch.tensor(COLOURS["red"]), torch.full((3,), 0.24), 0.6)[:, None, None].expand(3, 32, 32)[None]
    view = torch.cat([opacity, roof, torch.zeros(1, 3, 32, 32)], 1)
    assert (read_paint(view, house) == OWN).all()
    for level, kind in ((0.9, LIGHT), (0.15, SHADE)):
        view[:, 1:4] = level
        assert (read_paint(view, house) == kind).all()
        assert (read_paint(0.4 * view, house) == OWN).all(), "less than half opaque is air"


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
