"""The image-text scorer: its words, its file, its views, its trainer, and what the bundled one is worth."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from distill3d.bench.scoring import read_views, scores, write_views  # noqa: E402
from distill3d.cli import main  # noqa: E402
from distill3d.errors import CheckpointError, PriorError, SettingsError  # noqa: E402
from distill3d.evaluate import perfect  # noqa: E402
from distill3d.render.occupancy import OccupancyGrid  # noqa: E402
from distill3d.render.volume import RenderSettings  # noqa: E402
from distill3d.scorer import CORPUS, VIEWS, field_pictures, load_scorer, true_pictures  # noqa: E402
from distill3d.scorer import train as training  # noqa: E402
from distill3d.scorer.card import write_card  # noqa: E402
from distill3d.scorer.measure import GATES, Gates, embed, measure, rank  # noqa: E402
from distill3d.scorer.model import WORDS, Architecture, Scorer, save_scorer, words_of  # noqa: E402
from distill3d.scorer.settings import RECIPE, TrainScorerSettings  # noqa: E402
from distill3d.scorer.train import disturbed, train  # noqa: E402
from distill3d.scorer.views import labels, scoring_cameras  # noqa: E402
from distill3d.train_prior.gates import GateError  # noqa: E402
from distill3d.world import Object, WorldSettings, all_objects, render_dataset  # noqa: E402

SMALL = Architecture((4, 8), 2, 8, 8)
MICRO = TrainScorerSettings(renders=48, held_out=16, architecture=SMALL, steps=6, batch=8, warmup=2, checkpoint_every=2)


def small(seed: int = 0) -> Scorer:
    torch.manual_seed(seed)
    return Scorer(SMALL).requires_grad_(False)


def test_only_words_that_name_an_object_count():
    assert [WORDS[i] for i in words_of("A 3D render of an Orange and white ball, side view")] == ["orange", "ball"]
    scorer = small()
    texts = scorer.embed_texts(
        ["a striped red cube", "front view of a red striped cube, black background", "a red cube"]
    )
    assert torch.allclose(texts[0], texts[1], atol=1e-6) and not torch.allclose(texts[0], texts[2], atol=1e-3)
    assert texts.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(SettingsError, match="a word the scorer knows"):
        words_of("a dragon")


def test_every_object_of_both_worlds_has_a_caption_of_its_own():
    assert (len(set(CORPUS["plain"])), len(set(CORPUS["full"]))) == (64, 496)
    scorer = small()
    texts = scorer.embed_texts(CORPUS["full"])
    assert torch.pdist(texts).min() > 0, "two captions of the same words"
    things = [Object("mug", "red", 0.9, (0.01, 0, 0)), Object("cube", "blue", pattern="dotted")]
    assert [CORPUS["full"][i] for i in labels(things).tolist()] == ["a red mug", "a dotted blue cube"]


def test_a_scorer_survives_its_file_in_half_precision(tmp_path):
    path = save_scorer(small(), tmp_path / "scorer.safetensors", {"seed": 5})
    loaded = load_scorer(path)
    assert loaded.facts["seed"] == 5 and loaded.scorer.architecture == SMALL
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(loaded.scorer.embed_images(images), small().embed_images(images), atol=5e-3)
    assert all(t.dtype == torch.float16 for t in load_file(path).values())
    assert load_scorer(save_scorer(small(1), tmp_path / "other.safetensors", {})).fingerprint != loaded.fingerprint


@pytest.mark.parametrize("spoil", ["missing", "damaged", "prior"])
def test_what_is_no_scorer_is_refused_in_words(tmp_path, spoil):
    path = tmp_path / "scorer.safetensors"
    if spoil == "damaged":
        path.write_bytes(save_scorer(small(), path, {}).read_bytes()[:200])
    elif spoil == "prior":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(PriorError, match="train-scorer"):
        load_scorer(path)


def test_settings_that_cannot_train_are_refused():
    for change in (
        {"steps": 0}, {"blur": 2.0}, {"muon_lr": 0.0}, {"ema": 1.0}, {"shift": 16}, {"noise": -1.0},
        {"world": WorldSettings(name="plain")}, {"world": WorldSettings(name="full", image_size=32)},
    ):  # fmt: skip
        with pytest.raises(SettingsError, match="expected"):
            replace(RECIPE, **change)
    for channels, groups in (((), 1), ((4, 6), 4), ((4, 8, 8, 8, 8, 8), 2), ((0,), 1)):
        with pytest.raises(SettingsError, match="expected"):
            Architecture(channels, groups)


# ---- views


def test_the_views_are_the_protocol_s():
    cameras = scoring_cameras()
    degrees = torch.rad2deg(torch.atan2(cameras.position[:, 0], cameras.position[:, 2])) % 360
    assert len(cameras) == VIEWS == 120
    step = torch.arange(120) * 360 / 119
    assert ((degrees - step + 180) % 360 - 180).abs().max() < 1e-3, "azimuth 0 to 360 with both ends"
    assert torch.rad2deg(torch.asin(cameras.position[:, 1] / 3)).sub(15).abs().max() < 1e-3


@pytest.mark.parametrize("thing", [Object("cube", "blue"), Object("smiley", "yellow")])
def test_a_perfect_field_looks_as_the_traced_object_does(thing):
    """Two renderers, volume and surface, and one lamp between them."""
    field, occupancy = perfect(thing), OccupancyGrid(48)
    occupancy.update(field, step_size=0.04, generator=torch.Generator().manual_seed(0), warmup=True)
    ours = field_pictures(field, occupancy, RenderSettings(samples_per_ray=96), 4)
    true = true_pictures(thing, 4)
    assert ours.shape == true.shape == (4, 3, 64, 64)
    inside = (true - 1).abs().amax(1, keepdim=True) > 0.3
    assert ((ours - true).abs() * inside).sum() / inside.sum() / 3 < 0.03


def test_kept_views_are_read_back_to_the_last_of_their_8_bits(tmp_path):
    pictures = torch.rand(120, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = read_views(write_views(tmp_path / "views.png", pictures))
    assert found is not None and torch.equal((found * 255).round(), (pictures * 255).round())
    (tmp_path / "views.png").write_bytes(b"no picture")
    assert read_views(tmp_path / "views.png") is None and read_views(tmp_path / "absent.png") is None


def test_sim_and_r_at_1_are_a_mean_and_a_share_over_the_views():
    scorer, thing = small(), Object("cube", "red")
    pictures = true_pictures(thing, 12)
    found = scores(scorer, pictures, "front view of a red cube", ("a blue torus", "a pink cone"), "plain")
    texts = {c: scorer.embed_texts([c])[0] for c in CORPUS["plain"]}
    cosines = [{c: float(v @ t) for c, t in texts.items()} for v in scorer.embed_images(pictures)]
    assert found["sim"] == pytest.approx(sum(c["a red cube"] for c in cosines) / 12, abs=1e-5)
    assert found["r_at_1"] == sum(max(c, key=c.get) == "a red cube" for c in cosines) / 12
    wrong = sum(c["a blue torus"] + c["a pink cone"] for c in cosines) / 24
    assert found["shuffled_sim"] == pytest.approx(wrong, abs=1e-5)
    assert found["nearest"] in CORPUS["plain"]


# ---- training


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    assert train(tmp_path / "a", settings=MICRO, gates=None) == {}
    kept = training.checkpoints.step_generator

    def until_four(seed: int, stage: str, step: int) -> torch.Generator:
        if step == 4:
            raise KeyboardInterrupt
        return kept(seed, stage, step)

    monkeypatch.setattr(training.checkpoints, "step_generator", until_four)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", settings=MICRO, gates=None)
    assert not (tmp_path / "b" / "scorer.safetensors").exists()
    monkeypatch.undo()
    train(tmp_path / "b", settings=MICRO, gates=None)
    first, second = (load_file(tmp_path / name / "scorer.safetensors") for name in "ab")
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    logs = [json.loads((tmp_path / name / "training.json").read_text())["scorer"] for name in "ab"]
    assert logs[0] == logs[1] and logs[0][-1]["step"] == 6
    with pytest.raises(CheckpointError, match="settings"):
        train(tmp_path / "a", settings=replace(MICRO, steps=7), gates=None)


def few_views(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The check looks around every 31st object only; returns the seeds of its renders."""
    seeds: list[int] = []

    def measured(scorer: Scorer, settings: TrainScorerSettings, seed: int) -> dict[str, float]:
        seeds.append(seed)
        return measure(scorer, settings, seed, every=31)

    monkeypatch.setattr(training, "measure", measured)
    return seeds


