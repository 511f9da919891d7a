"""What the trainer says of words for views, against captions and errors made by hand."""

from __future__ import annotations

import importlib
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_train_prior_full import MICRO
from torch import Tensor

from distill3d.train_prior.settings import TrainPriorSettings
from distill3d.train_prior.views import TIMESTEPS, hearing, turned
from distill3d.world import WorldSettings, render_dataset

CPU = torch.device("cpu")
PLAIN = TrainPriorSettings(bf16=False)
training = importlib.import_module("distill3d.train_prior.train")  # the package's "train" is its function


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("a red mug, front view", "a red mug, back view"),
        ("a back view of an orange and white ball, photo", "a front view of an orange and white ball, photo"),
        ("front view of a green smiley", "back view of a green smiley"),
        ("a green smiley, side view", None),
        ("a green smiley, grey background", None),
        ("a striped red cube, front view", None),
        ("a red mug in front of a background", None),
    ],
)  # fmt: skip
def test_front_and_back_are_exchanged_where_an_object_has_a_front(caption: str, other: str | None) -> None:
    assert turned(caption) == other and (other is None or turned(other) == caption)


def test_a_world_has_captions_to_ask() -> None:
    captions = render_dataset(300, 0, WorldSettings(name="full", image_size=8)).captions
    pairs = [(c, turned(c)) for c in captions if turned(c)]
    assert len(pairs) > 30
    for caption, other in pairs:
        assert other is not None and sorted(caption.replace("back", "front")) == sorted(other.replace("back", "front"))


def _measure(right: float, wrong: float, captions: list[str]) -> float:
    """Of a network whose prediction is off by ``right`` under captions that say front and by ``wrong`` under others."""
    latents = torch.randn(len(captions), 4, 4, 4, generator=torch.Generator().manual_seed(3))
    asked: list[Tensor] = []

    def tokens(words: list[str]) -> Tensor:
        return torch.tensor([[1 if "front" in w else 0] for w in words])

    def unet(noisy: Tensor, t: Tensor, context: Tensor, return_dict: bool) -> tuple[Tensor]:
        asked.append(noisy)
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        a = (1 - beta).cumprod(0)[t].float().view(-1, 1, 1, 1)
        clean = latents[[i for i, c in enumerate(captions) if "front" in c]]
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
        return (noise + torch.where(context[:, :1, None, None] == 1, right, wrong),)

    def text(ids: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=ids)

    found = hearing(unet, text, latents, captions, tokens, PLAIN, CPU)()
    assert len(asked) in (0, 2 * len(TIMESTEPS))
    return found


def test_the_share_is_that_of_the_errors() -> None:
    captions = ["a red mug, front view", "a red cube", "front view of a green smiley", "a blue house"]
    assert _measure(0.5, 0.75, captions) == pytest.approx(1.25, rel=1e-3)
    assert _measure(0.5, 0.5, captions) == pytest.approx(0.0, abs=1e-4)
    assert math.isnan(_measure(0.5, 0.75, ["a red cube, front view", "a red mug"]))


def test_a_run_tells_it_and_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    silent = tmp_path / "silent"
    training.train(silent, device="cpu", settings=MICRO, gates=None)
    monkeypatch.setattr(training, "HEARING_EVERY", 3)
    with caplog.at_level(logging.INFO, "distill3d"):
        training.train(tmp_path / "telling", device="cpu", settings=MICRO, gates=None)
    told = [r.getMessage() for r in caplog.records if "front and back exchanged" in r.getMessage()]
    assert [line.split(":")[0] for line in told] == ["unet 3", "unet 6"]
    row = json.loads((tmp_path / "telling" / "training.json").read_text())["unet"][-1]
    training.train(tmp_path / "telling", device="cpu", settings=MICRO, gates=None)
    assert json.loads((tmp_path / "telling" / "training.json").read_text())["unet"][-1] == row
    assert abs(row.pop("views")) < 0.5
    assert row == json.loads((silent / "training.json").read_text())["unet"][-1]
