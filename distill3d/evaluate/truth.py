"""Is this field the object its prompt names? A judgement against exact geometry, with no learned classifier in it.

A classifier is blind off its training distribution: one called a grey ball a cube every time. Prompts of the procedural
world, "a <colour> <shape>", have a known solid and a known hue, so a field can be measured instead:

shape       volume IoU (the one primary measure) of the field's visible solid with each of its world's shapes, best over
            position, isotropic scale and yaw. The true shape must be the best, by itself good enough, and, the sphere
            aside, ahead of a plain ball. Volume and not silhouettes, because it separates further: a perfect cube and a
            ball overlap by 0.73 in volume and by 0.83 in silhouette. Silhouettes must agree too, but do not rank.
size        the scale of that pose is near the one the prior was trained on: an object, not a filled box
silhouette  rendered opacity against the true outline over 12 views, empty outside it and opaque inside; the outline may
            swell by up to 12 % beyond the solid, because grazing rays gather opacity in any soft surface;
            nothing stands apart from it or is half seen through
hole        a torus is open when seen from above
gaps        between the parts of what is not compact (arch, arrow, chair, cross, star, torus) one sees through
convexity   no bent faces, and no tunnel through what is solid (``solidity``)
colour      mean hue, a majority of the pixels, and neither washed out nor darkened: enough chroma, on average and in
            that majority
two_grounds on white and on dark the renders imply the same opacity, and the object is seen on both, but
            for paint that the true object wears, which may hide on its like
mesh        not empty, one component, and its silhouettes are the field's and the truth's
surface     Chamfer distance and normals of the exported mesh against the true surface (``distance``)
roughness   no grain on the exported mesh that the true surface has not (``roughness``)
spots       in no view, the one from above included, a patch of a colour that the object wears nowhere; on a bare object
            also one in its own hue, but pale or dark (``spots``)

and, for what only the full world has,

paint       about as much white and dark as on the true object; for a pattern, no other pattern fits better, and it
            is not blotches (``paint``)
fronts      exactly one front all around, and it looks to where view prompts put it (``fronts``); a sphere has no face
face        on smiley, mug and house every mark of the front, and no paint elsewhere (``faces``)

It passes only when every check does. Objects of the full world are judged against its eighteen different solids, and
hue share and chroma are taken relative to the true object's, which paint lowers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..errors import SettingsError
from ..world.catalogue import CATALOGUE, WORLDS, solid_of
from ..world.figures import FIGURES
from ..world.objects import COLOURS, Object
from ..world.paint import PATTERNS
from .colour import chroma, read_colour
from .distance import surface_distance
from .faces import find_face, has_face
from .fit import Fit
from .fronts import Around, find_fronts
from .observation import Observation
from .paint import is_painted, paint_shares, pattern_correlation, pattern_errors, true_reading
from .roughness import roughness
from .solidity import core_fill, relative_solidity
from .spots import spot_shares
from .thresholds import Thresholds
from .views import (
    apart,
    fill,
    gap_opacity,
    has_gaps,
    haze,
    hole_opacity,
    soft_iou,
    top_camera,
    translucent,
    true_opacity,
    true_outline,
)

BALL = "sphere"


@dataclass(frozen=True)
class Check:
    """One requirement: its name, whether it holds, and the figures as a sentence."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Judgement:
    """The verdict on one field for one prompt; ``measures`` holds plain numbers and words only."""

    prompt: str
    passed: bool
    checks: tuple[Check, ...]
    measures: dict[str, Any]

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(f"{c.name}: {c.reason}" for c in self.checks if not c.passed)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for ``json.dumps``."""
        return asdict(self)


def parse_prompt(prompt: str) -> tuple[str, str]:
    """Shape and colour of a prompt that names exactly one of each.

    Raises:
        SettingsError: it names none or several.

    >>> parse_prompt("a red cube")
    ('cube', 'red')
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    found = []
    for kind, known in (("shape", CATALOGUE), ("colour", COLOURS)):
        named = sorted({w for w in words if w in known})
        if len(named) != 1:
            raise SettingsError(
                f"expected exactly one {kind} in the prompt {prompt!r}, got {', '.join(named) or 'none'}: "
                f"the judge knows {', '.join(known)}"
            )
        found.append(named[0])
    return found[0], found[1]