def test_a_checked_training_writes_what_it_measured_and_holds_it_against_the_gates(tmp_path, monkeypatch):
    seeds = few_views(monkeypatch)
    with pytest.raises(GateError, match=r"shapes >= 0\.95 \(got 0.*protocol >= 0\.95 \(got 0.*train for more steps"):
        train(tmp_path, settings=MICRO)
    measured = train(tmp_path, settings=MICRO, gates=Gates(shapes=0.0, protocol=0.0))
    assert seeds == [1, 1], "checked on the renders it was trained on"
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["measured"] == measured and record["scorer"][-1]["step"] == MICRO.steps
    made = render_dataset(MICRO.held_out, 1, MICRO.world)
    scorer = load_scorer(tmp_path / "scorer.safetensors").scorer
    texts, views = scorer.embed_texts(CORPUS["full"]), scorer.embed_images(made.images / 255)
    hits = [CORPUS["full"][i] == o.caption() for i, o in zip((views @ texts.T).argmax(1), made.objects, strict=True)]
    assert measured["all"] == pytest.approx(sum(hits) / len(hits))
    card = (tmp_path / "README.md").read_text()
    assert f"| {measured['protocol']:.1%} | 0% |" in card and "missed" not in card
    assert "| `steps` | 6 |" in card and "| `architecture.channels` | (4, 8) |" in card and "seed 0," in card
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.width > 100


