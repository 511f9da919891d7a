"""Errors a user can act on. Each message says what was expected, what came, and what to do next.

Raised for bad input and for runs that cannot go on; the command line prints the message alone and exits with the
class's ``exit_code``, the nodes show it on the node. Anything else that escapes is a defect of this library.

A setting has another name wherever it can be set: ``losses.sparsity`` here, a flag on the command line, an input in a
graph. Advice therefore names settings in braces, and ``told`` puts in what its reader calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter


class Distill3DError(Exception):
    """Base of every error this library raises on purpose.

    Args:
        message: what was expected and what came; also what to do next where that names no setting.
        advice: what to do next, each setting in braces under its dotted name: ``"Lower {losses.sparsity}"``.
    """

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        self.message, self.advice = message, advice
        super().__init__(self.told())

    def told(self, name: Callable[[str], str] = str) -> str:
        """The whole text; ``name`` says what a setting is called where its reader can set it.

        >>> Distill3DError("it vanished. ", advice="Lower {losses.sparsity}").told(lambda name: f"the input {name}")
        'it vanished. Lower the input losses.sparsity'
        """
        parts = Formatter().parse(self.advice)
        return self.message + "".join(text + (name(setting) if setting else "") for text, setting, *_ in parts)


class SettingsError(Distill3DError, ValueError):
    """A setting, flag or prompt that cannot be used."""

    exit_code = 2


class BackendError(SettingsError):
    """An accelerator that was asked for by name and does not work here; raised from its own error."""


class PriorError(Distill3DError):
    """A diffusion model that cannot be loaded or that answers with non-finite numbers."""


class CheckpointError(Distill3DError):
    """A checkpoint that is missing, damaged, unsafe, or does not fit the run it should resume."""


class OutputError(Distill3DError):
    """A folder or file that cannot be written."""


class DivergedError(Distill3DError):
    """An optimisation that lost its object or its numbers; the last good state is kept."""


class OutOfMemoryError(Distill3DError):
    """Memory ran out even with smaller chunks."""


_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "storage size calculation overflowed",
    "allocation on device", "alloc_failed", "allocation_failed",
)  # fmt: skip


_CUDA_OUT_OF_MEMORY = 2


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether ``error`` is an allocation that failed, on any device torch knows."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"  # torch's, whatever it says
        or getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY  # torch.AcceleratorError's
        or any(words in text for words in _WORDS)
    )


class EmptySurfaceError(Distill3DError):
    """A field that holds no surface at the level asked for."""


class MeshFileError(Distill3DError):
    """A mesh from elsewhere that cannot be read or holds no triangles."""
