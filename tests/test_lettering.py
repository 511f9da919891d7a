"""Words in pictures, in any language, held against the fonts that Pillow finds itself."""

import pytest
from PIL import ImageFont

from distill3d import lettering
from distill3d.lettering import font


@pytest.fixture(autouse=True)
def fresh():
    lettering._font.cache_clear()
    yield
    lettering._font.cache_clear()


def installed(*names):
    for name in names:
        try:
            return name, ImageFont.truetype(name, 20)
        except OSError:
            continue
    pytest.skip(f"none of {', '.join(names)} on this machine")


def pixels(found, text):
    return bytes(found.getmask(text))


def test_what_pillow_can_write_stays_in_its_own_font():
    assert pixels(font(20, "a red cube 45°"), "a red cube") == pixels(ImageFont.load_default(20), "a red cube")


def test_other_letters_come_from_a_font_of_the_machine(monkeypatch):
    name, own = installed("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
    monkeypatch.setattr(lettering, "ELSEWHERE", ("no-such-font.ttf", name))
    for text in ("красный куб", "ein grüner Würfel", "κύβος"):
        assert pixels(font(20, text), text) == pixels(own, text) != pixels(ImageFont.load_default(20), text)


def test_the_font_that_can_write_the_most_is_taken_and_none_is_no_error(monkeypatch):
    name, own = installed("DejaVuSans.ttf")
    mono, _ = installed("DejaVuSansMono.ttf")
    monkeypatch.setattr(lettering, "ELSEWHERE", (name, mono))
    both = "куб \U0010fffe"
    assert pixels(font(20, both), "куб") == pixels(own, "куб"), "the first of two that lack as much"
    monkeypatch.setattr(lettering, "ELSEWHERE", ())
    lettering._font.cache_clear()
    assert pixels(font(20, "куб"), "a") == pixels(ImageFont.load_default(20), "a")
