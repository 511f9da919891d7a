"""The trainer on the full world: recipes, one run from renders to card, gates with view words, losses that fall."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from distill3d.cli import main
from distill3d.errors import CheckpointError, SettingsError
from distill3d.priors.load import bundled_prior_path
from distill3d.train_prior import (
    RECIPES,
    GateError,
    Gates,
    TrainPriorSettings,
    autoencoder,
    checkpoints,
    denoiser,
    recipe,
    text,
    train,
)
from distill3d.train_prior.card import _recipe
from distill3d.train_prior.export import load, sample
from distill3d.train_prior.loop import Stage, fit
from distill3d.train_prior.settings import Part, compared
from distill3d.world import WorldSettings, all_objects, render_dataset

MICRO = TrainPriorSettings(
    renders=96,
    held_out=16,
    world=WorldSettings(name="full", image_size=32),
    vae_channels=(8, 16, 16),
    vae_groups=4,
    vae_steps=4,
    vae_batch=2,
    text_width=16,
    text_layers=1,
    vocabulary=1024,
    unet_channels=(8, 16, 16),
    unet_groups=4,
    unet_heads=2,
    unet_steps=6,
    unet_batch=8,
    checkpoint_every=3,
    bf16=False,
)
LENIENT = Gates(
    psnr=-100.0,
    reconstructed_hue=0.0,
    sample_hue=0.0,
    sample_shape=0.0,
    sample_pattern=0.0,
    view_word=0.0,
    samples_each=1,
    every=62,
)
CPU = torch.device("cpu")
NONE = torch.zeros(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prior") / "full"
    train(out, device="cpu", settings=MICRO, gates=LENIENT)
    return out


def test_the_run_leaves_a_card_with_recipe_measures_and_curves(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "full world" in card and "seed 0" in card and "smiley" in card and "checkered" in card
    for name in ("unet_steps", "world.name", "world.front_words", "ema"):
        assert f"| `{name}` |" in card
    record = json.loads((trained / "training.json").read_text())
    for name in ("psnr", "sample_shape", "sample_pattern", "held_out_shape", "view_word", "view_word_chance"):
        assert f"`{name}`" in card and (name == "psnr" or record["measured"][name] >= 0)
    assert record["measured"]["view_word_truth"] > 0.8 > 0.6 > record["measured"]["view_word_chance"]
    assert record["settings"]["world"]["name"] == "full" and record["unet"][-1]["step"] == 6

    from PIL import Image

    for name in ("samples.png", "curves.png"):
        with Image.open(trained / name) as picture:
            assert picture.width >= 32
    assert not list(trained.glob("*.bin")) and str(trained.parent) not in card


def test_the_prior_loads_and_samples(trained: Path) -> None:
    prompts = ["front view of a yellow smiley", "a striped red cube, white background"]
    assert sample(load(trained), prompts, guidance=4.0, seed=0, steps=2).isfinite().all()


def test_a_finished_run_resumes_to_the_same_card(trained: Path) -> None:
    before = (trained / "training.json").read_text()
    train(trained, device="cpu", settings=MICRO, gates=None)
    assert json.loads((trained / "training.json").read_text())["unet"] == json.loads(before)["unet"]


def test_a_missed_gate_is_an_error_and_stands_in_the_card(trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    with pytest.raises(GateError, match=r"view_word >= 1\.01"):
        train(copy, device="cpu", settings=MICRO, gates=dataclasses.replace(LENIENT, view_word=1.01))
    assert "| 1.01 **missed** |" in (copy / "README.md").read_text()


def test_recipes() -> None:
    assert (
        set(RECIPES) == {"plain", "full", "bundled", "faces", "full-cuda"} and recipe("plain") == TrainPriorSettings()
    )
    assert recipe("plain").world.name == "plain" and recipe("full-cuda").world.name == "full"
    with pytest.raises(SettingsError, match="one of plain, full, bundled, faces, full-cuda"):
        recipe("huge")


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((bundled_prior_path() / name).read_text(encoding="utf-8"))
    return record


def test_the_bundled_recipe_has_the_rates_that_the_bundled_priors_run_recorded() -> None:
    record = _record("training-first.json")
    rows = record["unet"]
    assert len(rows) == 700 and rows[-1]["step"] == record["settings"]["unet_steps"]
    for i, row in enumerate(rows):
        assert round(denoiser.rate(recipe("bundled"), 25 * (i + 1) - 1), 5) == row["lr"], row
    numbers = [denoiser.part_at(recipe("bundled"), step)[1] + 1 for step in range(17_500)]
    assert [numbers[25 * (i + 1) - 1] for i in range(400, 700)] == [row["step"] for row in rows[400:]]
    assert numbers[:10_000] == list(range(1, 10_001))
    last = recipe("bundled").unet_parts[-1]
    assert (last.batch, last.snr_cap, last.snr_floor) == tuple(
        record["settings"][name] for name in ("unet_batch", "snr_cap", "snr_floor")
    )
    assert sum(p.steps * p.batch for p in recipe("bundled").unet_parts) == 1_200_000


@pytest.mark.parametrize(("name", "seed"), [("training-second.json", 1), ("training.json", 2)])
def test_the_recipe_faces_has_the_rates_that_the_bundled_priors_later_stages_recorded(name: str, seed: int) -> None:
    record, faces = _record(name), recipe("faces")
    assert record["seed"] == seed and record["start"]
    rows = record["unet"]
    assert [row["step"] for row in rows] == list(range(25, 1_951, 25))
    assert [row["lr"] for row in rows] == [round(denoiser.rate(faces, row["step"] - 1), 5) for row in rows]
    assert record["settings"] == json.loads(json.dumps(dataclasses.asdict(faces)))


def test_the_bundled_priors_card_has_both_recipes() -> None:
    card = (bundled_prior_path() / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in card if line.startswith("| `") and line.count("|") == 3]
    assert rows == _recipe(recipe("bundled"))[2:] + _recipe(recipe("faces"), started=True)[2:]


def test_the_full_recipe_lets_views_be_heard() -> None:
    """Rates of 0.67 and more with the first loss weight made a prior deaf to views (docs/tuning.md)."""
    full = recipe("full")
    rates = [round(denoiser.rate(full, step), 3) for step in (0, 60, 1250, 4999, 5000, 8499, 8500, 11_999)]
    assert rates == [0.017, 1.0, 1.0, 0.67, 0.3, 0.155, 0.155, 0.01]
    assert [(p.snr_cap, p.snr_floor, p.fronts) for p in full.unet_parts[1:]] == [(5.0, 0.2, 0.0), (5.0, 0.2, 0.25)]
    assert (recipe("full-cuda").snr_cap, recipe("full-cuda").snr_floor) == (5.0, 0.2)
    same = {"unet_parts": (), "unet_steps": 1, "vae_steps": 1}
    assert dataclasses.replace(full, **same) == dataclasses.replace(recipe("bundled"), **same)


def test_parts_have_their_own_batch_loss_weight_and_rate(tmp_path: Path) -> None:
    parts = (Part(2, 4, 5.0, 0.2, 0, 6, 0.5, True), Part(4, 8, 1.0, 0.0, 1, 5, 0.2))
    apart = dataclasses.replace(MICRO, unet_parts=parts, unet_warmup=1)
    captions = [o.caption() for o in all_objects("full")[:16]]
    text.write_vocabulary(tmp_path, captions, MICRO.vocabulary)
    tokenizer = text.load_tokenizer(tmp_path, MICRO.text_length)
    tokens, empty = text.tokenize(tokenizer, captions), text.tokenize(tokenizer, [""])[0]
    torch.manual_seed(0)
    unet, encoder = denoiser.build(MICRO), text.build_encoder(tokenizer, MICRO)
    latents = torch.randn(16, 4, 8, 8)
    seen: list[tuple[int, bool]] = []
    fused = torch.backends.cuda.flash_sdp_enabled  # of every device, in spite of its name
    unet.register_forward_pre_hook(lambda _, arguments: seen.append((len(arguments[0]), fused())))

    def loss(settings: TrainPriorSettings, step: int) -> float:
        stage = denoiser.stage(unet, encoder, latents, tokens, empty, NONE, settings, 0, CPU)
        return stage.loss(torch.Generator().manual_seed(7), step)[0].item()

    for step, part in ((0, parts[0]), (1, parts[0]), (2, parts[1]), (5, parts[1])):
        whole = dataclasses.replace(
            MICRO, unet_batch=part.batch, snr_cap=part.snr_cap, snr_floor=part.snr_floor, unet_steps=6
        )
        assert loss(apart, step) == pytest.approx(loss(whole, 0), rel=1e-6)
        assert seen[-2:] == [(part.batch, part.fused_attention), (part.batch, False)]
    numbered = denoiser.stage(unet, encoder, latents, tokens, empty, NONE, apart, 0, CPU).number
    assert [numbered(step) for step in range(6)] == [0, 1, 1, 2, 3, 4]
    shares = [denoiser.rate(apart, step) for step in range(6)]
    assert shares == pytest.approx([1.0, 1.0, *(1 - 0.99 * i / 4 for i in (0, 1, 2, 3))])


def test_a_run_in_parts_goes_on_over_their_border_and_its_card_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (Part(3, 4, 5.0, 0.2, 0, 6, 0.5), Part(3, 8, 1.0, 0.0, 1, 5, 0.1))
    settings = dataclasses.replace(MICRO, unet_parts=parts)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, device="cpu", settings=settings, gates=LENIENT)
    card = (whole / "README.md").read_text()
    assert "6 of 4 and 8 latents" in card and "| `unet_batch` |" not in card
    second = "steps 3, batch 8, snr_cap 1.0, snr_floor 0.0, number 1, planned 5, constant 0.1, fused_attention False"
    assert f"| `unet_parts.1` | {second} |" in card

    real = denoiser.stage

    def interrupted(*arguments: Any) -> Stage:
        stage = real(*arguments)

        def loss(g: torch.Generator, step: int) -> Any:
            if step == 4:
                raise KeyboardInterrupt
            return stage.loss(g, step)

        return dataclasses.replace(stage, loss=loss)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(denoiser, "stage", interrupted)
        train(stopped, device="cpu", settings=settings, gates=None)
    train(stopped, device="cpu", settings=settings, gates=None)
    for weights in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (whole / weights).read_bytes() == (stopped / weights).read_bytes()
    wider = (parts[0], dataclasses.replace(parts[1], snr_cap=2.0))
    for other, place in ((wider, r"unet_parts\.1\.snr_cap=2\.0, but .* with 1\.0"), ((), "unet_parts=None")):
        with pytest.raises(CheckpointError, match=place):
            train(stopped, device="cpu", settings=dataclasses.replace(settings, unet_parts=other), gates=None)


def test_checkpoints_from_before_there_were_parts_go_on(tmp_path: Path) -> None:
    facts = compared(MICRO, "unet")
    assert facts["unet_parts"] is None
    checkpoints.write(tmp_path / "old", {}, {name: value for name, value in facts.items() if name != "unet_parts"})
    checkpoints.read(tmp_path / "old", facts)
    in_parts = dataclasses.replace(MICRO, unet_parts=(Part(6, 4, 5.0, 0.2, 0, 6, 0.5),))
    assert compared(in_parts, "unet")["unet_parts"] and "unet_parts" not in compared(in_parts, "vae")


def test_flags_that_parts_do_not_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train-prior", "--recipe", "bundled", "--out", str(tmp_path)]
    unused = "expected no --{} with a recipe in parts, got {}: each part has its own, --unet-parts.0.{}"
    for flag, words in {
        "--unet-batch": unused.format("unet-batch", 5, "batch"),
        "--snr-cap": unused.format("snr-cap", 5.0, "snr-cap"),
        "--unet-steps": "expected as many unet_steps as the 4 unet_parts have together, 17500, got 5",
    }.items():
        assert main([*given, flag, "5"]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_parts_are_checked() -> None:
    with pytest.raises(SettingsError, match="unet_batch as a whole number"):
        dataclasses.replace(MICRO, unet_batch=2.5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"as many unet_steps as the 1 unet_parts have together, 5, got 6"):
        dataclasses.replace(MICRO, unet_parts=(Part(5, 4, 5.0, 0.2, 0, 5, 0.1),))
    for wrong in (
        {"steps": 0},
        {"batch": 0},
        {"batch": 2.5},
        {"steps": True},
        {"snr_cap": 0.0},
        {"constant": 1.1},
        {"planned": 0},
        {"number": -1},
        {"snr_floor": float("nan")},
    ):
        with pytest.raises(SettingsError, match=rf"expected .*\b{next(iter(wrong))}\b.*unet_parts"):
            dataclasses.replace(Part(5, 4, 5.0, 0.2, 0, 5, 0.1), **wrong)


def test_the_full_recipe_fits_its_words_and_its_size(tmp_path: Path) -> None:
    settings = recipe("full")
    longest = [f"a 3d render of {o.caption()}, overhead view, coloured background" for o in all_objects("full")]
    text.write_vocabulary(tmp_path, longest, settings.vocabulary)
    tokenizer = text.load_tokenizer(tmp_path, settings.text_length)
    assert len(tokenizer) < settings.vocabulary, "every word got its merges"
    tokens = text.tokenize(tokenizer, longest)
    assert (tokens[:, -2:] == tokenizer.eos_token_id).all(), "the longest caption leaves room"
    assert len(torch.unique(tokens, dim=0)) == len(longest), "no two captions read the same"
    with torch.device("meta"):
        unet, vae = denoiser.build(settings), autoencoder.build(settings)
        encoder = text.build_encoder(tokenizer, settings)
    parameters = sum(p.numel() for m in (unet, vae, encoder) for p in m.parameters())
    assert 2 * parameters < 60e6


def test_the_losses_fall(tmp_path: Path) -> None:
    settings = dataclasses.replace(MICRO, vae_steps=75, unet_steps=75, unet_batch=16)
    data = render_dataset(96, 0, settings.world)
    torch.manual_seed(0)
    vae = autoencoder.build(settings)
    rows = fit(autoencoder.stage(vae, data.images, settings, 0, CPU), 0, tmp_path, 1000, False)
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    latents, _ = autoencoder.whiten(vae, autoencoder.encode_all(vae, data.images, CPU, bf16=False))
    text.write_vocabulary(tmp_path / "v", data.captions, settings.vocabulary)
    tokenizer = text.load_tokenizer(tmp_path / "v", settings.text_length)
    tokens, empty = text.tokenize(tokenizer, data.captions), text.tokenize(tokenizer, [""])[0]
    unet, encoder = denoiser.build(settings), text.build_encoder(tokenizer, settings)
    stage = denoiser.stage(unet, encoder, latents, tokens, empty, NONE, settings, 0, CPU)
    rows = fit(stage, 0, tmp_path, 1000, False)
    assert rows[-1]["mse"] < 0.75 * rows[0]["mse"]
