"""What the mesh commands say: wishes that come to nothing, wrong files, refused values, names too long, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from mesh_fields import poster

from distill3d.cli import main
from distill3d.interrupts import heard
from distill3d.mesh import read, write
from distill3d.mesh.beside import parts_of
from distill3d.mesh.readers import Contents

ENDS = ("interrupted\n", "interrupted: nothing was written\n")
"""What an interrupt says before and in the middle of the work."""
ROOT = Path(__file__).parents[1]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def ball(tmp_path: Path) -> Path:
    """Coloured, without a texture."""
    solid = trimesh.creation.icosphere(2)
    solid.visual.vertex_colors = np.random.default_rng(0).integers(0, 255, (len(solid.vertices), 4))
    solid.export(tmp_path / "ball.ply")
    return tmp_path / "ball.ply"


@pytest.mark.parametrize(
    ("suffix", "flags", "words"),
    [
        ("ply", ["--texture.size", "256"], "--texture.size was not used: PLY carries no texture"),
        ("stl", [], "STL carries the shape alone: the colours of the mesh were left out"),
        ("glb", ["--metres", "3"], "--metres was not used: it is for --scale metres"),
        ("obj", ["--texture.size", "64", "--texture.image", "jpeg"], "--texture.image was not used: OBJ takes PNG"),
        (
            "stl",
            ["--texture.size", "64", "--texture.padding", "8"],
            "--texture.size and --texture.padding were not used",
        ),
    ],
)
def test_flags_that_cannot_apply_are_told(
    ball: Path, capsys: pytest.CaptureFixture[str], suffix: str, flags: list[str], words: str
) -> None:
    out = ball.with_name(f"out.{suffix}")
    assert main(["convert", str(ball), str(out), *flags]) == 0
    assert words in said(capsys) and out.exists()


def test_a_texture_that_is_asked_for_is_made_kept_or_taken_away(ball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ball.parent
    assert main(["convert", str(ball), str(folder / "plain.glb")]) == 0
    assert read(folder / "plain.glb").texture is None and "not used" not in said(capsys)
    flags = ["--texture.size", "128", "--texture.unwrap", "box"]
    assert main(["convert", str(ball), str(folder / "made.glb"), *flags]) == 0
    made = read(folder / "made.glb")
    assert made.texture is not None and made.texture.shape == (128, 128, 3) and "not used" not in said(capsys)
    source = write(poster(), folder / "poster.obj")
    assert main(["convert", str(source), str(folder / "kept.glb"), "--texture.size", "256"]) == 0
    kept = read(folder / "kept.glb")
    assert kept.texture is not None and np.array_equal(kept.texture, poster().texture)
    assert "--texture.size was not used: the texture that is there, 16 x 16 texels, was kept" in said(capsys)
    assert main(["convert", str(source), str(folder / "jpeg.glb"), "--texture.image", "jpeg"]) == 0
    assert b"image/jpeg" in (folder / "jpeg.glb").read_bytes() and "not used" not in said(capsys)
    assert main(["convert", str(source), str(folder / "bare.glb"), "--texture.size", "0"]) == 0
    assert read(folder / "bare.glb").texture is None and "not used" not in said(capsys)


def test_advice_fits_the_mesh(ball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solid = trimesh.creation.icosphere(3)
    solid.update_faces(np.arange(len(solid.faces)) > 40)
    solid.export(tmp_path / "open.off")
    assert main(["convert", str(tmp_path / "open.off"), str(tmp_path / "o.ply")]) == 0
    text = said(capsys)
    assert "hole" in text and "it came like that" in text and "budget" not in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("poster.ply", "ply\nformat ascii 1.0\ncomment TextureFile skin.png\nelement vertex 0\nend_header\n"),
        ("poster.obj", "mtllib poster.mtl\nv 0 0 0\n"),
    ],
)
def test_pictures_that_a_mesh_file_names_are_its_own(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "poster.mtl").write_text("newmtl a\nmap_Bump -bm 0.5 skin.png\nmap_Ka dark.png\nrefl sky.png\n")
    named = {path.name for path in parts_of(tmp_path / name)}
    assert named >= {name, "skin.png"}
    assert name.endswith(".ply") or named == {name, "poster.mtl", "skin.png", "dark.png", "sky.png"}


def test_a_mesh_where_a_run_belongs_is_sent_to_convert(ball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(ball)]) == 2
    text = said(capsys)
    assert "distill3d convert ball.ply OUT" in text and "--resume" not in text
    for broken in (b"", b"PK\x03\x04", b"x" * 100):
        (ball.parent / "checkpoint.safetensors").write_bytes(broken)
        for command in ("export", "turntable"):
            assert main([command, str(ball.parent)]) == 1
            assert "--resume" not in said(capsys)


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("convert", ["--face-budget", "5"], "expected a face budget of 100 or more"),
        ("convert", ["--texture.size", "7"], "expected a texture of 64 to 8192 texels"),
        ("export", ["--mesh.resolution", "2"], "expected a mesh resolution of 8"),
        ("export", ["--mesh.face-budget", "5"], "expected a face budget of 100 or more"),
        ("turntable", ["--frames", "0"], "expected 1 to 2000 frames"),
    ],
)
def test_refused_values_look_alike_at_any_depth(
    ball: Path, capsys: pytest.CaptureFixture[str], command: str, flags: list[str], words: str
) -> None:
    files = [str(ball), str(ball.with_name("o.glb"))] if command == "convert" else [str(ball)]
    assert main([command, *files, *flags]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and words in text and "─" not in text


def test_a_flag_that_is_no_number_is_still_explained(ball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(ball), "o.glb", "--face-budget", "many"]) == 2
    assert "--face-budget" in said(capsys)


@pytest.mark.parametrize("command", ["convert", "export"])
def test_help_says_the_least_budget(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "100 or more" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_name_that_is_too_long_is_told_before_any_work(ball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(ball), str(ball.with_name("a" * 300 + ".glb"))]) == 1
    assert "choose a shorter name" in said(capsys)
    longest = ball.with_name("a" * 251 + ".glb")
    assert main(["convert", str(ball), str(longest)]) == 0 and longest.exists()
    assert main(["turntable", str(ball), "--out", str(ball.with_name("a" * 300 + ".gif"))]) == 1
    assert "choose a shorter name" in said(capsys)


def test_an_interrupt_in_the_middle_says_that_nothing_was_written(
    ball: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill3d.cli.convert.convert_for", stop)
    assert main(["convert", str(ball), str(ball.with_name("o.glb"))]) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == ENDS[1].strip()


def test_an_interrupt_that_an_import_swallows_is_heard(ctrl_c: None) -> None:
    with pytest.raises(KeyboardInterrupt), heard(), contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with heard():
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with heard():
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_a_reader_swallows_is_heard(
    ball: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: None
) -> None:
    def reader(path: Path) -> Contents:
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        return Contents()

    monkeypatch.setattr("distill3d.mesh.load.READERS", {ball.suffix: reader})
    with pytest.raises(KeyboardInterrupt):
        read(ball)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("wait", [0.5, 2.5])
def test_ctrl_c_says_one_line(tmp_path: Path, wait: float) -> None:
    """In the middle of the work, with its child process, as a terminal sends it: to the whole group."""
    trimesh.creation.icosphere(7).export(tmp_path / "large.ply")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from distill3d.cli import main; sys.stderr.write('ready\\n'); sys.stderr.flush(); sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "convert", "large.ply", "out.glb", "--face-budget", "40000"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr is not None and process.stderr.readline() == "ready\n"
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    text = process.stderr.read()
    assert process.wait(timeout=60) == 130 and text in ENDS, text
    assert [path.name for path in tmp_path.iterdir()] == ["large.ply"]