def parse_object(prompt: str) -> Object:
    """The object a prompt names: ``parse_prompt`` and at most one pattern.

    Raises:
        SettingsError: as ``parse_prompt``; several patterns, or one on an object that wears its own paint; a ball that
            is not said to be half white.

    >>> parse_object("a striped red cube").pattern
    'striped'
    """
    shape, colour = parse_prompt(prompt)
    words = re.findall(r"[a-z]+", prompt.lower())
    patterns = sorted({w for w in words if w in PATTERNS and w != "plain"})
    if len(patterns) > 1 or (patterns and CATALOGUE[shape].has_front):
        raise SettingsError(
            f"expected at most one pattern, and none on an object with a front, in the prompt {prompt!r}, got "
            f"{', '.join(patterns)}: leave one out"
        )
    if shape == "ball" and "white" not in words:
        raise SettingsError(
            f"expected a {colour} and white ball, or a {colour} sphere, in the prompt {prompt!r}: the judge knows no "
            "ball of one colour"
        )
    return Object(shape, colour, pattern=patterns[0] if patterns else "plain")


def world_of(prompts: Iterable[str]) -> str:
    """The smallest world that holds everything these prompts name. Raises as ``parse_object``."""
    plain = set(WORLDS["plain"].words)
    things = [parse_object(p) for p in prompts]
    return "plain" if all(o.shape in plain and o.pattern == "plain" for o in things) else "full"


def _shape(fits: dict[str, Fit], shape: str, t: Thresholds) -> Check:
    ious = {name: fit.iou for name, fit in fits.items()}
    own, ball = ious[shape], ious[BALL]
    best = max(ious, key=ious.__getitem__)
    reason = f"IoU {own:.2f}, best is {best} {ious[best]:.2f}, ball {ball:.2f}"
    ahead = shape == BALL or own >= ball + t.ball_margin
    return Check("shape", best == shape and own >= t.minimum_iou and ahead, reason)


def _two_grounds(seen: Observation, thing: Object, t: Thresholds, measures: dict[str, Any]) -> Check:
    error = seen.views.opacity_error()
    white, dark = seen.views.visible(t.visible_contrast)
    light_paint, dark_paint = paint_shares(thing, t.pale) if is_painted(thing) else (0.0, 0.0)
    measures.update(opacity_error=error, visible_on_white=white, visible_on_dark=dark)
    seen_enough = white >= t.minimum_visible - light_paint and dark >= t.minimum_visible - dark_paint
    good = error <= t.maximum_opacity_error and seen_enough
    return Check("two_grounds", good, f"opacity differs by {error:.3f}, seen on white {white:.0%}, on dark {dark:.0%}")


def _least_chroma(colour: str, t: Thresholds) -> float:
    """Chroma below which a pixel has lost a colour's name."""
    return t.minimum_chroma * float(chroma(torch.tensor(COLOURS[colour])))


def _colour(seen: Observation, thing: Object, t: Thresholds, measures: dict[str, Any]) -> Check:
    reading, colour = seen.colour, thing.colour
    distance, share = reading.distance(colour), reading.shares[colour]
    truth = true_reading(thing, t.pale)
    least = _least_chroma(colour, t)
    vivid = read_colour(seen.views.colour(), seen.views.opacity, least).shares[colour]
    bare, strong = (true_reading(thing, pale).shares[colour] if is_painted(thing) else 1.0 for pale in (t.pale, least))
    measures.update(
        hue=reading.hue, hue_distance=distance, hue_nearest=reading.nearest, hue_share=share,
        chroma=reading.chroma, true_chroma=truth.chroma, vivid_share=vivid,
    )  # fmt: skip
    good = (
        distance <= t.hue_distance
        and reading.nearest == colour
        and share >= t.hue_share * bare
        and vivid >= t.hue_share * strong
        and reading.chroma >= t.minimum_chroma * truth.chroma
    )
    reason = f"hue is {distance:.0f} degrees off, {share:.0%} of it {colour}, nearest {reading.nearest}"
    reason += (
        f", chroma {reading.chroma:.2f}, {truth.chroma:.2f} of the true object, at least half its own on {vivid:.0%}"
    )
    return Check("colour", good, reason)


def _paint(seen: Observation, thing: Object, t: Thresholds, measures: dict[str, Any]) -> Check:
    own = 1 - sum(seen.colour.shares.values())
    true = 1 - sum(true_reading(thing, t.pale).shares.values())
    measures.update(pale_share=own, true_pale_share=true)
    good = t.paint_share[0] * true <= own <= t.paint_share[1] * true
    reason = f"{own:.0%} pale, {true:.0%} of the true object"
    if thing.pattern != "plain":
        errors = pattern_errors(seen.views, thing, seen.fits[thing.shape].pose)
        best = min(errors, key=errors.__getitem__)
        found = pattern_correlation(seen.views, thing, seen.fits[thing.shape].pose)
        measures.update(pattern_errors=errors, pattern_correlation=found)
        good = good and best == thing.pattern and found >= t.minimum_pattern
        reason = f"{reason}, most like {best}, correlation {found:.2f} with its own"
    return Check("paint", good, reason)


