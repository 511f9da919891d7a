"""A prior trained on from another, and the share of a batch that shows fronts."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_prior_full import CPU, LENIENT, MICRO

from distill3d.cli import main
from distill3d.errors import CheckpointError, PriorError, SettingsError
from distill3d.train_prior import checkpoints, denoiser, train
from distill3d.train_prior.settings import Part, recipe
from distill3d.train_prior.views import front_rows
from distill3d.world import FIGURES, WorldSettings, render_dataset

UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
KEPT = ("vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "first"
    train(out, device="cpu", settings=MICRO, gates=None)
    return out


def test_a_run_goes_on_from_a_prior_and_keeps_its_autoencoder_and_words(first: Path, tmp_path: Path) -> None:
    before = {name: (first / name).read_bytes() for name in (*KEPT, UNET, TEXT)}
    measured = train(tmp_path / "on", device="cpu", start=first, seed=1, settings=MICRO, gates=LENIENT)
    assert all((tmp_path / "on" / name).read_bytes() == before[name] for name in KEPT)
    assert all((first / name).read_bytes() == data for name, data in before.items())
    for name in (UNET, TEXT):
        assert (tmp_path / "on" / name).read_bytes() != before[name]
    record = json.loads((tmp_path / "on" / "training.json").read_text())
    assert "psnr" in measured and isinstance(record["start"], int) and "autoencoder" not in record
    card = (tmp_path / "on" / "README.md").read_text()
    assert (
        "6 steps of 8 latents from another prior's weights" in card
        and "No picture" not in card
        and "`vae_steps`" not in card
        and "`unet_steps`" in card
    )


@pytest.mark.parametrize(("capability", "bf16", "warned"), [("AVX2", True, 1), ("AVX2", False, 0), ("AVX512", True, 0)])
def test_a_cpu_that_is_slow_in_bfloat16_is_told_of(
    capability: str,
    bf16: bool,
    warned: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with caplog.at_level("WARNING", "distill3d"), pytest.raises(PriorError):
        train(
            tmp_path, device="cpu", start=tmp_path / "none", settings=dataclasses.replace(MICRO, bf16=bf16), gates=None
        )
    assert sum("bf16 off" in record.getMessage() for record in caplog.records) == warned


def test_nothing_learned_is_the_prior_itself(first: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(MICRO, unet_muon_lr=1e-30, unet_adam_lr=1e-30, weight_decay=0.0, unet_steps=1)
    train(tmp_path, device="cpu", start=first, seed=1, settings=still, gates=None)
    for name in (UNET, TEXT):
        old, new = load_file(first / name), load_file(tmp_path / name)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_the_latents_are_those_of_the_diffusers_pipeline(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKL

    seen: list[torch.Tensor] = []
    real = denoiser.stage

    def stage(unet: Any, encoder: Any, latents: torch.Tensor, *rest: Any) -> Any:
        seen.append(latents)
        return real(unet, encoder, latents, *rest)

    monkeypatch.setattr(denoiser, "stage", stage)
    train(tmp_path, device="cpu", start=first, seed=1, settings=MICRO, gates=None)
    images = render_dataset(MICRO.renders, 1, MICRO.world).images[:8]
    vae = AutoencoderKL.from_pretrained(str(first / "vae"))
    with torch.no_grad():
        expected = vae.encode(images.float() / 127.5 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(seen[0][:8].float(), expected, atol=5e-3, rtol=5e-3)


def test_a_start_is_part_of_what_a_checkpoint_must_agree_with(first: Path, tmp_path: Path) -> None:
    out, second = tmp_path / "out", tmp_path / "second"
    train(out, device="cpu", start=first, settings=MICRO, gates=None)
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "training.json"}
    train(second, device="cpu", seed=5, settings=MICRO, gates=None)
    for other in (second, None):
        with pytest.raises(CheckpointError, match="expected start="):
            train(out, device="cpu", start=other, settings=MICRO, gates=None)
        assert all(path.read_bytes() == data for path, data in whole.items()), "refused before any work"
    train(out, device="cpu", start=first, settings=MICRO, gates=None)
    assert (out / UNET).read_bytes() == whole[out / UNET]


def test_nothing_that_is_written_names_the_folder_of_the_start(first: Path, tmp_path: Path) -> None:
    train(tmp_path, device="cpu", start=first, settings=dataclasses.replace(MICRO, unet_steps=1), gates=None)
    for path in tmp_path.rglob("*.json"):
        assert str(first) not in path.read_text(encoding="utf-8"), path


def test_a_start_that_does_not_fit_is_refused_before_anything_is_rendered(
    first: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("other")
    wider = dataclasses.replace(MICRO, unet_channels=(8, 16, 32))
    with pytest.raises(SettingsError, match=r"whose UNet is as the recipe describes.*training\.json"):
        train(tmp_path / "a", start=first, settings=wider, gates=None)
    with pytest.raises(SettingsError, match="whose text encoder"):
        train(tmp_path / "b", start=first, settings=dataclasses.replace(MICRO, text_width=32), gates=None)
    with pytest.raises(SettingsError, match="whose autoencoder"):
        train(tmp_path / "c", start=first, settings=dataclasses.replace(MICRO, vae_channels=(8, 16, 32)), gates=None)
    with pytest.raises(SettingsError, match="heads"):
        train(tmp_path / "h", start=first, settings=dataclasses.replace(MICRO, unet_heads=4), gates=None)
    for written in ({"out": first}, {"out": tmp_path / "o", "snapshot": first / ".." / first.name}):
        with pytest.raises(SettingsError, match="another folder for the result"):
            train(written["out"], start=first, settings=MICRO, gates=None, snapshot=written.get("snapshot"))
    with pytest.raises(PriorError, match=r"model_index\.json"):
        train(tmp_path / "d", start=tmp_path, settings=MICRO, gates=None)
    for name, change, words in (
        ("v", {"prediction_type": "v_prediction"}, "v_prediction"),
        ("s", {"beta_end": 0.02}, "schedule"),
    ):
        other = elsewhere / name
        shutil.copytree(first, other)
        scheduler = other / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), **change}))
        with pytest.raises(PriorError, match=words):
            train(tmp_path / "p", start=other, settings=MICRO, gates=None)
    (other / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(PriorError, match=r"merges\.txt"):
        train(tmp_path / "w", start=other, settings=MICRO, gates=None)
    with pytest.raises(PriorError, match="folder"):
        train(tmp_path / "e", start=tmp_path / "nowhere", settings=MICRO, gates=None)
    assert not list(tmp_path.iterdir())


def test_the_command_goes_on_from_the_folder_it_is_given(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {
        "vae-channels": "8 16 16", "vae-groups": 4, "text-width": 16, "text-layers": 1, "unet-channels": "8 16 16",
        "unet-groups": 4, "unet-heads": 2, "renders": MICRO.renders, "world.image-size": 32, "unet-steps": 2,
    }  # fmt: skip
    given = [word for name, value in sizes.items() for word in (f"--{name}", *str(value).split())]
    own = ["train-prior", "--recipe", "full-cuda", "--device", "cpu", "--check", "False", *given, "--unet-batch", "4"]
    assert main([*own, "--start", str(first), "--out", str(tmp_path / "on")]) == 0
    assert (tmp_path / "on" / KEPT[0]).read_bytes() == (first / KEPT[0]).read_bytes()
    assert main([*own, "--vae-steps", "9", "--start", str(first), "--out", str(tmp_path / "on")]) == 2
    assert "expected no --vae-steps with --start" in " ".join(capsys.readouterr().err.split())
    assert main(["train-prior", "--recipe", "faces", "--out", str(tmp_path / "none")]) == 2
    assert "--start" in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "none").exists()


def test_renders_of_the_world_as_it_was_before_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = importlib.import_module("distill3d.train_prior.train")  # the package's "train" is its function
    with monkeypatch.context() as before:
        before.setattr(training, "WORLD_VERSION", None)
        train(tmp_path, device="cpu", settings=MICRO, gates=None)
    with pytest.raises(CheckpointError, match=r"world_version=2.*delete it"):
        train(tmp_path, device="cpu", settings=MICRO, gates=None)
    (tmp_path / ".training" / "renders.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"world_version=2.*autoencoder"):
        train(tmp_path, device="cpu", settings=MICRO, gates=None)


def test_what_was_begun_before_the_world_had_a_version_goes_on(tmp_path: Path) -> None:
    """Such checkpoints do not name it."""
    checkpoints.write(tmp_path / "old", {}, {"seed": 0})
    checkpoints.read(tmp_path / "old", {"seed": 0, "start": None, "world_version": None})


def test_fronts_are_what_captions_of_objects_with_a_front_call_so() -> None:
    made = render_dataset(400, 0, WorldSettings(name="full", image_size=8))
    rows = front_rows(made.captions).tolist()
    assert len(rows) > 20
    for row, (caption, thing) in enumerate(zip(made.captions, made.objects, strict=True)):
        words = caption.replace(",", " ").split()
        asked = "front" in words and words[words.index("front") + 1] == "view" and thing.shape in FIGURES
        assert asked == (row in rows), caption


def _drawn(fronts: float) -> torch.Tensor:
    """Which of 200 renders a batch of 2,000 shows, as its tokens tell; the first 20 are the fronts."""
    part = Part(1, 2000, 5.0, 0.2, 0, 1, 0.0, fronts=fronts)
    settings = dataclasses.replace(MICRO, unet_parts=(part,), unet_steps=1)
    seen: list[torch.Tensor] = []

    class Words(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> Any:
            seen.append(ids[:, 0].clone())
            raise StopIteration

    tokens = torch.arange(200)[:, None].expand(200, 3)
    unet = denoiser.build(settings)
    stage = denoiser.stage(
        unet, Words(), torch.zeros(200, 4, 8, 8), tokens, torch.full((3,), -1), torch.arange(20), settings, 0, CPU
    )
    with pytest.raises(StopIteration):
        stage.loss(torch.Generator().manual_seed(0), 0)
    return seen[0][seen[0] >= 0]


def test_a_part_draws_its_share_of_fronts_over_all_timesteps() -> None:
    for share in (0.0, 0.25, 1.0):
        rows = _drawn(share)
        expected = share + (1 - share) * 0.1
        facing = (rows < 20).float()
        assert facing.mean() == pytest.approx(expected, abs=0.03)
        halves = facing.chunk(2)  # timesteps rise over the batch
        assert halves[0].mean() == pytest.approx(float(halves[1].mean()), abs=0.05)


def test_fronts_where_there_are_none_are_refused(tmp_path: Path) -> None:
    part = Part(6, 4, 5.0, 0.2, 0, 6, 0.0, fronts=0.25)
    with pytest.raises(SettingsError, match="no caption of this world names one"):
        dataclasses.replace(MICRO, world=WorldSettings(image_size=32), unet_parts=(part,))
    with pytest.raises(SettingsError, match=r"fronts within 0\.\.1"):
        dataclasses.replace(part, fronts=1.5)
    settings = dataclasses.replace(MICRO, unet_parts=(part,))
    above = dataclasses.replace(settings, world=dataclasses.replace(MICRO.world, elevation=(65.0, 80.0)))
    with pytest.raises(SettingsError, match="not all overhead"):
        train(tmp_path, device="cpu", settings=above, gates=None)
    assert not list(tmp_path.rglob("autoencoder*")), "refused before anything is trained"
    empty, none = torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(SettingsError, match="ask for more renders"):
        denoiser.stage(
            denoiser.build(settings),
            torch.nn.Linear(2, 2),
            torch.zeros(1, 4, 8, 8),
            empty[None],
            empty,
            none,
            settings,
            0,
            CPU,
        )


def test_the_recipe_of_the_last_stage_is_the_one_its_weights_have() -> None:
    faces, full = recipe("faces"), recipe("full")
    assert faces.unet_parts[0].fronts == 0.25 and faces.unet_steps == faces.unet_parts[0].steps
    assert denoiser.rate(faces, faces.unet_steps - 1) == pytest.approx(faces.final_lr, abs=1e-3)
    assert 0.1 * full.unet_muon_lr < faces.unet_muon_lr < 0.3 * full.unet_muon_lr
    assert (faces.unet_channels, faces.text_width, faces.vocabulary) == (
        full.unet_channels,
        full.text_width,
        full.vocabulary,
    )
