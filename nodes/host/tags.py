"""What a MODEL says of itself to our nodes: an attachment that the host copies with every clone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KEY = "distill3d"


@dataclass(frozen=True)
class Tag:
    """Where a model came from.

    Attributes:
        source: file or folder, for reports.
        bundled: the bundled tiny prior, which has presets of its own.
        image_size: side in pixels it was trained at; 0 when that is not known.
    """

    source: str = ""
    bundled: bool = False
    image_size: int = 0


def put_tag(model: Any, tag: Tag) -> None:
    model.set_attachments(KEY, tag)


def get_tag(model: Any) -> Tag:
    """The tag of ``model``, or an empty one for a model from another loader."""
    tag = model.get_attachment(KEY)
    return tag if isinstance(tag, Tag) else Tag()


def image_size(model: Any) -> int:
    """Side in pixels the model was trained at, as far as its kind tells: SDXL, SD 3 and Flux 1024, SD 2 v 768."""
    tag = get_tag(model)
    if tag.image_size:
        return tag.image_size
    name = type(model.model.model_config).__name__
    if name.startswith(("SDXL", "SD3", "Flux", "Segmind")):
        return 1024
    if name == "SD20" and "V_PREDICTION" in model.model.model_type.name:
        return 768
    return 512
