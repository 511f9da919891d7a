"""Where a node's files lie, and whose run a page sees: two servers, two workflows, one folder."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from nodes_kit import get, optimise


def test_copies_of_a_workflow_do_not_see_each_other_s_runs(pack: ModuleType) -> None:
    board = get("host.stop").Board()
    stopped = board.begin(("a", "3"), {"method": "SDS"})
    board.add(("a", "3"), {"iteration": 1})
    assert board.history("3", "b") == {} and not board.stop("3", "b") and not stopped.is_set()
    assert board.history("3", "a")["points"] == [{"iteration": 1}]
    board.begin(("b", "3"), {"method": "CSD"})
    assert board.history("3", "a")["method"] == "SDS" and board.history("3", "b")["method"] == "CSD"
    assert board.history("3")["method"] == "CSD", "who names no workflow means the last"
    assert board.stop("3", "a") and stopped.is_set()
    assert board.history("7:3", "a") == {}


def test_a_warning_stands_behind_the_note_for_a_page_that_comes_later(pack: ModuleType) -> None:
    events = importlib.import_module("pack.distill3d.optimize.events")
    watch = get("host.watch").Watch("9", 10, {"note": "no guidance scale"}, "f00d")
    for text in ("memory ran out", "nothing is left"):
        watch(events.Warned(text, 3))
    assert get("host.stop").BOARD.history("9", "f00d")["note"] == "no guidance scale; nothing is left"
    watch.note("estimate")
    assert get("host.stop").BOARD.history("9", "f00d")["note"] == "estimate"


@pytest.mark.parametrize("broken", ["hook", "picture"])
def test_a_preview_that_fails_neither_hangs_the_node_nor_ends_the_run(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    host = get("host.watch")
    watch = host.Watch("9", 10, {})

    def fails(*_: Any) -> None:
        raise OSError("the connection is gone")

    if broken == "hook":
        monkeypatch.setattr(watch._bar, "update_absolute", fails)
    sheet = torch.zeros(3, 4, 3, dtype=torch.uint8 if broken == "hook" else torch.complex64)
    began = time.monotonic()
    with watch:
        for _ in range(3):
            watch.show(sheet)
    assert time.monotonic() - began < 4 and not watch._thread.is_alive()


def test_a_preview_without_memory_is_left_out(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    host = get("host.watch")
    asked: list[int] = []

    def no_memory(run: Any) -> None:
        asked.append(1)
        raise torch.cuda.OutOfMemoryError("Allocation on device ")

    monkeypatch.setattr(host, "live_sheet", no_memory)
    optimise(iterations=6)
    assert asked == [1], "and not tried again at every step"
    monkeypatch.setattr(host, "live_sheet", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimise(iterations=2)


def test_the_workflow_of_a_prompt_is_the_page_s(pack: ModuleType) -> None:
    of = get("host.watch").workflow_of
    assert of({"workflow": {"id": "f00d"}}) == "f00d"
    assert {of(extra) for extra in (None, {}, {"workflow": None}, {"workflow": {}}, {"workflow": "x"}, [])} == {""}


def test_a_menu_that_a_wire_fills_is_asked_when_the_wire_has_spoken(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    optimise(iterations=2)
    for node in (get("optimizer").Resume, get("field").LoadField):
        assert node.validate_inputs(None) is True
        assert node.fingerprint_inputs(None) != node.fingerprint_inputs(None), "not a number: never in the cache"
        with pytest.raises(errors.CheckpointError, match="choose one from the menu"):
            node.execute(None)


def test_diffusers_folders_behind_links_are_listed(pack: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    load_sd = get("load_sd")
    for name in ("elsewhere/sd15", "models/sd21"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").touch()
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "models" / "round").symlink_to(tmp_path / "models")
    monkeypatch.setattr(load_sd.folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / "models")])
    assert list(load_sd.diffusers()) == ["linked/sd15", "sd21"]


@pytest.mark.parametrize("prefix", ["x\0y", "a" * 300], ids=["nul", "long"])
def test_a_prefix_no_file_system_takes_is_an_output_error(pack: ModuleType, prefix: str) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    for make in (get("host.folders").new_folder, lambda prefix: get("host.folders").new_file(prefix, "glb")):
        with pytest.raises(errors.OutputError):
            make(prefix)


@pytest.mark.parametrize(
    ("place", "node"),
    [
        ("field", "SaveField"),
        ("mesh_export", "MeshExport"),
        ("mesh_convert", "MeshConvert"),
        ("turntable", "RenderTurntable"),
    ],
)
def test_a_prefix_is_refused_before_a_run_of_an_hour_and_nothing_is_made_for_it(
    pack: ModuleType, place: str, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = getattr(get(place), node).validate_inputs
    folders = get("host.folders")
    for good in ("distill3d/a/b", "a", "", "  ", "a/../b", "%date%/x", None):
        assert validate(prefix=good) is True, good
    for outside in ("../a", "a/../../b", "/etc/cron", "distill3d/../../x"):
        assert validate(prefix=outside).startswith("expected a file prefix inside the output folder"), outside
        with pytest.raises(importlib.import_module("pack.distill3d.errors").OutputError, match="inside the output"):
            folders.new_file(outside, "glb")
    assert "of letters" in validate(prefix="a\0b") and "of letters" in validate(prefix=3)
    assert validate(prefix="a: b") is True
    monkeypatch.setattr(folders, "UNFIT", '<>:"|?*')
    assert "Windows" in validate(prefix="a: b?") and ": ?" in validate(prefix="a: b?")
    assert not (folders.output() / "distill3d" / "a").exists()


def test_two_servers_that_save_into_one_folder_replace_nothing_of_each_other(pack: ModuleType) -> None:
    folders = get("host.folders")
    path, subfolder = folders.new_file("distill3d/mesh", "glb")
    assert (path.name, subfolder) == ("mesh_00001_.glb", "distill3d") and not path.exists()
    path.write_bytes(b"of the other")
    assert folders.unused(path) == path.with_name("mesh_00002_.glb")
    assert folders.new_file("distill3d/mesh", "glb")[0] == path.with_name("mesh_00002_.glb")
    last = path.with_name("mesh_99999_.glb")
    last.touch()
    assert folders.unused(last).name == "mesh_100000_.glb"
    taken = [folders.new_folder("distill3d/run/t").name for _ in range(2)]
    assert taken == ["t_00001_", "t_00002_"]


def test_a_run_that_went_on_since_resume_read_it_is_not_overwritten(pack: ModuleType) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    optimise(iterations=2)
    held = get("optimizer").Resume.execute("latest").args[0]
    checkpoints = importlib.import_module("pack.distill3d.optimize.checkpoint")
    stored = checkpoints.load(held.folder)
    later = {**stored.meta, "iteration": stored.meta["iteration"] + 1}
    checkpoints.save(held.folder, type(stored)(stored.tensors, later))
    before = (held.folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(errors.CheckpointError, match="gone on meanwhile"):
        optimise(iterations=2, resume=held)
    assert (held.folder / "checkpoint.safetensors").read_bytes() == before


def test_a_run_that_another_process_works_on_is_not_resumed(pack: ModuleType) -> None:
    errors, locks = (importlib.import_module(f"pack.distill3d.{name}") for name in ("errors", "locks"))
    optimise(iterations=2)
    resume = get("optimizer").Resume
    held = resume.execute("latest").args[0]
    before = (held.folder / "checkpoint.safetensors").read_bytes()
    with locks.claimed(held.folder), pytest.raises(errors.OutputError, match=r"process \d+ does"):
        optimise(iterations=2, resume=held)
    assert (held.folder / "checkpoint.safetensors").read_bytes() == before
    assert optimise(iterations=2, resume=held).args[0] is not None
    assert not list(held.folder.glob(".lock"))


@pytest.mark.parametrize("lacking", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_diffusers_folder_of_another_kind_is_told_before_the_host_stumbles(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    errors, load_sd = importlib.import_module("pack.distill3d.errors"), get("load_sd")
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
    ):
        (tmp_path / part).mkdir()
        if part != lacking:
            (tmp_path / part / f"{stem}.fp16.safetensors").touch()
        else:
            for name in (f"{stem}.bin", f"{stem}.fp16.bin", "pytorch_model.bin"):
                (tmp_path / part / name).touch()
    monkeypatch.setattr(load_sd, "diffusers", lambda: {"a": tmp_path})
    with pytest.raises(errors.PriorError, match=f"without such in {lacking}: copy"):
        load_sd.load_folder("a")


def test_files_outside_the_output_folder_are_refused(pack: ModuleType, tmp_path: Path) -> None:
    errors = importlib.import_module("pack.distill3d.errors")
    folders = get("host.folders")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "checkpoint.safetensors").write_bytes(b"x")
    assert get("field").LoadField.validate_inputs("../secret").startswith("expected a folder inside")
    assert "found none" in get("optimizer").Resume.validate_inputs("distill3d/none")
    assert get("optimizer").Resume.validate_inputs("latest") is True
    with pytest.raises(errors.CheckpointError, match="run NeRF Optimizer first"):
        folders.inside("latest", folders.RUNS)
    with pytest.raises(errors.OutputError, match="inside the output folder"):
        folders.new_folder("../../elsewhere/run")


@pytest.mark.parametrize(("source", "menu"), [("checkpoint", "ckpt_name"), ("diffusers", "folder")])
def test_a_menu_without_a_model_leads_to_a_node_that_says_what_to_do(
    pack: ModuleType, source: str, menu: str, monkeypatch: Any
) -> None:
    load_sd, errors = get("load_sd"), importlib.import_module("pack.distill3d.errors")
    monkeypatch.setattr(load_sd, "checkpoints", list)
    monkeypatch.setattr(load_sd, "diffusers", dict)
    monkeypatch.setattr(load_sd.folder_paths, "get_full_path", lambda kind, name: None)
    (combo,) = load_sd.LoadSD.define_schema().inputs
    (shown,) = next(option for option in combo.options if option.key == source).inputs
    assert shown.options == ["none found"], "the host refuses an empty menu before the node can speak"
    with pytest.raises(errors.PriorError, match="put one there and reload the page"):
        load_sd.LoadSD.execute({"source": source, menu: "none found"})
    asked = load_sd.LoadSD.validate_inputs
    assert "got none found: put one there" in asked(source={"source": source, menu: "none found"})
    assert asked(source={"source": source, menu: None}) is True, "a wire brings it"
    monkeypatch.setattr(load_sd, "checkpoints", lambda: ["a.safetensors"])
    monkeypatch.setattr(load_sd, "diffusers", lambda: {"a": Path("a")})
    assert "got b: choose one in the menu" in asked(source={"source": source, menu: "b"})
    assert asked(source={"source": "bundled tiny prior"}) is True
