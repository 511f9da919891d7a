"""The words of the world's captions, and which of a prompt's a model of the world does not know."""

from __future__ import annotations

import re
from itertools import chain

from .catalogue import FULL_SHAPES
from .figures import FIGURES
from .objects import COLOURS, all_objects
from .paint import PATTERNS

MOST = 6
"""Unknown words that are named; of more their number is told."""
_AROUND = "photo of 3d render front side back overhead view background and"
"""What a caption holds beside the object's own name."""
_PHRASES = re.compile(r"\b(?:white|grey|black|coloured|gradient)\s+background\b|\band\s+white(?=\s+ball\b)")
"""Where captions have words that say nothing of an object elsewhere: no cube was ever black."""


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", _PHRASES.sub(" ", text.lower()))


def unknown(*texts: str) -> list[str]:
    """The words of ``texts`` that no caption of the full world has in their place, each once and in order.

    Case and punctuation do not count.
    """
    known = set(_words(" ".join([_AROUND, *(thing.caption() for thing in all_objects("full"))])))
    return [word for word in dict.fromkeys(chain.from_iterable(map(_words, texts))) if word not in known]


def remark(prompt: str, negative: str = "") -> str:
    """A sentence for a user of the bundled prior about words it does not know; empty where there is none."""
    words = unknown(prompt, negative)
    if not words:
        return ""
    more = f" and {len(words) - MOST} more" if len(words) > MOST else ""
    patterns = ", ".join(name for name in PATTERNS if name != "plain")
    return (
        f"the bundled tiny prior does not know {', '.join(map(repr, words[:MOST]))}{more}, and what comes of it is "
        f"chance. It knows {', '.join([*FULL_SHAPES, *FIGURES])}; in {', '.join(COLOURS)}; {patterns} or without "
        "pattern. Anything else needs a Stable Diffusion model"
    )
