"""View-dependent prompts."""

from __future__ import annotations

import math

import pytest
import torch

from distill3d.errors import SettingsError
from distill3d.prompts import (
    DEFAULT_SECTORS,
    NARROW_SECTORS,
    Sector,
    ViewPrompts,
    format_sectors,
    make_sectors,
    parse_sectors,
)


def reference(azimuth: float, elevation: float, front: float, back: float, overhead: float) -> str:
    """threestudio's conditions for one view in degrees, in its order."""
    azimuth = (azimuth + 180) % 360 - 180
    name = "side"
    if -front < azimuth < front:
        name = "front"
    if azimuth > 180 - back or azimuth < -180 + back:
        name = "back"
    if elevation > overhead:
        name = "overhead"
    return name


def select(prompts: ViewPrompts, azimuth: float, elevation: float = 0.0) -> str:
    index = prompts.select(*(torch.tensor([math.radians(v)]) for v in (azimuth, elevation)))
    return prompts.names[int(index)]


@pytest.mark.parametrize("thresholds", [(45, 45, 60), (30, 30, 60), (90, 90, 20), (20, 70, 60)])
def test_sectors_agree_with_threestudios_conditions_over_the_sphere_and_beyond_one_turn(thresholds) -> None:
    prompts = ViewPrompts("a cube", sectors=make_sectors(*thresholds))
    azimuth, elevation = torch.meshgrid(torch.arange(-541.5, 541.5, 7), torch.arange(-89.5, 90, 3.5), indexing="ij")
    azimuth, elevation = azimuth.reshape(-1), elevation.reshape(-1)
    got = prompts.select(torch.deg2rad(azimuth), torch.deg2rad(elevation))
    want = [reference(a, e, *thresholds) for a, e in zip(azimuth.tolist(), elevation.tolist(), strict=True)]
    assert got.dtype == torch.long and [prompts.names[i] for i in got.tolist()] == want
    assert len(set(want)) > 2


@pytest.mark.parametrize(
    ("azimuth", "elevation", "name"),
    [(0, 0, "front"), (44.9, 0, "front"), (45.1, 0, "side"), (-44.9, 0, "front"), (90, 0, "side"), (-90, 0, "side"),
     (134.9, 0, "side"), (135.1, 0, "back"), (180, 0, "back"), (-180, 0, "back"), (-135.1, 0, "back"),
     (0, 59.9, "front"),
     (0, 60.1, "overhead"), (180, 90, "overhead"), (0, -90, "front"), (360, 0, "front"), (540, 0, "back")],
)  # fmt: skip
def test_view_directions_at_the_thresholds(azimuth: float, elevation: float, name: str) -> None:
    assert select(ViewPrompts("a cube"), azimuth, elevation) == name


def test_ends_of_a_sector_are_outside_it_except_at_the_poles() -> None:
    sector = Sector("front", "", (-45, 45), (-90, 60))
    azimuth, elevation = torch.tensor([-45.0, 45, 315, 0, 0, 0]), torch.tensor([0.0, 0, 0, 60, -90, 59])
    assert sector.contains(azimuth, elevation).tolist() == [False, False, False, False, True, True]


def test_texts_are_the_prompt_with_suffix_and_the_negative_stays_as_it_is() -> None:
    prompts = ViewPrompts(" a red cube ", "blurry")
    assert prompts.texts == (
        "a red cube, side view", "a red cube, front view", "a red cube, back view", "a red cube, overhead view"
    )  # fmt: skip
    assert prompts.negative == "blurry"
    assert Sector("front", "", prefix="front view of ").text("a cube") == "front view of a cube"


def test_later_sectors_override_earlier_ones() -> None:
    everything = (
        Sector("all", ""),
        Sector("left", ", from its left", (45, 135)),
        Sector("low", ", below", (60, 100), (-90, -30)),
    )
    prompts = ViewPrompts("a cube", sectors=everything)
    assert [select(prompts, a, e) for a, e in ((80, 0), (80, -45), (0, -45), (120, -45))] == [
        "left",
        "low",
        "all",
        "left",
    ]


@pytest.mark.parametrize("sectors", [DEFAULT_SECTORS, NARROW_SECTORS, (Sector("all", "", prefix="photo of "),)])
def test_sectors_survive_their_text_form(sectors) -> None:
    assert parse_sectors(format_sectors(sectors)) == tuple(sectors)


def test_sectors_from_lines_json_and_dicts_are_the_same() -> None:
    lines = "side | -180..180 | -90..90 | , side view\n\nfront | -45..45 | -90..90 | , front view\n"
    text = (
        '[{"name": "side", "suffix": ", side view"}, {"name": "front", "suffix": ", front view", "azimuth": [-45, 45]}]'
    )
    assert parse_sectors(lines) == parse_sectors(text) == DEFAULT_SECTORS[:2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ViewPrompts("  "), "expected a prompt"),
        (lambda: ViewPrompts("a cube", sectors=()), "at least one sector"),
        (lambda: ViewPrompts("a cube", sectors=DEFAULT_SECTORS[1:]), "first sector to cover every view"),
        (lambda: ViewPrompts("a cube", sectors=(*DEFAULT_SECTORS, DEFAULT_SECTORS[1])), "different names"),
        (lambda: Sector("x", "", (45, -45)), "low < high"),
        (lambda: Sector("x", "", (0, 400)), "at most 360"),
        (lambda: Sector("x", "", elevation=(-100, 0)), "-90..90"),
        (lambda: Sector("x", "", azimuth="wide"), "low < high"),  # type: ignore[arg-type]
        (lambda: Sector(" ", ""), "name"),
        (lambda: parse_sectors("front | -45..45"), "name | azimuth low..high"),
        (lambda: parse_sectors("front | -45 to 45 | -90..90 | , x"), "name | azimuth low..high"),
        (lambda: parse_sectors([{"name": "x", "colour": 1}]), "name | azimuth low..high"),
        (lambda: parse_sectors("[{"), "JSON"),
        (lambda: parse_sectors("\n"), "at least one sector"),
    ],
)
def test_mistakes_say_what_to_write_instead(make, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        make()
    assert says in str(error.value)
