"""The training loop both stages share: step, schedule, average, log, checkpoint, resume."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, DivergedError, SettingsError
from ..files import make_folder, output_error
from ..interrupts import held
from . import checkpoints
from .optimizers import Average, MuonAdamW

logger = logging.getLogger(__name__)
LOG_EVERY = 25
IDLE_LIMIT = 10


@dataclass(frozen=True)
class Stage:
    """What one stage trains, and by which schedule.

    Attributes:
        name: names the checkpoint and salts the randomness.
        loss: maps the step's own generator and the step number to a scalar loss and values worth logging.
        rate: maps a step number to a share of the optimizer's learning rates.
        facts: settings that a resumed checkpoint must agree with.
        number: maps a step number to the one its random draws and the average's decay go by.
        measure: maps the steps done to what the log's last row is to have beside the means; kept with the checkpoint.
    """

    name: str
    named: dict[str, nn.Parameter]
    optimizer: MuonAdamW
    loss: Callable[[torch.Generator, int], tuple[Tensor, dict[str, Tensor]]]
    steps: int
    rate: Callable[[int], float]
    clip: float
    ema: float
    facts: dict[str, Any]
    number: Callable[[int], int] = int
    measure: Callable[[int], Mapping[str, float]] = lambda done: {}


def check_seed(seed: int) -> None:
    """Raises ``SettingsError`` for a seed that some generator would not take, or take for another."""
    if not 0 <= seed < 2**63 - 1:
        raise SettingsError(f"expected a seed from 0 to {2**63 - 2}, got {seed}: 0 is usual")


def begin(work: Path, resume: bool) -> Path:
    """The folder of checkpoints, made; emptied of an earlier run's where it is not to go on.

    Raises:
        OutputError: it cannot be written.
    """
    for path in () if resume else work.glob("*.safetensors"):
        try:
            path.unlink()
        except OSError as error:
            raise output_error(path, error) from error
    return make_folder(work)


def fit(
    stage: Stage,
    seed: int,
    folder: Path,
    checkpoint_every: int,
    resume: bool,
    after_step: Callable[[int, Average], None] = lambda step, average: None,
) -> list[dict[str, float]]:
    """Train to the last step and leave the averaged weights in the parameters.

    An interrupt keeps the last whole step.

    Returns:
        The log: one row of means a ``LOG_EVERY`` steps.

    Raises:
        DivergedError: when a loss or gradient is not finite, or when parameters get no gradient in the first steps.
        CheckpointError: when ``resume`` finds a checkpoint of other settings, or of more steps.
    """
    path = folder / f"{stage.name}.safetensors"
    average = Average(stage.named, stage.ema)
    log, first = _Log(stage), 0
    if resume and path.exists():
        first, log.rows, log.sums = _restore(path, stage, average)
        logger.info("%s resumes at step %d of %d", stage.name, first, stage.steps)
    idle = set(stage.named)
    saved = done = first
    try:
        for step in range(first, stage.steps):
            number = stage.number(step)
            loss, values = stage.loss(checkpoints.step_generator(seed, stage.name, number), step)
            loss.backward()
            idle = {n for n in idle if (grad := stage.named[n].grad) is None or not grad.any()}
            if idle and step - first == IDLE_LIMIT - 1:
                raise DivergedError(
                    f"expected a gradient in every parameter of {stage.name}, got none within {IDLE_LIMIT} steps in "
                    f"{len(idle)} of {len(stage.named)}, such as {min(idle)}: part of the network is cut off"
                )
            scale = stage.rate(step)
            with held():
                norm = stage.optimizer.step(scale, stage.clip)
                if not math.isfinite(norm):
                    raise DivergedError(
                        f"expected finite gradients, got a norm of {norm} at step {step + 1} of {stage.name}: lower "
                        "its learning rates. The last checkpoint is whole"
                    )
                average.update(number)
                done = step + 1
                log.add(done, {"loss": loss.detach(), "norm": norm, **values}, scale)
            log.add_to_last(stage.measure(done))
            if done % checkpoint_every == 0 or done == stage.steps:
                _save(path, stage, average, done, log)
                saved = done
            after_step(done, average)
    except KeyboardInterrupt:
        if done > saved:
            _save(path, stage, average, done, log)
            logger.info("%s is kept at step %d of %d", stage.name, done, stage.steps)
        raise
    average.swap()
    return log.rows


class _Log:
    """Sums what steps report and makes a row of means every ``LOG_EVERY``."""

    def __init__(self, stage: Stage) -> None:
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self._stage, self._began, self._steps = stage, time.perf_counter(), 0

    def add(self, done: int, row: dict[str, Any], scale: float) -> None:
        """Raises ``DivergedError`` at a row that is not finite."""
        self._steps += 1
        for key, value in row.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
        if done % LOG_EVERY and done != self._stage.steps:
            return
        count = (done - 1) % LOG_EVERY + 1
        means = {"step": done, **{k: round(v / count, 6) for k, v in self.sums.items()}, "lr": round(scale, 5)}
        self.rows.append(means)
        self.sums = {}
        now = time.perf_counter()
        pace = self._steps / (now - self._began)
        self._began, self._steps = now, 0
        left = timedelta(seconds=round((self._stage.steps - done) / pace))
        place = f"{self._stage.name} {done} of {self._stage.steps}"
        logger.info("%s, %.2f steps/s, at this pace %s left of it: %s", place, pace, left, json.dumps(means))
        if not all(map(math.isfinite, means.values())):
            raise DivergedError(f"expected a finite loss, got {means} in {self._stage.name}: lower its learning rates")

    def add_to_last(self, values: Mapping[str, float]) -> None:
        if values and self.rows:
            self.rows[-1] |= values


def _save(path: Path, stage: Stage, average: Average, done: int, log: _Log) -> None:
    tensors = checkpoints.join(live=dict(stage.named), average=average.values, optimizer=stage.optimizer.state())
    checkpoints.write(path, tensors, {**stage.facts, "step": done, "rows": log.rows, "sums": log.sums})


def _restore(path: Path, stage: Stage, average: Average) -> tuple[int, list[dict[str, float]], dict[str, float]]:
    tensors, facts = checkpoints.read(path, stage.facts)
    if facts["step"] > stage.steps:
        raise CheckpointError(
            f"expected at most {stage.steps} steps of {stage.name}, but {path} has done {facts['step']}: ask for as "
            "many or more, or delete it to start again"
        )
    with torch.no_grad():
        for name, value in checkpoints.split(tensors, "live").items():
            stage.named[name].copy_(value)
        for name, value in checkpoints.split(tensors, "average").items():
            average.values[name].copy_(value)
    stage.optimizer.load(checkpoints.split(tensors, "optimizer"))
    return int(facts["step"]), facts["rows"], facts["sums"]
