"""Which object does a picture show, in which pattern, and from where? Matching painted objects against known renders.

As in ``match`` no network is trained: brightness is nearly linear in the normal, so that an object of colour ``c`` seen
from a known view looks like ``(c (1 - p) + p l) (a + b . n)`` with its paint's share ``p`` and level ``l`` known, and
four unknowns of light shared by the three channels. A picture is explained by a view as far as least squares on those
four reaches. Pictures are cut to their object first, so that size and place do not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..render.cameras import orbit
from ..world import CATALOGUE, COLOURS, WORLDS, Object, looks
from ..world.crop import cut_out
from .match import FOREGROUND, hue

ELEVATIONS = tuple(range(-10, 81, 10))
AZIMUTH_STEP = 15
RENDER = 48
CHUNK = 64
TIE, VIEW_TIE = 0.015, 0.004
"""Differences in explained share below these do not decide between objects, and between views of one: from behind a
smiley is a sphere, from above a dome. True renders differ from their own best view by up to the first."""
RECOGNISED = 0.72
"""Least explained share for a picture to be seen from anywhere at all: of true renders with a front 1 in 200 has less,
noise has at most 0.7 of one object."""
SLACK = 10.0
"""Degrees by which a view may miss the sector its caption names: less than a step of the bank."""


@dataclass(frozen=True)
class Painted:
    """``V`` views of every kind of object, a kind being a shape in a pattern.

    Attributes:
        bare: ``(V, 4, P)`` what shows the object's own colour, times 1 and the three components of the normal.
        paint: ``(V, 4, P)`` grey level of what is painted, times the same.
        kind: ``(V,)`` index into ``kinds``.
        azimuth, elevation: ``(V,)`` degrees.
        bareness: ``(V,)`` share of the object's pixels that shows its own colour.
        kinds: ``(shape, pattern)`` words.
    """

    bare: Tensor
    paint: Tensor
    kind: Tensor
    azimuth: Tensor
    elevation: Tensor
    bareness: Tensor
    kinds: tuple[tuple[str, str], ...]


def ground(images: Tensor) -> Tensor:
    """``(N, 3, S, S)`` background of images ``(N, 3, S, S)``: from the top row's median colour to the bottom row's."""
    top, bottom = images[:, :, 0].median(2).values, images[:, :, -1].median(2).values
    down = torch.linspace(0, 1, images.shape[2])[None, None, :]
    rows = top[:, :, None] * (1 - down) + bottom[:, :, None] * down
    return rows[..., None].expand_as(images)


def _views(words: Sequence[str], patterns: Sequence[str]) -> list[tuple[Object, int, int]]:
    kinds = [(w, p) for w in words for p in patterns if p == "plain" or not CATALOGUE[w].has_front]
    things = [Object(word, "red", pattern=pattern) for word, pattern in kinds]
    return [
        (thing, azimuth, elevation)
        for thing in things
        for elevation in ELEVATIONS
        for azimuth in (range(0, thing.turn, AZIMUTH_STEP) if thing.turn else (0,))
    ]


@functools.lru_cache(maxsize=2)
def build_painted(
    words: tuple[str, ...] = WORLDS["full"].words, patterns: tuple[str, ...] = WORLDS["full"].patterns
) -> Painted:
    """Views of the full world: 10 elevations, azimuths in steps of 15 degrees over each object's turn."""
    views = _views(words, patterns)
    kinds = tuple(dict.fromkeys((v[0].shape, v[0].pattern) for v in views))
    bare, paint, bareness = [], [], []
    for start in range(0, len(views), CHUNK):
        part = views[start : start + CHUNK]
        cameras = orbit([float(v[1]) for v in part], [float(v[2]) for v in part], 3.05, 42.0)
        seen = looks([v[0] for v in part], cameras, RENDER)
        one_and_normal = torch.cat([torch.ones_like(seen.alpha), seen.normal], 1) * seen.alpha
        mask = seen.alpha[:, 0] > 0.5
        both = torch.cat([one_and_normal * (1 - seen.share), one_and_normal * seen.share * seen.level], 1)
        cut = cut_out(both, mask).flatten(2)
        bare.append(cut[:, :4])
        paint.append(cut[:, 4:])
        shown = (mask[:, None] * (1 - seen.share)).sum((1, 2, 3)) / mask.sum((1, 2)).clamp(min=1)
        bareness.append(shown)
    index = torch.tensor([kinds.index((v[0].shape, v[0].pattern)) for v in views])
    azimuth, elevation = torch.tensor([float(v[1]) for v in views]), torch.tensor([float(v[2]) for v in views])
    return Painted(torch.cat(bare), torch.cat(paint), index, azimuth, elevation, torch.cat(bareness), kinds)


def object_mask(images: Tensor) -> Tensor:
    """``(N, S, S)`` bool: what stands out from the background."""
    stands_out: Tensor = (images - ground(images)).norm(dim=1) > FOREGROUND
    return stands_out