def test_a_card_says_which_gate_was_missed_and_leaves_out_what_nothing_was_measured_of(tmp_path):
    card = write_card(tmp_path, MICRO, 3, {"all": 0.5, "shapes": 0.96, "protocol": 0.9}, GATES, [], 1_500_000)
    rows = [line for line in card.read_text().splitlines() if "| " in line and "`)" in line]
    assert [row.split("`")[1] for row in rows] == ["shapes", "protocol", "all"]
    assert rows[0].endswith("| 96.0% | 95% |") and rows[1].endswith("| 90.0% | 95% **missed** |")
    assert "1.50 M parameters" in card.read_text() and "16 renders of seed 4" in card.read_text()


def test_the_gates_name_what_is_low_and_what_was_not_measured():
    GATES.check({"shapes": 0.95, "protocol": 1.0})
    for measured, message in (
        ({"shapes": 0.5, "protocol": 1.0}, r"expected shapes >= 0\.95 \(got 0\.5\) of the scorer: train for more"),
        ({"shapes": 0.96, "protocol": float("nan")}, r"protocol >= 0\.95 \(got nan\)"),
        ({"protocol": 1.0}, r"shapes >= 0\.95 \(got no render of it\) of the scorer: check it on more held_out"),
    ):
        with pytest.raises(GateError, match=message):
            GATES.check(measured)


def test_a_check_on_few_renders_leaves_out_the_groups_they_do_not_show():
    for count in (1, 2):
        settings = replace(MICRO, held_out=count)
        fronted = [o.has_front for o in render_dataset(count, 5, settings.world).objects]
        found = measure(small(), settings, 5, every=248)
        assert ("shapes" in found) == (not all(fronted)) and ("figures" in found) == any(fronted)
        json.dumps(found, allow_nan=False)


def test_the_command_trains_checks_and_names_the_gate_it_missed(tmp_path, monkeypatch, capsys):
    few_views(monkeypatch)
    flags = ["--renders", "48", "--steps", "6", "--batch", "8", "--warmup", "2", "--held-out", "1"]
    flags += ["--architecture.channels", "4", "8", "--architecture.groups", "2", "--architecture.width", "8"]
    out = ["train-scorer", "--out", str(tmp_path / "s"), *flags]
    assert main(out) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "error: expected shapes >= 0.95" in said and "of the scorer" in said
    assert (tmp_path / "s" / "README.md").is_file() and load_scorer(tmp_path / "s" / "scorer.safetensors")
    assert main([*out, "--check", "False"]) == 0
    assert str(tmp_path / "s") in capsys.readouterr().err.replace("\n", "")
    assert main([*out, "--steps", "0"]) == 2 and "steps of 1 or more" in capsys.readouterr().err


def test_training_pictures_stay_pictures_and_differ_from_one_another():
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    first = disturbed(images, RECIPE, torch.Generator().manual_seed(1))
    assert first.shape == images.shape and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, disturbed(images, RECIPE, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, disturbed(images, RECIPE, torch.Generator().manual_seed(2)))
    still = replace(RECIPE, noise=0.0, blur=0.0, gain=0.0, shift=0)
    mirrored = disturbed(images, still, torch.Generator().manual_seed(1))
    kinds = [torch.equal(m, i) or torch.equal(m, i.flip(2)) for m, i in zip(mirrored, images, strict=True)]
    assert all(kinds)


# ---- the bundled one


def test_the_bundled_scorer_tells_renders_it_never_saw_from_all_496_captions():
    loaded = load_scorer()
    found = measure(loaded.scorer, replace(RECIPE, held_out=248), seed=77, every=31)
    assert found["shapes"] > GATES.shapes - 0.04 and found["protocol"] > GATES.protocol - 0.05, found
    assert loaded.facts["seed"] == 0 and loaded.facts["settings"]["steps"] == RECIPE.steps


def test_the_bundled_scorer_ranks_the_prompts_of_the_plain_world():
    scorer = load_scorer().scorer
    things = all_objects("plain")[::5]
    images = torch.cat([true_pictures(o, 3) for o in things])
    own = torch.tensor([CORPUS["plain"].index(o.caption()) for o in things]).repeat_interleave(3)
    assert (rank(embed(scorer, images), scorer.embed_texts(CORPUS["plain"])) == own).float().mean() > 0.95


def test_the_bundled_scorer_is_no_judge():
    """It names something in a grey picture too: the reason why it only stands beside the verdicts."""
    scorer = load_scorer().scorer
    grey = torch.full((1, 3, 64, 64), 0.5)
    cosines = scorer.embed_images(grey) @ scorer.embed_texts(CORPUS["full"]).T
    assert float(cosines.max()) > 0.2
    other = render_dataset(8, 3, RECIPE.world)
    assert embed(scorer, other.images).norm(dim=1).tolist() == pytest.approx([1.0] * 8, abs=1e-4)
