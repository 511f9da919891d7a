"""The prior's trainer at micro size: a folder that diffusers loads, bit-exact resume, and gates that can fail."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from distill3d.errors import CheckpointError, DivergedError, OutputError
from distill3d.render.cameras import orbit
from distill3d.train_prior import GateError, Gates, TrainPriorSettings, autoencoder, checkpoints, denoiser, text, train
from distill3d.train_prior import loop as training_loop
from distill3d.train_prior.export import load, sample, sheet
from distill3d.train_prior.gates import measure_images
from distill3d.train_prior.loop import Stage, fit
from distill3d.train_prior.match import brightness, foreground, hue, labels, match_colours
from distill3d.train_prior.optimizers import Muon, MuonAdamW, falling, orthogonalise
from distill3d.world import COLOURS, Object, WorldSettings, render_dataset, trace

MICRO = TrainPriorSettings(
    renders=64,
    held_out=8,
    world=WorldSettings(image_size=32),
    vae_channels=(8, 16, 16),
    vae_groups=4,
    vae_steps=4,
    vae_batch=2,
    text_width=16,
    text_layers=1,
    unet_channels=(8, 16, 16),
    unet_groups=4,
    unet_heads=2,
    unet_steps=6,
    unet_batch=8,
    checkpoint_every=3,
    bf16=False,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prior") / "tiny"
    train(out, device="cpu", settings=MICRO, gates=None)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        if path.parent.name != ".training":
            found |= {f"{path.parent.name}/{k}": v for k, v in load_file(path).items()}
    return found


def test_the_folder_loads_and_samples(trained: Path) -> None:
    pipeline = load(trained)
    images = sample(pipeline, ["a red cube", "a blue torus, side view"], guidance=4.0, seed=0, steps=2)
    assert images.shape == (2, 3, 32, 32)
    assert images.isfinite().all()
    assert torch.equal(images, sample(pipeline, ["a red cube", "a blue torus, side view"], 4.0, 0, steps=2))
    assert sheet(images, 3).shape == (32, 96, 3)
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.safety_checker is None


def test_the_folder_is_half_precision_and_holds_no_pickle(trained: Path) -> None:
    assert {v.dtype for v in weights(trained).values() if v.is_floating_point()} == {torch.float16}
    assert all(k.startswith("text_encoder/text_model.") for k in weights(trained) if k.startswith("text_encoder/"))
    kinds = {p.suffix for p in trained.rglob("*") if p.is_file()}
    assert kinds == {".safetensors", ".json", ".txt"}
    assert str(trained.parent) not in "".join(p.read_text("utf-8") for p in trained.glob("*/*.json"))


def test_resume_is_bit_exact_and_seeded(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def export_once(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[train.__module__], "export", export_once)
        with pytest.raises(KeyboardInterrupt):  # between two checkpoints, while the averaged weights are in place
            train(tmp_path / "b", device="cpu", settings=MICRO, gates=None, snapshot=tmp_path / "s", snapshot_every=2)
    train(tmp_path / "b", device="cpu", settings=MICRO, gates=None)
    first, second = weights(trained), weights(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    logs = [json.loads((folder / "training.json").read_text()) for folder in (trained, tmp_path / "b")]
    assert logs[0]["unet"] == logs[1]["unet"]


def test_checkpoints_of_other_settings_are_refused(trained: Path) -> None:
    other = dataclasses.replace(MICRO, vae_channels=(8, 16, 24))
    with pytest.raises(CheckpointError, match="vae_channels"):
        train(trained, device="cpu", settings=other, gates=None)


def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet_muon_lr": 0.01}, r"unet_muon_lr=0\.01, but .*unet\.safetensors was made with 0\.02"),
        ({"latent_noise": 0.1}, r"latent_noise=0\.1, but .*autoencoder\.safetensors"),
        ({"vae_steps": 6}, r"latents=.*unet\.safetensors"),
        ({"unet_steps": 5}, r"at most 5 steps of unet.*has done 6"),
    ],
)
def test_what_was_trained_otherwise_is_not_gone_on_with(
    trained: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = copied(trained, tmp_path)
    before = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        train(folder, device="cpu", settings=dataclasses.replace(MICRO, **change), gates=None)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_latents_follow_their_autoencoder(trained: Path, tmp_path: Path) -> None:
    """After another autoencoder was trained in the same folder, the UNet learns its latents, not the old ones."""
    folder, fresh, other = copied(trained, tmp_path), tmp_path / "fresh", dataclasses.replace(MICRO, latent_noise=0.1)
    for name in ("autoencoder", "unet"):
        (folder / ".training" / f"{name}.safetensors").unlink()
    for out in (folder, fresh):
        train(out, device="cpu", settings=other, gates=None)
    first, second = weights(folder), weights(fresh)
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_more_steps_go_on_with_what_there_is(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    train(folder, device="cpu", settings=dataclasses.replace(MICRO, unet_steps=8), gates=None)
    assert checkpoints.read(folder / ".training" / "unet.safetensors", {})[1]["step"] == 8


def test_a_prior_that_cannot_be_written_keeps_its_training(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(trained, tmp_path)
    (folder / "unet" / "left.bin").write_bytes(b"of another version")
    kept = {p.name: p.read_bytes() for p in (folder / ".training").glob("*.safetensors")}
    real = Path.replace

    def refused(self: Path, target: Path) -> Path:
        if "unet" in target.parts:
            raise PermissionError(13, "Access is denied")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refused)
        with pytest.raises(OutputError, match="Its training is kept"):
            train(folder, device="cpu", settings=MICRO, gates=None)
    assert {p.name: p.read_bytes() for p in (folder / ".training").glob("*.safetensors")} == kept
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    train(folder, device="cpu", settings=MICRO, gates=None)
    assert not (folder / "unet" / "left.bin").exists() and load(folder) is not None


def test_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="Delete it"):
        checkpoints.read(tmp_path / "x.safetensors", {})


def test_a_run_that_starts_over_leaves_nothing_of_the_one_before_to_go_on_from(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    other = dataclasses.replace(MICRO, unet_adam_lr=2 * MICRO.unet_adam_lr)

    def stopped(*_: Any) -> Stage:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(denoiser, "stage", stopped)
        train(out, device="cpu", settings=other, gates=None, resume=False)
    assert not (out / ".training" / "unet.safetensors").exists()
    train(out, device="cpu", settings=other, gates=None)


def test_vocabulary_is_clips(trained: Path) -> None:
    tokenizer = load(trained).tokenizer
    words = tokenizer.tokenize("a red octahedron, overhead view")
    assert words == ["a</w>", "red</w>", "octahedron</w>", ",</w>", "overhead</w>", "view</w>"]
    ids = text.tokenize(tokenizer, ["a red cube", "", "a red cube"])
    assert ids.shape == (3, MICRO.text_length)
    assert torch.equal(ids[0], ids[2])
    assert int(ids.max()) == tokenizer.eos_token_id == len(tokenizer) - 1
    assert set(ids[1, 1:].tolist()) == {tokenizer.eos_token_id}
    strange = tokenizer("zebra-7 ÿ").input_ids[1:-1]
    assert len(strange) >= 7
    assert tokenizer.eos_token_id not in strange


def test_whitening_changes_latents_and_not_pictures() -> None:
    torch.manual_seed(0)
    vae = autoencoder.build(MICRO)
    images = render_dataset(16, 0, MICRO.world).images
    raw = autoencoder.encode_all(vae, images, CPU, bf16=False)
    before = autoencoder.decode_all(vae, raw, CPU)
    white, variances = autoencoder.whiten(vae, raw)
    again = autoencoder.encode_all(vae, images, CPU, bf16=False)
    torch.testing.assert_close(again * autoencoder.SCALING, white, atol=2e-3, rtol=1e-3)
    assert (autoencoder.decode_all(vae, again, CPU).int() - before.int()).abs().max() <= 1
    covariance = torch.cov(white.transpose(0, 1).flatten(1))
    kept = variances >= variances.max() * autoencoder.SMALLEST_EIGENVALUE
    assert int(((torch.linalg.eigvalsh(covariance) - 1).abs() < 1e-3).sum()) == int(kept.sum())


def test_orthogonalise() -> None:
    g = torch.Generator().manual_seed(0)
    for shape in ((2, 24, 40), (2, 24, 200), (2, 200, 24)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=g)))
        assert values.min() > 0.6 and values.max() < 1.3


def test_muon_is_torchs_muon() -> None:
    reference = getattr(torch.optim, "Muon", None)
    if reference is None:
        pytest.skip("this torch has no Muon")
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.randn(24, 16)), torch.nn.Parameter(torch.empty(24, 16))
    theirs.data.copy_(ours.data)
    optimizers = Muon([ours], 0.02, 0.1), reference([theirs], lr=0.02, weight_decay=0.1)
    for _ in range(3):
        ours.grad = torch.randn(24, 16)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_loop_resumes_both_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> None:
    target = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))

    def step_of(folder: Path) -> int:
        return int(checkpoints.read(folder / "toy.safetensors", {})[1]["step"])

    def stage(steps: int, interrupted: int = -1) -> Stage:
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 6)
        named = dict(model.named_parameters())

        def loss(g: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            if step == interrupted:
                raise KeyboardInterrupt
            x = torch.randn(8, 6, generator=g)
            return (model(x) - x @ target).square().mean(), {}

        optimizer = MuonAdamW(named, {"weight"}, 0.05, 1e-2, (0.9, 0.98), 0.0)
        return Stage("toy", named, optimizer, loss, steps, falling(steps, 2, 0.5, 0.01), 1.0, 0.9, {"a": 1})

    def stop(step: int, _: Any) -> None:
        if step == 10:
            raise KeyboardInterrupt

    def within(optimizer: torch.optim.Optimizer) -> None:
        """Ctrl-C between Muon's half of a step and Adam's."""
        step = optimizer.step

        def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)
            step()

        monkeypatch.setattr(optimizer, "step", interrupted)

    whole = stage(20)
    rows = fit(whole, 0, tmp_path / "whole", 5, True)
    halves = stage(20)
    with pytest.raises(KeyboardInterrupt):
        fit(halves, 0, tmp_path / "halves", 5, True, stop)
    assert step_of(tmp_path / "halves") == 10
    for at, kept in ((13, 13), (15, 15), (17, 17)):
        halves = stage(20, at)
        with pytest.raises(KeyboardInterrupt):
            fit(halves, 0, tmp_path / "halves", 5, True)
        assert step_of(tmp_path / "halves") == kept
    halves = stage(20)
    within(halves.optimizer.adam)
    with pytest.raises(KeyboardInterrupt):
        fit(halves, 0, tmp_path / "halves", 5, True)
    assert step_of(tmp_path / "halves") == 18
    halves = stage(20)
    assert fit(halves, 0, tmp_path / "halves", 5, True)[-1]["step"] == rows[-1]["step"] == 20
    assert all(torch.equal(whole.named[k], halves.named[k]) for k in whole.named)


def test_an_update_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 4)
    named = dict(model.named_parameters())

    def loss(g: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x = torch.randn(8, 4, generator=g)
        return model(x).square().mean() * (float("nan") if step == 3 else 1.0), {}

    stage = Stage("toy", named, MuonAdamW(named, {"weight"}, 0.02, 1e-2, (0.9, 0.98), 0.0), loss, 9,
                  falling(9, 2, 0.5, 0.01), 1.0, 0.9, {})  # fmt: skip
    with pytest.raises(DivergedError, match="a norm of nan at step 4 of toy"):
        fit(stage, 0, tmp_path, 1, False)
    assert all(p.isfinite().all() for p in named.values())
    tensors, facts = checkpoints.read(tmp_path / "toy.safetensors", {})
    assert facts["step"] == 3 and all(t.isfinite().all() for t in tensors.values())


def test_a_part_without_gradient_stops_the_run(tmp_path: Path) -> None:
    live, dead = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    named = {f"{k}.{n}": p for k, m in (("live", live), ("dead", dead)) for n, p in m.named_parameters()}

    def loss(g: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (live(torch.randn(4, 2, generator=g)) + 0 * dead.weight.sum()).square().mean(), {}

    optimizer = MuonAdamW(named, {"live.weight"}, 0.02, 1e-2, (0.9, 0.98), 0.0)
    stage = Stage("toy", named, optimizer, loss, 50, falling(50, 2, 0.5, 0.01), 1.0, 0.9, {})
    with pytest.raises(DivergedError, match=r"none within 10 steps in 2 of 4, such as dead\.bias"):
        fit(stage, 0, tmp_path, 50, False)


def test_a_stage_says_how_far_it_is_and_how_long_it_still_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(4, 4)
    named = dict(model.named_parameters())
    passed = [0.0]

    def loss(g: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        passed[0] += 10.0 if step < 50 else 20.0
        return model(torch.randn(4, 4, generator=g)).square().mean(), {}

    monkeypatch.setattr(training_loop.time, "perf_counter", lambda: passed[0])
    optimizer = MuonAdamW(named, {"weight"}, 0.02, 1e-2, (0.9, 0.98), 0.0)
    stage = Stage("toy", named, optimizer, loss, 100, falling(100, 2, 0.5, 0.01), 1.0, 0.9, {})
    with caplog.at_level("INFO", "distill3d"):
        fit(stage, 0, tmp_path, 100, False)
    assert [message.split(" left of it")[0] for message in caplog.messages] == [
        "toy 25 of 100, 0.10 steps/s, at this pace 0:12:30",
        "toy 50 of 100, 0.10 steps/s, at this pace 0:08:20",
        "toy 75 of 100, 0.05 steps/s, at this pace 0:08:20",
        "toy 100 of 100, 0.05 steps/s, at this pace 0:00:00",
    ]


def test_draws_and_average_go_by_the_steps_number(tmp_path: Path) -> None:
    def average(number: Any, steps: int = 4) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        named = dict(model.named_parameters())

        def loss(g: torch.Generator, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            seen.append(torch.randn(4, 4, generator=g))
            return model(seen[-1]).square().mean(), {}

        optimizer = MuonAdamW(named, {"weight"}, 0.02, 1e-2, (0.9, 0.98), 0.0)
        stage = Stage("toy", named, optimizer, loss, steps, lambda step: 1.0, 1.0, 0.999, {}, number)
        fit(stage, 3, tmp_path, 100, False)
        return model.weight.detach()

    seen: list[torch.Tensor] = []
    plain = average(int)
    again = average(lambda step: step + (5_000 if step > 1 else 0))
    assert torch.equal(seen[0], seen[4]) and torch.equal(seen[1], seen[5]) and not torch.equal(seen[2], seen[6])
    expected = torch.randn(4, 4, generator=checkpoints.step_generator(3, "toy", 5_002))
    assert torch.equal(seen[6], expected)
    start = average(int, 2)
    assert (again - start).norm() < 0.1 * (plain - start).norm(), "an old average hardly moves"


def test_schedules() -> None:
    scales = [falling(100, 10, 0.4, 0.01)(s) for s in range(101)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[10:41] == [1.0] * 31
    assert scales[100] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(scales[40:]))
    a = denoiser.scheduler().alphas_cumprod
    weight = denoiser.min_snr_weight(a, 5.0)
    snr = a / (1 - a)
    torch.testing.assert_close(weight * snr, snr.clamp(max=5.0))
    floored = denoiser.min_snr_weight(a, 5.0, 0.2)
    torch.testing.assert_close(floored * snr, snr.clamp(0.2, 5.0))
    t = denoiser.stratified_timesteps(10, torch.Generator().manual_seed(0))
    assert (t // 100).tolist() == list(range(10))


def test_gates_pass_on_the_truth_and_fail_on_everything_else() -> None:
    data = render_dataset(96, 11)
    images = data.images.float() / 255
    shape, colour = labels(data.objects)
    truth = measure_images(images, shape, colour)
    assert truth["sample_hue"] >= 0.97
    assert truth["sample_shape"] >= 0.9
    shuffled = measure_images(images, (shape + 1) % 8, (colour + 3) % 8)
    assert shuffled["sample_hue"] < 0.1 and shuffled["sample_shape"] < 0.2
    angles = torch.arange(0.0, 360.0, 30.0)
    balls, _ = trace([_Grey("sphere", "red")] * 12, orbit(angles, 20.0), 64)
    as_cubes = measure_images(balls, torch.ones(12, dtype=torch.long), torch.zeros(12, dtype=torch.long))
    assert as_cubes["sample_shape"] == 0 and as_cubes["sample_hue"] == 0
    noise = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blank = measure_images(noise, torch.arange(8), torch.arange(8))
    assert blank["sample_shape"] < 0.5 and blank["residual"] > 0.1


class _Grey(Object):
    def albedo(self, points: torch.Tensor) -> torch.Tensor:
        return torch.full_like(points, 0.5)


def test_gate_error_names_what_missed() -> None:
    with pytest.raises(GateError, match=r"psnr >= 30 \(got 12\)"):
        Gates().check({"psnr": 12.0, "reconstructed_hue": 1.0})
    with pytest.raises(GateError, match="sample_hue"):
        Gates().check({"sample_hue": float("nan")})
    Gates().check({"psnr": 31.0, "border": 0.0})


def test_an_autoencoder_that_misses_its_gate_says_what_to_do_and_names_no_file_that_is_not_there(
    trained: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    with pytest.raises(GateError, match=r"psnr >= 99 .*train it for more vae_steps$"):
        train(out, device="cpu", settings=MICRO, gates=Gates(psnr=99.0))


def test_matching_parts() -> None:
    images, _ = trace([Object("cube", c) for c in COLOURS], orbit([30] * 8, 20), 32)
    mask, flat = foreground(images)
    torch.testing.assert_close(flat, torch.ones(8, 3))
    assert 0.05 < mask.float().mean() < 0.6
    torch.testing.assert_close(brightness(images, mask).flatten(1).norm(dim=1), torch.ones(8))
    assert match_colours(images).tolist() == list(range(8))
    torch.testing.assert_close(hue(torch.eye(3)), torch.tensor([0.0, 120.0, 240.0]))


def test_a_seed_of_training_decides_its_draws_and_0_draws_what_it_drew() -> None:
    draws = [torch.rand(4, generator=checkpoints.step_generator(seed, "unet", 7)).tolist() for seed in (0, 1, 2, 12345)]
    assert len({tuple(draw) for draw in draws}) == 4
    salt = sum(ord(c) * 257**i for i, c in enumerate("unet")) % 2**20
    before = torch.Generator().manual_seed(salt * 2**22 + 7)  # of which torch reads the lower 32 bits
    assert draws[0] == torch.rand(4, generator=before).tolist()
    steps = [torch.rand(4, generator=checkpoints.step_generator(1, "unet", step)).tolist() for step in range(50)]
    assert len({tuple(step) for step in steps}) == 50
