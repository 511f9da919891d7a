"""The training loop both stages share: step, schedule, average, log, checkpoint, resume."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from . import checkpoints
from .optimizers import Average, MuonAdamW, lr_scale

logger = logging.getLogger(__name__)
LOG_EVERY = 25
IDLE_LIMIT = 10


@dataclass(frozen=True)
class Stage:
    """What one stage trains, and by which schedule.

    Attributes:
        name: names the checkpoint and salts the randomness.
        loss: maps the step's own generator and the step number to a scalar loss and values worth logging.
        facts: settings that a resumed checkpoint must agree with.
    """

    name: str
    named: dict[str, nn.Parameter]
    optimizer: MuonAdamW
    loss: Callable[[torch.Generator, int], tuple[Tensor, dict[str, Tensor]]]
    steps: int
    warmup: int
    constant: float
    final_lr: float
    clip: float
    ema: float
    facts: dict[str, Any]


def fit(
    stage: Stage,
    seed: int,
    folder: Path,
    checkpoint_every: int,
    resume: bool,
    after_step: Callable[[int, Average], None] = lambda step, average: None,
) -> list[dict[str, float]]:
    """Train to the last step and leave the averaged weights in the parameters.

    Returns:
        The log: one row of means a ``LOG_EVERY`` steps, also appended to ``folder/<stage>.jsonl``.

    Raises:
        DivergedError: when the loss is not finite, or when parameters get no gradient in the first steps.
        CheckpointError: when ``resume`` finds a checkpoint of other settings.
    """
    path = folder / f"{stage.name}.safetensors"
    average = Average(stage.named, stage.ema)
    first, rows, sums = 0, list[dict[str, float]](), dict[str, float]()
    if resume and path.exists():
        first, rows, sums = _restore(path, stage, average)
        logger.info("%s resumes at step %d of %d", stage.name, first, stage.steps)
    began = time.perf_counter()
    idle = set(stage.named)
    for step in range(first, stage.steps):
        loss, values = stage.loss(checkpoints.step_generator(seed, stage.name, step), step)
        loss.backward()
        idle = {n for n in idle if (grad := stage.named[n].grad) is None or not grad.any()}
        scale = lr_scale(step, stage.steps, stage.warmup, stage.constant, stage.final_lr)
        norm = stage.optimizer.step(scale, stage.clip)
        average.update(step)
        row: dict[str, Tensor | float] = {"loss": loss.detach(), "norm": norm, **values}
        for key, value in row.items():
            sums[key] = sums.get(key, 0.0) + float(value)
        done = step + 1
        if idle and done - first == IDLE_LIMIT:
            raise DivergedError(
                f"expected a gradient in every parameter of {stage.name}, got none within {IDLE_LIMIT} steps in "
                f"{len(idle)} of {len(stage.named)}, such as {min(idle)}: part of the network is cut off"
            )
        if done % LOG_EVERY == 0 or done == stage.steps:
            count = (done - 1) % LOG_EVERY + 1
            rows.append({"step": done, **{k: round(v / count, 6) for k, v in sums.items()}, "lr": round(scale, 5)})
            sums = {}
            pace = (done - first) / (time.perf_counter() - began)
            logger.info("%s %s, %.2f steps/s", stage.name, json.dumps(rows[-1]), pace)
            if not all(v == v and abs(v) != float("inf") for v in rows[-1].values()):
                raise DivergedError(f"expected a finite loss, got {rows[-1]} in {stage.name}: lower its learning rates")
        if done % checkpoint_every == 0 or done == stage.steps:
            _save(path, stage, average, {"step": done, "rows": rows, "sums": sums})
        after_step(done, average)
    average.swap()
    return rows


def _save(path: Path, stage: Stage, average: Average, progress: dict[str, Any]) -> None:
    tensors = checkpoints.join(live=dict(stage.named), average=average.values, optimizer=stage.optimizer.state())
    checkpoints.write(path, tensors, {**stage.facts, **progress})


def _restore(path: Path, stage: Stage, average: Average) -> tuple[int, list[dict[str, float]], dict[str, float]]:
    tensors, facts = checkpoints.read(path, stage.facts)
    with torch.no_grad():
        for name, value in checkpoints.split(tensors, "live").items():
            stage.named[name].copy_(value)
        for name, value in checkpoints.split(tensors, "average").items():
            average.values[name].copy_(value)
    stage.optimizer.load(checkpoints.split(tensors, "optimizer"))
    return int(facts["step"]), facts["rows"], facts["sums"]