def _fronts(around: Around, thing: Object, t: Thresholds, measures: dict[str, Any]) -> Check:
    found = find_fronts(around, thing.shape, thing.colour)
    measures.update(fronts=found.count, front_azimuths=list(found.azimuths), front_strength=max(found.strength))
    placed = all(abs(a) <= t.front_offset for a in found.azimuths)
    good = found.count == t.fronts and placed and not any(found.mirrored)
    places = ", ".join(
        f"{a:.0f}{' as in a mirror' * mirrored}" for a, mirrored in zip(found.azimuths, found.mirrored, strict=True)
    )
    return Check("fronts", good, f"{found.count} found" + (f", at {places} degrees" if places else ""))


def _face(around: Around, thing: Object, t: Thresholds, measures: dict[str, Any]) -> Check:
    face = find_face(around, thing)
    measures.update(face_marks=face.marks, face_found=face.found, face_stray=face.stray, face_turn=face.turn)
    good = face.found == face.marks and face.stray <= t.maximum_stray
    reason = f"{face.found} of {face.marks} marks of the front, {face.stray:.1%} painted where nothing should be"
    return Check("face", good, reason)


def _surface(seen: Observation, shape: str, t: Thresholds, measures: dict[str, Any]) -> Check:
    if seen.mesh is None:
        return Check("surface", False, seen.mesh_error)
    found = surface_distance(seen.mesh.vertices, seen.mesh.triangles, shape, seen.fits[shape].pose)
    measures.update(chamfer=found.chamfer, normal_consistency=found.normals)
    good = found.chamfer <= t.maximum_chamfer and found.normals >= t.minimum_normal_consistency
    return Check("surface", good, f"Chamfer {found.chamfer:.3f} of the box, normals agree to {found.normals:.2f}")


def _roughness(seen: Observation, shape: str, t: Thresholds, measures: dict[str, Any]) -> Check:
    if seen.mesh is None:
        return Check("roughness", False, seen.mesh_error)
    found = roughness(seen.mesh.vertices, seen.mesh.triangles, shape, seen.fits[shape].pose)
    measures.update(roughness=found)
    return Check("roughness", found <= t.maximum_roughness, f"normals scatter by {found:.0f} degrees")


def _spots(seen: Observation, thing: Object, t: Thresholds, measures: dict[str, Any]) -> Check:
    views = seen.views
    rgb = torch.cat([views.colour(), views.colour_above()[None]])
    opacity = torch.cat([views.opacity, views.top[None]])
    painted = is_painted(thing)
    shares = spot_shares(rgb, opacity, thing.colour, t.pale if painted else _least_chroma(thing.colour, t), painted)
    worst = float(shares.max())
    measures.update(spots=worst, mean_spots=float(shares.mean()))
    where = "from above" if int(shares.argmax()) == len(shares) - 1 else "from a side"
    return Check("spots", worst <= t.maximum_spots, f"{worst:.1%} of another colour, seen {where}")


