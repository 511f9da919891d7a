"""Commands on a second device, played by ``device_kit``: nothing is computed between tensors of two devices."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import fake_host
import pytest
import torch
from device_kit import DEVICE, There, device
from nodes_kit import optimise
from small_run import SMALL
from test_train_prior_full import LENIENT, MICRO

from distill3d.bench.quality_job import job_of, perform, prior_key
from distill3d.cli import main
from distill3d.optimize import checkpoint as checkpoints
from distill3d.priors.load import load_prior
from distill3d.train_prior import train

training = sys.modules[train.__module__]

TINY = ["--iterations", "2", "--resolution", "16", "--render.samples-per-ray", "24", "--field.grid.levels", "4"]
TINY += ["--field.grid.log2-table-size", "12", "--batch", "1"]
FILES = ["--turntable-frames", "2", "--texture.size", "64", "--texture.unwrap", "box", "--mesh.resolution", "32"]


def test_the_kit_refuses_what_a_gpu_would(monkeypatch: pytest.MonkeyPatch) -> None:
    with device(monkeypatch):
        x = torch.arange(6.0).to(DEVICE).view(2, 3)
        assert isinstance(x, There) and x.device == DEVICE and not isinstance(x.cpu(), There)
        assert (x * 2 + torch.tensor(1.0)).sum().item() == 36 and x[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]
        x[0].zero_()
        assert x.tolist() == [[0.0, 0.0, 0.0], [3.0, 4.0, 5.0]], "a view writes through"
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(1, 3)]),
            lambda: torch.ones(3)[x[0].long()],
            lambda: x.copy_(torch.ones(2, 3)) @ torch.ones(3),
            lambda: torch.rand(2, device=DEVICE, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="Expected"):
                mixed()
        with pytest.raises(RuntimeError):
            x.numpy()
        leaf = x.clone().requires_grad_()
        (leaf.exp() * x).sum().backward()
        assert isinstance(leaf.grad, There)
        torch.testing.assert_close(leaf.grad.cpu(), x.cpu() * x.cpu().exp())


def test_generate_resume_export_and_turntable(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with device(monkeypatch):
        assert main(["generate", "a red cube", "--model", str(tiny_pipeline), "--out", str(out), *TINY, *FILES]) == 0
        assert checkpoints.load(out).meta["identity"]["device"] == DEVICE.type
        assert main(["generate", "--resume", str(out)]) == 0
    assert {"sheet.png", "turntable.mp4", "mesh.glb", "report.json", "curves.png"} <= {p.name for p in out.iterdir()}


RICH = ["--field.activation", "laplace", "--field.blob", "dreamfusion", "--background.mode", "learned"]
RICH += [
    "--shading.start",
    "0",
    "--shading.albedo-probability",
    "0",
    "--render.memory-gb",
    "0",
    "--occupancy-every",
    "1",
]
RICH += ["--losses.orientation", "0.1", "--losses.smoothness", "0.1", "--losses.distortion", "0.1"]
RICH += [
    "--losses.distance",
    "0.1",
    "--losses.entropy",
    "0.1",
    "--losses.tint",
    "1",
    "--window.minimum",
    "0.02",
    "--window.maximum",
    "0.3",
]
RICH += ["--freeu.enabled", "True", "--perp-neg.enabled", "True"]


def test_compare_with_all_that_can_be_switched_on(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["compare", "a red cube", "--methods", "sds", "asd", "--model", str(tiny_pipeline), "--out", str(tmp_path)]
    with device(monkeypatch):
        assert main([*given, "--negative", "blurry", "--size", "16", *TINY, *RICH]) == 0
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("sds", "asd")]
    assert [report["iterations"]["done"] for report in reports] == [2, 2]


def test_distill2d(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        "distill2d",
        "a red cube",
        "--methods",
        "csd",
        "tbsd",
        "bsd",
        "--model",
        str(tiny_pipeline),
        "--out",
        str(tmp_path),
    ]
    with device(monkeypatch):
        assert main([*given, "--iterations", "2"]) == 0


def test_a_job_of_the_benchmark(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load_prior(tiny_pipeline)
    pair = ("a red cube", "a blue torus")
    job = job_of(pair[0], "sds", 0, SMALL, pair, prior_key(prior), model=tiny_pipeline, device="lazy", folder=tmp_path)
    with device(monkeypatch):
        assert perform(job, lambda done, total: None)["status"] == "judged"


def test_the_trainer_of_priors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with device(monkeypatch):
        monkeypatch.setattr(training, "resolve_device", lambda name: DEVICE)
        train(tmp_path / "prior", settings=MICRO, gates=LENIENT, snapshot=tmp_path / "snapshot", snapshot_every=3)


def test_the_nodes(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_host.Patcher, "load_device", DEVICE)
    with device(monkeypatch):
        field, images, report = optimise(iterations=2).args
    assert json.loads(report)["iterations"]["done"] == 2 and images.device.type == "cpu"
    assert all(not isinstance(t, There) for t in field.checkpoint.tensors.values())
