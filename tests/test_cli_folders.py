"""The command line's texts: names of folders, what could be the name of a file, flags however written and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh

from distill3d.cli import app, main, resume
from distill3d.cli.app import free_folder, slug
from distill3d.cli.generate import KEPT, MODEL_KEPT, Generate
from distill3d.cli.model import ModelFlags
from distill3d.errors import OutputError
from distill3d.mesh import TextureSettings
from distill3d.prompts import Sector, format_sectors


def test_a_prompt_in_any_script_names_a_folder() -> None:
    assert slug("A red cube!") == "a-red-cube" and slug("ein röter Würfel 立方体") == "ein-roter-wurfel"
    assert slug("立方体 🟥") == "object" and slug("red→cube") == "red-cube"


def test_two_runs_never_claim_one_folder(tmp_path: Path) -> None:
    assert [free_folder(tmp_path / "run").name for _ in range(3)] == ["run", "run-2", "run-3"]


def test_an_output_folder_that_leads_nowhere_is_told_and_not_counted_past(tmp_path: Path) -> None:
    (tmp_path / "output").symlink_to(tmp_path / "not mounted")
    with pytest.raises(OutputError, match="choose another output folder"):
        free_folder(tmp_path / "output" / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another output folder"):
        free_folder(tmp_path / "file" / "run")


def test_sectors_as_a_long_text_are_no_file_name() -> None:
    json_text = format_sectors([Sector("a" * 300, "", prefix="photo of ")])
    assert json_text.startswith("[") and app._sector_text(json_text) == json_text
    assert app._sector_text("side " * 60) == "side " * 60


def test_flags_are_found_however_they_are_written() -> None:
    for arguments in (["--method", "ASD"], ["--method=ASD"], ["x", "--method", "sds", "--method", "ASD"]):
        assert app.given(arguments, "method", "sds") == "ASD"
        assert app.given(app.lowered(arguments, "method"), "method", "sds") == "asd"
    assert app.given(["--mesh_format=OBJ", "-x"], "mesh-format", "") == "OBJ"
    assert app.lowered(["--mesh_format=OBJ", "A B", "--method"], "mesh-format") == [
        "--mesh_format=obj",
        "A B",
        "--method",
    ]
    assert app.given(["--method"], "method", "sds") == "sds"


@pytest.mark.parametrize("text", ["[]", "3", 5000 * "[", '{"mesh": '])
def test_damaged_flags_of_a_run_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / resume.FILE_NAME).write_text(text)
    assert resume.kept(tmp_path, Generate, KEPT) == {} and resume.lost(tmp_path) == []


def test_flags_of_a_run_that_cannot_be_read_are_named_and_cost_no_others(tmp_path: Path) -> None:
    strange = {"turntable_frames": "many", "vram_gb": "1", "mesh_format": "fbx", "execution": {"new_option": 1}}
    stored = {**strange, "image_size": "x", "encoder": None, "texture": {"size": 2048}, "later": 1}
    (tmp_path / resume.FILE_NAME).write_text(json.dumps(stored))
    found = resume.kept(tmp_path, Generate, KEPT)
    assert found == {"encoder": None, "texture": TextureSettings(size=2048)}
    (text,) = resume.lost(tmp_path, found, resume.kept(tmp_path, ModelFlags, MODEL_KEPT))
    assert all(name in text for name in (*strange, "image_size", "later")) and "texture" not in text


def test_links_that_run_in_a_circle_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    circle, box = tmp_path / "circle.glb", tmp_path / "box.ply"
    circle.symlink_to(circle)
    trimesh.creation.box().export(box)
    for line in (["convert", circle, tmp_path / "a.ply"], ["turntable", circle, "--out", tmp_path / "a.png"]):
        assert main([str(word) for word in line]) == 1
        assert "error: expected a mesh file, but there is no file" in capsys.readouterr().err
    assert main(["convert", str(box), str(circle)]) == 0
    assert len(trimesh.load(circle, force="mesh").faces) == 12
