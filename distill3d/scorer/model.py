"""A tiny image-text scorer in CLIP's manner (arXiv 2103.00020, section 2.3): two towers, one space, cosines between.

The image tower is a small CNN over 64-pixel pictures; the text tower sums the embeddings of the words that name an
object of the full world (shape, colour, pattern) and lets two layers mix them. All other words, views and grounds
among them, are skipped: it scores what is shown, not from where. It is blind off the renders it was trained on, as
every CNN is, so it is a figure beside the judge (``evaluate``) and never a verdict.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import PriorError, SettingsError
from ..files import write_bytes
from ..world import CATALOGUE, COLOURS, PATTERNS

WORDS = (*CATALOGUE, *COLOURS, *(p for p in PATTERNS if p != "plain"))
"""The words the text tower knows; an object without a pattern word is plain."""
SIZE = 64
FILE_NAME = "scorer.safetensors"
_FORMAT = "distill3d scorer 1"


@dataclass(frozen=True)
class Architecture:
    """Sizes of the two towers."""

    channels: tuple[int, ...] = (24, 48, 80, 128)
    """Channels of the image tower's levels; each halves the side."""
    groups: int = 8
    """Groups of its group norms."""
    words: int = 64
    """Width of the word embeddings."""
    width: int = 128
    """Width of the space both towers map into."""

    def __post_init__(self) -> None:
        sizes = (*self.channels, self.groups, self.words, self.width)
        if not 1 <= len(self.channels) <= 5 or min(sizes) < 1:
            raise SettingsError(
                f"expected 1 to 5 levels and sizes of 1 or more in the scorer, got channels={self.channels}, "
                f"groups={self.groups}, words={self.words}, width={self.width}"
            )
        if any(c % self.groups for c in self.channels):
            raise SettingsError(f"expected channels that {self.groups} groups divide, got {self.channels}")


def words_of(text: str) -> list[int]:
    """Indices into ``WORDS`` of the known words of a prompt, in its order.

    Raises:
        SettingsError: there is none.

    >>> [WORDS[i] for i in words_of("a photo of a striped red cube, front view")]
    ['striped', 'red', 'cube']
    """
    found = [WORDS.index(w) for w in re.findall(r"[a-z]+", text.lower()) if w in WORDS]
    if not found:
        raise SettingsError(f"expected a prompt with a word the scorer knows ({', '.join(WORDS)}), got {text!r}")
    return found


class _Block(nn.Module):
    """Halve the side, then a residual convolution at the new one."""

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inside, outside, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(groups, outside)
        self.same = nn.Conv2d(outside, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.silu(self.norm(self.down(x)))
        y: Tensor = x + torch.nn.functional.silu(self.same(x))
        return y


class Scorer(nn.Module):
    """Both towers and the learned scale of their cosines."""

    def __init__(self, architecture: Architecture = Architecture()) -> None:
        super().__init__()
        a = self.architecture = architecture
        stem = nn.Conv2d(3, a.channels[0], 5, stride=2, padding=2)
        blocks = [_Block(i, o, a.groups) for i, o in zip(a.channels, a.channels[1:], strict=False)]
        side = SIZE >> len(a.channels)
        self.image = nn.Sequential(
            stem, nn.SiLU(), *blocks, nn.Flatten(), nn.Linear(side * side * a.channels[-1], a.width)
        )
        self.words = nn.Embedding(len(WORDS), a.words)
        self.text = nn.Sequential(nn.Linear(a.words, a.width), nn.SiLU(), nn.Linear(a.width, a.width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed_images(self, images: Tensor) -> Tensor:
        """``(N, width)`` unit vectors of pictures ``(N, 3, 64, 64)`` in [0, 1]."""
        return torch.nn.functional.normalize(self.image(2 * images - 1), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``(N, width)`` unit vectors of prompts. Raises as ``words_of``."""
        rows = [words_of(text) for text in texts]
        owner = torch.tensor([i for i, row in enumerate(rows) for _ in row])
        vectors = self.words(torch.tensor([w for row in rows for w in row]))
        total = vectors.new_zeros(len(rows), vectors.shape[1]).index_add(0, owner, vectors)
        return torch.nn.functional.normalize(self.text(total), dim=1)


def save_scorer(scorer: Scorer, path: Path, facts: dict[str, Any]) -> Path:
    """Write half-precision weights and ``facts`` (plain JSON) to one safetensors file. Raises ``OutputError``."""
    tensors = {name: value.detach().half().contiguous() for name, value in scorer.state_dict().items()}
    about = {"architecture": asdict(scorer.architecture), "words": list(WORDS), **facts}
    return write_bytes(path, save(tensors, metadata={"format": _FORMAT, "facts": json.dumps(about)}))


def bundled_scorer_path() -> Path:
    """The scorer that comes with the library.

    Raises:
        PriorError: this installation has none.
    """
    package = Path(__file__).resolve().parents[1]
    places = (package / "_assets" / "scorer" / FILE_NAME, package.parent / "assets" / "scorer" / FILE_NAME)
    for place in places:
        if place.is_file():
            return place
    raise PriorError(
        f"the bundled image-text scorer is not in this installation (looked for {places[0]} and {places[1]}): install "
        "the package again, or make one with distill3d train-scorer and name its file"
    )


@dataclass(frozen=True)
class Loaded:
    """A scorer ready to use.

    Attributes:
        scorer: on the CPU, in single precision, without gradients.
        fingerprint: hash of its file.
        facts: what its file says of how it came to be.
    """

    scorer: Scorer
    fingerprint: str
    facts: dict[str, Any]


def load_scorer(path: Path | None = None) -> Loaded:
    """A scorer from its file, or the bundled one.

    Raises:
        PriorError: the file is missing, damaged, no scorer, or of other words.
    """
    path = path or bundled_scorer_path()
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"no {_FORMAT!r} in its header")
        facts = json.loads(metadata["facts"])
        if tuple(facts["words"]) != WORDS:
            raise ValueError("it knows the words of another world")
        sizes = facts["architecture"]
        scorer = Scorer(Architecture(**{**sizes, "channels": tuple(sizes["channels"])}))
        scorer.load_state_dict(tensors)
        fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except Exception as error:
        raise PriorError(
            f"expected an image-text scorer at {path}, got: {error}. Make one with distill3d train-scorer"
        ) from error
    return Loaded(scorer.eval().requires_grad_(False), fingerprint, facts)
