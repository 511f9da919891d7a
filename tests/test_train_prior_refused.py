"""What the trainer of priors refuses before it renders anything: settings, worlds, devices, seeds, folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_train_prior import MICRO

from distill3d.errors import OutputError, PriorError, SettingsError
from distill3d.train_prior import train
from distill3d.world import WorldSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vae_steps": 0}, "vae_steps as a whole number of 1 or more, got 0"),
        ({"vae_channels": (8, 18)}, "vae_channels that vae_groups divide"),
        ({"unet_channels": ()}, "unet_channels"),
        ({"unet_channels": (8,)}, "two or more unet_channels"),
        ({"unet_heads": 3}, "unet_heads"),
        ({"text_width": 17}, "text_width"),
        ({"world": WorldSettings(image_size=40)}, "multiple of 16"),
        ({"empty_captions": 1.5}, "within 0..1"),
        ({"unet_muon_lr": 0.0}, "unet_muon_lr above 0"),
        ({"unet_adam_lr": float("nan")}, "unet_adam_lr above 0"),
        ({"ema": 1.0}, "below 1"),
        ({"vocabulary": 100}, "514"),
        ({"text_length": 2}, "start, a word, end"),
        ({"weight_decay": -0.1}, "weight_decay of 0 or more"),
    ],
)
def test_settings_that_cannot_train_are_refused_in_words(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(MICRO, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"image_size": 4}, {"radius": (3.4, 2.7)}, {"radius": (0.0, 1.0)}, {"fov": (38.0, 190.0)}, {"view_words": 2.0},
     {"contrast": 1.0}, {"name": "empty"}, {"light_azimuth": float("inf")}, {"elevation": (0.0, float("nan"))}],
)  # fmt: skip
def test_worlds_that_cannot_be_drawn_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        WorldSettings(**change)  # type: ignore[arg-type]


def test_unknown_device() -> None:
    for name in ("bogus", "xla"):
        with pytest.raises(PriorError, match="expected a device"):
            train(Path("unused"), device=name)
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(PriorError, match="take the device cpu"):
        train(Path("unused"), device="cuda")


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 10**30])
def test_seeds_that_a_generator_would_not_take_are_refused_before_rendering(seed: int, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a seed from 0 to"):
        train(tmp_path / "out", seed=seed, device="cpu", settings=MICRO, gates=None)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_snapshots_is_made_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        train(tmp_path / "out", device="cpu", settings=MICRO, gates=None, snapshot=tmp_path / "file")
    assert not (tmp_path / "out").exists()
