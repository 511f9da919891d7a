"""What a setting of the library is called in a graph: the input, and where it is. Errors are told in those words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ..distill3d.errors import Distill3DError
from ..distill3d.methods import METHODS

F = TypeVar("F", bound=Callable[..., Any])

INPUTS = {
    "seed": "seed",
    "out": "prefix",
    "resume": "the input resume",
    "dtype": "start the host with --force-fp32",
    "sectors": "sectors of View Prompts",
    "perp_neg.enabled": "perp_neg of Distill Loss",
    "freeu.enabled": "FreeU",
    "window.minimum": "t_min of Distill Loss",
    "window.maximum": "t_max of Distill Loss",
    **{name: f"{name} (preset custom)" for name in ("iterations", "batch", "resolution", "checkpoint_every")},
}
"""Settings with an input of their own that has another name, or is on another node than where the error shows."""
OWNERS = {"gradient": "Distill Loss", "mesh": "Mesh Export"}
"""Groups of settings whose inputs carry the setting's own name, and the node that has them."""


def input_name(setting: str) -> str:
    """Where a graph sets ``setting``: ``losses.sparsity`` -> ``losses.sparsity (preset custom, more)``."""
    owner, _, name = setting.partition(".")
    if setting in INPUTS:
        return INPUTS[setting]
    if owner in OWNERS:
        return f"{name} of {OWNERS[owner]}"
    if owner.upper() in METHODS:
        return f"{name} of Distill Loss, or {setting} in more of Distill 2D"
    return f"texture_{name} of Mesh Export" if owner == "texture" else f"{setting} (preset custom, more)"


def in_words(execute: F) -> F:
    """A node's ``execute`` whose errors name inputs of the graph."""

    @functools.wraps(execute)
    def told(*arguments: Any, **inputs: Any) -> Any:
        try:
            return execute(*arguments, **inputs)
        except Distill3DError as error:
            error.args = (error.told(input_name),)
            raise

    return told  # type: ignore[return-value]
