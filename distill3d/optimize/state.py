"""A run into a checkpoint and back: parameters, Adam's moments, occupancy, every generator, counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, SettingsError
from . import checkpoint as checkpoints
from .codec import from_json, to_json
from .settings import Settings

if TYPE_CHECKING:
    from .loop import Distillation


#: Settings of the render that change its memory, and its result by no more than rounding and what culling leaves out:
#: a resumed run may have others.
_OF_MEMORY = ("memory_gb", "max_points")


def _compared(identity: dict[str, Any]) -> dict[str, Any]:
    """``identity`` without what may change when a run is resumed."""
    settings = identity["settings"]
    render = {name: value for name, value in settings["render"].items() if name not in _OF_MEMORY}
    return {**identity, "settings": {**settings, "render": render}}


def under(tensors: Any, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def described(checkpoint: checkpoints.Checkpoint) -> tuple[Settings, dict[str, Any]]:
    """Settings and identity (prompt, negative, seed ...) of the run that wrote a checkpoint.

    Raises:
        CheckpointError: they are missing or not of this version.
    """
    try:
        identity = dict(checkpoint.meta["identity"])
        settings = from_json(Settings, identity["settings"])
        missing = {"prompt", "negative", "seed"} - set(identity)
    except (KeyError, TypeError, SettingsError) as error:
        raise CheckpointError(
            f"the checkpoint does not describe a run of this version of distill3d: {error}"
        ) from error
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(sorted(missing))}: resume with the version that wrote it"
        )
    return settings, identity


def _modules(run: Distillation) -> list[tuple[str, nn.Module]]:
    return [("field", run.field), ("background", run.background), ("occupancy", run.occupancy)]


def capture(run: Distillation) -> checkpoints.Checkpoint:
    """Everything a run needs to continue bit for bit on the same device."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in _modules(run):
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    tensors |= {f"generator.{name}": g.get_state() for name, g in run.generators.items()}
    meta = {
        "identity": run.identity(),
        "source": getattr(run.prior, "source", ""),
        "iteration": run.iteration,
        "skipped": run.skipped,
        "guard": run.guard.state(),
        "seconds": dict(run.watch.total),
        "warnings": run.warnings,
    }
    return checkpoints.Checkpoint(tensors, meta)


def restore(run: Distillation, checkpoint: checkpoints.Checkpoint) -> None:
    """Put a run into the state of ``checkpoint``.

    Raises:
        CheckpointError: its prompt, seed, prior, the size and kind of its predictions, device or settings are not the
            run's; every difference is listed.
            How much memory a render may take is no difference.
    """
    try:
        settings, identity = described(checkpoint)
        written = {**identity, "settings": to_json(settings)}
        now = run.identity()
        if "model" not in identity:  # written before it was kept
            del now["model"]
        differences = checkpoints.difference(_compared(written), _compared(now))
        if differences:
            raise CheckpointError(
                "expected the settings the checkpoint was made with, got other ones:\n  "
                + "\n  ".join(differences)
                + "\n",
                advice="A run goes on as it was begun, and for as many iterations. Set them back and resume, or leave "
                "{resume} out for a new run in another {out} folder",
            )
        _restore(run, checkpoint)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit this version of distill3d ({type(error).__name__}: {error}): "
            "resume with the version that wrote it"
        ) from error


def _restore(run: Distillation, checkpoint: checkpoints.Checkpoint) -> None:
    tensors, meta = checkpoint.tensors, checkpoint.meta
    for prefix, module in _modules(run):
        module.load_state_dict(under(tensors, prefix))
    adam: dict[int, dict[str, Tensor]] = {}
    for key, value in under(tensors, "adam").items():
        index, name = key.split(".", 1)
        adam.setdefault(int(index), {})[name] = value.clone()
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": adam})
    for name, generator in run.generators.items():
        generator.set_state(tensors[f"generator.{name}"])
    run.occupancy.forget()
    run.iteration, run.skipped = int(meta["iteration"]), int(meta["skipped"])
    run.guard.load(meta["guard"])
    run.forget()
    run.watch.total.update(meta["seconds"])
    run.warnings = list(meta["warnings"])
