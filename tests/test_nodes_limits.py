"""``vram_gb`` and ``time_budget`` of NeRF Optimizer on the stand-in host: cost, cuts, report, resume, errors."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import sys
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_host
import pytest
import torch
from nodes_kit import SIZE, get, loss, model, optimise


def fits() -> Any:
    return importlib.import_module("pack.distill3d.optimize.fit")


def costing(monkeypatch: pytest.MonkeyPatch) -> None:
    """MODEL and VAE cost what Stable Diffusion 1.5 does: 10.5 GB with two views, 6.5 GB with one."""
    cost = fits().Cost(weights=1_900_000_000, encoder=3_100_000_000, row=300_000_000)
    monkeypatch.setattr(get("host.run"), "cost_of", lambda model, vae, size: cost)


def taking(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A step is timed as so many seconds."""
    monkeypatch.setattr(get("host.run"), "time_steps", lambda run, between: seconds)


def told(out: Any) -> dict[str, Any]:
    return dict(json.loads(out.args[2]))


def test_the_cost_is_read_off_model_and_vae(pack: ModuleType) -> None:
    patcher, vae = model(), fake_host.Vae()
    cost = get("host.limits").cost_of(patcher, vae, SIZE)
    assert cost.weights == 8 + 1 + 4 * 12, "MODEL, VAE and the copied 4 x 3 encoder in float32, without the decoder"
    assert cost.row == 1000 * (SIZE // 2) ** 2, "not the host's estimate of one row"
    assert cost.encoder == 3000 * SIZE**2 * 4
    patcher.model.model_config.unet_config["model_channels"] = 320
    vae.first_stage_model.conv = torch.nn.Conv2d(3, 64, 3)
    unet = get("host.limits").cost_of(patcher, vae, 128)
    assert unet.row == 2 * 300_000_000, "SD 1.5 at 64 x 64 latents keeps 300 MB a row in half precision, here in full"
    assert unet.encoder == 3000 * 128**2 * 4 // 2, "half as wide as SD's encoder"
    assert unet.picture == 6 * 64 * 128**2 * 4, "of one picture that the VAE decodes"


def test_a_budget_cuts_the_iterations_and_says_so(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    taking(monkeypatch, 0.6)
    out = optimise(iterations=100, time_budget=0.505)
    report = told(out)
    assert report["iterations"] == {"done": 50, "planned": 50, "skipped": 0}
    assert report["limits"]["changes"] == ["50 iterations instead of 100"]
    assert (report["limits"]["time_budget"], report["limits"]["vram_gb"]) == (0.505, None)
    assert report["limits"]["estimated_minutes"] == 0.5
    said = "time_budget 0.505: 50 iterations instead of 100"
    server = sys.modules["server"].PromptServer.instance
    assert any("timing 4 steps for a time_budget of 0.505 minutes" in text for text in server.texts)
    assert any("0.5 minutes of optimisation" in text and said in text for text in server.texts)
    assert get("host.stop").BOARD.history("7")["note"] == said
    assert ("distill3d.note", {"node": "7", "workflow": "", "message": said}) in server.sent
    assert any("50/50" in text for text in server.texts)
    plenty = told(optimise(iterations=3, time_budget=100))["limits"]
    assert plenty["changes"] == [] and plenty["estimated_minutes"] == 0.03
    assert get("host.stop").BOARD.history("7")["note"] == "time_budget 100: nothing had to be changed"


def test_steps_are_timed_on_the_same_texts_and_leave_no_trace(pack: ModuleType) -> None:
    """Four steps more, nothing read twice, and the run is the one without a budget, bit for bit."""
    patcher, read = model(), []
    made = loss(patcher=patcher)
    encode = made.prompts.clip.encode_from_tokens_scheduled
    made.prompts.clip.encode_from_tokens_scheduled = lambda tokens: read.append(tokens) or encode(tokens)
    out = optimise(made, iterations=6, time_budget=10)
    assert len(patcher.model.calls) == fits().TIMED_STEPS + 6
    assert len(read) == len(set(read)) <= 2
    plain = optimise(iterations=6).args[0].checkpoint
    for name, tensor in out.args[0].checkpoint.tensors.items():
        assert torch.equal(tensor, plain.tensors[name]), name
    assert told(out)["limits"]["estimated_minutes"] is not None


def test_the_timed_run_is_gone_before_the_real_one_is_made(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    host, kept = get("host.run"), []
    timed, made = host.time_steps, host.Distillation

    def seen(run: Any, between: Any) -> float:
        kept.append(weakref.ref(run.field))
        return float(timed(run, between))

    def alive(*arguments: Any, **more: Any) -> Any:
        assert all(field() is None for field in kept), "two fields at once on the device"
        return made(*arguments, **more)

    monkeypatch.setattr(host, "time_steps", seen)
    monkeypatch.setattr(host, "Distillation", alive)
    patcher = model()
    patcher.model_options["sampler_post_cfg_function"] = [lambda given: given["denoised"]]
    gc.disable()
    try:
        optimise(loss(patcher=patcher), iterations=2, time_budget=10)
    finally:
        gc.enable()
    assert len(kept) == 1


def test_cancel_is_heard_while_steps_are_timed(pack: ModuleType) -> None:
    sys.modules["comfy.model_management"].interrupt = True
    patcher = model()
    with pytest.raises(fake_host.InterruptProcessingException):
        optimise(loss(patcher=patcher), iterations=60, time_budget=10)
    assert patcher.model.calls == []


@pytest.mark.parametrize(
    ("gb", "call", "change"),
    [(9.5, [(1, 1)] * 4, "the UNet evaluates one row at a time"), (8, [(2, 1)], "1 views a step instead of 2")],
)
def test_a_memory_limit_cuts_rows_and_views(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, gb: float, call: list[tuple[int, int]], change: str
) -> None:
    costing(monkeypatch)
    patcher = model()
    report = told(optimise(loss(patcher=patcher), iterations=2, vram_gb=gb))
    assert patcher.model.calls == call * 2
    assert change in report["limits"]["changes"] and report["limits"]["estimated_gb"] <= gb
    assert report["settings"]["batch"] == (1 if gb == 8 else 2)
    assert f"vram_gb {gb:g}: " in get("host.stop").BOARD.history("7")["note"]


@pytest.mark.parametrize("limits", [{"vram_gb": 9.5}, {"vram_gb": 8}, {"time_budget": 0.505}])
def test_the_same_graph_resumes_a_limited_run_bit_for_bit(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float]
) -> None:
    costing(monkeypatch)
    taking(monkeypatch, 0.6)
    total = 100 if "time_budget" in limits else 4
    straight = optimise(iterations=total, **limits)
    watch, plain = get("host.watch"), get("host.watch").Watch._step

    def cancel_at_two(self: Any, step: Any) -> None:
        plain(self, step)
        sys.modules["comfy.model_management"].interrupt = step.iteration == 2

    monkeypatch.setattr(watch.Watch, "_step", cancel_at_two)
    with pytest.raises(fake_host.InterruptProcessingException):
        optimise(iterations=total, **limits)
    monkeypatch.setattr(watch.Watch, "_step", plain)
    taking(monkeypatch, 1e9)  # a resumed run is not timed
    stopped = get("optimizer").Resume.execute("latest").args[0]
    resumed = optimise(iterations=total, resume=stopped, **limits)
    assert told(resumed)["iterations"] == told(straight)["iterations"]
    assert told(resumed)["limits"]["changes"] == told(straight)["limits"]["changes"]
    for name, tensor in straight.args[0].checkpoint.tensors.items():
        assert torch.equal(tensor, resumed.args[0].checkpoint.tensors[name]), name
    if limits.get("vram_gb") != 9.5:
        error = importlib.import_module("pack.distill3d.errors").CheckpointError
        with pytest.raises(error, match=r"settings\.(iterations|batch): \d+ in the checkpoint"):
            optimise(iterations=total, resume=get("optimizer").Resume.execute("latest").args[0])


def test_what_nothing_fits_into_is_refused_before_anything_is_loaded(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    costing(monkeypatch)
    taking(monkeypatch, 0.6)
    error = importlib.import_module("pack.distill3d.errors").SettingsError
    patcher = model()
    made = loss(patcher=patcher)
    monkeypatch.setattr(made.prompts.clip, "tokenize", lambda text: pytest.fail("a text was encoded"))
    with pytest.raises(error, match=r"vram_gb of at least \d") as caught:
        optimise(made, iterations=2, vram_gb=3)
    least = float(str(caught.value).split("at least ")[1].split()[0])
    assert patcher.model.calls == [] and not get("host.stop").BOARD.history("7")["running"]
    assert told(optimise(iterations=2, vram_gb=least))["limits"]["estimated_gb"] <= least
    with pytest.raises(error, match=r"time_budget of at least 0\.5 minutes .* lower batch \(preset custom\)"):
        optimise(iterations=100, time_budget=0.1)


def test_without_limits_the_estimate_is_told_and_nothing_changes(
    pack: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        report = told(optimise(iterations=2, vram_gb=None, time_budget=None))
    limits = report["limits"]
    assert limits["estimated_gb"] == pytest.approx(0.6, abs=0.1), "a field of two levels beside the reserve"
    del limits["estimated_gb"]
    assert limits.pop("changes") == [] and set(limits.values()) == {None}
    assert get("host.stop").BOARD.history("7")["note"] == ""
    assert "estimated peak memory 0.6 GB" in caplog.text


def test_more_than_the_card_has_is_warned_of(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = get("host.limits")
    card, cpu = (
        SimpleNamespace(load_device=torch.device(d), get_free_memory=lambda d: 5_000_000_000) for d in ("cuda:0", "cpu")
    )
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2_560_000_000)
    assert limits.room(cpu) is None
    assert limits.room(card) == 7.56
    costing(monkeypatch)
    monkeypatch.setattr(limits, "room", lambda device: 7.56)
    report = told(optimise(iterations=2))
    said = get("host.stop").BOARD.history("7")["note"]
    assert "about 10.5 GB are wanted and 7.6 GB can be had" in said and "vram_gb = 7.5" in said
    assert said in caplog.text and report["limits"]["available_gb"] == 7.56
    assert told(optimise(iterations=2, vram_gb=7.5))["limits"]["changes"]
    assert "wanted" not in get("host.stop").BOARD.history("7")["note"]


def test_what_is_freed_before_a_run_follows_the_renders_memory_limit(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, vae, freed = get("host.run"), fake_host.Vae(), []
    manager = sys.modules["comfy.model_management"]
    monkeypatch.setattr(manager, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(manager, "free_memory", lambda size, device: freed.append(size), raising=False)
    for gigabytes in (0.5, 1.0):
        settings = get("settings").assemble(loss(), "draft", bundled=True)
        settings = get("settings").override(
            settings, f"resolution = 512\nrender.samples_per_ray = 512\nrender.memory_gb = {gigabytes}"
        )
        task = SimpleNamespace(vae=vae, image_size=SIZE)
        run._reserve(task, settings)(lambda model: None, SimpleNamespace(load_device=torch.device("cuda")))
        encoder = settings.batch * SIZE**2 * 3 * 4 * 1000 + vae.model_size()
        assert 0.3e9 * gigabytes < freed[-1] - encoder <= 1.5e9 * gigabytes
