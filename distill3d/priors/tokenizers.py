"""CLIP token ids from whichever tokenizer is at hand, all behind one small interface.

A checkpoint file of Stable Diffusion does not hold the vocabulary of its text encoder. It comes from a ``tokenizer``
folder in diffusers layout or from the optional package ``instant-clip-tokenizer``, which carries it inside.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import PriorError
from .quiet import quiet

CLIP_LENGTH = 77
INSTALL_HINT = "pip install instant-clip-tokenizer"


class Tokenizer(Protocol):
    """Texts to the fixed-length ids a CLIP text encoder reads."""

    @property
    def length(self) -> int:
        """Ids per text, start and end included (77 for CLIP)."""
        ...

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``n`` texts -> ``(n, length)`` long: start, text (cut if need be), end, padding."""
        ...

    def split(self, text: str) -> tuple[str, str]:
        """``text`` as (the part that is read, the part that is cut off); the second is empty for most prompts."""
        ...


def _assemble(ids: Sequence[int], length: int, start: int, end: int, pad: int) -> list[int]:
    kept = [start, *ids[: length - 2], end]
    return kept + [pad] * (length - len(kept))


class FolderTokenizer:
    """transformers' ``CLIPTokenizer`` from a folder with ``vocab.json`` and ``merges.txt`` (or ``tokenizer.json``)."""

    def __init__(self, folder: Path, *, max_length: int = CLIP_LENGTH, pad_id: int | None = None) -> None:
        """``max_length`` is what the text encoder can read; ``pad_id`` overrides the folder's padding token.

        Raises:
            PriorError: no tokenizer in ``folder``, or one that cannot be read.
        """
        from transformers import CLIPTokenizer

        if (
            not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file())
            and not (folder / "tokenizer.json").is_file()
        ):
            raise PriorError(
                f"expected a CLIP tokenizer (vocab.json and merges.txt) in {folder}, found none: "
                "give the 'tokenizer' folder of a diffusers model"
            )
        try:
            with quiet():
                self._tokenizer: Any = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:
            raise PriorError(f"the tokenizer in {folder} cannot be read ({error}): copy the folder again") from error
        self.length = min(int(self._tokenizer.model_max_length), max_length)
        self._pad_id = self._tokenizer.pad_token_id if pad_id is None else pad_id

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ends = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._pad_id)
        return torch.tensor([_assemble(self._ids(text), self.length, *ends) for text in texts], dtype=torch.long)

    def split(self, text: str) -> tuple[str, str]:
        ids, room = self._ids(text), self.length - 2
        return tuple(self._tokenizer.decode(part).strip() for part in (ids[:room], ids[room:]))  # type: ignore[return-value]


class InstantTokenizer:
    """CLIP's own vocabulary from the package ``instant-clip-tokenizer``; the same ids as ``CLIPTokenizer``."""

    length = CLIP_LENGTH

    def __init__(self, *, pad_id: int | None = None) -> None:
        """``pad_id`` None pads with the end token (Stable Diffusion 1.x); 2.x pads with 0.

        Raises:
            ImportError: the package is not installed; the true cause is kept.
        """
        from instant_clip_tokenizer import Tokenizer as _Instant

        self._tokenizer: Any = _Instant()
        self._start, self._end = int(self._tokenizer.start_of_text()), int(self._tokenizer.end_of_text())
        self._pad_id = self._end if pad_id is None else pad_id

    def _ids(self, text: str) -> list[int]:
        # CLIPTokenizer normalises to NFC, folds white space and lowers the case; the package does only the last.
        folded = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).lower()
        return [int(i) for i in self._tokenizer.encode(folded)]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ends = (self._start, self._end, self._pad_id)
        return torch.tensor([_assemble(self._ids(text), self.length, *ends) for text in texts], dtype=torch.long)

    def split(self, text: str) -> tuple[str, str]:
        ids, room = self._ids(text), self.length - 2
        return self._tokenizer.decode(ids[:room]).strip(), self._tokenizer.decode(ids[room:]).strip()


def find_tokenizer(
    checkpoint: Path, explicit: str | Path | None, *, max_length: int = CLIP_LENGTH, pad_id: int | None = None
) -> Tokenizer:
    """A tokenizer for the single file ``checkpoint``: ``explicit``, else ``tokenizer/`` beside it, else the package.

    Raises:
        PriorError: nothing found; the message lists the three ways to provide one.
    """
    if explicit is not None:
        return FolderTokenizer(tokenizer_folder(Path(explicit).expanduser()), max_length=max_length, pad_id=pad_id)
    beside = checkpoint.parent / "tokenizer"
    if beside.is_dir():
        return FolderTokenizer(beside, max_length=max_length, pad_id=pad_id)
    try:
        return InstantTokenizer(pad_id=pad_id)
    except ImportError as error:
        raise PriorError(
            f"{checkpoint.name} holds no text vocabulary (no checkpoint file does) and none was found ({error}). "
            f"Do one of these: run `{INSTALL_HINT}`; put the 'tokenizer' folder of a Stable Diffusion model "
            f"(vocab.json, merges.txt) at {beside}; or name such a folder with tokenizer=..."
        ) from error


def tokenizer_folder(path: Path) -> Path:
    """``path`` itself, or its sub-folder ``tokenizer`` when ``path`` is a whole diffusers model."""
    inner = path / "tokenizer"
    return inner if inner.is_dir() else path
