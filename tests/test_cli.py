"""The command line as a user meets it: results other programs open, and bad input that ends in one clear message."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from rich.console import Console

from distill3d import methods
from distill3d.cli import app, main, resume
from distill3d.cli import generate as generate_module
from distill3d.cli import model as model_module
from distill3d.cli.generate import KEPT, MODEL_KEPT, Generate
from distill3d.cli.model import ModelFlags, bundled
from distill3d.cli.progress import ProgressLine
from distill3d.errors import CheckpointError, OutputError, PriorError, SettingsError
from distill3d.locks import claimed
from distill3d.mesh import MeshSettings
from distill3d.optimize import Distillation
from distill3d.optimize import checkpoint as checkpoints
from distill3d.optimize.events import Step
from distill3d.optimize.fit import Cost
from distill3d.priors.load import bundled_prior_path

FAST = ["--iterations", "3", "--resolution", "16", "--render.samples-per-ray", "24", "--turntable-frames", "4"]
SMALL = ["--texture.size", "64", "--texture.unwrap", "box"]
FAST += SMALL
FAST += ["--field.grid.levels", "4", "--field.grid.log2-table-size", "12", "--mesh.resolution", "32"]


def generate(model: Path, out: Path, *flags: str, prompt: str = "a red cube") -> int:
    return main(["generate", prompt, "--model", str(model), "--out", str(out), *FAST, *flags])


@pytest.fixture(scope="module")
def finished(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert generate(tiny_pipeline, out, "--method", "asd", "--seed", "7") == 0
    return out


def film(path: Path) -> np.ndarray:
    """Every frame of a film, as PyAV reads it back."""
    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]).astype(float)


def test_a_run_leaves_files_that_other_programs_open(finished: Path) -> None:
    mesh = trimesh.load_scene(finished / "mesh.glb")
    assert sum(len(g.faces) for g in mesh.geometry.values()) > 100
    sheet = Image.open(finished / "sheet.png")
    assert sheet.width > sheet.height / 2 and len(sheet.getcolors(1 << 20) or []) > 10
    assert len(film(finished / "turntable.mp4")) == 4
    report = json.loads((finished / "report.json").read_text())
    assert (report["prompt"], report["method"], report["seed"]) == ("a red cube", "asd", 7)
    assert report["iterations"] == {"done": 3, "planned": 3, "skipped": 0}
    assert {"render", "encode", "unet", "backward"} <= set(report["seconds"])
    assert report["mesh"]["faces"] > 100 and report["peak_memory_bytes"]["process"] > 1e7
    assert report["settings"]["asd"]["eta"] == 0.1 and report["versions"]["torch"]


def test_export_writes_the_mesh_again_without_a_model(finished: Path, tmp_path: Path) -> None:
    for suffix in ("glb", "obj", "ply", "stl"):
        path = tmp_path / f"again.{suffix}"
        assert main(["export", str(finished), "--out", str(path), "--mesh.resolution", "24", *SMALL]) == 0
        assert len(trimesh.load(path, force="mesh").faces) > 50


def test_wishes_that_come_to_nothing_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["export", str(finished), "--out", str(tmp_path / "a.ply"), *SMALL, "--mesh.metres", "0.3"]) == 0
    assert "--texture.size and --texture.unwrap were not used: PLY carries no texture" in caplog.text
    assert "--mesh.metres was not used: it is for --mesh.scale metres" in caplog.text
    caplog.clear()
    assert main(["export", str(finished), "--out", str(tmp_path / "b.glb"), *SMALL]) == 0 and not caplog.text


def test_a_film_that_cannot_be_written_costs_no_mesh(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On Windows a player that shows the film keeps it from being replaced."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for name in ("mesh.glb", "report.json", "turntable.mp4"):
        (copy / name).unlink()
    (copy / "turntable.mp4" / "in the way").mkdir(parents=True)
    status, message = bad(capsys, "generate", "--resume", str(copy))
    assert status == 1 and "turntable.mp4" in message and "finished before" in message
    assert (copy / "mesh.glb").stat().st_size > 1000
    assert "turntable" not in json.loads((copy / "report.json").read_text())["files"]


def test_what_a_model_predicts_and_at_which_size_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def seen(*_: object, **named: object) -> object:
        asked.append((named["prediction_type"], named["image_size"]))
        raise PriorError("seen")

    flags = ["--prediction-type", "v_prediction", "--image-size", "256", "--model", str(tmp_path)]
    monkeypatch.setattr(model_module, "load_prior", seen)
    for command in ("generate", "compare", "distill2d"):
        assert main([command, "a red cube", *flags, "--out", str(tmp_path / command)]) == 1
    assert asked == [("v_prediction", 256)] * 3


def test_the_mesh_of_a_run_has_a_texture(finished: Path) -> None:
    (found,) = trimesh.load_scene(finished / "mesh.glb").geometry.values()
    assert found.visual.material.baseColorTexture.size == (64, 64)
    report = json.loads((finished / "report.json").read_text())
    assert report["mesh"]["texture"]["unwrap"] == "box"


def test_turntable_of_a_run_and_of_a_mesh_file(finished: Path, tmp_path: Path) -> None:
    flags = ["--frames", "3", "--size", "32"]
    assert main(["turntable", str(finished), "--out", str(tmp_path / "a.gif"), *flags]) == 0
    assert Image.open(tmp_path / "a.gif").n_frames == 3
    for name in ("b.webp", "c.png", "d.mp4"):
        assert main(["turntable", str(finished / "mesh.glb"), "--out", str(tmp_path / name), *flags]) == 0
    assert Image.open(tmp_path / "b.webp").n_frames > 1  # WebP joins frames that are alike
    assert Image.open(tmp_path / "c.png").size == (4 * 32, 4 * 32)
    assert (tmp_path / "d.mp4").stat().st_size > 500


def test_the_film_of_a_run_is_lit(finished: Path, tmp_path: Path) -> None:
    """Of an object of one colour a film in plain colour shows the outline alone."""
    away = {}
    for kind in ("shaded", "colour"):
        path = tmp_path / f"{kind}.mp4"
        assert main(["turntable", str(finished), "--out", str(path), "--frames", "4", "--kind", kind]) == 0
        away[kind] = np.abs(film(path) - film(finished / "turntable.mp4")).mean()
    assert away["shaded"] < 0.1 * away["colour"]


def test_convert_takes_a_mesh_to_another_format_and_budget(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(finished / "mesh.glb")
    assert main(["convert", source, str(tmp_path / "a.usdz")]) == 0
    capsys.readouterr()
    assert main(["convert", source, str(tmp_path / "b.obj"), "--face-budget", "200", *SMALL]) == 0
    told = "".join(capsys.readouterr().err.split())
    assert all(str(tmp_path / name) in told for name in ("b.obj", "b.mtl", "b_color.png"))
    assert len(trimesh.load(tmp_path / "b.obj", force="mesh").faces) <= 200 and (tmp_path / "b_color.png").exists()
    capsys.readouterr()
    for arguments, words in (
        (["convert", source, source], "expected another file"),
        (["convert", source, str(tmp_path / "a.fbx")], "ending in .glb"),
        (["convert", str(tmp_path / "none.obj"), str(tmp_path / "x.glb")], "there is no file"),
        (["turntable", source, "--out", str(tmp_path / "a.avi")], "ending in .mp4"),
        (["turntable", str(tmp_path / "none.ply"), "--out", str(tmp_path / "a.gif")], "there is no file"),
        (["turntable", source, "--frames", "0"], "expected 1 to 2000 frames"),
        (["turntable", __file__, "--out", str(tmp_path / "a.gif")], "expected a mesh file ending in .glb"),
        (["export", str(finished), "--out", str(tmp_path / "a.fbx")], "ending in .glb"),
    ):
        status, message = bad(capsys, *arguments)
        assert status != 0 and words in message and "Traceback" not in message, (arguments, message)


def bad(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(list(arguments))
    return status, " ".join(capsys.readouterr().err.split())


def test_bad_flags_are_refused_before_anything_is_written(
    tiny_pipeline: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "a-{run").mkdir()
    (tmp_path / "a-{run" / checkpoints.FILE_NAME).touch()
    model = ["--model", str(tiny_pipeline), "--out", str(out)]
    for flags, words in (
        (["generate", "   ", *model], "expected a prompt"),
        (["generate", *model], "expected a prompt"),
        (["generate", "a cube", "--method", "dds", *model], "dds"),
        (["generate", "a cube", "--preset", "best", *model], "best"),
        (["generate", "a cube", "--iterations", "-3", *model], "expected iterations of 1 or more, got -3"),
        (["generate", "a cube", "--sds.guidance", "lots", *model], "lots"),
        (["generate", "a cube", "--model", str(tmp_path / "nowhere"), "--out", str(out)], "there is no file or folder"),
        (["bench", "speed"], "unknown benchmark 'speed'"),
        (["paint"], "unknown command 'paint'"),
        (["generat", "a cube"], "did you mean distill3d generate?"),
        (["generate", "a", "red", "cube", *model], 'double quotes, distill3d generate "a red cube"'),
        (["compare", "'a", "cube'", *model], 'double quotes, distill3d compare "a cube"'),
        (["distill2d", "a cube", "--methods", "sds,dds", *model], "'dds'"),
        (["generate", "a cube", "--model", str(tiny_pipeline), "--out", str(tmp_path)], "new or empty output folder"),
        (["distill2d", "a cube", "--model", str(tiny_pipeline), "--out", str(tmp_path)], "new or empty output folder"),
        (["export", str(tmp_path)], f"Give one of the runs in it: {tmp_path / 'a-{run'}"),
        (["compare", "a cube", "--out", str(tmp_path)], "(a-{run): "),
        (["generate", "a red cube", "standard", *model], "flags after the prompt, got 'standard'"),
        (["generate", "a red cube", *model, "--itertions", "5"], "--iterations"),
        (["generate", *model, "a", "red", "cube"], "A prompt of several words needs double quotes"),
        (["generate", "a red cube", *model, "--out", "my", "folder"], "A value with blanks needs double quotes"),
        (["generate", "«a", 'red"', "cube»", *model], 'double quotes, distill3d generate "a red cube"'),
        (["export", str(finished), "--out", str(tmp_path / "m.obj"), "--mesh_format=ply"], "leave one out"),
        (["export", str(finished), "--out", str(tmp_path / "m.obj"), "--mesh-format", "ply"], "leave one out"),
        (["generate", "a cube", "--gradient.clip", "2->", *model], "--gradient.clip: expected"),
    ):
        status, message = bad(capsys, *flags)
        assert status != 0, flags
        assert words in message and "Traceback" not in message, (flags, message)
        assert ("double quotes" in message) == ("quotes" in words or "flags after" in words), (flags, message)
    assert not out.exists()


def test_words_the_bundled_prior_does_not_know_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--methods", "SDS", "--iterations", "1", "--batch", "1"]
    for prompt, told in (("a read cubee", "does not know 'read', 'cubee'"), ("A red cube!", "")):
        assert main(["distill2d", prompt, *flags, "--out", str(tmp_path / prompt)]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert told in said and ("not know" in said) == bool(told)


def test_resume_refuses_what_is_no_checkpoint_and_other_settings(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = bad(capsys, "generate", "--resume", str(tmp_path))
    assert status == 1 and "expected a run's output folder" in message
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = (copy / checkpoints.FILE_NAME).read_bytes()
    status, message = bad(capsys, "generate", "--resume", str(copy), "--batch", "3")
    assert status == 1 and "settings.batch: 1 in the checkpoint, 3 now" in message
    status, message = bad(capsys, "generate", "--resume", str(copy), "--preset", "fine")
    assert status == 2 and "--preset" in message and "keeps its settings" in message
    (copy / checkpoints.FILE_NAME).write_bytes(before[:1000])
    status, message = bad(capsys, "generate", "--resume", str(copy))
    assert status == 1 and "damaged" in message


def test_an_output_folder_that_cannot_be_written_is_named(
    tiny_pipeline: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    status, message = bad(
        capsys, "generate", "a cube", "--model", str(tiny_pipeline), "--out", str(tmp_path / "file" / "out"), *FAST
    )
    assert status == 1 and "could not write" in message and "choose another" in message
    status, message = bad(capsys, "generate", "a cube", "--model", str(tiny_pipeline), "--out", str(finished), *FAST)
    assert status == 1 and "--resume" in message


def test_not_finite_weights_in_the_prior_are_named(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_pipeline, model)
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, file)
    status, message = bad(capsys, "generate", "a cube", "--model", str(model), "--out", str(tmp_path / "out"), *FAST)
    assert status == 1 and "conv_in.weight" in message
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_everything_and_prints_the_command_that_goes_on(tiny_pipeline: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "out", Path(__file__).parents[1]
    command = [sys.executable, "-m", "distill3d", "generate", "a red cube", "--model", str(tiny_pipeline)]
    command += ["--out", str(out), *FAST, "--iterations", "5000"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}, start_new_session=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "it/s" in line or "s/it" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130, "".join(lines) + rest
    assert f"distill3d generate --resume {out}" in rest
    stored = checkpoints.load(out)
    assert 0 < stored.meta["iteration"] < 5000
    assert sorted(p.name for p in out.iterdir()) == [checkpoints.FILE_NAME, "curves.json", "flags.json"]


def test_resume_takes_the_flags_beside_the_settings_from_the_runs_folder(tmp_path: Path) -> None:
    source = ModelFlags(dtype="bf16", tokenizer=Path("clip"))
    asked = Generate(
        "a red cube",
        source=source,
        turntable_frames=3,
        vram_gb=8.0,
        mesh=MeshSettings(resolution=24),
        encoder=Path("e"),
    )
    resume.keep(tmp_path, (source, MODEL_KEPT), (asked, KEPT))
    model = ModelFlags(**resume.kept(tmp_path, ModelFlags, MODEL_KEPT))
    assert model == replace(source, tokenizer=Path("clip").absolute())
    found = Generate("a red cube", source=source, **resume.kept(tmp_path, Generate, KEPT))
    assert found == replace(asked, encoder=Path("e").absolute())
    assert resume.lost(tmp_path, vars(model), vars(found)) == []
    (tmp_path / resume.FILE_NAME).write_text("{")
    assert resume.kept(tmp_path, Generate, KEPT) == resume.kept(tmp_path, ModelFlags, MODEL_KEPT) == {}


def test_a_resumed_run_asks_for_as_few_rows_at_once_as_its_memory_allows(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []

    class Seen(Distillation):
        def run(self, *arguments: object, **named: object) -> bool:
            rows.append(self.prior.max_batch)
            return super().run(*arguments, **named)  # type: ignore[arg-type]

    out, big = tmp_path / "run", Cost(weights=1_900_000_000, encoder=3_100_000_000, row=300_000_000)
    monkeypatch.setattr(generate_module, "cost_of", lambda prior: big)
    monkeypatch.setattr(generate_module, "Distillation", Seen)
    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "stopped_by_signals", lambda console: nullcontext(_Soon()))
        assert generate(tiny_pipeline, out, "--vram-gb", "6.2") == 130
    for flags in (["--vram-gb", "12"], ["--time-budget", "5"]):
        status, message = bad(capsys, "generate", "--resume", str(out), *flags)
        assert status == 2 and "keeps its settings" in message
    assert main(["generate", "--resume", str(out)]) == 0
    assert rows == [1, 1] and "one row at a time" in capsys.readouterr().err


def test_resume_names_a_model_that_moved_and_a_checkpoint_that_would_be_replaced(tmp_path: Path) -> None:
    moved = checkpoints.Checkpoint({}, {"source": str(tmp_path / "gone")})
    with pytest.raises(CheckpointError, match="--model"):
        resume.model_of(moved, [])
    assert resume.model_of(moved, ["--model", "elsewhere"]) is None
    for arguments in (["--resume="], ["--resume", " "]):
        with pytest.raises(SettingsError, match="folder"):
            resume.opened(arguments)
    assert resume.opened(["a red cube"]) is None


class _Soon(list):
    """Signals caught: none in the first two questions, then one."""

    asked = 0

    def __bool__(self) -> bool:
        self.asked += 1
        return self.asked > 2


def test_a_resumed_run_s_curves_begin_with_the_run_and_its_folder_is_kept_to_one_process(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(generate_module, "stopped_by_signals", lambda console: nullcontext(_Soon()))
    assert generate(tiny_pipeline, out) == 130
    monkeypatch.undo()
    assert sorted(p.name for p in out.iterdir()) == [checkpoints.FILE_NAME, "curves.json", "flags.json"]
    with claimed(out):
        status, message = bad(capsys, "generate", "--resume", str(out))
        assert status == 1 and f"process {os.getpid()} does" in message
        status, message = bad(capsys, "generate", "--resume", str(out), "--batch", "3")
        assert status == 1 and "no other process" in message
    assert main(["generate", "--resume", str(out)]) == 0
    series = json.loads((out / "report.json").read_text())["curves"]["series"]
    assert [i for i, _ in series["loss"]] == [1, 2, 3]
    whole = tmp_path / "whole"
    assert generate(tiny_pipeline, whole) == 0
    assert series == json.loads((whole / "report.json").read_text())["curves"]["series"], "as of a run in one piece"
    assert not list(tmp_path.rglob(".lock"))


def test_every_setting_that_the_page_of_methods_names_is_one() -> None:
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    inline = [
        " ".join(found.split())
        for found in re.findall(r"`(--[a-z-]+\.[^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    ]
    block = next(part for part in re.findall(r"```sh\n(.*?)```", text, flags=re.S) if part.startswith("--"))
    stages = block.replace("\\\n", " ").splitlines()
    assert len(inline) > 15 and len(stages) == 2
    for flags in (*inline, *stages):
        generate_module._parse(["a red cube", *shlex.split(flags)], None)
    first, second = (generate_module._parse(["a red cube", *shlex.split(flags)], None).settings for flags in stages)
    for settings, name in ((first, "annealed-negative"), (second, "refine")):
        released = methods.preset("csd", name)
        assert settings.csd.negative == released.settings.negative and settings.csd.null == released.settings.null
        assert settings.window.maximum == released.window.maximum
    assert first.gradient == methods.preset("csd", "annealed-negative").gradient


def test_memory_that_runs_out_anywhere_ends_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(model_module, "load_prior", full)
    status, message = bad(capsys, "generate", "a red cube")
    assert status == 1 and "memory ran out" in message and "--dtype fp16" in message and "Traceback" not in message
    monkeypatch.setattr(model_module, "load_prior", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["generate", "a red cube"])


@pytest.mark.parametrize(
    ("platform", "line"),
    [("win32", r'distill3d export "out\a red cube"'), ("linux", r"distill3d export 'out\a red cube'")],
)
def test_a_printed_command_is_one_of_this_system_s_shell(
    platform: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.sys, "platform", platform)
    assert app.command_line(["distill3d", "export", r"out\a red cube"]) == line


def test_the_bundled_model_named_explicitly_keeps_its_presets() -> None:
    for arguments in ([], ["--model", "None"], ["--model", str(bundled_prior_path())]):
        assert bundled(arguments)
    assert not bundled(["--model", "models/sd15"])


def test_help_teaches() -> None:
    for command in (["--help"], ["bench", "--help"]):
        assert main(command) == 0
    assert main(["generate", "--help"]) == 0


def test_the_pack_imports_without_the_host() -> None:
    root = Path(__file__).parents[1]
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(root / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(root)!r}])\n"
        "pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)\n"
        "import pack.distill3d.optimize, pack.distill3d.mesh, pack.nodes\n"
        "assert 'distill3d' not in sys.modules and 'diffusers' not in sys.modules and 'tyro' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )


def test_an_output_folder_may_hold_what_file_managers_leave_and_a_beginning_of_the_same_command(tmp_path: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).touch()
    (tmp_path / "object" / "deeper").mkdir(parents=True)
    resume.refuse_filled(tmp_path)
    (tmp_path / "sheet.png").touch()
    with pytest.raises(OutputError, match=r"other files in it \(sheet.png\).*object-2$"):
        resume.refuse_filled(tmp_path)
    mark = "sds/checkpoint.safetensors"
    (tmp_path / "sds").touch()
    with pytest.raises(OutputError, match="other files"):
        resume.refuse_filled(tmp_path, [mark, "object"])
    (tmp_path / "sds").unlink()
    (tmp_path / "sds").mkdir()
    (tmp_path / mark).touch()
    resume.refuse_filled(tmp_path, [mark])


@pytest.mark.parametrize(("width", "wide"), [(60, False), (80, False), (109, False), (110, True), (200, True)])
def test_the_live_line_fits_the_window(width: int, wide: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width)
    seconds = {"encode": 0.2}
    step = Step(446, 10000, 121.0, {}, 1.0, 0.1, 0.243, (20, 313), 64, seconds, {"guidance": 3.7})
    with ProgressLine(console) as line:
        line(step)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert ("CFG" in shown) == ("t 20-" in shown) == wide
    last = [part for part in shown.split("\n") if "it/s" in part][-1]
    assert width < 80 or last.rstrip().endswith("CFG 3.7" if wide else "occupancy 24.3 %"), "one line"