def nearest_colours(images: Tensor, mask: Tensor, least: float = 0.01) -> Tensor:
    """``(N,)`` index into ``COLOURS`` of the hue of the object's coloured pixels; -1 where fewer than ``least`` are."""
    chroma = (images.amax(1) - images.amin(1)) * mask
    strong = chroma > 0.12
    weight = (chroma * strong)[:, None]
    mean = (images * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)
    away = (hue(mean)[:, None] - hue(torch.tensor(list(COLOURS.values())))).abs()
    nearest = torch.minimum(away, 360 - away).argmin(1)
    return torch.where(strong.sum((1, 2)) < least * mask.sum((1, 2)).clamp(min=1), -1, nearest)


def explained(images: Tensor, colours: Tensor, bank: Painted) -> Tensor:
    """``(N, V)`` share in [0, 1] that each view explains of pictures ``(N, 3, S, S)`` of colour index ``colours``."""
    cut = cut_out(images, object_mask(images)).flatten(2)
    energy = cut.square().sum((1, 2)).clamp(min=1e-8)
    out = torch.zeros(len(images), len(bank.kind))
    bare, paint = bank.bare.flatten(0, 1), bank.paint.flatten(0, 1)
    own, mixed, other = bank.bare @ bank.bare.mT, bank.bare @ bank.paint.mT, bank.paint @ bank.paint.mT
    for colour in colours.unique().tolist():
        rgb = torch.tensor(list(COLOURS.values()))[colour]
        rows = (colours == colour).nonzero().squeeze(1)
        gram = rgb.square().sum() * own + rgb.sum() * (mixed + mixed.mT) + 3 * other
        inverse = torch.linalg.inv(gram + 1e-3 * torch.eye(4))
        along = torch.einsum("nkp,k->np", cut[rows], rgb) @ bare.T + cut[rows].sum(1) @ paint.T
        along = along.view(len(rows), -1, 4)
        out[rows] = torch.einsum("nvi,vij,nvj->nv", along, inverse, along) / energy[rows, None]
    return out.clamp(0, 1)


def obeys(word: str, azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Whether views at these degrees are what ``front``, ``side``, ``back`` or ``overhead`` names, within ``SLACK``."""
    away = (torch.remainder(azimuth + 180, 360) - 180).abs()
    if word == "overhead":
        return elevation > 60 - SLACK
    low, high = {"front": (0, 45), "side": (45, 135), "back": (135, 180)}[word]
    return (away >= low - SLACK) & (away <= high + SLACK) & (elevation <= 60 + SLACK)


def best_of_kinds(shares: Tensor, bank: Painted) -> Tensor:
    """``(N, K)`` explained share at each kind's best view."""
    columns = [shares[:, bank.kind == k].amax(1) for k in range(len(bank.kinds))]
    return torch.stack(columns, 1)


@dataclass(frozen=True)
class Verdicts:
    """What was found of ``N`` pictures for the objects they should show; bool ``(N,)`` unless said otherwise.

    Attributes:
        colour: the nearest hue is the wanted one; True where the object shows next to none of its colour from there.
        shape: no other shape explains the picture better than the wanted one.
        pattern: among the wanted shape's patterns none explains it better than the wanted one.
        share: ``(N,)`` explained share at the wanted object's best view.
        shares: ``(N, V)`` explained share of every view.
    """

    colour: Tensor
    shape: Tensor
    pattern: Tensor
    share: Tensor
    shares: Tensor


def judge_pictures(images: Tensor, wanted: Sequence[Object], bank: Painted) -> Verdicts:
    """Judge pictures ``(N, 3, S, S)`` in [0, 1] against the objects they should show."""
    asked = torch.tensor([list(COLOURS).index(o.colour) for o in wanted])
    found = nearest_colours(images, object_mask(images))
    shares = explained(images, torch.where(found < 0, asked, found), bank)
    kinds = best_of_kinds(shares, bank)
    rows = torch.tensor([bank.kinds.index((o.shape, o.pattern)) for o in wanted])
    same_shape = torch.tensor([[kind[0] == o.shape for kind in bank.kinds] for o in wanted])
    own_shape = kinds.masked_fill(~same_shape, 0).amax(1)
    own = kinds.gather(1, rows[:, None]).squeeze(1)
    best_view = shares.masked_fill(bank.kind[None] != rows[:, None], -1).argmax(1)
    pale = bank.bareness[best_view] < 0.1
    return Verdicts(
        (found == asked) | pale, own_shape >= kinds.amax(1) - TIE, own >= own_shape - TIE, own, shares
    )  # fmt: skip


def view_obeyed(shares: Tensor, wanted: Sequence[Object], words: Sequence[str], bank: Painted) -> Tensor:
    """``(N,)`` bool: the wanted object is recognised, and no view of it explains the picture better than those its view
    word names."""
    obeyed = []
    for row, thing, word in zip(shares, wanted, words, strict=True):
        own = bank.kind == bank.kinds.index((thing.shape, thing.pattern))
        named = own & obeys(word, bank.azimuth, bank.elevation)
        best = row[own].max()
        obeyed.append(bool(best >= RECOGNISED and row[named].max() >= best - VIEW_TIE))
    return torch.tensor(obeyed)