def _geometry(seen: Observation, shape: str, t: Thresholds, measures: dict[str, Any]) -> list[Check]:
    pose = seen.fits[shape].pose
    swell, truth = true_outline(shape, pose, seen.views.opacity)
    silhouette = soft_iou(seen.views.opacity, truth)
    outside, inside = haze(seen.views.opacity, truth), fill(seen.views.opacity, truth)
    convexity, core = relative_solidity(seen.solid, shape, pose), core_fill(seen.solid, shape, pose)
    hole = hole_opacity(seen.views.top, shape, pose)
    above = true_opacity(shape, replace(pose, scale=swell * pose.scale), top_camera())
    everywhere, opacity = torch.cat([truth, above]), torch.cat([seen.views.opacity, seen.views.top[None]])
    lost, ghost = apart(opacity, everywhere), translucent(opacity)
    gaps = gap_opacity(opacity, everywhere) if has_gaps(shape) else None
    measures.update(
        iou={name: fit.iou for name, fit in seen.fits.items()},
        scale=pose.scale, yaw=pose.yaw, centre=list(pose.centre),
        silhouette_iou=silhouette, swell=swell, haze=outside, fill=inside, solidity=convexity, hole_opacity=hole,
        gap_opacity=gaps, apart=lost, translucent=ghost, core=core,
    )  # fmt: skip
    clear = outside <= t.maximum_haze and lost <= t.maximum_apart and ghost <= t.maximum_translucent
    good = silhouette >= t.minimum_silhouette_iou and clear and inside >= t.minimum_fill
    space = f"opacity outside {outside:.2f}, inside {inside:.2f}, apart {lost:.1%}, translucent {ghost:.1%}"
    bent = f"fills {convexity:.2f} of what the true shape fills of its hull, {core:.0%} of its core"
    checks = [
        _shape(seen.fits, shape, t),
        Check("size", t.scale[0] <= pose.scale <= t.scale[1], f"{pose.scale:.2f} of the shape's own size"),
        Check("silhouette", good, f"IoU {silhouette:.2f}, {space}"),
        Check("convexity", convexity >= t.solidity and core >= t.minimum_core, bent),
    ]
    checks += [_surface(seen, shape, t, measures), _roughness(seen, shape, t, measures)]
    if hole is not None:
        checks.append(Check("hole", hole < t.maximum_hole_opacity, f"opacity {hole:.2f} from above"))
    if gaps is not None:
        checks.append(Check("gaps", gaps <= t.maximum_gap_opacity, f"opacity {gaps:.2f} between its parts"))
    if seen.mesh is None:
        return [*checks, Check("mesh", False, seen.mesh_error)]
    mesh = seen.mesh
    own, true = soft_iou(mesh.opacity, seen.views.opacity), soft_iou(mesh.opacity, truth)
    parts = min(mesh.raw_share, mesh.exported_share)
    measures.update(mesh_faces=mesh.faces, mesh_component_share=parts, mesh_iou_field=own, mesh_iou_truth=true)
    good = parts >= t.component_share and min(own, true) >= t.minimum_mesh_iou
    reason = f"largest component {parts:.0%}, silhouette IoU {own:.2f} with the field, {true:.2f} with the truth"
    return [*checks, Check("mesh", good, reason)]


def _known(seen: Observation, thing: Object) -> str:
    """The word of the object's solid among the observation's fits."""
    solid = solid_of(thing.shape)
    if seen.fits and solid not in seen.fits:
        raise SettingsError(
            f"expected an observation that knows a {thing.shape}, got the plain world's: observe(world='full')"
        )
    return solid


def _extras(seen: Observation, thing: Object, t: Thresholds, measures: dict[str, Any]) -> list[Check]:
    """The checks that only some objects of the full world call for."""
    checks = [_paint(seen, thing, t, measures)] if is_painted(thing) and seen.fits else []
    if thing.has_front:
        if seen.around is None:
            raise SettingsError(
                "expected an observation of the full world to find a front in: use observe(world='full')"
            )
        checks.append(_fronts(seen.around, thing, t, measures))
        if has_face(thing):
            checks.append(_face(seen.around, thing, t, measures))
    if seen.around is not None and not is_painted(thing):
        faces = [f for f in FIGURES if CATALOGUE[f].solid == thing.shape]
        found = [f for f in faces if find_fronts(seen.around, f, thing.colour).count]
        if faces:
            checks.append(Check("fronts", not found, f"no face expected, found {', '.join(found) or 'none'}"))
    return checks


def accepts(seen: Observation, prompt: str, thresholds: Thresholds | None = None) -> bool:
    """Whether ``judge`` would pass, without the costly checks where a cheap one already fails."""
    t = thresholds or Thresholds()
    thing = parse_object(prompt)
    solid = _known(seen, thing)
    if not seen.fits or not _shape(seen.fits, solid, t).passed or not _colour(seen, thing, t, {}).passed:
        return False
    return judge(seen, prompt, t).passed


def judge(seen: Observation, prompt: str, thresholds: Thresholds | None = None) -> Judgement:
    """The verdict on an observed field for ``prompt``; about half a second. Raises as ``parse_object``.

    Raises:
        SettingsError: also when the prompt is of the full world and the observation of the plain one.
    """
    t = thresholds or Thresholds()
    thing = parse_object(prompt)
    solid = _known(seen, thing)
    measures: dict[str, Any] = {}
    if seen.fits:
        checks = _geometry(seen, solid, t, measures)
    else:
        checks = [Check("shape", False, "the field shows no solid object from any side")]
    checks += [_colour(seen, thing, t, measures), _spots(seen, thing, t, measures)]
    checks += [_two_grounds(seen, thing, t, measures), *_extras(seen, thing, t, measures)]
    return Judgement(prompt, all(c.passed for c in checks), tuple(checks), measures)
