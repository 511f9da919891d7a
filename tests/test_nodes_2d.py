"""Distill 2D and its toy on a stand-in host: one start, progress, interrupt, patches, and what they give back."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import fake_host
import pytest
import torch
from nodes_kit import SIZE, get, model
from torch import Tensor

RUN = {"iterations": 6, "batch": 2, "space": "latent", "view": "none", "rate": "auto", "start": 0.1}


def run_2d(methods: str = "sds asd", *, patcher: Any = None, **more: Any) -> Any:
    """The node, inside inference mode as the executor calls it."""
    wanted = {"prompt": "a red ball", "negative": "", "seed": 0, **RUN, **more}
    clip = fake_host.Clip({wanted["prompt"]: 0, "": 1})
    with torch.inference_mode():
        node = get("distill2d").Distill2D
        return node.execute(patcher or model(), clip, fake_host.Vae(), methods=methods, **wanted)


def run_toy(methods: str = "sds csd", **more: Any) -> Any:
    with torch.inference_mode():
        return get("distill2d").Toy2D.execute(methods, 0, **{"iterations": 4, "batch": 3, "rate": "auto", **more})


def errors() -> Any:
    return importlib.import_module("pack.distill3d.errors")


def test_every_output_is_what_its_type_says(pack: ModuleType) -> None:
    out = run_2d("sds csd")
    sheet, curves, table, report, images, latents = out.args
    for image in (sheet, curves):
        assert image.ndim == 4 and image.shape[0] == 1 and image.shape[-1] == 3
        assert image.dtype == torch.float32 and 0 <= float(image.min()) < float(image.max()) <= 1
    assert images.shape == (4, SIZE // 2, SIZE // 2, 3) and latents["samples"].shape == (4, 4, SIZE // 2, SIZE // 2)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["sds", "csd"]
    told = json.loads(report)
    assert told["prompt"] == "a red ball" and [row["method"] for row in told["methods"]] == ["sds", "csd"]
    assert {len(points) for points in told["noise_error"].values()} == {16} and set(told["noise_error"]) == {
        "SDS",
        "CSD",
    }
    assert out.ui.args[0] is sheet


def test_the_models_dream_comes_out_and_latents_are_the_hosts_own(pack: ModuleType) -> None:
    out = run_2d("sds", iterations=60, rate="0.1")
    latents = out.args[5]["samples"]
    images = out.args[4]
    # the fake VAE decodes by leaving out a channel, so pictures and latents can be compared
    torch.testing.assert_close(latents.movedim(1, -1)[..., :3], images)
    assert float(latents[:, 0].mean()) > 0.5 > -0.5 > float(latents[:, 1].mean()), "red was dreamt of"


def test_methods_begin_at_one_start_and_the_same_seed_repeats_itself(pack: ModuleType) -> None:
    first, again = run_2d("sds asd"), run_2d("asd sds")
    assert torch.equal(first.args[4][:2], again.args[4][2:]) and torch.equal(first.args[4][2:], again.args[4][:2])
    assert not torch.equal(first.args[4], run_2d("sds asd", seed=1).args[4])


def test_a_node_and_the_library_get_the_same_picture(pack: ModuleType) -> None:
    """On one model, asked through the host and directly."""
    two_d = importlib.import_module("pack.distill3d.two_d")
    space = get("host.space").Space.of(fake_host.EPS())
    base = model().model

    class Direct:
        """The fake model's dream as a prior, with none of the host's ways."""

        T, latent_shape, image_size, device = space.T, (4, SIZE // 2, SIZE // 2), SIZE, torch.device("cpu")
        alpha_sigma = staticmethod(space.alpha_sigma)

        def embed(self, texts: list[str]) -> Tensor:
            return torch.tensor([0.0 if text else 1.0 for text in texts]).reshape(-1, 1, 1)

        def predict_noise(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            s = space.sigma(t)
            x = x_t * (1 + s**2).sqrt().reshape(-1, 1, 1, 1)
            return (x - base.answer(x, s, cond)) / s.reshape(-1, 1, 1, 1)

    settings = two_d.settings_for("asd", bundled=True)
    run = two_d.Settings2D(iterations=6, batch=2)
    direct = two_d.distil(Direct(), "a red ball", settings, run).latents
    torch.testing.assert_close(run_2d("asd").args[5]["samples"], direct / 2, atol=1e-5, rtol=1e-5)


def test_bar_text_and_pictures_are_sent(pack: ModuleType) -> None:
    run_2d("sds csd")
    values = [value for value, _ in fake_host.ProgressBar.seen]
    total = 2 * (6 + 16) + 32
    assert values == sorted(values) and values[-1] == total
    pictures = [preview for _, preview in fake_host.ProgressBar.seen if preview]
    assert len(pictures) >= 2 and pictures[0][0] == "JPEG" and pictures[0][1].size == (2 * SIZE // 2, SIZE // 2)
    texts = sys.modules["server"].PromptServer.instance.texts
    assert any("CSD (2 of 2) 6/6" in text for text in texts) and "0:00 left" in texts[-1]


@pytest.mark.parametrize("at", [3, 13, 20])
def test_cancel_ends_it_during_a_method_and_during_the_looking(pack: ModuleType, at: int) -> None:
    manager = sys.modules["comfy.model_management"]
    progress = get("host.bench").Progress
    plain = progress._step

    def cancel(self: Any, text: str, last: bool) -> None:
        manager.interrupt = self._done + 1 == at
        plain(self, text, last)

    progress._step = cancel
    try:
        with pytest.raises(fake_host.InterruptProcessingException):
            run_2d("sds csd")
    finally:
        progress._step = plain
    assert fake_host.ProgressBar.seen[-1][0] == at - 1 and manager.interrupt is False


def test_the_model_is_left_as_it_was_and_never_asked_for_more_than_a_step(pack: ModuleType) -> None:
    patcher = model()
    before = (str(patcher.model_options), dict(patcher.attachments))
    run_2d("sds csd", patcher=patcher)
    assert max(texts * rows for texts, rows in patcher.model.calls) == 4, "no call is larger than a step's"
    assert (str(patcher.model_options), dict(patcher.attachments)) == before and not patcher.wrappers


def test_a_cfg_patch_acts_where_there_is_guidance_and_the_table_says_where_not(pack: ModuleType) -> None:
    def half(arguments: dict[str, Any]) -> Tensor:
        return arguments["uncond_denoised"] + 0.5 * (arguments["denoised"] - arguments["uncond_denoised"])

    def run(name: str, patched: bool, **more: Any) -> Any:
        patcher = model()
        patcher.model_options |= {"sampler_post_cfg_function": [half]} if patched else {}
        return run_2d(name, patcher=patcher, **more)

    # half the way to the guided x0 is half the scale; a patched MODEL's batch shares its timesteps
    alike = {"batch": 1, "more": "sds.guidance = 6\nwindow.shared = true"}
    halved = run("sds", True, **alike).args[4]
    torch.testing.assert_close(halved, run("sds", False, **{**alike, "more": "sds.guidance = 3"}).args[4])
    assert not torch.equal(halved, run("sds", False, **alike).args[4])
    assert "CSD: no CFG" in run("csd", True).args[2] and "no CFG" not in run("sds", True).args[2]


def test_image_space_goes_through_the_encoder(pack: ModuleType) -> None:
    made, encoder = [], get("host.run").EncoderCopy

    class Counted(encoder):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    get("host.run").EncoderCopy = Counted
    try:
        run_2d("sds")
        assert not made, "latents need no encoder"
        pixels = run_2d("sds", space="image").args[4]
    finally:
        get("host.run").EncoderCopy = encoder
    assert len(made) == 1 and pixels.shape == (2, SIZE // 2, SIZE // 2, 3)


def test_a_foreign_models_preview_is_the_hosts_rough_colours(pack: ModuleType) -> None:
    patcher = model()
    tags = get("host.tags")
    tags.put_tag(patcher, tags.Tag("theirs", image_size=SIZE))
    patcher.model.latent_format.latent_rgb_factors = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    latents = torch.zeros(1, 4, 2, 2)
    latents[:, 0] = 1.0
    picture = get("host.bench").picture_of(None, patcher)(latents)
    assert picture.shape == (1, 3, 8, 8)
    assert picture[0, :, 0, 0].tolist() == [1.0, 0.5, 0.5]
    patcher.model.latent_format.latent_rgb_factors = None
    assert get("host.bench").picture_of(None, patcher) is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": " "}, "expected a prompt"),
        ({"methods": "sds dds"}, "unknown method"),
        ({"methods": "sds sds"}, "without repetition"),
        ({"more": "asd.ete = 1"}, "unknown setting 'asd.ete'"),
        ({"more": "losses.sparsity = 1"}, "unknown setting 'losses.sparsity'"),
        ({"rate": "fast"}, "rate:"),
        ({"iterations": 0}, "iterations of 1 or more"),
        ({"image_size": 9}, "multiple of 2"),
    ],
)
def test_mistakes_say_what_to_write_instead(pack: ModuleType, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(errors().SettingsError, match=says):
        run_2d(**wrong)


def test_more_reaches_the_method_it_names_and_window_all_of_them(pack: ModuleType) -> None:
    told = json.loads(run_2d("sds asd", more="asd.eta = 0.3 # ours\nwindow.minimum = 0.2", window="fixed").args[3])
    settings = told["method_settings"]
    assert settings["asd"]["asd"]["eta"] == 0.3 and settings["sds"]["asd"]["eta"] == 0.3
    assert settings["sds"]["window"]["minimum"] == settings["asd"]["window"]["minimum"]
    plain = run_2d("asd", more="asd.eta = 0").args[4]
    assert not torch.equal(plain, run_2d("asd").args[4])


def test_perp_neg_runs_with_its_views(pack: ModuleType) -> None:
    settings = {"more": "perp_neg.enabled = true", "view": "side"}
    rows = json.loads(run_2d("sds", **settings).args[3])["methods"]
    assert rows[0]["evaluations_a_sample"] == 3, "target, negative, and the one wrong view that is not the target"


def test_the_toy_equals_the_command_lines(pack: ModuleType) -> None:
    out = run_toy()
    sheet, curves, table, report = out.args
    told = json.loads(report)
    assert [row["method"] for row in told["methods"]] == ["sds", "csd"] and "modes reached" in table
    two_d = importlib.import_module("pack.distill3d.two_d")
    mixture = importlib.import_module("pack.distill3d.two_d.mixture")
    run = two_d.Settings2D(iterations=4, batch=3)
    direct = two_d.distil(
        two_d.mixture_prior(), two_d.TARGET_TEXT, two_d.settings_for("sds", bundled=False), run, start=mixture.ring(3)
    )
    assert told["gradient_norm"]["sds"] == [frame.norm for frame in direct.frames]
    assert sheet.shape[0] == curves.shape[0] == 1 and fake_host.ProgressBar.seen[-1][0] == 2 * (4 + 16) + 32
    with pytest.raises(errors().SettingsError, match="unknown method"):
        run_toy("vsd")
