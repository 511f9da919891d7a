"""Nothing a run has computed is lost: resume continues bit for bit, and every damaged checkpoint says what it is."""

from __future__ import annotations

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_run import SMALL, make_prior, parameters

from distill3d import files
from distill3d.errors import CheckpointError, OutputError
from distill3d.optimize import Checkpointed, Distillation, Step
from distill3d.optimize import checkpoint as checkpoints
from distill3d.optimize.saved import SavedField
from distill3d.optimize.state import described
from distill3d.schedules import Linear


def start(method: str = "asd", **changes: Any) -> Distillation:
    return Distillation(make_prior(), "a red ball", replace(SMALL, method=method, **changes), seed=5)


@pytest.mark.parametrize(("method", "color_grid"), [("sds", "shared"), ("asd", "own"), ("csd", "added")])
def test_a_resumed_run_ends_bit_for_bit_where_an_unbroken_one_does(
    tmp_path: Path, method: str, color_grid: Any
) -> None:
    field = replace(SMALL.field, color_grid=color_grid)
    whole = start(method, field=field)
    whole.run()
    broken = start(method, field=field)
    steps: list[Any] = []
    finished = broken.run(listeners=(steps.append,), folder=tmp_path, stop=lambda: len(steps) >= 3)
    assert not finished and broken.iteration == 3
    resumed = Distillation.resume(make_prior(), checkpoints.load(tmp_path))
    assert resumed.iteration == 3
    assert resumed.run(folder=tmp_path)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert resumed.last is not None and whole.last is not None
    assert (resumed.last.loss, resumed.last.occupancy) == (whole.last.loss, whole.last.occupancy)


def test_hardness_follows_its_schedule_and_is_kept_in_the_file(tmp_path: Path) -> None:
    run = Distillation(make_prior(), "a red ball", replace(SMALL, hardness=Linear(1.0, 9.0)))
    run.run(folder=tmp_path)
    assert run.field.hardness.item() == pytest.approx(1 + 8 * 7 / 8)
    saved = SavedField.load(checkpoints.load(tmp_path))
    x = torch.rand(200, 3) - 0.5
    assert torch.equal(saved.field.density(x), run.field.density(x))


def test_a_listener_that_raises_leaves_a_checkpoint_to_continue_from(tmp_path: Path) -> None:
    whole = start()
    whole.run()

    class Cancelled(Exception):
        pass

    def cancel(event: Any) -> None:
        if isinstance(event, Step) and event.iteration == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        start().run(listeners=(cancel,), folder=tmp_path)
    resumed = Distillation.resume(make_prior(), checkpoints.load(tmp_path))
    assert resumed.iteration == 5
    resumed.run()
    assert torch.equal(parameters(resumed), parameters(whole))


def interrupt(run: Distillation, where: str, iteration: int) -> None:
    """Make ``run`` raise KeyboardInterrupt once, in the prior's answer or right after the optimiser's update."""
    original = run.guidance if where == "prior" else run.optimizer.step
    fired = []

    def strike(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if run.iteration == iteration and not fired:
            fired.append(True)
            raise KeyboardInterrupt
        return result

    if where == "prior":
        run.guidance = strike  # type: ignore[assignment]
    else:
        run.optimizer.step = strike


@pytest.mark.parametrize(("where", "iteration", "kept"), [("prior", 4, 4), ("prior", 5, 5), ("update", 6, 4)])
def test_an_interrupt_inside_a_step_resumes_bit_for_bit(tmp_path: Path, where: str, iteration: int, kept: int) -> None:
    """Iteration 4 refreshes the occupancy grid; an interrupt in the update keeps the checkpoint before it."""
    whole = start()
    whole.run()
    broken = start()
    interrupt(broken, where, iteration)
    with pytest.raises(KeyboardInterrupt):
        broken.run(folder=tmp_path)
    resumed = Distillation.resume(make_prior(), checkpoints.load(tmp_path))
    assert resumed.iteration == kept
    resumed.run()
    assert torch.equal(parameters(resumed), parameters(whole))


def test_a_run_goes_on_after_an_error_in_memory_as_if_there_had_been_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the step that broke is not added to the next one's."""
    whole, broken = start(), start()
    whole.run()
    plain, fired = broken._update, []

    def strike(*arguments: Any) -> Any:
        if broken.iteration == 3 and not fired:
            fired.append(True)
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(broken, "_update", strike)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert broken.run() and torch.equal(parameters(broken), parameters(whole))


def test_other_settings_prompt_seed_or_prior_are_refused_with_each_difference(tmp_path: Path) -> None:
    start().run(folder=tmp_path)
    stored = checkpoints.load(tmp_path)
    other = start(iterations=9, batch=1)
    with pytest.raises(CheckpointError) as error:
        other.load(stored)
    assert "settings.batch: 2 in the checkpoint, 1 now" in str(error.value)
    assert "settings.iterations: 8 in the checkpoint, 9 now" in str(error.value)
    with pytest.raises(CheckpointError, match=r"prior: analytic .* in the checkpoint, analytic"):
        Distillation.resume(make_prior(std=0.2), stored)


def test_a_model_asked_at_another_size_or_read_otherwise_is_refused_and_an_older_checkpoint_is_not(
    tmp_path: Path,
) -> None:
    def described(**told: Any) -> Any:
        prior = make_prior()
        prior.describe = lambda: {"device": "cpu", **told}
        return prior

    half, v = {"image_size": 32, "prediction_type": "epsilon"}, {"image_size": 64, "prediction_type": "v_prediction"}
    run = Distillation(described(image_size=64, prediction_type="epsilon"), "a red ball", SMALL)
    run.run(folder=tmp_path)
    stored = checkpoints.load(tmp_path)
    assert Distillation.resume(described(image_size=64, prediction_type="epsilon"), stored).done
    for told, words in (
        (half, "model.image_size: 64 in the checkpoint, 32 now"),
        (v, "model.prediction_type: epsilon in the checkpoint, v_prediction now"),
        ({**half, "image_size": 64, "extras": "1a2b"}, "model.extras: absent in the checkpoint, 1a2b now"),
    ):
        with pytest.raises(CheckpointError, match=words):
            Distillation.resume(described(**told), stored)
    del stored.meta["identity"]["model"]
    assert Distillation.resume(described(**half), stored).done


def damage(path: Path, how: str) -> None:
    file = path / checkpoints.FILE_NAME
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "pickle":
        file.write_bytes(pickle.dumps({"field": [1, 2, 3]}))
    elif how == "torch zip":
        torch.save({"a": torch.zeros(1)}, file)
    elif how == "text":
        file.write_text("this is no checkpoint, but it is long enough to look at")
    elif how == "foreign":
        save_file({"a": torch.zeros(3)}, file)
    elif how == "bit flip":
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 16]) + data[-8:])
    elif how == "newer":
        with safe_open(file, "pt") as opened:
            header = json.loads(opened.metadata()["distill3d"])
            tensors = {k: opened.get_tensor(k) for k in list(opened.keys())}
        save_file(tensors, file, {"distill3d": json.dumps({**header, "format": 99})})
    elif how == "missing":
        file.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "damaged"),
        ("empty", "damaged"),
        ("pickle", "never read"),
        ("torch zip", "never read"),
        ("text", "damaged"),
        ("foreign", "another safetensors file"),
        ("bit flip", "checksum"),
        ("newer", "Update distill3d"),
        ("missing", "folder that out named"),
    ],
)
def test_every_damaged_checkpoint_is_refused_with_its_reason(tmp_path: Path, how: str, words: str) -> None:
    start().run(folder=tmp_path)
    damage(tmp_path, how)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.load(tmp_path)


