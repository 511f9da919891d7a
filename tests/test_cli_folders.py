"""The command line's texts: names of folders, what could be the name of a file, flags however written."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill3d.cli import app
from distill3d.cli.app import free_folder, slug
from distill3d.errors import OutputError
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
