"""The font of words that are drawn into pictures: Pillow's own, or one of the machine's for what that cannot write.

Pillow's holds little beyond ASCII, and prompts are written in any language.
"""

from __future__ import annotations

import functools
from typing import Any

ELSEWHERE = (
    "segoeui.ttf", "arial.ttf", "Arial.ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf",
    "msyh.ttc", "simhei.ttf", "YuGothR.ttc", "malgun.ttf",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "AppleSDGothicNeo.ttc",
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
)  # fmt: skip
"""Files that Pillow finds in the folders where Windows, macOS and Linux keep fonts: first those of few scripts, then
those of Chinese, Japanese and Korean."""
_NOTHING = "\U0010ffff"
"""A character of no font: what is drawn for it is drawn for all that a font lacks."""


def font(points: float, text: str = "") -> Any:
    """A Pillow font that can write ``text``, or as much of it as any that is found.

    Args:
        points: height of the letters in pixels.
        text: what will be written.
    """
    strange = "".join(sorted({c for c in text if not c.isascii()}))
    return _font(points, strange)


@functools.lru_cache(maxsize=64)
def _font(points: float, strange: str) -> Any:
    from PIL import ImageFont

    found = ImageFont.load_default(points)
    least = _lacks(found, strange)
    for name in ELSEWHERE if least else ():
        try:
            other = ImageFont.truetype(name, points)
        except OSError:
            continue
        lacks = _lacks(other, strange)
        if lacks < least:
            found, least = other, lacks
        if not least:
            break
    return found


def _lacks(found: Any, text: str) -> int:
    """How many of these characters the font cannot write."""
    box = bytes(found.getmask(_NOTHING))
    return sum(bytes(found.getmask(c)) == box for c in text if not c.isspace())