def test_a_share_on_which_only_the_owner_may_change_a_mode_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    files.write_bytes(tmp_path / "a", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"whole"


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start()
    written: list[int] = []
    real = os.fsync

    def full(descriptor: int) -> None:
        if run.iteration > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        run.run(
            listeners=(lambda e: written.append(e.iteration) if isinstance(e, Checkpointed) else None,), folder=tmp_path
        )
    assert written == [4]
    assert [p.name for p in tmp_path.iterdir()] == [checkpoints.FILE_NAME]
    assert Distillation.resume(make_prior(), checkpoints.load(tmp_path)).iteration == 4


def test_what_was_read_holds_no_file_open(tmp_path: Path) -> None:
    """On Windows a resumed run could not replace a file whose tensors are still mapped."""
    start(iterations=2).run(folder=tmp_path)
    stored = checkpoints.load(tmp_path)
    before = {name: tensor.clone() for name, tensor in stored.tensors.items()}
    file = tmp_path / checkpoints.FILE_NAME
    with file.open("r+b") as stream:
        stream.write(b"\xff" * file.stat().st_size)
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in before.items())


def test_a_file_that_a_scanner_has_open_is_replaced_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, real = [True, True], Path.replace

    def replace_soon(self: Path, target: Path) -> Path:
        if refused and refused.pop():
            raise PermissionError(errno.EACCES, "Access is denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace_soon)
    monkeypatch.setattr(files, "_WAITS", (0.0, 0.0))
    files.write_bytes(tmp_path / "a.bin", b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole" and not refused
    refused += [True, True, True]
    with pytest.raises(OutputError, match="permissions"):
        files.write_bytes(tmp_path / "a.bin", b"other")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"whole"


def test_a_finished_run_that_is_resumed_leaves_its_file_alone(tmp_path: Path) -> None:
    """A host that caches by the file's time would otherwise never see the graph unchanged."""
    start(iterations=2).run(folder=tmp_path)
    before = (tmp_path / checkpoints.FILE_NAME).stat().st_mtime_ns
    again = Distillation.resume(make_prior(), checkpoints.load(tmp_path))
    assert again.run(folder=tmp_path) and (tmp_path / checkpoints.FILE_NAME).stat().st_mtime_ns == before
    assert again.run(folder=tmp_path / "other") and (tmp_path / "other" / checkpoints.FILE_NAME).exists()


def test_a_resumed_run_may_take_less_memory(tmp_path: Path) -> None:
    run = start(iterations=3)
    run.step()
    run.save(tmp_path)
    render = replace(run.settings.render, memory_gb=0.5, max_points=4096)
    again = start(iterations=3, render=render)
    again.load(checkpoints.load(tmp_path))
    assert again.iteration == 1 and again.run(folder=tmp_path)
    assert described(checkpoints.load(tmp_path))[0].render.memory_gb == 0.5


def test_a_checkpoint_from_before_a_setting_existed_resumes_with_its_default(tmp_path: Path) -> None:
    run = start("sds")
    run.run(folder=tmp_path, stop=lambda: run.iteration >= 2)
    old = checkpoints.load(tmp_path)
    settings = {k: v for k, v in old.meta["identity"]["settings"].items() if k not in ("perp_neg", "freeu", "bsd")}
    settings["sds"] = {k: v for k, v in settings["sds"].items() if k != "guidance_over"}
    meta = {**old.meta, "identity": {**old.meta["identity"], "settings": settings}}
    checkpoints.save(tmp_path, checkpoints.Checkpoint(old.tensors, meta))
    resumed = Distillation.resume(make_prior(), checkpoints.load(tmp_path))
    assert resumed.iteration == 2 and resumed.run()
