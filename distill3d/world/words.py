"""The words of the world's captions, and which of a prompt's a model of the world has never read."""

from __future__ import annotations

import re

from .catalogue import FULL_SHAPES
from .figures import FIGURES
from .objects import COLOURS, all_objects
from .paint import PATTERNS

_AROUND = "photo of 3d render front side back overhead view white grey black coloured gradient background"
"""What a caption holds beside the object's own name."""


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def unread(*texts: str) -> list[str]:
    """The words of ``texts`` that no caption of the full world has, each once and in order; case does not count."""
    known = set(_words(" ".join([_AROUND, *(thing.caption() for thing in all_objects("full"))])))
    return [word for word in dict.fromkeys(_words(" ".join(texts))) if word not in known]


def remark(prompt: str, negative: str = "") -> str:
    """A sentence for a user of the bundled prior about words it has never read; empty where there is none."""
    words = unread(prompt, negative)
    if not words:
        return ""
    shapes, patterns = ", ".join([*FULL_SHAPES, *FIGURES]), ", ".join(p for p in PATTERNS if p != "plain")
    return (
        f"the bundled tiny prior has never read {', '.join(map(repr, words))}, and what comes of it is chance. It "
        f"knows {shapes}; in {', '.join(COLOURS)}; {patterns} or plain. Anything else needs a Stable Diffusion model"
    )
